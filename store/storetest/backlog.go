package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

func backlog(t *testing.T, h Harness) {
	b := setup(t, h)
	order := func(tenant string, n int, sum string) orchestrator.KeptOrder {
		return orchestrator.KeptOrder{Tenant: tenant, Order: orchestrator.OrderKey{Source: tenant + "-panel", ID: fmt.Sprint(n)}, SHA256: sum, Body: []byte(fmt.Sprintf(`{"n":%d,"ü":"%s"}`, n, sum))}
	}
	limited := func(o orchestrator.KeptOrder) orchestrator.Event {
		return orchestrator.NewEvent(orchestrator.EventLimited, b.now, orchestrator.EventData{Tenant: o.Tenant, Source: o.Order.Source, OrderID: o.Order.ID})
	}
	keep := func(orders ...orchestrator.KeptOrder) {
		t.Helper()
		must(t, b.store.Keep(t.Context(), orders, limited))
	}
	next := func(tenant string, limit int) (ids []string, orders []orchestrator.KeptOrder) {
		t.Helper()
		orders, err := b.store.NextKept(t.Context(), tenant, limit)
		must(t, err)
		for _, o := range orders {
			ids = append(ids, o.Order.ID)
		}
		return ids, orders
	}
	parked := b.taken("a") // is not under way
	parked.Run.Status = orchestrator.StatusParked
	b.commit(orchestrator.Commit{Run: parked.Run, Release: true})
	b.taken("a")
	b.accept(b.install())
	if l, err := b.store.Load(t.Context(), "acme"); err != nil || l.UnderWay != 2 || l.Kept != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	keep(order("acme", 2, "x"), order("other", 1, "x"), order("acme", 1, "x"))
	keep(order("acme", 2, "x"), order("acme", 2, "y"), order("acme", 3, "x")) // the first was delivered again; the second differs
	if ids, orders := next("acme", 10); !cmp.Equal(ids, []string{"2", "1", "2", "3"}) || string(orders[0].Body) != `{"n":2,"ü":"x"}` || orders[2].SHA256 != "y" {
		t.Errorf("%+v", orders)
	}
	if l, err := b.store.Load(t.Context(), "acme"); err != nil || l.UnderWay != 2 || l.Kept == 0 {
		t.Errorf("%+v, %v", l, err)
	}
	kept, err := b.store.Kept(t.Context())
	must(t, err)
	if len(kept) != 2 || kept[0].Tenant != "acme" || kept[0].Kept != 4 || kept[0].UnderWay != 2 || kept[0].Oldest.IsZero() || kept[1].Kept != 1 || kept[1].UnderWay != 0 {
		t.Errorf("%+v", kept)
	}
	if n := b.value(`SELECT count(*) FROM outbox WHERE type = 'slipway.tenant.limited'`); n != 2 {
		t.Errorf("%d events about two tenants", n)
	}

	_, orders := next("acme", 2)
	must(t, b.store.PutOff(t.Context(), orders[0].ID, time.Hour))
	must(t, b.store.DropKept(t.Context(), orders[1].ID))
	if ids, left := next("acme", 10); !cmp.Equal(ids, []string{"2", "3"}) || left[0].SHA256 != "y" {
		t.Errorf("one put off, one taken: %+v", left)
	}
	must(t, b.db.Exec(t.Context(), `UPDATE backlog SET due = 1 WHERE due > 0`))
	if _, again := next("acme", 1); again[0].ID != orders[0].ID || again[0].Tries != 1 {
		t.Errorf("it comes again: %+v", again)
	}
}
