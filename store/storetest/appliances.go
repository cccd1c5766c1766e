package storetest

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

func appliances(t *testing.T, h Harness) {
	const group = "dhcp-pool-a"
	put := func(b *bundle, c orchestrator.Claim, body string) orchestrator.EntryState {
		b.commit(orchestrator.Commit{Run: c.Run, Changes: []orchestrator.Change{orchestrator.PutEntry{Group: group, Unit: orchestrator.DHCP, Body: json.RawMessage(body)}}})
		return state(b, group, c.Machine.ID)
	}
	drop := func(b *bundle, c orchestrator.Claim) orchestrator.EntryState {
		b.commit(orchestrator.Commit{Run: c.Run, Changes: []orchestrator.Change{orchestrator.DropEntry{Group: group}}})
		return state(b, group, c.Machine.ID)
	}
	hold := func(b *bundle) int64 {
		l, ok, err := b.store.AcquireLease(t.Context(), "group:"+group, "applier", time.Hour)
		must(t, err)
		if !ok {
			t.Fatal("the group's lease is taken")
		}
		return l.Fence
	}

	t.Run("GenerationRisesWithEachChange", func(t *testing.T) {
		b := setup(t, h)
		c, other := b.taken("a"), b.taken("a")
		if s := state(b, group, c.Machine.ID); s.Found || !s.IsApplied() {
			t.Errorf("before: %+v", s)
		}
		if s := put(b, c, `{"a":1}`); s.Generation != 1 || !s.Found || s.IsApplied() {
			t.Errorf("new: %+v", s)
		}
		if s := put(b, c, `{"a":1}`); s.Generation != 1 {
			t.Errorf("the same again: %+v", s)
		}
		if s := put(b, other, `{"b":1}`); s.Generation != 2 {
			t.Errorf("another machine: %+v", s)
		}
		if s := put(b, c, `{"a":2}`); s.Generation != 3 {
			t.Errorf("changed: %+v", s)
		}
		if s := drop(b, c); s.Generation != 4 || !s.Removed {
			t.Errorf("dropped: %+v", s)
		}
		if s := drop(b, c); s.Generation != 4 {
			t.Errorf("dropped again: %+v", s)
		}
		if s := put(b, c, `{"a":2}`); s.Generation != 5 || s.Removed {
			t.Errorf("put back: %+v", s)
		}
		g, entries, err := b.store.Entries(t.Context(), group)
		must(t, err)
		if g.Generation != 5 || g.Applied != 0 || len(entries) != 2 || entries[0].Owner != orchestrator.OwnerSlipway {
			t.Errorf("%+v, %+v", g, entries)
		}
	})

	t.Run("ConfirmMakesLiveAndWakes", func(t *testing.T) {
		b := setup(t, h)
		kept, removed, late, bad, leaving := b.taken("a"), b.taken("a"), b.taken("a"), b.taken("a"), b.taken("a")
		put(b, leaving, `{"n":4}`)
		put(b, kept, `{"n":1}`)
		put(b, removed, `{"n":2}`)
		drop(b, removed)
		put(b, bad, `{"n":"}`)
		generation := state(b, group, bad.Machine.ID).Generation
		put(b, late, `{"n":3}`)
		drop(b, leaving)
		kept.Run.Status, kept.Run.WakeAt, kept.Run.WakeKey = orchestrator.StatusWaiting, time.Now().Add(time.Hour), orchestrator.WakeGroup(group)
		b.commit(orchestrator.Commit{Run: kept.Run, Release: true})
		fence := hold(b)
		if err := b.store.Confirm(t.Context(), group, fence-1, generation, nil); !errors.Is(err, orchestrator.ErrFenced) {
			t.Fatalf("an old fence: %v", err)
		}
		if err := b.store.Confirm(t.Context(), group, fence, 99, nil); orchestrator.KindOf(err) != orchestrator.Permanent {
			t.Errorf("a generation that there is not: %v", err)
		}
		must(t, b.store.Confirm(t.Context(), group, fence, generation, map[string]string{bad.Machine.ID: "line 3: semicolon"}))
		g, entries, err := b.store.Entries(t.Context(), group)
		must(t, err)
		got := map[string]orchestrator.Entry{}
		for _, e := range entries {
			got[e.Machine] = e
		}
		if g.Applied != generation || len(got) != 4 {
			t.Errorf("%+v %+v", g, entries)
		}
		if e := got[kept.Machine.ID]; string(e.Live) != `{"n":1}` || e.Bad != "" {
			t.Errorf("kept %+v", e)
		}
		if e := got[bad.Machine.ID]; e.Bad != "line 3: semicolon" || e.Live != nil {
			t.Errorf("bad %+v", e)
		}
		if e := got[late.Machine.ID]; e.Live != nil || state(b, group, late.Machine.ID).IsApplied() {
			t.Errorf("late %+v", e)
		}
		if s := state(b, group, leaving.Machine.ID); !s.Removed || s.IsApplied() {
			t.Errorf("a removal that no member has seen: %+v", s)
		}
		b.claim(kept.Run.ID, "b") // it was woken
		must(t, b.store.Confirm(t.Context(), group, fence, 1, nil))
		if s := state(b, group, kept.Machine.ID); s.Applied != generation {
			t.Errorf("an older confirmation took it back to %d", s.Applied)
		}
		if s := put(b, bad, `{"n":"}`); s.Bad != "" || s.Generation != generation+3 {
			t.Errorf("a bad text that is put again: %+v", s)
		}
	})

	t.Run("LiveEntryKeepsItsText", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		put(b, c, `{"n":1}`)
		fence := hold(b)
		must(t, b.store.Confirm(t.Context(), group, fence, 1, nil))
		put(b, c, `{"n":2}`)
		must(t, b.store.MarkBad(t.Context(), group, fence, map[string]string{c.Machine.ID: "no"}))
		_, entries, err := b.store.Entries(t.Context(), group)
		must(t, err)
		if e := entries[0]; string(e.Live) != `{"n":1}` || string(e.Body) != `{"n":2}` || e.Bad != "no" {
			t.Errorf("entry %+v", e)
		}
		if err := b.store.MarkBad(t.Context(), group, fence+1, nil); !errors.Is(err, orchestrator.ErrFenced) {
			t.Errorf("another fence: %v", err)
		}
	})

	t.Run("WrongUnitIsRefused", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		err := b.store.Commit(t.Context(), []orchestrator.Commit{{Run: c.Run, Changes: []orchestrator.Change{
			orchestrator.PutEntry{Group: group, Unit: orchestrator.Firewall, Body: json.RawMessage(`{}`)},
		}}})[0].Err
		if orchestrator.KindOf(err) != orchestrator.Conflict {
			t.Errorf("error %v", err)
		}
	})

	t.Run("Members", func(t *testing.T) {
		b := setup(t, h)
		m := orchestrator.Member{Group: group, Name: group + "-1", Applied: 3, SHA256: "abc", Dirty: true, Halted: "shrinks", Problem: "p", SeenAt: b.now}
		must(t, b.store.PutMember(t.Context(), m))
		got, err := b.store.Members(t.Context(), group)
		must(t, err)
		if diff := cmp.Diff([]orchestrator.Member{m, {Group: group, Name: group + "-2"}}, got); diff != "" {
			t.Error(diff)
		}
		if s := state(b, group, "x"); s.Problem != "" { // one of two is enough here
			t.Errorf("problem %q", s.Problem)
		}
		must(t, b.store.PutMember(t.Context(), orchestrator.Member{Group: group, Name: group + "-2", Problem: "unreachable"}))
		if s := state(b, group, "x"); s.Problem == "" {
			t.Error("no member is well, and the group has no problem")
		}
		must(t, b.store.SyncGroups(t.Context(), groups(), members())) // a restart forgets nothing
		got, err = b.store.Members(t.Context(), group)
		must(t, err)
		if got[0] != m {
			t.Errorf("after a restart %+v", got[0])
		}
		must(t, b.store.Resume(t.Context(), group, m.Name, "0:root", "looked"))
		got, err = b.store.Members(t.Context(), group)
		must(t, err)
		if got[0].Halted != "" {
			t.Errorf("still halted: %q", got[0].Halted)
		}
		before, _, err := b.store.Entries(t.Context(), group)
		must(t, err)
		ahead := m
		ahead.Applied, ahead.Dirty, ahead.Halted = before.Generation+5, true, "newer"
		must(t, b.store.PutMember(t.Context(), ahead))
		must(t, b.store.Resume(t.Context(), group, m.Name, "0:root", "the backup is the truth"))
		if after, _, err := b.store.Entries(t.Context(), group); err != nil || after.Generation != before.Generation+6 {
			t.Errorf("a member with generation %d was resumed into generation %d: %v", ahead.Applied, after.Generation, err)
		}
		if err := b.store.Resume(t.Context(), group, "nobody", "0:root", "x"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("error %v", err)
		}
		must(t, b.store.ApproveShrink(t.Context(), group, 7, "0:root", "moved"))
		if n, err := b.store.ShrinkApproved(t.Context(), group); n != 7 || err != nil {
			t.Errorf("approved %d: %v", n, err)
		}
		must(t, b.store.RecordAct(t.Context(), "0:root", "apply-plan", "0123", "a hand edit"))
		if n := b.value(`SELECT count(*) FROM acts WHERE actor = '0:root' AND reason <> ''`); n != 4 {
			t.Errorf("%d acts in the journal", n)
		}
	})

	t.Run("DepartedUntilEveryMemberWentOn", func(t *testing.T) {
		b := setup(t, h)
		departed := func() (machines []string) {
			all, err := b.store.Departed(t.Context(), group)
			must(t, err)
			for _, d := range all {
				machines = append(machines, d.Machine+string(d.Body))
			}
			return machines
		}
		carry := func(name string, generation int64) {
			must(t, b.store.PutMember(t.Context(), orchestrator.Member{Group: group, Name: name, Applied: generation}))
		}
		one, two := b.taken("a"), b.taken("a")
		put(b, one, `{"a":1}`)
		put(b, two, `{"a":2}`)
		if got := departed(); len(got) != 0 {
			t.Errorf("before anything left: %v", got)
		}
		drop(b, one)
		drop(b, one) // again, and nothing more
		last := drop(b, two)
		want := []string{two.Machine.ID + `{"a":2}`, one.Machine.ID + `{"a":1}`}
		if got := departed(); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		put(b, one, `{"a":3}`)
		if got := departed(); !slices.Equal(got, want[:1]) {
			t.Errorf("one that is back: %v", got)
		}
		drop(b, one)
		carry(group+"-1", last.Generation+2)
		must(t, b.store.Confirm(t.Context(), group, hold(b), last.Generation+2, nil))
		if got := departed(); len(got) != 2 || got[0] != one.Machine.ID+`{"a":3}` {
			t.Errorf("while a member is behind: %v", got)
		}
		carry(group+"-2", last.Generation)
		must(t, b.store.Confirm(t.Context(), group, hold(b), last.Generation+2, nil))
		if got := departed(); len(got) != 1 || got[0] != one.Machine.ID+`{"a":3}` {
			t.Errorf("when it has come to where one left: %v", got)
		}
		if others, err := b.store.Departed(t.Context(), "dhcp-pool-b"); err != nil || len(others) != 0 {
			t.Errorf("another group's: %v, %v", others, err)
		}
	})

	t.Run("GroupsFollowTheConfiguration", func(t *testing.T) {
		b := setup(t, h)
		put(b, b.taken("a"), `{}`)
		var other []orchestrator.Group
		for _, g := range groups() {
			if g.ID == "xvp" {
				g.Capacity, g.MinApplied = 9, 2
				other = append(other, g)
			}
		}
		must(t, b.store.SyncGroups(t.Context(), other, members()[:1]))
		got, err := b.store.Groups(t.Context())
		must(t, err)
		if len(got) != 2 || got[0].ID != group || got[1].Capacity != 9 || got[1].MinApplied != 2 {
			t.Errorf("groups %+v", got)
		}
		other = append(other, orchestrator.Group{ID: group, Unit: orchestrator.Firewall, MinApplied: 1})
		if err := b.store.SyncGroups(t.Context(), other, nil); orchestrator.KindOf(err) != orchestrator.Permanent {
			t.Errorf("a group with entries became one of another unit: %v", err)
		}
		if _, err := b.store.EntryState(t.Context(), "nothing", "x"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})
}

func state(b *bundle, group, machine string) orchestrator.EntryState {
	b.Helper()
	s, err := b.store.EntryState(b.Context(), group, machine)
	must(b, err)
	return s
}
