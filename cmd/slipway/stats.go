package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
)

type statsCmd struct {
	Since   string `help:"How far back: 90m, 24h, 7d, or a day such as 2026-05-01." default:"7d"`
	Process string `help:"Only this one, such as install."`
	Image   string `help:"Only this image."`
	Pool    string `help:"Only this pool."`
	Limit   int    `help:"At most so many runs, the newest." default:"10000"`
}

// Run prints how long runs and their steps took.
func (c statsCmd) Run(e *env) error {
	since, err := sinceOf(c.Since, time.Now())
	if err != nil {
		return hinted{error: err, next: "slipway stats --since 7d", code: exitUsage}
	}
	q := url.Values{"since": {since.UTC().Format(time.RFC3339)}, "process": {c.Process}, "image": {c.Image}, "pool": {c.Pool}, "limit": {strconv.Itoa(c.Limit)}}
	var stats api.Stats
	if err := e.get("/v1/stats?"+q.Encode(), &stats); err != nil {
		return err
	}
	err = e.print(stats, func(t table.Writer) {
		t.AppendHeader(table.Row{"process", "image", "pool", "step", "count", "p50", "p95", "p99", "max"})
		for _, r := range stats.Rows {
			step := r.Step
			if step == "" {
				step = "(whole run)"
			}
			t.AppendRow(table.Row{r.Process, r.Image, dash(r.Pool), step, r.Count, seconds(r.P50), seconds(r.P95), seconds(r.P99), seconds(r.Max)})
		}
	})
	if err != nil || e.Output == "json" {
		return err
	}
	fmt.Fprintf(e.stdout, "\n%d runs ended since %s; percentiles by %s, waits and repetitions included.\n", stats.Runs, stats.Since.Local().Format("2006-01-02 15:04"), clean(stats.Method))
	if stats.Repaired > 0 {
		fmt.Fprintf(e.stdout, "%d more are left out: an operator had a hand in them.\n", stats.Repaired)
	}
	if stats.Omitted {
		fmt.Fprintln(e.stdout, "There are more; only the newest were looked at (--limit).")
	}
	return nil
}

// sinceOf reads a moment: so long ago, or a day.
func sinceOf(s string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= 36500 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return day, nil
	}
	return time.Time{}, fmt.Errorf("--since %q is neither a duration nor a day", s)
}

// seconds is a duration as people read it.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	default:
		return short(d)
	}
}
