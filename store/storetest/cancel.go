package storetest

import (
	"errors"
	"testing"
	"time"

	"slipway/orchestrator"
)

func uninstall(t *testing.T, h Harness) {
	t.Run("OfAMachineAtRestBeginsAtOnce", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		c.Run.Status = orchestrator.StatusDone
		b.commit(orchestrator.Commit{Run: c.Run, Release: true})
		u := b.uninstall(c.Machine.ID)
		answer := b.accept(u)
		run := b.claim(answer.Run, "a").Run
		if run.Machine != c.Machine.ID || run.Process != "uninstall" || run.Order.ID != u.Order.ID || run.StepSince.IsZero() {
			t.Errorf("run %+v", run)
		}
		_, err := b.store.Accept(t.Context(), b.uninstall(c.Machine.ID))
		var fields orchestrator.FieldErrors
		if !errors.As(err, &fields) {
			t.Errorf("a second one: %v", err)
		}
	})

	t.Run("ByName", func(t *testing.T) {
		b := setup(t, h)
		a := b.install()
		b.accept(a)
		u := b.uninstall("")
		u.Order.Name = a.Order.Name
		if answer := b.accept(u); answer.Machine != a.Machine.ID {
			t.Errorf("answer %+v", answer)
		}
	})

	t.Run("Refused", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		foreign := b.uninstall(b.taken("a").Machine.ID)
		foreign.Order.Tenant = "other"
		c.Machine.Presence, c.Run.Status = orchestrator.Absent, orchestrator.StatusDone
		b.commit(orchestrator.Commit{Run: c.Run, Machine: &c.Machine, Release: true})
		for name, u := range map[string]orchestrator.Acceptance{
			"unknown": b.uninstall("00000000-0000-0000-0000-000000000000"), "another tenant's": foreign, "removed": b.uninstall(c.Machine.ID),
		} {
			_, err := b.store.Accept(t.Context(), u)
			var fields orchestrator.FieldErrors
			if !errors.As(err, &fields) || fields[0].Field != "machine" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := b.value(`SELECT count(*) FROM orders`); n != 2 {
			t.Errorf("%d orders", n)
		}
	})

	t.Run("TakesOverFromARunThatIsHeld", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		u := b.uninstall(c.Machine.ID)
		answer := b.accept(u)
		if _, err := b.store.Run(t.Context(), answer.Run); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Fatalf("it began too early: %v", err)
		}
		result := b.commit(orchestrator.Commit{Run: c.Run})
		if result.Cancel == "" || result.Successor != "uninstall" || result.SuccessorID != u.Run.ID {
			t.Fatalf("the holder was told %+v", result)
		}
		c.Run.Status = orchestrator.StatusCanceled
		next := u.Run
		next.Machine = c.Machine.ID
		b.commit(orchestrator.Commit{Run: c.Run, Release: true, Next: &next})
		run := b.claim(u.Run.ID, "a").Run
		if run.Order.ID != u.Order.ID || run.Machine != c.Machine.ID || run.Step != "close_console" || run.RowHash != "hash-u" {
			t.Errorf("successor %+v", run)
		}
	})

	t.Run("TakesOverFromARunThatNobodyHolds", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		c.Run.Status, c.Run.Reason = orchestrator.StatusParked, "broken"
		b.commit(orchestrator.Commit{Run: c.Run, Release: true})
		b.accept(b.uninstall(c.Machine.ID))
		again := b.claim(c.Run.ID, "b")
		if again.Run.Status != orchestrator.StatusCanceling || again.Run.Successor != "uninstall" || again.Run.Cancel == "" {
			t.Errorf("run %+v", again.Run)
		}
	})

	t.Run("IsNotLostWhenTheRunEndsFirst", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		u := b.uninstall(c.Machine.ID)
		b.accept(u)
		c.Run.Status = orchestrator.StatusDone // its holder had not heard of it
		b.commit(orchestrator.Commit{Run: c.Run, Release: true})
		run := b.claim(u.Run.ID, "b").Run
		if run.Process != "uninstall" || run.Order.ID != u.Order.ID || run.Machine != c.Machine.ID || run.StepSince.IsZero() || run.Attempt != 1 {
			t.Errorf("successor %+v", run)
		}
	})
}

func cancel(t *testing.T, h Harness) {
	ask := func(b *bundle, run string) (orchestrator.Run, error) {
		return b.store.Intervene(t.Context(), orchestrator.Intervention{Run: run, Verb: orchestrator.VerbCancel, Actor: "0:root", Reason: "no more wanted", Now: b.now})
	}

	t.Run("HolderHearsOfItOnce", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		run, err := ask(b, c.Run.ID)
		must(t, err)
		if run.Status != orchestrator.StatusRunning || run.Cancel != "0:root: no more wanted" {
			t.Errorf("run %+v", run)
		}
		if got := b.commit(orchestrator.Commit{Run: c.Run}); got.Cancel != run.Cancel {
			t.Errorf("told %q", got.Cancel)
		}
		// A process that only goes forward may go on waiting: nobody takes it up before its time.
		c.Run.Status, c.Run.WakeAt = orchestrator.StatusWaiting, time.Now().Add(time.Hour)
		b.commit(orchestrator.Commit{Run: c.Run, Release: true})
		if _, err := b.store.ClaimRun(t.Context(), c.Run.ID, "b", lease); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})

	t.Run("IsNotMissedByARunThatIsPutDown", func(t *testing.T) {
		for _, status := range []orchestrator.Status{orchestrator.StatusWaiting, orchestrator.StatusParked, orchestrator.StatusReady} {
			b := setup(t, h)
			c := b.taken("a")
			_, err := ask(b, c.Run.ID)
			must(t, err)
			c.Run.Status, c.Run.WakeAt = status, time.Now().Add(time.Hour)
			b.commit(orchestrator.Commit{Run: c.Run, Release: true})
			if got := b.claim(c.Run.ID, "b").Run; got.Status != orchestrator.StatusCanceling || got.Cancel == "" {
				t.Errorf("%s: run %+v", status, got)
			}
		}
	})

	t.Run("CancelingRunWaitsToo", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		c.Run.Status, c.Run.Undoing, c.Run.WakeAt, c.Run.WakeKey = orchestrator.StatusCanceling, true, time.Now().Add(time.Hour), "task:x"
		b.commit(orchestrator.Commit{Run: c.Run, Release: true})
		got, err := b.store.Claim(t.Context(), orchestrator.Ask{Holder: "b", Limit: 10, Lease: lease})
		must(t, err)
		if len(got) != 0 {
			t.Fatalf("taken before its time: %+v", got)
		}
		n, err := b.store.Wake(t.Context(), "task:x")
		must(t, err)
		if got := b.claim(c.Run.ID, "b").Run; n != 1 || got.Status != orchestrator.StatusCanceling || !got.Undoing {
			t.Errorf("%d woken, run %+v", n, got)
		}
	})

	t.Run("WhoeverAskedFirstStays", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		first, err := ask(b, c.Run.ID)
		must(t, err)
		b.accept(b.uninstall(c.Machine.ID))
		result := b.commit(orchestrator.Commit{Run: c.Run})
		if result.Cancel != first.Cancel || result.Successor != "uninstall" {
			t.Errorf("result %+v", result)
		}
	})
}
