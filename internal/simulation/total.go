package simulation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Total sums up many simulations.
type Total struct {
	Seeds, Failed int
	First         Result // that failed
	Struck        map[string]int
	Found         map[string]int // problems by what they are
	Late          int
	Events        int
	Runs          int
	Lasted        time.Duration
}

// NewTotal is of none.
func NewTotal() *Total { return &Total{Struck: map[string]int{}, Found: map[string]int{}} }

// Add counts one more.
func (t *Total) Add(r Result) {
	t.Seeds++
	for kind, n := range r.Struck {
		t.Struck[kind] += n
	}
	for _, p := range r.Problems {
		t.Found[p.What]++
	}
	for _, n := range r.Runs {
		t.Runs += n
	}
	t.Late, t.Events, t.Lasted = t.Late+r.Late, t.Events+r.Events, t.Lasted+r.Lasted
	if r.Failed() {
		if t.Failed == 0 || r.Seed < t.First.Seed {
			t.First = r
		}
		t.Failed++
	}
}

// Faults is how many struck.
func (t *Total) Faults() int {
	n := 0
	for _, k := range t.Struck {
		n += k
	}
	return n
}

// Table is the faults that struck, by kind, a line each.
func (t *Total) Table() string {
	var b strings.Builder
	names, what := Kinds()
	for _, name := range names {
		fmt.Fprintf(&b, "%8d  %-30s %s\n", t.Struck[name], name, what[name])
	}
	for _, what := range slices.Sorted(maps.Keys(t.Found)) {
		fmt.Fprintf(&b, "%8d  PROBLEM %s\n", t.Found[what], what)
	}
	return b.String()
}

// Counts is what else there is to say.
func (t *Total) Counts() string {
	return fmt.Sprintf("%d runs, %d events, %d late effects found by sweeps, %d seeds with problems", t.Runs, t.Events, t.Late, t.Failed)
}

// String is the line that everything ends with. What is neither leaked nor duplicated nor stuck is a broken invariant of another kind; it
// is said beside them.
func (t *Total) String() string {
	line := fmt.Sprintf("simulate: seeds=%d faults=%d leaked=%d duplicated=%d stuck=%d", t.Seeds, t.Faults(), t.Found["leaked"], t.Found["duplicated"], t.Found["stuck"])
	for _, what := range slices.Sorted(maps.Keys(t.Found)) {
		if what != "leaked" && what != "duplicated" && what != "stuck" {
			line += fmt.Sprintf(" %s=%d", strings.ReplaceAll(what, " ", "_"), t.Found[what])
		}
	}
	return line
}

// RunSeeds runs the plans of n seeds from first on, several at once, and hands each result to done, one at a time and in no order.
func RunSeeds(ctx context.Context, first uint64, n, parallel int, keep bool, done func(Result)) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failures []error
	next := first
	for range max(1, min(parallel, n)) {
		wg.Go(func() {
			runner, err := NewRunner(ctx)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, err)
				return
			}
			runner.Keep = keep
			for {
				mu.Lock()
				seed := next
				next++
				mu.Unlock()
				if seed >= first+uint64(n) || ctx.Err() != nil {
					break
				}
				r := runner.Run(NewPlan(seed))
				mu.Lock()
				done(r)
				mu.Unlock()
			}
			err = runner.Close()
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, err)
		})
	}
	wg.Wait()
	return errors.Join(append(failures, ctx.Err())...)
}
