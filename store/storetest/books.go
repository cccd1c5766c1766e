package storetest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

// books: what the store says of everything that exists once balances, through a machine's life and with strangers beside it; a row that is
// wrong does not.
func books(t *testing.T, h Harness) {
	b := setup(t, h)
	account := func(resource, place, role string) orchestrator.Account {
		t.Helper()
		all, err := b.store.Books(t.Context())
		must(t, err)
		for _, a := range all.Accounts(b.estate) {
			if !a.Balances() {
				t.Errorf("%+v does not balance", a)
			}
			if a.Resource == resource && a.Place == place && a.Role == role {
				return a
			}
		}
		return orchestrator.Account{}
	}
	counts := func(a orchestrator.Account) [5]int64 {
		return [5]int64{a.Total - a.Free, a.Promised, a.Held, a.Quarantined, a.Foreign}
	}
	want := func(when string, address, mac, port, name [5]int64) {
		t.Helper()
		for what, pair := range map[string][2][5]int64{
			"private addresses": {counts(account("address", "pool-a", "private")), address}, "MACs": {counts(account("mac", "pool-a", "")), mac},
			"ports": {counts(account("port", "xvp", "")), port}, "names": {counts(account("name", "", "")), name},
		} {
			if diff := cmp.Diff(pair[1], pair[0]); diff != "" {
				t.Errorf("%s, %s (taken, promised, held, quarantined, foreign): -want +got\n%s", when, what, diff)
			}
		}
	}
	first := b.estate.Pools[0].Private.Ranges[0]
	must(t, b.store.PutAddress(t.Context(), orchestrator.AddressRecord{Pool: "pool-a", Address: first.Last, Role: "private", Owner: orchestrator.OwnerForeign}, "0:root", "printer"))
	stranger := [5]int64{1, 0, 0, 0, 1} // the inventory has one MAC of somebody else's
	want("at first", stranger, stranger, [5]int64{}, [5]int64{})

	c := b.place(b.taken("a"))
	want("placed", [5]int64{2, 1, 0, 0, 1}, [5]int64{2, 0, 1, 0, 1}, [5]int64{1, 0, 1}, [5]int64{1, 1})
	b.commit(orchestrator.Commit{Run: c.Run, Changes: []orchestrator.Change{orchestrator.BindAddresses{}}})
	want("bound", [5]int64{2, 0, 1, 0, 1}, [5]int64{2, 0, 1, 0, 1}, [5]int64{1, 0, 1}, [5]int64{1, 1})
	all, err := b.store.Books(t.Context())
	must(t, err)
	if all.Active[c.Machine.ID] != orchestrator.StatusRunning || all.Orders[c.Machine.ID] != c.Run.Order || len(all.Machines) != 1 {
		t.Errorf("active %v, orders %v, %d machines", all.Active, all.Orders, len(all.Machines))
	}

	gone := c.Machine
	gone.Presence = orchestrator.Absent
	b.commit(orchestrator.Commit{Run: c.Run, Machine: &gone, Changes: []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: b.estate.QuarantineOrDefault()}}})
	want("resting", [5]int64{2, 0, 0, 1, 1}, [5]int64{2, 0, 0, 1, 1}, [5]int64{1, 0, 0, 1}, [5]int64{})

	d := b.place(b.taken("a"))
	for _, sql := range []string{ // an address of the machine that nothing keeps, and one that is kept for a machine without it
		`UPDATE machines SET private = '10.0.0.77' WHERE id = '` + d.Machine.ID + `'`,
	} {
		must(t, b.db.Exec(t.Context(), sql))
	}
	all, err = b.store.Books(t.Context())
	must(t, err)
	var faults []orchestrator.Fault
	for _, a := range all.Accounts(b.estate) {
		if !a.Balances() {
			faults = append(faults, a.Faults...)
		}
	}
	if diff := cmp.Diff([]orchestrator.Fault{
		{Machine: d.Machine.ID, Value: d.Machine.Placement.Private.String(), Problem: "is held for a machine that does not have it"},
		{Machine: d.Machine.ID, Value: "10.0.0.77", Problem: "is the machine's, and nothing keeps it from being given out"},
	}, faults); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
