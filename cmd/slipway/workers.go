package main

import (
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
)

type workersCmd struct{}

func (workersCmd) Run(e *env) error {
	var workers []api.Worker
	if err := e.get("/v1/workers", &workers); err != nil {
		return err
	}
	return e.print(workers, func(t table.Writer) {
		t.AppendHeader(table.Row{"worker", "version", "since", "seen", "runs in hand", "state"})
		for _, w := range workers {
			t.AppendRow(table.Row{w.Worker, w.Version, w.Started.Local().Format("2006-01-02 15:04"), ago(w.Seen), w.Held, clip(workerState(w), 80)})
		}
	})
}

func workerState(w api.Worker) string {
	switch {
	case w.Gone:
		return "gone"
	case w.Drained.IsZero():
		return "works"
	case w.Idle:
		return fmt.Sprintf("drained, empty: %s (%s)", w.DrainReason, w.DrainedBy)
	}
	return fmt.Sprintf("draining: %s (%s)", w.DrainReason, w.DrainedBy)
}

type drainCmd struct {
	Worker   string `arg:"" optional:"" help:"The worker, or the beginning of its name; the one that answers on the socket when empty."`
	Wait     bool   `help:"Return once nothing is in its hands any more."`
	actFlags `embed:""`
}

func (c drainCmd) Run(e *env) error {
	worker, err := e.drain("drain", api.Drain{Worker: c.Worker, On: true, Reason: c.Reason, Yes: c.Yes})
	if err != nil || !c.Yes || !c.Wait {
		return err
	}
	return e.poll(100*time.Millisecond, func() (bool, string, error) {
		var workers []api.Worker
		if err := e.get("/v1/workers", &workers); err != nil {
			return false, "", err
		}
		for _, w := range workers {
			if w.Worker != worker {
				continue
			}
			switch {
			case w.Idle:
				fmt.Fprintln(e.stderr, clean(worker), "is empty")
				return true, "", nil
			case w.Gone:
				return false, "", hinted{error: fmt.Errorf("%s says nothing any more; what it held is taken over when its leases end", worker), next: "slipway workers", code: exitFailure}
			case w.Drained.IsZero():
				return false, "", hinted{error: fmt.Errorf("%s works again: somebody took the drain back", worker), next: "slipway workers", code: exitConflict}
			}
			return false, fmt.Sprintf("%d runs in hand", w.Held), nil
		}
		fmt.Fprintln(e.stderr, clean(worker), "has stopped")
		return true, "", nil
	})
}

type undrainCmd struct {
	Worker   string `arg:"" optional:"" help:"The worker, or the beginning of its name; the one that answers on the socket when empty."`
	actFlags `embed:""`
}

func (c undrainCmd) Run(e *env) error {
	_, err := e.drain("undrain", api.Drain{Worker: c.Worker, Reason: c.Reason, Yes: c.Yes})
	return err
}

func (e *env) drain(verb string, ask api.Drain) (worker string, err error) {
	var drained api.Drained
	if err := e.post("/v1/workers/drain", ask, &drained); err != nil {
		return "", err
	}
	again := "slipway " + verb
	if ask.Worker != "" {
		again += " " + ask.Worker
	}
	return drained.Worker, e.printActed(api.Acted{Plan: drained.Plan, Done: drained.Done}, again)
}
