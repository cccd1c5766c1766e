package storetest

import (
	"strings"
	"testing"

	"slipway/orchestrator"
)

// lineage: what a store has asked for it knows again, and what a halted member carries once an operator has let it go on; nothing is given out
// while there are machines that the store does not know, or pools that nobody has read since a worker started.
func lineage(t *testing.T, h Harness) {
	b := setup(t, h)
	group := groups()[0].ID
	asked := func(sum string) bool {
		t.Helper()
		known, err := b.store.Asked(t.Context(), group, sum)
		must(t, err)
		return known
	}
	must(t, b.store.Ask(t.Context(), group, "one"))
	must(t, b.store.Ask(t.Context(), group, "one"))
	if !asked("one") || asked("two") {
		t.Error("a store does not know what it asked for, or knows more")
	}
	must(t, b.store.PutMember(t.Context(), orchestrator.Member{Group: group, Name: group + "-1", SHA256: "two", Dirty: true, Halted: "newer"}))
	if asked("two") {
		t.Error("what a member carries is known without a word")
	}
	must(t, b.store.Resume(t.Context(), group, group+"-1", "0:root", "looked"))
	if !asked("two") {
		t.Error("what an operator let pass is not known")
	}
	must(t, b.db.Exec(t.Context(), `INSERT INTO asked_states (group_id, sha256, at) VALUES ('`+group+`', 'old', 1)`))
	must(t, b.db.Exec(t.Context(), `UPDATE asked_states SET at = 1 WHERE sha256 = 'two'`))
	_, err := b.store.Prune(t.Context())
	must(t, err)
	if asked("old") || !asked("one") || !asked("two") { // a member carries two
		t.Error("the wrong states were forgotten")
	}

	refused := func(why string) {
		t.Helper()
		c := b.taken("a")
		err := b.store.Commit(t.Context(), []orchestrator.Commit{b.placing(c)})[0].Err
		if why == "" && err != nil || why != "" && (orchestrator.KindOf(err) != orchestrator.Exhausted || !strings.Contains(err.Error(), why)) {
			t.Errorf("placed with %v, want %q", err, why)
		}
	}
	inv := inventory("pool-b") // an order that may go anywhere is refused for any pool's sake
	inv.Tagged = []string{b.taken("a").Machine.ID}
	must(t, b.store.SyncPool(t.Context(), inv))
	refused("")
	inv.Tagged = append(inv.Tagged, "11111111-2222-4333-8444-555555555555")
	must(t, b.store.SyncPool(t.Context(), inv))
	refused("the database may be an older copy")
	ledger, err := b.store.Ledger(t.Context())
	must(t, err)
	if !ledger.Older() || ledger.Pools["pool-b"].Strange != 1 {
		t.Errorf("%+v", ledger.Pools["pool-b"])
	}
	must(t, b.store.SyncPool(t.Context(), inventory("pool-b")))
	refused("")
	must(t, b.store.BeginReading(t.Context()))
	refused("the pool has not been read yet")
	must(t, b.store.SyncPool(t.Context(), inventory("pool-a")))
	refused("")
}
