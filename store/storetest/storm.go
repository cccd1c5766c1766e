package storetest

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
)

// storm lets everything happen at once that takes several locks, through several processes: nobody gets an error, and nothing is lost.
func storm(t *testing.T, h Harness) {
	b := setup(t, h)
	const workers, rounds = 4, 15
	var wg sync.WaitGroup
	for n := range workers {
		store := b.db.Open(t)
		var held []orchestrator.Claim
		for range 4 {
			held = append(held, b.place(b.taken(fmt.Sprint("worker-", n))))
		}
		order := []string{"dhcp-pool-a", "fw-pool-a", "xvp"}
		units := map[string]orchestrator.Unit{"dhcp-pool-a": orchestrator.DHCP, "fw-pool-a": orchestrator.Firewall, "xvp": orchestrator.Console}
		wg.Go(func() {
			for round := range rounds {
				var group []orchestrator.Commit
				for i, c := range held {
					var changes []orchestrator.Change
					for at := range order {
						id := order[(at+i+n)%len(order)] // each in another order
						changes = append(changes, orchestrator.PutEntry{Group: id, Unit: units[id], Body: json.RawMessage(fmt.Sprintf(`{"round":%d}`, round))})
					}
					if round == rounds-1 {
						machine := c.Machine
						machine.Presence = orchestrator.Absent
						group = append(group, orchestrator.Commit{Run: c.Run, Machine: &machine, Changes: append(changes, orchestrator.ReleasePlacement{Quarantine: time.Hour})})
						continue
					}
					group = append(group, orchestrator.Commit{Run: c.Run, Changes: changes, Events: []orchestrator.Event{b.event(c, orchestrator.EventStepDone)}})
				}
				for _, result := range store.Commit(t.Context(), group) {
					if result.Err != nil {
						t.Error(result.Err)
					}
				}
			}
		})
		victims := held[:2]
		wg.Go(func() {
			for _, c := range victims {
				u := orchestrator.Acceptance{
					Order: orchestrator.Order{Source: "panel", ID: "stop-" + c.Machine.ID, Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: c.Machine.ID},
					Run:   orchestrator.Run{ID: "next-" + c.Run.ID, Process: "uninstall", State: "begun", Step: "x", RowHash: "h"}, Now: b.now,
				}
				if _, err := store.Accept(t.Context(), u); err != nil && !isFieldErrors(err) { // it may be absent by then
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	store := b.db.Open(t)
	others.Go(func() {
		lease, _, err := store.AcquireLease(t.Context(), "group:xvp", "applier", time.Hour)
		for err == nil {
			select {
			case <-stop:
				return
			default:
			}
			var g orchestrator.Group
			if g, _, err = store.Entries(t.Context(), "xvp"); err == nil {
				err = store.Confirm(t.Context(), "xvp", lease.Fence, g.Generation, nil)
			}
			if err == nil {
				_, err = store.Wake(t.Context(), orchestrator.WakeCapacity, orchestrator.WakeGroup("xvp"))
			}
			if err == nil {
				err = store.SyncPool(t.Context(), inventory("pool-a"))
			}
			if err == nil {
				_, err = store.EndQuarantine(t.Context())
			}
		}
		t.Error(err)
	})
	wg.Wait()
	close(stop)
	others.Wait()
	g, entries, err := b.store.Entries(t.Context(), "fw-pool-a")
	must(t, err)
	if want := int64(workers * 4 * rounds); g.Generation != want || len(entries) != workers*4 {
		t.Errorf("generation %d after %d changes of %d entries", g.Generation, want, len(entries))
	}
	if n := b.value(`SELECT count(*) FROM reservations`) + b.value(`SELECT COALESCE(SUM(reserved_mib), 0) FROM hosts`); n != 0 {
		t.Errorf("%d reservations and MiB are left", n)
	}
	if n := b.value(`SELECT count(*) FROM machines m WHERE seq <> (SELECT count(*) FROM outbox e WHERE e.machine = m.id)`); n != 0 {
		t.Errorf("%d machines miscount their events", n)
	}
}
