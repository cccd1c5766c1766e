package bench_test

import (
	"fmt"
	"testing"
	"time"
)

// What a step costs in commits and round trips is part of the design, so it is a test and not a measurement.

func TestAStepIsOneCommitAndOneMorePerHandle(t *testing.T) {
	for _, b := range backends() {
		t.Run(b.name, func(t *testing.T) {
			s := open(t, b, noop(rows, handles))
			runs := s.accept(t, 3)
			for _, run := range runs {
				claims := s.claim(t, []string{run})
				commits, trips := s.store.Counters()
				s.drive(t, claims)
				nowCommits, nowTrips := s.store.Counters()
				if got := nowCommits - commits; got != rows+handles {
					t.Errorf("%d rows with %d handles took %d commits, not %d", rows, handles, got, rows+handles)
				}
				if got := nowTrips - trips; got != rows+handles {
					t.Errorf("%d rows with %d handles took %d round trips, not %d", rows, handles, got, rows+handles)
				}
			}
			s.mustBeDone(t, runs)
		})
	}
}

func TestStepsInFlightShareCommits(t *testing.T) {
	const inFlight = 64
	for _, b := range backends() {
		t.Run(b.name, func(t *testing.T) {
			s := open(t, b, noop(rows, 0))
			runs := s.accept(t, inFlight)
			claims := s.claim(t, runs)
			before, _ := s.store.Counters()
			s.drive(t, claims)
			after, _ := s.store.Counters()
			if steps, commits := int64(inFlight*rows), after-before; commits*4 >= steps {
				t.Errorf("%d steps of %d runs took %d commits: not below a quarter", steps, inFlight, commits)
			}
			s.mustBeDone(t, runs)
		})
	}
}

// BenchmarkSteps measures durable steps: whole runs of no-op rows, from their claim to done.
func BenchmarkSteps(bench *testing.B) {
	for _, b := range backends() {
		bench.Run(b.name, func(bench *testing.B) {
			for _, inFlight := range []int{1, 16, 64, 256} {
				bench.Run(fmt.Sprintf("in_flight=%d", inFlight), func(bench *testing.B) {
					s := open(bench, b, noop(rows, 0))
					var took time.Duration
					var steps, commits, trips int64
					for bench.Loop() {
						claims := s.claim(bench, s.accept(bench, inFlight))
						c0, t0 := s.store.Counters()
						took += s.drive(bench, claims)
						c1, t1 := s.store.Counters()
						steps, commits, trips = steps+int64(inFlight*rows), commits+c1-c0, trips+t1-t0
					}
					bench.ReportMetric(0, "ns/op") // an operation is a batch of runs: of no interest
					bench.ReportMetric(float64(steps)/took.Seconds(), "steps/s")
					bench.ReportMetric(float64(commits)/float64(steps), "commits/step")
					bench.ReportMetric(float64(trips)/float64(steps), "trips/step")
				})
			}
		})
	}
}
