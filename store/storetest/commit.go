package storetest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

func commit(t *testing.T, h Harness) {
	t.Run("EverythingIsThereOrNothing", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		run, machine := c.Run, c.Machine
		run.State, run.Step, run.RowHash, run.Attempt, run.Failures, run.Conflicts = "started", "await_guest", "h2", 3, 2, 1
		run.StepSince, run.Handles, run.Reason, run.Kind = b.now.Add(time.Minute), map[string]string{"task": "OpaqueRef:1"}, "boots", orchestrator.Transient
		machine.Presence, machine.State, machine.VM, machine.Disks = orchestrator.Present, "started", "vm-1", []string{"vdi-1", "vdi-2"}
		machine.Address, machine.Identity, machine.HostKey = netip.MustParseAddr("10.0.0.10"), "f00d", "ssh-ed25519 NEW"
		machine.ConsolePassword, machine.ConsoleAge = orchestrator.Sealed{9, 0, 9}, "-----BEGIN AGE ENCRYPTED FILE-----"
		machine.AdministratorPassword, machine.AdministratorAge = orchestrator.Sealed{8, 0}, "-----BEGIN AGE ENCRYPTED FILE-----"
		machine.DNS = orchestrator.NameRecord{Pool: "pool-b", Zone: "vm.example.net", Name: "web.vm.example.net", Address: netip.MustParseAddr("198.51.1.10"),
			ReverseZone: "1.51.198.in-addr.arpa", Pointer: "10.1.51.198.in-addr.arpa"}
		ended := orchestrator.Attempt{Step: "place", From: "queued", To: "placed", Number: 1, Started: b.now, Ended: b.now.Add(time.Second), Outcome: orchestrator.OutcomeDone,
			Message: "done", Detail: json.RawMessage(`{"a":1}`), Actor: "a#1"}
		opened := orchestrator.Attempt{Step: "await_guest", From: "started", To: "guest_reachable", Number: 3, Started: b.now.Add(time.Second), Outcome: orchestrator.OutcomeOpen, Actor: "a#1"}
		result := b.commit(orchestrator.Commit{Run: run, Machine: &machine, Ended: &ended, Opened: &opened,
			Events: []orchestrator.Event{b.event(c, orchestrator.EventStepDone), b.event(c, orchestrator.EventWaiting)}})
		gotRun, err := b.store.Run(t.Context(), run.ID)
		must(t, err)
		if diff := cmp.Diff(run, gotRun, sameValues...); diff != "" {
			t.Errorf("run:\n%s", diff)
		}
		gotMachine, err := b.store.Machine(t.Context(), machine.ID)
		must(t, err)
		if diff := cmp.Diff(machine, gotMachine, sameValues...); diff != "" {
			t.Errorf("machine:\n%s", diff)
		}
		lines, err := b.store.Attempts(t.Context(), machine.ID)
		must(t, err)
		ended.ID, opened.ID = lines[0].ID, result.Opened
		ended.Run, ended.Machine, opened.Run, opened.Machine = run.ID, machine.ID, run.ID, machine.ID
		if diff := cmp.Diff([]orchestrator.Attempt{ended, opened}, lines, sameValues...); diff != "" {
			t.Errorf("journal:\n%s", diff)
		}
		opened.Ended, opened.Outcome, opened.Kind, opened.Message, opened.Handles = b.now.Add(time.Hour), orchestrator.OutcomeFailed, orchestrator.Unknown, "lost", map[string]string{"task": "x"}
		b.commit(orchestrator.Commit{Run: run, Ended: &opened})
		lines, err = b.store.Attempts(t.Context(), machine.ID)
		must(t, err)
		if diff := cmp.Diff([]orchestrator.Attempt{ended, opened}, lines, sameValues...); diff != "" {
			t.Errorf("journal after the end:\n%s", diff)
		}
	})

	t.Run("LeaseIsExtendedOrGivenBack", func(t *testing.T) {
		b := setup(t, h)
		answer := b.accept(b.install())
		c, err := b.store.ClaimRun(t.Context(), answer.Run, "a", time.Hour)
		must(t, err)
		must(t, b.db.Exec(t.Context(), `UPDATE runs SET lease_until = 1`))
		b.commit(orchestrator.Commit{Run: c.Run})
		if n := b.value(`SELECT (lease_until - updated_at) / 1000000 FROM runs`); n != 3600 {
			t.Errorf("extended by %d s", n)
		}
		b.commit(orchestrator.Commit{Run: c.Run, Release: true})
		run, err := b.store.Run(t.Context(), c.Run.ID)
		must(t, err)
		if run.Holder != "" || !run.LeaseUntil.IsZero() || run.Status != orchestrator.StatusReady {
			t.Errorf("released run %+v", run)
		}
	})

	t.Run("OneCommitPerGroup", func(t *testing.T) {
		b := setup(t, h)
		for _, size := range []int{1, 16, 64} {
			group := make([]orchestrator.Commit, size)
			for n := range group {
				c := b.taken("a")
				group[n] = orchestrator.Commit{Run: c.Run, Machine: &c.Machine, Opened: &orchestrator.Attempt{Step: "x", Outcome: orchestrator.OutcomeOpen},
					Events:  []orchestrator.Event{b.event(c, orchestrator.EventStepDone)},
					Changes: []orchestrator.Change{orchestrator.PutEntry{Group: "xvp", Unit: orchestrator.Console, Body: []byte(`{}`)}}}
			}
			commits, trips := b.store.Counters()
			for _, result := range b.store.Commit(t.Context(), group) {
				must(t, result.Err)
			}
			afterCommits, afterTrips := b.store.Counters()
			if afterCommits-commits != 1 || afterTrips-trips != h.TripsPerCommit {
				t.Errorf("%d in a group: %d commits, %d round trips", size, afterCommits-commits, afterTrips-trips)
			}
		}
	})

	t.Run("NumbersRiseByOnePerMachine", func(t *testing.T) {
		b := setup(t, h)
		const machines, rounds = 6, 20
		var wg sync.WaitGroup
		for range machines {
			c := b.taken("a")
			store := b.db.Open(t)
			wg.Go(func() {
				for n := range rounds {
					result := store.Commit(t.Context(), []orchestrator.Commit{{Run: c.Run, Events: []orchestrator.Event{
						b.event(c, fmt.Sprintf("first-%d", n)), b.event(c, fmt.Sprintf("second-%d", n)),
					}}})[0]
					if result.Err != nil {
						t.Error(result.Err)
					}
				}
			})
		}
		seen := map[string]int64{}
		stop := make(chan struct{})
		go func() { defer close(stop); wg.Wait() }()
		for done := false; !done; {
			select {
			case <-stop:
				done = true
			default:
			}
			for {
				events, err := b.store.Unpublished(t.Context(), 7)
				must(t, err)
				if len(events) == 0 {
					break
				}
				var ids []int64
				for _, e := range events {
					if e.Seq != seen[e.Machine]+1 {
						t.Fatalf("machine %s: %d comes after %d", e.Machine, e.Seq, seen[e.Machine])
					}
					seen[e.Machine] = e.Seq
					ids = append(ids, e.ID)
				}
				must(t, b.store.MarkPublished(t.Context(), ids))
			}
		}
		for machine, seq := range seen {
			if seq != 1+2*rounds {
				t.Errorf("machine %s ends at %d", machine, seq)
			}
		}
	})
}
