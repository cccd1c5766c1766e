package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"slipway/orchestrator"
)

const source = "pool pool-a"

func sighted(kind, value, object string) orchestrator.Sighting {
	s := orchestrator.Sighting{Kind: kind, Scope: "pool-a", Value: value, Source: source, Object: object, Name: "printer", Place: "line 1"}
	switch kind {
	case orchestrator.SightedAddress:
		s.Role = "private"
	case orchestrator.SightedPort:
		s.Scope = "xvp"
	}
	return s
}

func states(s orchestrator.Scanned) []string {
	var out []string
	for _, v := range s.Verdicts {
		out = append(out, fmt.Sprintf("%s %s %s", v.Value, v.State, v.Machine))
	}
	return out
}

// foreign reserves what scans found.
func foreign(t *testing.T, h Harness) {
	reserve := func(b *bundle, dry bool, found ...orchestrator.Sighting) orchestrator.Scanned {
		b.Helper()
		scanned, err := b.store.Reserve(b.Context(), source, found, dry, "0:root", "scan")
		must(b, err)
		return scanned
	}
	want := func(b *bundle, got orchestrator.Scanned, lines ...string) {
		b.Helper()
		if diff := cmp.Diff(lines, states(got)); diff != "" {
			b.Errorf("-want +got:\n%s", diff)
		}
	}
	acts := func(b *bundle) int64 {
		b.Helper()
		n, err := b.db.Value(b.Context(), `SELECT count(*) FROM acts`)
		must(b, err)
		return n
	}

	t.Run("Reserved", func(t *testing.T) {
		b := setup(t, h)
		first := b.estate.Pools[0].Private.Ranges[0].First
		found := []orchestrator.Sighting{
			sighted(orchestrator.SightedAddress, first.String(), "VM 1"),
			sighted(orchestrator.SightedMAC, "02:16:3e:00:00:00", "VM 1"),
			sighted(orchestrator.SightedPort, "20000", "VM 2"),
			sighted(orchestrator.SightedPort, "20000", "VM 2"), // the same twice
		}
		lines := []string{first.String() + " new ", "02:16:3e:00:00:00 new ", "20000 new "}
		want(b, reserve(b, true, found...), lines...)
		if values, err := b.store.Foreign(t.Context()); err != nil || len(values) != 1 || acts(b) != 0 { // the MAC of the pool's template
			t.Errorf("a dry scan reserved %v, %v", values, err)
		}
		want(b, reserve(b, false, found...), lines...)
		kept, err := b.store.Sightings(t.Context())
		must(t, err)
		values, err := b.store.Foreign(t.Context())
		must(t, err)
		if len(kept) != 3 || len(values) != 4 || acts(b) != 1 {
			t.Errorf("%d sightings, reserved: %v, %d acts", len(kept), values, acts(b))
		}
		want(b, reserve(b, false, found...), first.String()+" known ", "02:16:3e:00:00:00 known ", "20000 known ")
		again, err := b.store.Sightings(t.Context())
		must(t, err)
		if diff := cmp.Diff(kept, again); diff != "" || acts(b) != 1 {
			t.Errorf("a second scan changed something (%d acts):\n%s", acts(b), diff)
		}

		// The pool's inventory does not know the MAC: another appliance does.
		must(t, b.store.SyncPool(t.Context(), inventory("pool-a")))
		p := b.place(b.taken("a")).Machine.Placement
		if p.Private == first || p.MAC == "02:16:3e:00:00:00" || p.ConsolePort == 20000 {
			t.Errorf("a stranger's was given out: %+v", p)
		}
	})

	t.Run("AnEditAroundIt", func(t *testing.T) {
		b := setup(t, h)
		s := sighted(orchestrator.SightedMAC, "02:16:3e:00:00:00", "host printer")
		reserve(b, false, s)
		s.Place, s.Name = "line 9", "plotter"
		want(b, reserve(b, false, s), s.Value+" known ")
		kept, err := b.store.Sightings(t.Context())
		must(t, err)
		if diff := cmp.Diff([]orchestrator.Sighting{s}, kept); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("Ours", func(t *testing.T) {
		b := setup(t, h)
		one, two := b.place(b.taken("a")).Machine, b.place(b.taken("a")).Machine
		p, q := one.Placement, two.Placement
		found := []orchestrator.Sighting{
			sighted(orchestrator.SightedAddress, p.Private.String(), "host thief"), // one value
			sighted(orchestrator.SightedPort, fmt.Sprint(p.ConsolePort), "VM x"),
			sighted(orchestrator.SightedAddress, p.Public.String(), "host mixed"), // two machines'
			sighted(orchestrator.SightedMAC, q.MAC, "host mixed"),
			sighted(orchestrator.SightedMAC, p.MAC, "host web"), // all of one machine
			sighted(orchestrator.SightedAddress, p.Private.String(), "host web"),
		}
		before := acts(b)
		want(b, reserve(b, false, found...), p.Private.String()+" conflict "+one.ID, fmt.Sprint(p.ConsolePort)+" conflict "+one.ID,
			p.Public.String()+" conflict "+one.ID, q.MAC+" conflict "+two.ID, p.MAC+" own "+one.ID, p.Private.String()+" own "+one.ID)
		kept, err := b.store.Sightings(t.Context())
		if err != nil || len(kept) != 0 || acts(b) != before {
			t.Errorf("ours was written down as foreign: %v, %v", kept, err)
		}
		if err := b.store.Free(t.Context(), orchestrator.SightedMAC, "", p.MAC, "0:root", "x"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("ours was freed: %v", err)
		}
	})

	t.Run("WhatRests", func(t *testing.T) {
		b := setup(t, h)
		c := b.place(b.taken("a"))
		p := c.Machine.Placement
		c.Machine.Presence, c.Run.Status = orchestrator.Absent, orchestrator.StatusDone
		b.commit(orchestrator.Commit{Run: c.Run, Machine: &c.Machine, Changes: []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: time.Hour}}})
		found := []orchestrator.Sighting{sighted(orchestrator.SightedAddress, p.Private.String(), "VM 1"), sighted(orchestrator.SightedMAC, p.MAC, "VM 1"),
			sighted(orchestrator.SightedPort, fmt.Sprint(p.ConsolePort), "VM 2")}
		want(b, reserve(b, false, found...), p.Private.String()+" new "+c.Machine.ID, p.MAC+" new "+c.Machine.ID, fmt.Sprint(p.ConsolePort)+" new "+c.Machine.ID)
		values, err := b.store.Foreign(t.Context())
		if err != nil || len(values) != 4 {
			t.Errorf("reserved: %v, %v", values, err)
		}
	})

	t.Run("GoneAndFreed", func(t *testing.T) {
		b := setup(t, h)
		first := b.estate.Pools[0].Private.Ranges[0].First
		a, port := sighted(orchestrator.SightedAddress, first.String(), "VM 1"), sighted(orchestrator.SightedPort, "20000", "VM 2")
		other := a
		other.Source, other.Object = "dhcp-a/dhcp-1", "host printer"
		reserve(b, false, a, port)
		_, err := b.store.Reserve(t.Context(), other.Source, []orchestrator.Sighting{other}, false, "0:root", "scan")
		must(t, err)
		left := reserve(b, false)
		if diff := cmp.Diff([]orchestrator.Sighting{a, port}, left.Gone); diff != "" {
			t.Errorf("gone: %s", diff)
		}
		if p := b.place(b.taken("a")).Machine.Placement; p.Private == first || p.ConsolePort == 20000 {
			t.Error("what a scan did not see again was given out without an operator's word")
		}
		must(t, b.store.Free(t.Context(), orchestrator.SightedAddress, "", a.Value, "0:root", "scrapped"))
		if err := b.store.Free(t.Context(), orchestrator.SightedPort, "another", "20000", "0:root", "x"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("another group's port: %v", err)
		}
		must(t, b.store.Free(t.Context(), orchestrator.SightedPort, "xvp", "20000", "0:root", "scrapped"))
		if err := b.store.Free(t.Context(), orchestrator.SightedPort, "xvp", "20000", "0:root", "x"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("freed twice: %v", err)
		}
		kept, err := b.store.Sightings(t.Context())
		if err != nil || len(kept) != 0 {
			t.Errorf("sightings of what was freed: %v, %v", kept, err)
		}
		if p := b.place(b.taken("a")).Machine.Placement; p.Private != first || p.ConsolePort != 20000 {
			t.Errorf("freed and not given out: %+v", p)
		}
		// An address that is freed the other way is forgotten too.
		second := sighted(orchestrator.SightedAddress, first.Next().Next().Next().String(), "VM 3")
		reserve(b, false, second)
		must(t, b.store.DropAddress(t.Context(), "pool-a", first.Next().Next().Next(), "0:root", "x"))
		if kept, err := b.store.Sightings(t.Context()); err != nil || len(kept) != 0 {
			t.Errorf("sightings: %v, %v", kept, err)
		}
	})

	t.Run("AnothersScan", func(t *testing.T) {
		b := setup(t, h)
		s := sighted(orchestrator.SightedMAC, "02:16:3e:00:00:00", "VM 1")
		s.Source = "pool pool-b"
		if _, err := b.store.Reserve(t.Context(), source, []orchestrator.Sighting{s}, false, "0:root", "x"); orchestrator.KindOf(err) != orchestrator.Permanent {
			t.Errorf("err = %v", err)
		}
	})
}

