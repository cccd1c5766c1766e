package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
)

func claims(t *testing.T, h Harness) {
	t.Run("OneRunOneHolder", func(t *testing.T) {
		b := setup(t, h)
		const runs = 20
		for range runs {
			b.accept(b.install())
		}
		var mu sync.Mutex
		holders := map[string]string{}
		var wg sync.WaitGroup
		for n := range 4 {
			store := b.db.Open(t)
			holder := fmt.Sprintf("worker-%d", n)
			wg.Go(func() {
				for {
					got, err := store.Claim(t.Context(), orchestrator.Ask{Holder: holder, Limit: 3, Lease: lease})
					if err != nil {
						t.Error(err)
						return
					}
					if len(got) == 0 {
						return
					}
					mu.Lock()
					for _, c := range got {
						if other, ok := holders[c.Run.ID]; ok {
							t.Errorf("run %s is with %s and %s", c.Run.ID, other, holder)
						}
						holders[c.Run.ID] = holder
						if c.Run.Holder != holder || c.Run.Fence != 1 || c.Run.Status != orchestrator.StatusRunning || c.Machine.ID != c.Run.Machine || c.Run.LeaseUntil.IsZero() {
							t.Errorf("claim %+v", c.Run)
						}
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(holders) != runs {
			t.Errorf("%d of %d runs were taken", len(holders), runs)
		}
	})

	t.Run("OldestWakeFirstAndOnlyWhatIsDue", func(t *testing.T) {
		b := setup(t, h)
		var ids []string
		for n, wake := range []time.Duration{-time.Minute, -time.Hour, time.Hour} {
			c := b.taken("a")
			c.Run.Status, c.Run.WakeAt, c.Run.WakeKey, c.Run.Reason = orchestrator.StatusWaiting, time.Now().Add(wake), fmt.Sprintf("key-%d", n), "why"
			b.commit(orchestrator.Commit{Run: c.Run, Release: true})
			ids = append(ids, c.Run.ID)
		}
		got, err := b.store.Claim(t.Context(), orchestrator.Ask{Holder: "b", Limit: 10, Lease: lease})
		must(t, err)
		if len(got) != 2 || got[0].Run.ID != ids[1] || got[1].Run.ID != ids[0] {
			t.Fatalf("claims %+v", got)
		}
		if got[0].Run.WakeAt.IsZero() || got[0].Run.Reason != "why" || got[0].Run.Fence != 2 {
			t.Errorf("a wait that is over keeps its words: %+v", got[0].Run)
		}
		if _, err := b.store.ClaimRun(t.Context(), ids[2], "b", lease); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("error %v", err)
		}
		n, err := b.store.Wake(t.Context(), "key-2", "key-9", "key-0")
		must(t, err)
		if n != 1 {
			t.Errorf("%d runs were woken, one waits", n)
		}
		b.claim(ids[2], "b")
	})

	t.Run("OpenAttemptComesAlong", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		opened := b.commit(orchestrator.Commit{Run: c.Run, Opened: &orchestrator.Attempt{
			Step: "place", From: "queued", To: "placed", Number: 1, Started: b.now, Outcome: orchestrator.OutcomeOpen, Actor: "a#1",
		}}).Opened
		must(t, b.store.ReleaseRuns(t.Context(), "a", map[string]int64{c.Run.ID: c.Run.Fence}))
		again := b.claim(c.Run.ID, "b")
		if again.Open == nil || again.Open.ID != opened || opened == 0 || again.Open.Actor != "a#1" || !again.Open.Started.Equal(b.now) {
			t.Errorf("open attempt %+v", again.Open)
		}
	})

	t.Run("LeaseRunsOut", func(t *testing.T) {
		b := setup(t, h)
		answer := b.accept(b.install())
		first, err := b.store.ClaimRun(t.Context(), answer.Run, "a", 50*time.Millisecond)
		must(t, err)
		var second orchestrator.Claim
		b.until("the lease runs out", func() bool {
			got, err := b.store.Claim(t.Context(), orchestrator.Ask{Holder: "b", Limit: 1, Lease: lease})
			must(t, err)
			if len(got) == 1 {
				second = got[0]
			}
			return len(got) == 1
		})
		if second.Run.Fence != first.Run.Fence+1 || !second.Run.WakeAt.IsZero() {
			t.Errorf("second claim %+v", second.Run)
		}
		result := b.store.Commit(t.Context(), []orchestrator.Commit{{Run: first.Run}})[0]
		if !errors.Is(result.Err, orchestrator.ErrFenced) || orchestrator.KindOf(result.Err) != orchestrator.Conflict {
			t.Errorf("the first holder's commit: %v", result.Err)
		}
	})

	t.Run("WorkerThatDiedLeavesNoWakeTime", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		c.Run.Status, c.Run.WakeAt = orchestrator.StatusWaiting, time.Now().Add(-time.Minute)
		b.commit(orchestrator.Commit{Run: c.Run, Release: true})
		_, err := b.store.ClaimRun(t.Context(), c.Run.ID, "b", time.Millisecond)
		must(t, err)
		id := c.Run.ID
		b.until("the lease runs out", func() bool {
			c, err = b.store.ClaimRun(t.Context(), id, "c", lease)
			return err == nil
		})
		if !c.Run.WakeAt.IsZero() {
			t.Errorf("an interrupted run looks like one whose wait is over: %+v", c.Run)
		}
	})

	t.Run("RenewSaysWhatIsLost", func(t *testing.T) {
		b := setup(t, h)
		kept, lost := b.taken("a"), b.taken("a")
		must(t, b.store.ReleaseRuns(t.Context(), "a", map[string]int64{lost.Run.ID: lost.Run.Fence}))
		b.claim(lost.Run.ID, "a") // the same holder, but another fence
		got, err := b.store.Renew(t.Context(), "a", map[string]int64{kept.Run.ID: kept.Run.Fence, lost.Run.ID: lost.Run.Fence}, time.Hour)
		must(t, err)
		if len(got) != 1 || got[0] != lost.Run.ID {
			t.Errorf("lost %v", got)
		}
		run, err := b.store.Run(t.Context(), kept.Run.ID)
		must(t, err)
		if !run.LeaseUntil.After(kept.Run.LeaseUntil.Add(50 * time.Minute)) {
			t.Errorf("lease until %s, before %s", run.LeaseUntil, kept.Run.LeaseUntil)
		}
	})

	t.Run("NamedLease", func(t *testing.T) {
		b := setup(t, h)
		acquire := func(holder string, length time.Duration) (orchestrator.Lease, bool) {
			l, ok, err := b.store.AcquireLease(t.Context(), "outbox", holder, length)
			must(t, err)
			return l, ok
		}
		first, ok := acquire("a", time.Hour)
		if !ok || first.Fence != 1 || first.Holder != "a" {
			t.Fatalf("lease %+v", first)
		}
		if again, ok := acquire("a", time.Hour); !ok || again.Fence != 1 {
			t.Errorf("renewed %+v", again)
		}
		if other, ok := acquire("b", time.Hour); ok || other.Holder != "a" {
			t.Errorf("taken from its holder: %+v", other)
		}
		must(t, b.store.ReleaseLease(t.Context(), "outbox", "b")) // not its holder
		if _, ok := acquire("b", time.Hour); ok {
			t.Error("released by another")
		}
		must(t, b.store.ReleaseLease(t.Context(), "outbox", "a"))
		if next, ok := acquire("b", time.Millisecond); !ok || next.Fence != 2 {
			t.Errorf("next %+v", next)
		}
		b.until("it runs out", func() bool { _, ok := acquire("c", time.Hour); return ok })
	})
}

func fencing(t *testing.T, h Harness) {
	t.Run("LostLeaseChangesNothing", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		must(t, b.store.ReleaseRuns(t.Context(), "a", map[string]int64{c.Run.ID: c.Run.Fence}))
		other := b.claim(c.Run.ID, "b")
		run, machine := c.Run, c.Machine
		run.State, machine.State = "placed", "placed"
		result := b.store.Commit(t.Context(), []orchestrator.Commit{{
			Run: run, Machine: &machine, Opened: &orchestrator.Attempt{Step: "x", Outcome: orchestrator.OutcomeOpen}, Events: []orchestrator.Event{b.event(c, orchestrator.EventStepDone)},
			Changes: []orchestrator.Change{orchestrator.PutEntry{Group: "xvp", Unit: orchestrator.Console, Body: []byte(`{}`)}},
		}})[0]
		if !errors.Is(result.Err, orchestrator.ErrFenced) || orchestrator.KindOf(result.Err) != orchestrator.Conflict {
			t.Fatalf("error %v", result.Err)
		}
		now, err := b.store.Run(t.Context(), c.Run.ID)
		must(t, err)
		if now.State != "queued" || now.Holder != "b" || now.Fence != other.Run.Fence {
			t.Errorf("run %+v", now)
		}
		for _, table := range []string{"attempts", "entries"} {
			if n := b.value(`SELECT count(*) FROM ` + table); n != 0 {
				t.Errorf("%d rows in %s", n, table)
			}
		}
		if n := b.value(`SELECT count(*) FROM outbox`); n != 1 {
			t.Errorf("%d events", n)
		}
		run.Fence, run.Holder = other.Run.Fence, "c"
		if result := b.store.Commit(t.Context(), []orchestrator.Commit{{Run: run}})[0]; !errors.Is(result.Err, orchestrator.ErrFenced) {
			t.Errorf("another holder with the right fence: %v", result.Err)
		}
	})

	t.Run("OnlyTheCulpritOfAGroupFails", func(t *testing.T) {
		b := setup(t, h)
		var group []orchestrator.Commit
		for range 5 {
			c := b.taken("a")
			c.Run.State = "placed"
			group = append(group, orchestrator.Commit{Run: c.Run, Events: []orchestrator.Event{b.event(c, orchestrator.EventStepDone)}})
		}
		group[1].Run.Fence--
		group[3].Changes = []orchestrator.Change{orchestrator.PutEntry{Group: "unknown", Unit: orchestrator.DHCP, Body: []byte(`{}`)}}
		results := b.store.Commit(t.Context(), group)
		for n, result := range results {
			run, err := b.store.Run(t.Context(), group[n].Run.ID)
			must(t, err)
			switch n {
			case 1:
				if !errors.Is(result.Err, orchestrator.ErrFenced) || run.State != "queued" {
					t.Errorf("%d: %v, %s", n, result.Err, run.State)
				}
			case 3:
				if errors.Is(result.Err, orchestrator.ErrFenced) || orchestrator.KindOf(result.Err) != orchestrator.Conflict || run.State != "queued" {
					t.Errorf("%d: %v, %s", n, result.Err, run.State)
				}
			default:
				if result.Err != nil || run.State != "placed" {
					t.Errorf("%d: %v, %s", n, result.Err, run.State)
				}
			}
		}
	})
}

// turns is who gets the next free hand.
func turns(t *testing.T, h Harness) {
	order := func(b *bundle, tenant string, n int) {
		b.Helper()
		for range n {
			a := b.install()
			a.Order.Tenant, a.Machine.Tenant = tenant, tenant
			b.accept(a)
		}
	}
	claim := func(b *bundle, ask orchestrator.Ask) []orchestrator.Claim {
		b.Helper()
		ask.Lease = lease
		got, err := b.store.Claim(b.Context(), ask)
		must(b, err)
		return got
	}
	counts := func(claims []orchestrator.Claim, of func(orchestrator.Claim) string) map[string]int {
		n := map[string]int{}
		for _, c := range claims {
			n[of(c)]++
		}
		return n
	}
	tenant := func(c orchestrator.Claim) string { return c.Machine.Tenant }
	pool := func(c orchestrator.Claim) string { return c.Machine.Placement.Pool }

	// A tenant with hundreds of due runs leaves the others their share of each claim, and of what is in hand, whoever was first.
	t.Run("TenantsTakeTurns", func(t *testing.T) {
		b := setup(t, h)
		order(b, "flood", 100)
		order(b, "small", 3)
		order(b, "mid", 20)
		if got := counts(claim(b, orchestrator.Ask{Holder: "a", Limit: 15}), tenant); got["small"] != 3 || got["mid"] != 6 || got["flood"] != 6 {
			t.Errorf("first %v", got)
		}
		order(b, "late", 4)
		if got := counts(claim(b, orchestrator.Ask{Holder: "b", Limit: 4}), tenant); got["late"] != 4 { // the others have more in another worker's hands
			t.Errorf("then %v", got)
		}
		if got := counts(claim(b, orchestrator.Ask{Holder: "b", Limit: 200}), tenant); got["flood"] != 94 || got["mid"] != 14 {
			t.Errorf("a hand that is free is not kept free: %v", got)
		}
	})

	t.Run("PoolsAreBounded", func(t *testing.T) {
		b := setup(t, h)
		var held []orchestrator.Claim
		for range 8 {
			held = append(held, b.place(b.taken("a")))
		}
		in := counts(held, pool)
		if in["pool-a"] != 4 || in["pool-b"] != 4 {
			t.Fatalf("placed %v", in)
		}
		for _, c := range held {
			must(t, b.store.HandOver(t.Context(), "a", map[string]int64{c.Run.ID: c.Run.Fence}))
		}
		order(b, "acme", 3)
		full := orchestrator.Ask{Holder: "a", Limit: 100, Room: map[string]int{"pool-a": 0, "pool-b": 2, "": 1}}
		got := claim(b, full)
		if n := counts(got, pool); n["pool-a"] != 0 || n["pool-b"] != 2 || n[""] != 1 {
			t.Errorf("%v with room for %v", n, full.Room)
		}
		for _, c := range got {
			if c.Run.Fence != 2 && c.Machine.Placement.Pool != "" || c.Run.WakeAt.IsZero() && c.Machine.Placement.Pool != "" {
				t.Errorf("handed over: %+v", c.Run)
			}
		}
		if n := counts(claim(b, orchestrator.Ask{Holder: "b", Limit: 100, Room: map[string]int{"pool-a": 3}}), pool); n["pool-a"] != 3 || n["pool-b"] != 2 || n[""] != 2 {
			t.Errorf("another worker: %v", n)
		}
	})

	// Workers that claim at the same moment find enough for each.
	t.Run("Together", func(t *testing.T) {
		b := setup(t, h)
		order(b, "acme", 60)
		var wg sync.WaitGroup
		var mu sync.Mutex
		total := 0
		for n := range 3 {
			store := b.db.Open(t)
			wg.Go(func() {
				got, err := store.Claim(t.Context(), orchestrator.Ask{Holder: fmt.Sprint("w", n), Limit: 20, Lease: lease})
				mu.Lock()
				defer mu.Unlock()
				total += len(got)
				if err != nil || len(got) != 20 {
					t.Errorf("worker %d: %d runs, %v", n, len(got), err)
				}
			})
		}
		wg.Wait()
		if total != 60 {
			t.Errorf("%d of 60 were taken", total)
		}
	})
}
