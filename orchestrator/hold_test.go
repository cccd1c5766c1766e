package orchestrator_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
)

// gate holds what a test puts into it.
type gate map[orchestrator.Subject]orchestrator.Hold

func (g gate) Held(_ context.Context, subjects []orchestrator.Subject) (orchestrator.Hold, bool, error) {
	for _, s := range subjects {
		if h, ok := g[s]; ok {
			return h, true, nil
		}
	}
	return orchestrator.Hold{}, false, nil
}

func (g gate) put(s orchestrator.Subject, since, until time.Time) {
	g[s] = orchestrator.Hold{Subject: s, Kind: orchestrator.HoldMaintenance, Actor: "0:root", Reason: "new disks", Since: since, Until: until}
}

// A held run waits in front of the row, says why, uses up none of its budget however long it takes, and goes on afterwards.
func TestHeldRunWaitsInFront(t *testing.T) {
	calls := 0
	b := newBench(t, true, orchestrator.Row{Do: done}, orchestrator.Row{
		Uses: orchestrator.UsesPool, Policy: orchestrator.Policy{Budget: time.Minute},
		Do: func(context.Context, *step) (outcome, error) {
			calls++
			if calls == 1 {
				return orchestrator.WaitFor("task", time.Second, "for the clone")
			}
			return orchestrator.Finished("made")
		},
	})
	b.gate = gate{}
	b.claim.Machine.Placement.Pool = "a"
	b.gate.put(orchestrator.PoolSubject("b"), b.now, time.Time{}) // another's
	b.drive()
	if calls != 1 || b.claim.Run.Reason != "for the clone" {
		t.Fatalf("%d calls, %+v", calls, b.claim.Run)
	}
	b.gate.put(orchestrator.PoolSubject("a"), b.now, b.now.Add(90*time.Minute))
	attempt := b.claim.Run.Attempt
	for range 60 {
		b.now = b.now.Add(time.Minute)
		b.claimAgain()
		b.drive()
		run := b.claim.Run
		if run.Status != orchestrator.StatusWaiting || run.WakeKey != "hold:pool:a" || run.Attempt != attempt || run.WakeAt.Sub(b.now) > time.Minute ||
			run.Reason != "waits for maintenance of pool a since 2026-01-01 00:00 UTC by 0:root: new disks (until 2026-01-01 01:30 UTC)" {
			t.Fatalf("%+v", run)
		}
	}
	told := 0
	for _, c := range b.commits {
		for _, e := range c.Events {
			if e.Type == orchestrator.EventWaiting && strings.Contains(string(e.Data), "maintenance of pool a") {
				told++
			}
		}
	}
	if told != 1 || calls != 1 {
		t.Errorf("the panel was told %d times, the row called %d times", told, calls)
	}
	delete(b.gate, orchestrator.PoolSubject("a"))
	b.claimAgain()
	b.drive()
	if b.claim.Run.Status != orchestrator.StatusDone || calls != 2 {
		t.Errorf("%d calls, %+v", calls, b.claim.Run)
	}
}

// The way back waits too, and keeps its status.
func TestHeldUndoWaits(t *testing.T) {
	undone := 0
	b := newBench(t, true, orchestrator.Row{
		Uses: orchestrator.UsesFirewall, Do: done, Undo: func(context.Context, *step) (outcome, error) { undone++; return orchestrator.Finished("removed") },
	}, orchestrator.Row{Do: failWith(kind(orchestrator.Permanent))})
	b.gate = gate{}
	b.claim.Machine.Placement.Firewall = "fw"
	b.drive()
	b.gate.put(orchestrator.GroupSubject("fw"), b.now, time.Time{})
	b.claim.Run.Cancel, b.claim.Run.Status = "0:root: x", orchestrator.StatusCanceling
	b.drive()
	if run := b.claim.Run; undone != 0 || run.Status != orchestrator.StatusCanceling || run.WakeKey != "hold:group:fw" {
		t.Fatalf("undone %d times, %+v", undone, run)
	}
	clear(b.gate)
	b.claimAgain()
	b.drive()
	if undone != 1 || b.claim.Run.Status != orchestrator.StatusCanceled {
		t.Errorf("undone %d times, %+v", undone, b.claim.Run)
	}
}
