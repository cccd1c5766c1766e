package service

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"slipway/internal/api"
	"slipway/orchestrator"
)

const (
	statsMethod = "nearest rank"
	// statsRuns bounds what one question reads, unless the operator says another number.
	statsRuns    = 10_000
	maxStatsRuns = 100_000
)

// kind is what times are compared within.
type kindOfRun struct{ process, image, pool string }

// taken are the times of one kind of run.
type taken struct {
	totals []time.Duration
	steps  map[string][]time.Duration
	ran    map[string]int // of those, how many were not skipped
}

// gather sorts durations by kind; repaired runs are counted and left out.
func gather(runs []orchestrator.RunDurations) (kinds map[kindOfRun]*taken, repaired int) {
	kinds = map[kindOfRun]*taken{}
	for _, r := range runs {
		if r.Repaired {
			repaired++
			continue
		}
		k := kindOfRun{r.Process, r.Image, r.Pool}
		t, ok := kinds[k]
		if !ok {
			t = &taken{steps: map[string][]time.Duration{}, ran: map[string]int{}}
			kinds[k] = t
		}
		t.totals = append(t.totals, r.Total)
		for _, step := range r.Steps {
			t.steps[step.Step] = append(t.steps[step.Step], step.Took)
			if !step.Skipped {
				t.ran[step.Step]++
			}
		}
	}
	for _, t := range kinds {
		slices.Sort(t.totals)
		for _, step := range t.steps {
			slices.Sort(step)
		}
	}
	return kinds, repaired
}

// rank is the smallest of sorted values that at least percent of them do not exceed.
func rank(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

func statsRow(k kindOfRun, step string, sorted []time.Duration) api.StatsRow {
	seconds := func(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }
	return api.StatsRow{Process: k.process, Image: k.image, Pool: k.pool, Step: step, Count: len(sorted),
		P50: seconds(rank(sorted, 50)), P95: seconds(rank(sorted, 95)), P99: seconds(rank(sorted, 99)), Max: seconds(sorted[len(sorted)-1])}
}

// getStats counts what the journal says about the runs that ended since a moment.
func (s *Service) getStats(r *http.Request) (any, error) {
	q := r.URL.Query()
	f := orchestrator.DurationFilter{Process: q.Get("process"), Pool: q.Get("pool"), Image: q.Get("image"), Limit: statsRuns}
	var err error
	if f.Since, err = time.Parse(time.RFC3339, q.Get("since")); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "since", Problem: "is no time", Fix: "write it as 2006-01-02T15:04:05Z"}}
	}
	if text := q.Get("limit"); text != "" {
		if f.Limit, err = strconv.Atoi(text); err != nil || f.Limit < 1 || f.Limit > maxStatsRuns {
			return nil, orchestrator.FieldErrors{{Field: "limit", Problem: "is out of range", Fix: fmt.Sprintf("say 1 to %d runs", maxStatsRuns)}}
		}
	}
	asked := f
	asked.Limit++
	runs, err := s.Store.Durations(r.Context(), asked)
	if err != nil {
		return nil, err
	}
	if len(runs) == 0 {
		if err := s.unheardOf(f.Pool, f.Process); err != nil {
			return nil, err
		}
	}
	out := api.Stats{Since: f.Since, Method: statsMethod, Rows: []api.StatsRow{}, Omitted: len(runs) > f.Limit}
	runs = runs[:min(len(runs), f.Limit)]
	kinds, repaired := gather(runs)
	out.Runs, out.Repaired = len(runs)-repaired, repaired
	for k, t := range kinds {
		out.Rows = append(out.Rows, statsRow(k, "", t.totals))
		for step, sorted := range t.steps {
			if n := t.ran[step]; n > 0 { // those that were skipped took no time, and are the first
				out.Rows = append(out.Rows, statsRow(k, step, sorted[len(sorted)-n:]))
			}
		}
	}
	slices.SortFunc(out.Rows, func(a, b api.StatsRow) int {
		return cmp.Or(cmp.Compare(a.Process, b.Process), cmp.Compare(a.Image, b.Image), cmp.Compare(a.Pool, b.Pool),
			cmp.Compare(s.place(a), s.place(b)), cmp.Compare(a.Step, b.Step))
	})
	return out, nil
}

// place is where a row stands in its process's table: the whole run first, a step that the table does not have last.
func (s *Service) place(r api.StatsRow) int {
	process, ok := s.Processes[r.Process]
	if r.Step == "" || !ok {
		return -1
	}
	i := slices.IndexFunc(process.Rows, func(row orchestrator.Row) bool { return row.Step == r.Step })
	if i < 0 {
		return len(process.Rows)
	}
	return i
}

const (
	// What an estimate rests on: the runs of the last while, looked at again every so often, and at least so many of one kind.
	pastWindow  = 30 * 24 * time.Hour
	pastRuns    = 2000
	pastRefresh = time.Minute
	pastLeast   = 5
)

// past is what boards know about earlier runs. Safe for concurrent use.
type past struct {
	mu    sync.Mutex
	read  time.Time
	kinds map[kindOfRun]*taken
}

// of returns the times of earlier runs by kind. Whoever comes first after a minute reads them anew; the others wait for that.
func (p *past) of(ctx context.Context, store orchestrator.History, now time.Time) (map[kindOfRun]*taken, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kinds != nil && now.Sub(p.read) < pastRefresh {
		return p.kinds, nil
	}
	runs, err := store.Durations(ctx, orchestrator.DurationFilter{Since: now.Add(-pastWindow), Limit: pastRuns})
	if err != nil {
		return nil, err
	}
	p.kinds, _ = gather(runs)
	p.read = now
	return p.kinds, nil
}

// left estimates what a run still needs, from the medians of its steps. ok is false when a step that is ahead has too little history.
func left(process *orchestrator.Process, run orchestrator.Run, t *taken, now time.Time) (estimate time.Duration, of int, slow, ok bool) {
	if t == nil || len(t.totals) < pastLeast {
		return 0, 0, false, false
	}
	ahead := false
	for _, row := range process.Rows {
		ahead = ahead || row.Step == run.Step
		if !ahead {
			continue
		}
		sorted := t.steps[row.Step]
		if len(sorted) < pastLeast {
			return 0, 0, false, false
		}
		usual := rank(sorted, 50)
		if row.Step == run.Step {
			elapsed := now.Sub(run.StepSince)
			slow = elapsed > rank(sorted, 95)
			usual = max(0, usual-elapsed)
		}
		estimate += usual
	}
	return estimate, len(t.totals), slow, ahead
}
