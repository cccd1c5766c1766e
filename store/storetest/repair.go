package storetest

import (
	"errors"
	"testing"
	"time"

	"slipway/orchestrator"
)

// repair is what operators ask beyond retry and cancel.
func repair(t *testing.T, h Harness) {
	ask := func(b *bundle, run, verb, step string) (orchestrator.Run, error) {
		return b.store.Intervene(t.Context(), orchestrator.Intervention{Run: run, Verb: verb, Step: step, Actor: "0:root", Reason: "looked", Now: b.now})
	}
	parked := func(b *bundle) orchestrator.Claim {
		c := b.taken("a")
		c.Run.Status, c.Run.Failures, c.Run.Attempt = orchestrator.StatusParked, 3, 4
		b.commit(orchestrator.Commit{Run: c.Run, Release: true, Opened: &orchestrator.Attempt{Step: c.Run.Step, Number: 7, Outcome: orchestrator.OutcomeFailed, Actor: "a"}})
		return c
	}

	t.Run("IsKeptUntilItIsCarriedOut", func(t *testing.T) {
		for verb, want := range map[string]struct {
			rewound int
			line    string
		}{
			orchestrator.VerbSkip: {0, "looked"}, orchestrator.VerbForce: {0, "looked"},
			orchestrator.VerbRewind: {7, "to place: looked"}, orchestrator.VerbAdopt: {7, "to place: looked"},
		} {
			b := setup(t, h)
			c := parked(b)
			asked := orchestrator.Request{Verb: verb, Step: "place", By: "0:root: looked"}
			run, err := ask(b, c.Run.ID, verb, "place")
			must(t, err)
			if run.Status != orchestrator.StatusReady || run.Request != asked || run.Rewound != want.rewound || run.Failures != 0 || run.Attempt != 4 || !run.StepSince.Equal(run.WakeAt) {
				t.Errorf("%s: run %+v", verb, run)
			}
			lines, err := b.store.Attempts(t.Context(), c.Machine.ID)
			must(t, err)
			if last := lines[len(lines)-1]; last.Outcome != verb || last.Actor != "0:root" || last.Message != want.line {
				t.Errorf("%s: journal %+v", verb, last)
			}
			again := b.claim(c.Run.ID, "b")
			if again.Run.Request != asked || again.Run.Rewound != want.rewound {
				t.Errorf("%s: claimed %+v", verb, again.Run)
			}
			b.commit(orchestrator.Commit{Run: again.Run})
			if run, err := b.store.Run(t.Context(), c.Run.ID); err != nil || run.Request != asked {
				t.Errorf("%s: after a commit %+v, %v", verb, run, err)
			}
			again.Run.Request = orchestrator.Request{}
			b.commit(orchestrator.Commit{Run: again.Run})
			if run, err := b.store.Run(t.Context(), c.Run.ID); err != nil || run.Request != (orchestrator.Request{}) || run.Rewound != want.rewound {
				t.Errorf("%s: carried out %+v, %v", verb, run, err)
			}
		}
	})

	t.Run("Refused", func(t *testing.T) {
		b := setup(t, h)
		refused := func(name, run, verb, step string) {
			t.Helper()
			if _, err := ask(b, run, verb, step); orchestrator.KindOf(err) != orchestrator.Permanent || errors.Is(err, orchestrator.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
		held := b.taken("a")
		refused("held", held.Run.ID, orchestrator.VerbRewind, "place")
		c := parked(b)
		refused("another step", c.Run.ID, orchestrator.VerbSkip, "elsewhere")
		refused("another step", c.Run.ID, orchestrator.VerbForce, "elsewhere")
		_, err := ask(b, c.Run.ID, orchestrator.VerbCancel, "")
		must(t, err)
		refused("canceling", c.Run.ID, orchestrator.VerbRewind, "place")
		again := b.claim(c.Run.ID, "b")
		again.Run.Status = orchestrator.StatusCanceled
		b.commit(orchestrator.Commit{Run: again.Run, Release: true})
		refused("ended", c.Run.ID, orchestrator.VerbRewind, "place")
	})

	t.Run("RetryTakesItBackUnlessTheRunHasTurned", func(t *testing.T) {
		for _, undoing := range []bool{false, true} {
			b := setup(t, h)
			c := parked(b)
			_, err := ask(b, c.Run.ID, orchestrator.VerbRewind, "place")
			must(t, err)
			again := b.claim(c.Run.ID, "b")
			again.Run.Status, again.Run.Undoing, again.Run.WakeAt = orchestrator.StatusWaiting, undoing, time.Now().Add(time.Hour)
			b.commit(orchestrator.Commit{Run: again.Run, Release: true})
			run, err := ask(b, c.Run.ID, orchestrator.VerbRetry, "")
			must(t, err)
			if run.Status != orchestrator.StatusReady || (run.Request.Verb != "") != undoing {
				t.Errorf("undoing %t: %s, %+v", undoing, run.Status, run.Request)
			}
		}
	})

	t.Run("CancelTurnsItIntoOne", func(t *testing.T) {
		b := setup(t, h)
		c := parked(b)
		_, err := ask(b, c.Run.ID, orchestrator.VerbRewind, "place")
		must(t, err)
		again := b.claim(c.Run.ID, "b")
		_, err = ask(b, c.Run.ID, orchestrator.VerbCancel, "")
		must(t, err)
		again.Run.Status, again.Run.Undoing, again.Run.WakeAt = orchestrator.StatusWaiting, true, time.Now().Add(time.Hour)
		b.commit(orchestrator.Commit{Run: again.Run, Release: true})
		if run := b.claim(c.Run.ID, "b").Run; run.Status != orchestrator.StatusCanceling || run.Cancel == "" {
			t.Errorf("run %+v", run)
		}
	})
}