// importing claims what a stranger has, and gives it back.
func importing(t *testing.T, h Harness) {
	b := setup(t, h)
	pool := b.estate.Pools[0]
	i := orchestrator.Import{VM: uuid.NewString(), MAC: "02:16:3e:00:00:00", Private: pool.Private.Ranges[0].First, Public: pool.Public.Ranges[0].First}
	_, err := b.store.Reserve(t.Context(), source, []orchestrator.Sighting{sighted(orchestrator.SightedAddress, i.Private.String(), "VM 1"), sighted(orchestrator.SightedMAC, i.MAC, "VM 1")}, false, "0:root", "scan")
	must(t, err)
	// The host is full: what is there is the stranger's, and none of it is ours to give.
	full := inventory("pool-a")
	full.Hosts[0].MemoryMiB, full.SRs[0].Bytes = 0, 0
	must(t, b.store.SyncPool(t.Context(), full))

	a := b.install()
	a.Machine.Import, a.Order.Type, a.Order.Import = i, orchestrator.OrderImport, i
	_, err = b.store.Accept(t.Context(), a)
	must(t, err)
	claims, err := b.store.Claim(t.Context(), orchestrator.Ask{Holder: "worker", Limit: 10, Lease: lease})
	if err != nil || len(claims) != 1 || claims[0].Machine.Import != i {
		t.Fatalf("claims %+v, %v", claims, err)
	}
	c := claims[0]
	result := b.store.Commit(t.Context(), []orchestrator.Commit{{Run: c.Run, Changes: []orchestrator.Change{orchestrator.ClaimForeign{}, orchestrator.BindAddresses{}},
		Decide: func(l *orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
			p, err := l.Claim(pool, i, full.Hosts[0].UUID, full.SRs[0].UUID)
			return p, nil, err
		}}})[0]
	must(t, result.Err)
	if p := result.Placement; p.Private != i.Private || p.Public != i.Public || p.MAC != i.MAC || p.ConsolePort == 0 {
		t.Errorf("placement %+v", p)
	}
	ledger, err := b.store.Ledger(t.Context())
	must(t, err)
	if ledger.ForeignAddresses[i.Private] || ledger.ForeignMACs[i.MAC] || ledger.Pools["pool-a"].Hosts[0].ReservedMiB != 1024 {
		t.Errorf("after the claim: %+v", ledger)
	}
	scanned, err := b.store.Reserve(t.Context(), source, nil, true, "0:root", "scan")
	if err != nil || len(scanned.Gone) != 0 {
		t.Errorf("what became a machine's is told as gone: %+v, %v", scanned.Gone, err)
	}

	machine := c.Machine
	machine.Presence = orchestrator.Absent
	c.Run.Status = orchestrator.StatusCanceled
	b.commit(orchestrator.Commit{Run: c.Run, Machine: &machine, Changes: []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: time.Hour, Foreign: true}}})
	if ledger, err = b.store.Ledger(t.Context()); err != nil {
		t.Fatal(err)
	}
	host := ledger.Pools["pool-a"].Hosts[0]
	if !ledger.ForeignAddresses[i.Private] || !ledger.ForeignAddresses[i.Public] || !ledger.ForeignMACs[i.MAC] || host.ReservedMiB != 0 || host.MemoryMiB != 0 ||
		ledger.Pools["pool-a"].SRs[0].Bytes != 0 || len(ledger.Ports["xvp"]) != 1 {
		t.Errorf("after the way back: %+v, host %+v", ledger, host)
	}
	if n, err := b.store.EndQuarantine(t.Context()); err != nil || n != 0 {
		t.Errorf("%d end their rest at once, %v", n, err)
	}
}
