package bench_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/workers/driver"
)

// waiting is a table whose only row waits for something that never comes.
func waiting() *orchestrator.Process {
	return &orchestrator.Process{Name: "waiting", Rows: []orchestrator.Row{{From: state(0), Step: "wait", To: state(1),
		Do: func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			return orchestrator.WaitFor("never", time.Hour, "waiting for what never comes")
		}}}}
}

func TestAWaitingRunIsHeldByNobody(t *testing.T) {
	const n = 200
	for _, b := range backends() {
		t.Run(b.name, func(t *testing.T) {
			s := open(t, b, waiting())
			s.accept(t, n)
			d := s.startDriver(t)
			s.awaitStatus(t, n, orchestrator.StatusWaiting)
			until(t, "every run is put down", func() bool { return d.Held() == 0 })
			views, err := s.store.Runs(t.Context(), orchestrator.RunFilter{})
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range views {
				if v.Holder != "" {
					t.Errorf("run %s waits and is held by %s", v.ID, v.Holder)
				}
			}
		})
	}
}

// BenchmarkWaiting measures what runs cost that wait: memory of the worker, and goroutines.
func BenchmarkWaiting(bench *testing.B) {
	for _, n := range []int{1000, 5000} {
		bench.Run(fmt.Sprintf("runs=%d", n), func(bench *testing.B) {
			s := open(bench, backends()[0], waiting())
			var heap, goroutines float64
			for bench.Loop() {
				before, routines := heapInUse(), runtime.NumGoroutine()
				s.accept(bench, n)
				d := s.startDriver(bench)
				s.awaitStatus(bench, s.orders, orchestrator.StatusWaiting)
				until(bench, "every run is put down", func() bool { return d.Held() == 0 })
				heap = float64(heapInUse()-before) / float64(n)
				goroutines = float64(runtime.NumGoroutine()-routines) / float64(n)
			}
			bench.ReportMetric(0, "ns/op")
			bench.ReportMetric(heap, "heap_bytes/run")
			bench.ReportMetric(goroutines, "goroutines/run")
		})
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// startDriver drives until the test's end.
func (s *site) startDriver(tb testing.TB) *driver.Driver {
	tb.Helper()
	d := driver.New(driver.Config{Claims: s.store, Engine: s.engine, Holder: holder, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { d.Run(ctx, nil) })
	tb.Cleanup(func() { cancel(); running.Wait() })
	return d
}

// awaitStatus waits until so many runs have it.
func (s *site) awaitStatus(tb testing.TB, n int, status orchestrator.Status) {
	tb.Helper()
	until(tb, fmt.Sprintf("%d runs are %s", n, status), func() bool {
		stats, err := s.store.Stats(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		return stats.Runs[s.process.Name][status] >= n
	})
}

// until waits for a fact, bounded.
func until(tb testing.TB, what string, fact func() bool) {
	tb.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		if time.Now().After(deadline) {
			tb.Fatalf("it never happened: %s", what)
		}
		<-tick.C
	}
}
