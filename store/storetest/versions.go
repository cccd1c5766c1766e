package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

// version is a worker whose table has rows of its own, written "queued place placed".
type version struct {
	*bundle
	name   string
	engine *orchestrator.Engine
	calls  []string
}

func (b *bundle) version(name string, rows ...string) *version {
	b.Helper()
	v := &version{bundle: b, name: name}
	p := &orchestrator.Process{Name: "install", Cancelable: true}
	for _, row := range rows {
		word := strings.Fields(row)
		call := func(what string) func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			return func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
				v.calls = append(v.calls, what)
				return orchestrator.Finished("%s by %s", what, name)
			}
		}
		p.Rows = append(p.Rows, orchestrator.Row{From: orchestrator.State(word[0]), Step: word[1], To: orchestrator.State(word[2]), Do: call(word[1]), Undo: call("undo " + word[1])})
	}
	var err error
	v.engine, err = orchestrator.NewEngine(orchestrator.EngineConfig{
		Processes: []*orchestrator.Process{p}, Estate: b.estate, Actor: name, Log: slog.New(slog.DiscardHandler), Attempts: b.store.Attempts,
		Commit: func(ctx context.Context, c orchestrator.Commit) orchestrator.CommitResult {
			return b.store.Commit(ctx, []orchestrator.Commit{c})[0]
		},
	})
	must(b, err)
	v.beat()
	return v
}

func (v *version) beat() {
	v.Helper()
	_, err := v.store.Beat(v.Context(), orchestrator.Worker{Holder: v.name, Version: v.name, Started: v.now, Knows: v.engine.Knows()})
	must(v, err)
}

// claim is what the worker takes.
func (v *version) claims(strangers bool) []orchestrator.Claim {
	v.Helper()
	got, err := v.store.Claim(v.Context(), orchestrator.Ask{Holder: v.name, Limit: 10, Lease: lease, Knows: v.engine.Knows(), Strangers: strangers})
	must(v, err)
	return got
}

// walk takes a run and ticks it at most so often, then hands it over; it returns the run as it is then. The run must be the only one.
func (v *version) walk(run string, ticks int, strangers bool) orchestrator.Run {
	v.Helper()
	got := v.claims(strangers)
	if len(got) != 1 || got[0].Run.ID != run {
		v.Fatalf("%s takes %+v", v.name, got)
	}
	more := true
	for range ticks {
		var err error
		if more, err = v.engine.Tick(v.Context(), func() time.Time { return v.now }, &got[0]); err != nil {
			v.Fatal(err)
		}
		if !more {
			break
		}
	}
	if more {
		must(v, v.store.HandOver(v.Context(), v.name, map[string]int64{run: got[0].Run.Fence}))
	}
	return v.run(run)
}

func (v *version) run(id string) orchestrator.Run {
	v.Helper()
	run, err := v.store.Run(v.Context(), id)
	must(v, err)
	return run
}

func (v *version) leaves(what string, strangers bool) {
	v.Helper()
	if got := v.claims(strangers); len(got) != 0 {
		v.Fatalf("%s: %s takes %+v", what, v.name, got)
	}
}

