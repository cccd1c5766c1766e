// Command simulate runs simulations by seed and ends with a line that sums them up. It exits with 1 when anything was found, after making
// the first failing plan as small as it can.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"time"

	"slipway/internal/simulation"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var o options
	flag.IntVar(&o.seeds, "seeds", 1000, "how many seeds")
	flag.Uint64Var(&o.first, "first", 1, "the first of them")
	flag.IntVar(&o.workers, "parallel", runtime.NumCPU(), "how many at once")
	flag.BoolVar(&o.history, "history", false, "print the history of each seed")
	flag.StringVar(&o.plan, "plan", "", "run the plan in this file instead of seeds")
	flag.Parse()
	clean, err := run(ctx, o, os.Stdout)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(2)
	case !clean:
		os.Exit(1)
	}
}

type options struct {
	seeds, workers int
	first          uint64
	history        bool
	plan           string
}

var errNothing = errors.New("-seeds: give at least one")

func run(ctx context.Context, o options, out io.Writer) (clean bool, err error) {
	if o.plan != "" {
		return replay(ctx, o, out)
	}
	if o.seeds < 1 {
		return false, errNothing
	}
	began := time.Now()
	total := simulation.NewTotal()
	err = simulation.RunSeeds(ctx, o.first, o.seeds, o.workers, o.history, func(r simulation.Result) {
		for _, line := range r.History {
			fmt.Fprintln(out, line)
		}
		if r.Failed() && total.Failed < 10 {
			fmt.Fprintf(out, "seed %d: %s\n  again: go run ./internal/simulation/simulate -first %d -seeds 1 -history\n", r.Seed, r.Problems[0], r.Seed)
		}
		total.Add(r)
	})
	if err != nil {
		return false, err
	}
	fmt.Fprint(out, total.Table())
	fmt.Fprintf(out, "%s, %s of simulated time in %s\n", total.Counts(), total.Lasted.Round(time.Minute), time.Since(began).Round(time.Second))
	if total.Failed > 0 {
		if err := shrink(ctx, total.First, out); err != nil {
			return false, err
		}
	}
	fmt.Fprintln(out, total)
	return total.Failed == 0, nil
}

// shrink prints the smallest plan that still fails.
func shrink(ctx context.Context, r simulation.Result, out io.Writer) (err error) {
	runner, err := simulation.NewRunner(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, runner.Close()) }()
	small := runner.Shrink(simulation.NewPlan(r.Seed), r.Problems[0].What)
	body, err := json.MarshalIndent(small, "", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "seed %d, made small; keep it as internal/simulation/testdata/plans/NAME.json:\n%s\n", r.Seed, body)
	return nil
}

// replay runs one plan and prints its history.
func replay(ctx context.Context, o options, out io.Writer) (clean bool, err error) {
	text, err := os.ReadFile(o.plan)
	if err != nil {
		return false, err
	}
	var plan simulation.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return false, fmt.Errorf("%s: %w", o.plan, err)
	}
	runner, err := simulation.NewRunner(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, runner.Close()) }()
	runner.Keep = true
	r := runner.Run(plan)
	for _, line := range r.History {
		fmt.Fprintln(out, line)
	}
	return !r.Failed(), nil
}
