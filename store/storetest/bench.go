package storetest

import (
	"fmt"
	"testing"
	"time"

	"slipway/orchestrator"
)

// Benchmark measures durable steps: each ends an attempt, opens the next, changes the machine and tells an event, in groups of as many as
// are in flight. It reports steps per second, and commits and round trips per step.
func Benchmark(bench *testing.B, h Harness) {
	for _, inFlight := range []int{1, 16, 64, 256} {
		bench.Run(fmt.Sprintf("InFlight%d", inFlight), func(bench *testing.B) {
			b := setup(bench, h)
			group := make([]orchestrator.Commit, inFlight)
			for n := range group {
				c := b.taken("a")
				group[n] = orchestrator.Commit{Run: c.Run, Machine: &c.Machine, Events: []orchestrator.Event{b.event(c, orchestrator.EventStepDone)},
					Opened: &orchestrator.Attempt{Step: "x", Outcome: orchestrator.OutcomeOpen}}
			}
			commits, trips := b.store.Counters()
			steps := 0
			started := time.Now()
			for bench.Loop() {
				for n, result := range b.store.Commit(bench.Context(), group) {
					must(bench, result.Err)
					open := *group[n].Opened
					open.ID, open.Outcome = result.Opened, orchestrator.OutcomeDone
					group[n].Ended = &open
				}
				steps += inFlight
			}
			took := time.Since(started)
			afterCommits, afterTrips := b.store.Counters()
			bench.ReportMetric(float64(steps)/took.Seconds(), "steps/s")
			bench.ReportMetric(float64(afterCommits-commits)/float64(steps), "commits/step")
			bench.ReportMetric(float64(afterTrips-trips)/float64(steps), "trips/step")
		})
	}
}
