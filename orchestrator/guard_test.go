package orchestrator_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
)

// guard lets runs begin unless it has a halt.
type guard struct {
	halt  orchestrator.Hold
	asked int
}

func (g *guard) Begin(context.Context, orchestrator.Run, orchestrator.Machine) (orchestrator.Hold, bool, error) {
	g.asked++
	return g.halt, g.halt.Kind != "", nil
}

func halt(since time.Time) orchestrator.Hold {
	return orchestrator.Hold{Subject: orchestrator.PoolSubject("a"), Kind: orchestrator.HaltOf("p"), Actor: "guard", Reason: "too many", Since: since}
}

// guardedBench is a run of a guarded process about a finished machine.
func guardedBench(t *testing.T, rows ...orchestrator.Row) (*bench, *guard) {
	b := newBench(t, false, rows...)
	g := &guard{halt: halt(b.now)}
	b.process.Guarded, b.guard = true, g
	b.claim.Machine.State = orchestrator.StateReady
	return b, g
}

// A halted run waits in front of its first row however long that takes, is told of once, and walks on when it is let begin.
func TestHaltedRunWaitsBeforeItBegins(t *testing.T) {
	calls := 0
	count := func(context.Context, *step) (outcome, error) { calls++; return orchestrator.Finished("gone") }
	b, g := guardedBench(t, orchestrator.Row{Do: count, Policy: orchestrator.Policy{Budget: time.Minute}}, orchestrator.Row{Do: count})
	b.claim.Run.Deadline = b.now.Add(time.Hour)
	for range 60 {
		b.drive()
		if run := b.claim.Run; run.Status != orchestrator.StatusWaiting || run.State != "s0" || !run.Halted() || b.begun() ||
			run.Reason != "waits for the halt of p in pool a since 2026-01-01 00:00 UTC by guard: too many" {
			t.Fatalf("%+v", run)
		}
		if !slices.Equal(orchestrator.Exits(b.claim.Run, b.process), []string{"retry", "cancel"}) {
			t.Fatalf("it accepts %v", orchestrator.Exits(b.claim.Run, b.process))
		}
		b.now = b.now.Add(10 * time.Minute)
		b.claimAgain()
	}
	told := 0
	for _, c := range b.commits {
		for _, e := range c.Events {
			if e.Type == orchestrator.EventWaiting && strings.Contains(string(e.Data), "halt of p in pool a") {
				told++
			}
		}
	}
	if told != 1 || calls != 0 {
		t.Errorf("the panel was told %d times, rows were called %d times", told, calls)
	}
	g.halt = orchestrator.Hold{}
	asked := g.asked
	b.drive()
	if b.claim.Run.Status != orchestrator.StatusDone || calls != 2 || g.asked != asked+1 {
		t.Errorf("%d calls, asked %d times, %+v", calls, g.asked-asked, b.claim.Run)
	}
}

// What has begun goes on, whatever the guard says now; so does what is about a machine that no customer has.
func TestGuardLetsBe(t *testing.T) {
	for name, change := range map[string]func(b *bench){
		"let begin before":      func(b *bench) { b.claim.Run.Begun = b.now },
		"in the middle":         func(b *bench) { b.claim.Run.State, b.claim.Run.Step = "s1", "step1" },
		"never finished":        func(b *bench) { b.claim.Machine.State = "started" },
		"taken over from":       func(b *bench) { b.claim.Machine.State = "s0" },
		"not a guarded process": func(b *bench) { b.process.Guarded = false },
		"no guard":              func(b *bench) { b.guard = nil },
	} {
		t.Run(name, func(t *testing.T) {
			b, g := guardedBench(t, orchestrator.Row{Do: done}, orchestrator.Row{Do: done})
			change(b)
			b.drive()
			if b.claim.Run.Status != orchestrator.StatusDone || g.asked != 0 {
				t.Errorf("asked %d times, %+v", g.asked, b.claim.Run)
			}
		})
	}
}

// A halted run can be withdrawn, also of a process that otherwise goes forward only: its machine stays as it is. One that has begun cannot.
func TestHaltedRunIsWithdrawn(t *testing.T) {
	b, _ := guardedBench(t, orchestrator.Row{Do: done}, orchestrator.Row{Do: failWith(kind(orchestrator.Permanent))})
	b.drive()
	b.claim.Run.Cancel, b.claim.Run.Status = "0:root: not meant", orchestrator.StatusCanceling
	b.drive()
	run := b.claim.Run
	if run.Status != orchestrator.StatusCanceled || run.State != "s0" || run.Reason != "0:root: not meant" || b.claim.Machine.State != orchestrator.StateReady || b.begun() {
		t.Errorf("%+v, the machine is %s", run, b.claim.Machine.State)
	}
	last := b.commits[len(b.commits)-1]
	if len(last.Events) != 1 || last.Events[0].Type != orchestrator.EventCanceled || last.Machine != nil || !last.Release {
		t.Errorf("%+v", last)
	}

	b, g := guardedBench(t, orchestrator.Row{Do: done}, orchestrator.Row{Do: failWith(kind(orchestrator.Permanent))})
	b.drive()
	g.halt = orchestrator.Hold{}
	b.claim.Run.Begun = b.now
	b.claimAgain()
	b.claim.Run.Cancel, b.claim.Run.Status = "0:root: too late", orchestrator.StatusCanceling
	b.drive()
	if b.claim.Run.Status != orchestrator.StatusParked || b.claim.Run.State != "s1" {
		t.Errorf("one that was let begin: %+v", b.claim.Run)
	}
}

// begun reports that an attempt was written down.
func (b *bench) begun() bool {
	return slices.ContainsFunc(b.commits, func(c orchestrator.Commit) bool { return c.Opened != nil || c.Ended != nil })
}

// Who was let begin is not asked again while the same worker goes on with it.
func TestGuardIsAskedOnce(t *testing.T) {
	calls := 0
	b, g := guardedBench(t, orchestrator.Row{Do: func(context.Context, *step) (outcome, error) {
		calls++
		if calls == 1 {
			return outcome{}, kind(orchestrator.Conflict)
		}
		return orchestrator.Finished("gone")
	}})
	g.halt = orchestrator.Hold{}
	b.drive()
	if b.claim.Run.Status != orchestrator.StatusDone || calls != 2 || g.asked != 1 {
		t.Errorf("%d calls, asked %d times, %+v", calls, g.asked, b.claim.Run)
	}
}
