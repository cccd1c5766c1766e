package storetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

// consoles is orchestrator.ConsoleBackends.
func consoles(t *testing.T, h Harness) {
	b := setup(t, h)
	placed := b.place(b.taken("a"))
	const pool, group = "pool-a", "xvp"
	if placed.Machine.Placement.Pool != pool {
		t.Fatalf("placed in %s", placed.Machine.Placement.Pool)
	}
	put := func(c orchestrator.Claim) {
		t.Helper()
		b.commit(orchestrator.Commit{Run: c.Run, Changes: []orchestrator.Change{orchestrator.PutEntry{Group: group, Unit: orchestrator.Console, Body: []byte(`{"port":20000}`)}}})
	}
	put(placed)
	backend := func() (orchestrator.ConsoleBackend, int64) {
		t.Helper()
		g, entries, err := b.store.Entries(t.Context(), group)
		must(t, err)
		for _, e := range entries {
			if e.Machine == placed.Machine.ID {
				return e.Backend, g.Generation
			}
		}
		t.Fatal("the machine has no entry")
		return "", 0
	}
	if got, _ := backend(); got != "" {
		t.Errorf("before anything was said: %q", got)
	}

	// What the configuration says counts where there is nothing yet.
	must(t, b.store.SyncConsoleBackends(t.Context(), map[string]orchestrator.ConsoleBackend{pool: orchestrator.ConsoleGateway, "pool-b": orchestrator.ConsoleGateway}))
	must(t, b.store.SyncConsoleBackends(t.Context(), map[string]orchestrator.ConsoleBackend{pool: orchestrator.ConsoleXVP, "pool-b": orchestrator.ConsoleXVP}))
	known, err := b.store.ConsoleBackends(t.Context())
	must(t, err)
	if diff := cmp.Diff(map[string]orchestrator.ConsoleBackend{pool: orchestrator.ConsoleXVP, "pool-b": orchestrator.ConsoleGateway}, known); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	_, before := backend()
	n, err := b.store.MoveConsoles(t.Context(), pool, orchestrator.ConsoleGateway, "1000:op", "a trial")
	must(t, err)
	got, generation := backend()
	approved, err := b.store.ShrinkApproved(t.Context(), group)
	must(t, err)
	if n != 1 || got != orchestrator.ConsoleGateway || generation != before+1 || approved < generation {
		t.Errorf("%d machines moved to %q by generation %d after %d, approved up to %d", n, got, generation, before, approved)
	}
	if n, err := b.store.MoveConsoles(t.Context(), pool, orchestrator.ConsoleGateway, "1000:op", "again"); err != nil || n != 1 {
		t.Errorf("again: %d, %v", n, err)
	}
	if _, again := backend(); again != generation {
		t.Error("a move to where they are changed the group")
	}
	if acts, err := b.db.Value(t.Context(), `SELECT count(*) FROM acts WHERE verb = 'move-consoles-to-gateway' AND subject = 'pool-a' AND actor = '1000:op'`); err != nil || acts != 1 {
		t.Errorf("%d acts, %v", acts, err)
	}
	if _, err := b.store.MoveConsoles(t.Context(), pool, "guacamole", "1000:op", ""); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("a backend that there is not: %v", err)
	}
	if s := state(b, group, placed.Machine.ID); string(s.Body) != `{"port":20000}` {
		t.Errorf("the entry is %s", s.Body)
	}

	want := []orchestrator.GatewayReport{{Group: group, Holder: "a", Generation: 7, Ports: 2}, {Group: group, Holder: "b", Generation: 6, Problem: "port 20000: in use"}}
	for _, r := range want {
		must(t, b.store.ReportGateway(t.Context(), orchestrator.GatewayReport{Group: r.Group, Holder: r.Holder}, time.Hour))
		must(t, b.store.ReportGateway(t.Context(), r, time.Hour))
	}
	must(t, b.store.ReportGateway(t.Context(), orchestrator.GatewayReport{Group: "other", Holder: "a"}, time.Hour))
	reports, err := b.store.GatewayReports(t.Context(), group)
	must(t, err)
	if diff := cmp.Diff(want, reports); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	must(t, b.store.ReportGateway(t.Context(), orchestrator.GatewayReport{Group: group, Holder: "a"}, 0))
	if reports, err = b.store.GatewayReports(t.Context(), group); err != nil || len(reports) != 1 || reports[0].Holder != "b" {
		t.Errorf("after one has gone: %+v, %v", reports, err)
	}
}
