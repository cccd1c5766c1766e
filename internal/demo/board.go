package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// board shows runs: redrawn in place on a terminal, a line per change elsewhere.
type board struct {
	out      io.Writer
	terminal bool
	width    int // columns of the terminal: a line that wraps would spoil the redrawing
	began    time.Time
	table    *orchestrator.Process
	last     map[string]string
	drawn    int      // lines of the board that stand on the terminal
	said     []string // what happened, above the board
}

// maxBoard bounds the rows on a terminal; more orders are summed up.
const maxBoard = 24

func (b *board) say(format string, args ...any) {
	line := fmt.Sprintf("%6.2fs  %s", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
	if b.terminal {
		b.said = append(b.said, line)
		return
	}
	fmt.Fprintln(b.out, line)
}

func (b *board) show(runs []api.Run) {
	if !b.terminal {
		for _, r := range runs {
			now := r.Status + " " + r.State
			if b.last[r.Run] != now && r.Status != "running" && r.Status != "waiting" || b.last[r.Run] == "" {
				fmt.Fprintf(b.out, "%6.2fs  %-8s %-7s %-9s %-20s %s\n", time.Since(b.began).Seconds(), r.Name, dash(r.Pool), r.Status, r.State, r.Reason)
			} else if state := strings.TrimPrefix(b.last[r.Run], strings.SplitN(b.last[r.Run], " ", 2)[0]+" "); state != r.State {
				fmt.Fprintf(b.out, "%6.2fs  %-8s %-7s %-9s %s\n", time.Since(b.began).Seconds(), r.Name, dash(r.Pool), r.Status, r.State)
			}
			b.last[r.Run] = now
		}
		return
	}
	var s strings.Builder
	if b.drawn > 0 {
		fmt.Fprintf(&s, "\x1b[%dA\x1b[J", b.drawn)
	}
	for _, line := range b.said {
		s.WriteString(line + "\n")
	}
	b.said, b.drawn = nil, 0
	done := 0
	for i, r := range runs {
		if r.Status == "done" {
			done++
		}
		if i < maxBoard {
			line := fmt.Sprintf("%-8s %-7s %s %-20s %-9s %s", r.Name, dash(r.Pool), b.bar(r), r.State, r.Status, r.Reason)
			s.WriteString(b.clip(line) + "\n")
			b.drawn++
		}
	}
	fmt.Fprintf(&s, "%6.2fs  %d of %d ready\n", time.Since(b.began).Seconds(), done, len(runs))
	b.drawn++
	_, _ = io.WriteString(b.out, s.String())
}

// clip keeps a line within the terminal, and foreign text from driving it.
func (b *board) clip(line string) string {
	runes := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, line))
	return string(runes[:min(len(runes), b.width-1)])
}

// bar is how far a run has come in its table.
func (b *board) bar(r api.Run) string {
	n := 0
	for i, row := range b.table.Rows {
		if string(row.To) == r.State {
			n = i + 1
		}
	}
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", len(b.table.Rows)-n) + "]"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// summary is the table at the end.
func (b *board) summary(runs []api.Run, w *world) {
	perPool := map[string]int{}
	for _, r := range runs {
		perPool[r.Pool]++
	}
	t := table.NewWriter()
	t.SetOutputMirror(b.out)
	t.SetStyle(table.StyleLight)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.AppendHeader(table.Row{"machine", "name", "pool", "private", "public", "state", "took"})
	for _, r := range runs {
		t.AppendRow(table.Row{r.Machine, r.Tenant + "/" + r.Name, r.Pool, r.Private, r.Public, r.State, r.Updated.Sub(r.Created).Round(time.Millisecond)})
	}
	t.Render()
	for _, p := range w.pools {
		fmt.Fprintf(b.out, "demo: %s carries %d machines\n", p.id, perPool[p.id])
	}
}
