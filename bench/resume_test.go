package bench_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/workers/driver"
)

// orphans is a table whose first row is a step that ended, and whose second is the one that a worker dies in. The one who takes it up looks
// for a while, as at a pool or a guest, and waits.
func orphans(look time.Duration) *orchestrator.Process {
	return &orchestrator.Process{Name: "orphans", Rows: []orchestrator.Row{
		{From: state(0), Step: "begin", To: state(1), Do: func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			return orchestrator.Finished("begun")
		}},
		{From: state(1), Step: "look", To: state(2), Do: func(ctx context.Context, _ *orchestrator.Step) (orchestrator.Outcome, error) {
			timer := time.NewTimer(look)
			defer timer.Stop()
			select {
			case <-ctx.Done():
				return orchestrator.Outcome{}, ctx.Err()
			case <-timer.C:
				return orchestrator.WaitFor("never", time.Hour, "waiting for what never comes")
			}
		}},
	}}
}

// orphan accepts so many runs, brings each into the middle of its second step, and leaves them with a worker that is never heard of again.
// It returns the fences, and when the leases end.
func (s *site) orphan(tb testing.TB, n int, lease time.Duration) (fences map[string]int64, until time.Time) {
	tb.Helper()
	const dead = "dead"
	s.accept(tb, n)
	claims, err := s.store.Claim(tb.Context(), orchestrator.Ask{Holder: dead, Limit: n, Lease: 10 * time.Minute})
	if err != nil || len(claims) != n {
		tb.Fatalf("%d runs claimed, want %d: %v", len(claims), n, err)
	}
	var ticking sync.WaitGroup
	for i := range claims {
		ticking.Go(func() {
			if _, err := s.engine.Tick(tb.Context(), time.Now, &claims[i]); err != nil {
				tb.Error(err)
			}
		})
	}
	ticking.Wait()
	fences = map[string]int64{}
	for _, c := range claims {
		fences[c.Run.ID] = c.Run.Fence
	}
	if lost, err := s.store.Renew(tb.Context(), dead, fences, lease); err != nil || len(lost) > 0 {
		tb.Fatalf("%d runs lost: %v", len(lost), err)
	}
	run, err := s.store.Run(tb.Context(), claims[0].Run.ID)
	if err != nil {
		tb.Fatal(err)
	}
	return fences, run.LeaseUntil
}

// heirs notes what the workers claim.
type heirs struct {
	orchestrator.Store
	mu     sync.Mutex
	claims int // that took something
	times  map[string][]time.Time
	runs   map[string]orchestrator.Claim
}

func (h *heirs) Claim(ctx context.Context, ask orchestrator.Ask) ([]orchestrator.Claim, error) {
	claims, err := h.Store.Claim(ctx, ask)
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(claims) > 0 {
		h.claims++
	}
	for _, c := range claims {
		h.times[c.Run.ID] = append(h.times[c.Run.ID], now)
		h.runs[c.Run.ID] = c
	}
	return claims, err
}

func (h *heirs) taken() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.times)
}

// takeOver lets workers loose, and returns who was claimed when, once all are.
func (s *site) takeOver(tb testing.TB, workers, slots, n int) *heirs {
	tb.Helper()
	h := &heirs{Store: s.store, times: map[string][]time.Time{}, runs: map[string]orchestrator.Claim{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i := range workers {
		d := driver.New(driver.Config{Claims: h, Engine: s.engine, Holder: fmt.Sprint("heir-", i), Log: slog.New(slog.DiscardHandler), Slots: slots})
		running.Go(func() { d.Run(ctx, nil) })
	}
	defer running.Wait()
	defer cancel()
	until(tb, "every run has been taken up", func() bool { return h.taken() == n })
	s.awaitStatus(tb, n, orchestrator.StatusWaiting)
	return h
}

// The runs of a worker that died are taken up in batches, each once, in the middle of the step that it died in, and none before its lease
// has ended. How fast is measured by BenchmarkTakeover.
func TestOrphansAreTakenUpOnceAndInBatches(t *testing.T) {
	const n, batch = 200, 32
	s := open(t, backend{"postgres", func(tb testing.TB) string { return testserver.PostgreSQL(tb) }}, orphans(0))
	fences, ends := s.orphan(t, n, time.Second)
	h := s.takeOver(t, 1, n+batch, n)
	if most := n/batch + 2; h.claims > most {
		t.Errorf("%d claims for %d runs, want %d at most", h.claims, n, most)
	}
	for id, times := range h.times {
		c := h.runs[id]
		if len(times) != 1 || times[0].Before(ends) {
			t.Errorf("run %s was claimed at %v, its lease ended at %v", id, times, ends)
		}
		if c.Run.Fence != fences[id]+1 || c.Open == nil || c.Open.Step != "look" {
			t.Errorf("run %s came under fence %d after %d, with the attempt %+v", id, c.Run.Fence, fences[id], c.Open)
		}
	}
	interrupted := 0
	for id := range fences {
		attempts, err := s.store.Attempts(t.Context(), h.runs[id].Machine.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range attempts {
			if a.Outcome == orchestrator.OutcomeInterrupted {
				interrupted++
			}
		}
	}
	if interrupted != n {
		t.Errorf("%d attempts were interrupted, want %d", interrupted, n)
	}
}

// BenchmarkTakeover measures how long after the end of a dead worker's leases the last of its runs is claimed.
func BenchmarkTakeover(bench *testing.B) {
	const runs = 1000
	for _, c := range []struct{ workers, slots int }{{1, 1024}, {1, 64}, {3, 64}} {
		bench.Run(fmt.Sprintf("runs=%d/workers=%d/slots=%d", runs, c.workers, c.slots), func(bench *testing.B) {
			var first, last time.Duration
			claims := 0
			for bench.Loop() {
				s := open(bench, backends()[1], orphans(20*time.Millisecond))
				_, ends := s.orphan(bench, runs, 2*time.Second)
				h := s.takeOver(bench, c.workers, c.slots, runs)
				first, last, claims = time.Hour, 0, h.claims
				for _, times := range h.times {
					first, last = min(first, times[0].Sub(ends)), max(last, times[0].Sub(ends))
				}
			}
			bench.ReportMetric(0, "ns/op")
			bench.ReportMetric(first.Seconds(), "first_s")
			bench.ReportMetric(last.Seconds(), "last_s")
			bench.ReportMetric(float64(claims), "claims")
		})
	}
}
