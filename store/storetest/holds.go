package storetest

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
)

func holds(t *testing.T, h Harness) {
	const group, member = "dhcp-pool-a", "dhcp-pool-a-1"
	put := func(b *bundle, s orchestrator.Subject, until time.Time) {
		b.Helper()
		must(b, b.store.PutHold(b.Context(), orchestrator.Hold{Subject: s, Kind: orchestrator.HoldMaintenance, Actor: "0:root", Reason: "new disks", Until: until}))
	}
	lift := func(b *bundle, s orchestrator.Subject) error {
		return b.store.LiftHold(b.Context(), s, orchestrator.HoldMaintenance, "0:root", "done")
	}
	past := func(b *bundle) { must(b, b.db.Exec(b.Context(), `UPDATE holds SET until = since - 1`)) }

	t.Run("InForceUntilLifted", func(t *testing.T) {
		b := setup(t, h)
		put(b, orchestrator.PoolSubject("pool-a"), time.Time{})
		first, err := b.store.Holds(t.Context())
		must(t, err)
		if len(first) != 1 || first[0].Subject != "pool:pool-a" || first[0].Since.IsZero() || !first[0].Until.IsZero() || first[0].Reason != "new disks" {
			t.Fatalf("%+v", first)
		}
		until := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
		put(b, orchestrator.PoolSubject("pool-a"), until) // said again: it goes on since then
		again, err := b.db.Open(t).Holds(t.Context())     // and another process knows it
		must(t, err)
		if len(again) != 1 || !again[0].Since.Equal(first[0].Since) || !again[0].Until.Equal(until) {
			t.Errorf("%+v after %+v", again, first)
		}
		must(t, lift(b, orchestrator.PoolSubject("pool-a")))
		if left, err := b.store.Holds(t.Context()); err != nil || len(left) != 0 {
			t.Errorf("%+v, %v", left, err)
		}
		if err := lift(b, orchestrator.PoolSubject("pool-a")); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("lifted twice: %v", err)
		}
		if n := b.value(`SELECT count(*) FROM acts WHERE actor = '0:root' AND subject = 'pool:pool-a' AND verb IN ('maintenance on', 'maintenance off')`); n != 3 {
			t.Errorf("%d acts", n)
		}
	})

	t.Run("EndsByItself", func(t *testing.T) {
		b := setup(t, h)
		subject := orchestrator.PoolSubject("pool-a")
		put(b, subject, time.Now().Add(time.Hour))
		if ended, err := b.store.EndHolds(t.Context()); err != nil || len(ended) != 0 {
			t.Fatalf("ended early: %+v, %v", ended, err)
		}
		c := b.taken("a")
		c.Run.Status, c.Run.WakeAt, c.Run.WakeKey = orchestrator.StatusWaiting, time.Now().Add(time.Hour), orchestrator.WakeHold(subject)
		b.commit(orchestrator.Commit{Run: c.Run, Release: true})
		past(b)
		if left, err := b.store.Holds(t.Context()); err != nil || len(left) != 0 {
			t.Errorf("in force after its end: %+v, %v", left, err)
		}
		if l, err := b.store.Ledger(t.Context()); err != nil || len(l.Held) != 0 {
			t.Errorf("the ledger has %+v, %v", l.Held, err)
		}
		if ended, err := b.store.EndHolds(t.Context()); err != nil || len(ended) != 1 || ended[0].Subject != subject {
			t.Errorf("%+v, %v", ended, err)
		}
		b.claim(c.Run.ID, "b") // it was woken
		if n := b.value(`SELECT count(*) FROM acts WHERE verb = 'maintenance off'`); n != 1 {
			t.Errorf("%d acts", n)
		}
	})

	t.Run("PoolTakesNoMachine", func(t *testing.T) {
		b := setup(t, h)
		waits, placed := b.taken("a"), b.taken("a")
		put(b, orchestrator.PoolSubject("pool-a"), time.Time{})
		if pool := b.place(placed).Machine.Placement.Pool; pool != "pool-b" {
			t.Errorf("placed in %s", pool)
		}
		put(b, orchestrator.PoolSubject("pool-b"), time.Time{})
		err := b.store.Commit(t.Context(), []orchestrator.Commit{b.placing(waits)})[0].Err
		if orchestrator.KindOf(err) != orchestrator.Exhausted || !strings.Contains(err.Error(), "maintenance of pool pool-a since ") || !strings.Contains(err.Error(), "by 0:root: new disks") {
			t.Errorf("placed all the same: %v", err)
		}
		waits.Run.Status, waits.Run.WakeAt, waits.Run.WakeKey = orchestrator.StatusWaiting, time.Now().Add(time.Hour), orchestrator.WakeCapacity
		b.commit(orchestrator.Commit{Run: waits.Run, Release: true})
		must(t, lift(b, orchestrator.PoolSubject("pool-a")))
		if pool := b.place(b.claim(waits.Run.ID, "b")).Machine.Placement.Pool; pool != "pool-a" {
			t.Errorf("placed in %s", pool)
		}
	})

	t.Run("GroupsAndMembersSayIt", func(t *testing.T) {
		b := setup(t, h)
		must(t, b.store.PutMember(t.Context(), orchestrator.Member{Group: group, Name: member, Applied: 3, Problem: "unreachable"}))
		put(b, orchestrator.MemberSubject(group, member), time.Time{})
		must(t, b.store.SyncGroups(t.Context(), groups(), members()))                                                             // a restart
		must(t, b.store.PutMember(t.Context(), orchestrator.Member{Group: group, Name: member, Applied: 4, Problem: "no route"})) // a round that was under way
		got, err := b.store.Members(t.Context(), group)
		must(t, err)
		if !strings.Contains(got[0].Held, "maintenance of member dhcp-pool-a/dhcp-pool-a-1 since ") || got[1].Held != "" {
			t.Errorf("%+v", got)
		}
		if s := state(b, group, "x"); s.Problem != "" {
			t.Errorf("the other member is enough, and there is a problem: %s", s.Problem)
		}
		put(b, orchestrator.MemberSubject(group, group+"-2"), time.Time{})
		if s := state(b, group, "x"); !strings.Contains(s.Problem, "maintenance") {
			t.Errorf("no member is left: %q", s.Problem)
		}
		must(t, lift(b, orchestrator.MemberSubject(group, member)))
		if got, err = b.store.Members(t.Context(), group); err != nil || got[0].Held != "" || !got[0].Dirty || got[1].Dirty {
			t.Errorf("after its return %+v, %v", got, err)
		}
		put(b, orchestrator.GroupSubject(group), time.Time{})
		g, _, err := b.store.Entries(t.Context(), group)
		must(t, err)
		all, err := b.store.Groups(t.Context())
		must(t, err)
		if g.Held == "" || all[0].ID != group || all[0].Held != g.Held || all[1].Held != "" {
			t.Errorf("%+v, %+v", g, all)
		}
		must(t, lift(b, orchestrator.GroupSubject(group)))
		if got, err = b.store.Members(t.Context(), group); err != nil || !got[0].Dirty || !got[1].Dirty {
			t.Errorf("after the group's return %+v, %v", got, err)
		}
	})

	t.Run("AnotherGroupIsTaken", func(t *testing.T) {
		b := setup(t, h)
		b.estate.Pools = b.estate.Pools[:1]
		b.estate.Pools[0].DHCP = []string{group, "dhcp-pool-b"}
		place := func() string {
			c := b.taken("a")
			result := b.commit(orchestrator.Commit{Run: c.Run, Decide: func(l *orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
				return l.Place(b.estate, orchestrator.PlaceRequest{Machine: c.Machine.ID, Image: c.Machine.Image, Plan: c.Machine.Plan})
			}})
			return result.Placement.DHCP
		}
		put(b, orchestrator.GroupSubject(group), time.Time{})
		if one, two := place(), place(); one != "dhcp-pool-b" || two != "dhcp-pool-b" {
			t.Errorf("placed at %s and %s", one, two)
		}
		put(b, orchestrator.GroupSubject("dhcp-pool-b"), time.Time{})
		if one := place(); one != group { // both are: the lighter one, and it waits there
			t.Errorf("placed at %s", one)
		}
	})
}