// versions is a store in the hands of workers of two versions, whose tables differ.
func versions(t *testing.T, h Harness) {
	old := func(b *bundle) *version {
		return b.version("old", "queued place placed", "placed make made", "made boot ready")
	}
	// enlist is new, and make is another row since.
	young := func(b *bundle) *version {
		return b.version("young", "queued place placed", "placed enlist enlisted", "enlisted make made", "made boot ready")
	}
	overdue := func(b *bundle) {
		b.Helper()
		late := (orchestrator.StrangerAfter + time.Minute).Microseconds()
		must(b, b.db.Exec(b.Context(), fmt.Sprintf(`UPDATE runs SET updated_at = updated_at - %[1]d, wake_at = CASE WHEN wake_at > 0 THEN wake_at - %[1]d ELSE 0 END`, late)))
	}
	forget := func(b *bundle, holder string) {
		b.Helper()
		must(b, b.store.Leave(b.Context(), holder))
	}

	t.Run("TheSameRowGoesOn", func(t *testing.T) {
		b := setup(t, h)
		was, is := old(b), young(b)
		id := b.accept(b.install()).Run
		if run := was.walk(id, 2, false); run.State != "made" {
			t.Fatalf("%+v", run)
		}
		run := is.walk(id, 10, false)
		if run.Status != orchestrator.StatusDone || !slices.Equal(was.calls, []string{"place", "make"}) || !slices.Equal(is.calls, []string{"boot"}) {
			t.Errorf("%s %q, calls %v and %v", run.Status, run.Reason, was.calls, is.calls)
		}
	})

	// Neither takes or parks what only the other knows, however long that is overdue, as long as the other is there.
	t.Run("AnothersRowIsLeftToIt", func(t *testing.T) {
		b := setup(t, h)
		was, is := old(b), young(b)
		ofOld := b.accept(b.install()).Run
		if run := was.walk(ofOld, 1, false); run.Step != "make" {
			t.Fatalf("%+v", run)
		}
		is.leaves("make from placed", false)
		overdue(b)
		is.leaves("make from placed, overdue", true)
		if run := was.walk(ofOld, 10, false); run.Status != orchestrator.StatusDone {
			t.Errorf("the old one's: %s %q", run.Status, run.Reason)
		}

		ofYoung := b.accept(b.install()).Run
		if run := is.walk(ofYoung, 1, false); run.Step != "enlist" {
			t.Fatalf("%+v", run)
		}
		overdue(b)
		was.leaves("enlist, overdue", true)
		if run := is.walk(ofYoung, 10, false); run.Status != orchestrator.StatusDone {
			t.Errorf("the new one's: %s %q", run.Status, run.Reason)
		}
	})

	// A worker that died with it counts as there, and so does one that is being replaced: until neither has been seen for StrangerAfter.
	t.Run("WhatNobodyKnowsIsParked", func(t *testing.T) {
		b := setup(t, h)
		was, is := old(b), young(b)
		id := b.accept(b.install()).Run
		was.walk(id, 1, false)
		forget(b, "old")
		is.leaves("not overdue", true)
		overdue(b)
		is.leaves("no strangers", false)
		was.beat()
		is.leaves("the old one is back", true)
		must(t, b.db.Exec(t.Context(), fmt.Sprintf(`UPDATE workers SET seen_at = seen_at - %d WHERE holder = 'old'`, (orchestrator.StrangerAfter+time.Minute).Microseconds())))
		run := is.walk(id, 10, true)
		want := "step make from state placed is no longer in the table of install: step enlist leaves that state now; retry it on a version that has it, or cancel it"
		if run.Status != orchestrator.StatusParked || run.Reason != want || run.Kind != orchestrator.Permanent {
			t.Errorf("%s %q", run.Status, run.Reason)
		}
		lines, err := b.store.Attempts(t.Context(), run.Machine)
		must(t, err)
		if last := lines[len(lines)-1]; last.Step != "make" || last.Outcome != orchestrator.OutcomeFailed || last.Message != want {
			t.Errorf("journal %+v", last)
		}
		if len(is.calls) != 0 {
			t.Errorf("calls %v", is.calls)
		}
		intervene(b, id, orchestrator.VerbRetry)
		is.leaves("retried", true)
		if run := was.walk(id, 10, false); run.Status != orchestrator.StatusDone {
			t.Errorf("back at the old one: %s %q", run.Status, run.Reason)
		}
	})

	t.Run("WhatHeldItMayHaveDied", func(t *testing.T) {
		b := setup(t, h)
		was, is := old(b), young(b)
		id := b.accept(b.install()).Run
		was.walk(id, 1, false)
		_, err := b.store.ClaimRun(t.Context(), id, "old", time.Millisecond)
		must(t, err)
		forget(b, "old")
		overdue(b)
		is.leaves("its lease has just run out", true)
		must(t, b.db.Exec(t.Context(), `UPDATE runs SET lease_until = updated_at`))
		if run := is.walk(id, 10, true); run.Status != orchestrator.StatusParked {
			t.Errorf("%s %q", run.Status, run.Reason)
		}
	})

	// The way back is held against the journal: make was done, and nothing undoes it here.
	t.Run("NoUndoIsPassedOver", func(t *testing.T) {
		b := setup(t, h)
		was, is := old(b), b.version("young", "queued place made", "made boot ready")
		id := b.accept(b.install()).Run
		if run := was.walk(id, 2, false); run.State != "made" {
			t.Fatalf("%+v", run)
		}
		intervene(b, id, orchestrator.VerbCancel)
		run := is.walk(id, 10, false)
		if run.Status != orchestrator.StatusParked || !strings.Contains(run.Reason, "this run has begun make, which the table of install does not undo") || len(is.calls) != 0 {
			t.Fatalf("%s %q, calls %v", run.Status, run.Reason, is.calls)
		}
		intervene(b, id, orchestrator.VerbRetry)
		run = was.walk(id, 10, false)
		if diff := cmp.Diff([]string{"place", "make", "undo boot", "undo make", "undo place"}, was.calls); diff != "" || run.Status != orchestrator.StatusCanceled {
			t.Errorf("%s %q\n%s", run.Status, run.Reason, diff)
		}
	})

	// A way back finds its row by the step alone.
	t.Run("TheWayBackGoesOn", func(t *testing.T) {
		b := setup(t, h)
		was, is := old(b), young(b)
		id := b.accept(b.install()).Run
		was.walk(id, 2, false)
		intervene(b, id, orchestrator.VerbCancel)
		if run := was.walk(id, 2, false); run.Step != "make" || !run.Undoing {
			t.Fatalf("%+v", run)
		}
		run := is.walk(id, 10, false)
		if diff := cmp.Diff([]string{"undo make", "undo enlist", "undo place"}, is.calls); diff != "" || run.Status != orchestrator.StatusCanceled {
			t.Errorf("%s %q\n%s", run.Status, run.Reason, diff)
		}
	})
}

func intervene(b *bundle, run, verb string) {
	b.Helper()
	_, err := b.store.Intervene(b.Context(), orchestrator.Intervention{Run: run, Verb: verb, Actor: "0:root", Reason: "upgrade", Now: b.now})
	must(b, err)
}
