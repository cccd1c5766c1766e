package simulation

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var seeds = flag.Int("seeds", 100, "how many seeds TestSeeds runs")

func newRunner(t *testing.T) *Runner {
	t.Helper()
	r, err := NewRunner(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// One seed has one history: on the same store and on another, whatever ran there before, and whichever way maps are walked, which Go
// changes from loop to loop.
func TestOneSeedOneHistory(t *testing.T) {
	t.Parallel()
	first, second := newRunner(t), newRunner(t)
	first.Keep, second.Keep = true, true
	seen := map[string]uint64{}
	for seed := uint64(1); seed <= 8; seed++ {
		one := first.Run(NewPlan(seed))
		first.Run(NewPlan(seed + 1000))
		for n, again := range []Result{first.Run(NewPlan(seed)), second.Run(NewPlan(seed))} {
			if one.Hash != again.Hash || !slices.Equal(one.History, again.History) {
				at := 0
				for at < len(one.History) && at < len(again.History) && one.History[at] == again.History[at] {
					at++
				}
				t.Fatalf("seed %d, repetition %d: another history from line %d on:\n%q\n%q", seed, n, at, one.History[at:min(at+3, len(one.History))], again.History[at:min(at+3, len(again.History))])
			}
		}
		if other, ok := seen[one.Hash]; ok {
			t.Errorf("seeds %d and %d have one history", seed, other)
		}
		seen[one.Hash] = seed
		if len(one.History) < 100 || one.Events < 500 {
			t.Errorf("seed %d: %d lines, %d events", seed, len(one.History), one.Events)
		}
	}
}

// The short form of `make simulate`.
func TestSeeds(t *testing.T) {
	total := NewTotal()
	err := RunSeeds(t.Context(), 1, *seeds, 2, false, func(r Result) {
		total.Add(r)
		for _, p := range r.Problems {
			t.Errorf("seed %d: %s (again: go run ./internal/simulation/simulate -first %d -seeds 1 -history)", r.Seed, p, r.Seed)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s%s\n%s", total.Table(), total.Counts(), total)
	if total.Faults() < 5**seeds || total.Runs < 2**seeds {
		t.Errorf("%d seeds: %d faults struck %d runs", *seeds, total.Faults(), total.Runs)
	}
	names, _ := Kinds()
	for _, name := range names {
		if *seeds >= 100 && total.Struck[name] == 0 {
			t.Errorf("no %s has struck in %d seeds", name, *seeds)
		}
	}
}

// Plans that found something once find nothing any more.
func TestKeptPlans(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/plans/*.json")
	if err != nil {
		t.Fatal(err)
	}
	r := newRunner(t)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var plan Plan
			if err := json.Unmarshal(text, &plan); err != nil {
				t.Fatal(err)
			}
			result := r.Run(plan)
			for _, p := range result.Problems {
				t.Errorf("%s", p)
			}
			if want := len(plan.Faults); result.Faults() < want {
				t.Errorf("%d of %d faults have struck: the plan does not show any more what it was kept for", result.Faults(), want)
			}
		})
	}
}