func workers(t *testing.T, h Harness) {
	b := setup(t, h)
	beat := func(w orchestrator.Worker) orchestrator.Worker {
		t.Helper()
		known, err := b.store.Beat(t.Context(), w)
		must(t, err)
		return known
	}
	a := orchestrator.Worker{Holder: "a:1", Version: "1", Started: b.now, Held: 3}
	if known := beat(a); known.Held != 3 || known.Seen.IsZero() || !known.Started.Equal(b.now) || !known.Drained.IsZero() {
		t.Errorf("%+v", known)
	}
	beat(orchestrator.Worker{Holder: "b:1", Version: "2", Started: b.now})
	must(t, b.store.Drain(t.Context(), "a:1", true, "0:root", "upgrade"))
	first := beat(a)
	if first.Drained.IsZero() || first.DrainedBy != "0:root" || first.DrainReason != "upgrade" || first.Idle {
		t.Errorf("told to drain: %+v", first)
	}
	must(t, b.store.Drain(t.Context(), "a:1", true, "0:root", "still"))
	a.Held, a.Idle = 0, true
	if known := beat(a); !known.Idle || !known.Drained.Equal(first.Drained) || known.DrainReason != "still" {
		t.Errorf("drained: %+v", known)
	}
	if w := beat(orchestrator.Worker{Holder: "b:1", Version: "2", Started: b.now}); !w.Drained.IsZero() {
		t.Errorf("another worker: %+v", w)
	}
	must(t, b.store.Drain(t.Context(), "a:1", false, "0:root", "back"))
	all, err := b.store.Workers(t.Context())
	must(t, err)
	if len(all) != 2 || all[0].Holder != "a:1" || !all[0].Drained.IsZero() || all[0].Idle || all[1].Version != "2" {
		t.Errorf("%+v", all)
	}
	if err := b.store.Drain(t.Context(), "c:1", true, "0:root", "x"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	if n := b.value(`SELECT count(*) FROM acts WHERE subject = 'a:1' AND verb IN ('drain', 'undrain')`); n != 3 {
		t.Errorf("%d acts", n)
	}
	must(t, b.store.Leave(t.Context(), "a:1"))
	must(t, b.db.Exec(t.Context(), `UPDATE workers SET seen_at = 1`))
	beat(orchestrator.Worker{Holder: "c:1"})
	if all, err = b.store.Workers(t.Context()); err != nil || len(all) != 1 || all[0].Holder != "c:1" {
		t.Errorf("one left and one has long said nothing: %+v, %v", all, err)
	}
}
