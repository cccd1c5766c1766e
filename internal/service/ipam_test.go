package service_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/sim/ipam"
)

// A pool whose addresses a service of somebody else's gives out: while it is away the run waits and is not parked, then it goes on by
// itself; what the machine has is confirmed, and what it had is given back when it has rested.
func TestAddressesOfAnotherService(t *testing.T) {
	s := site(t)
	pool := &s.Config.Pools[0]
	given := func(n config.Subnet) []orchestrator.AddressRange {
		first := netip.Prefix(n.Prefix).Addr()
		for range 200 {
			first = first.Next()
		}
		return []orchestrator.AddressRange{{First: first, Last: first.Next()}}
	}
	private, public := given(pool.Private), given(pool.Public)
	token := orchestrator.NewSecret("a token of the service's")
	reference := ipam.New(token, 0, map[string]ipam.Pool{pool.ID: {Private: private, Public: public}})
	var away atomic.Bool
	away.Store(true)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(w, "<html>being repaired", http.StatusBadGateway)
			return
		}
		reference.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Config.IPAM = []config.IPAM{{ID: "corp", URL: front.URL, Token: config.Secret{File: file}}}
	pool.IPAM, s.Config.Quarantine = "corp", time.Second
	if err := s.Config.Validate(); err != nil {
		t.Fatal(err)
	}
	w, stop := work(t, s, io.Discard)
	put(t, w, order())
	client := api.NewClient(s.Config.Socket)
	t.Cleanup(client.Close)
	var runs []api.Run
	stands := func(what string, is func(api.Run) bool) {
		t.Helper()
		until(t, what, func() bool { return client.Get(t.Context(), "/v1/runs", &runs) == nil && len(runs) > 0 && is(runs[0]) })
	}
	stands("the run waits for the service", func(r api.Run) bool { return r.Status == "waiting" && r.Step == "place" && r.Kind == "exhausted" })
	away.Store(false)
	stands("it goes on by itself", func(r api.Run) bool { return r.State == "production_ready" })
	if runs[0].Private != private[0].First.String() || runs[0].Public != public[0].First.String() {
		t.Errorf("the machine has %s and %s, the service gives %v and %v", runs[0].Private, runs[0].Public, private, public)
	}
	kept := func() []orchestrator.Reservation {
		list, err := reference.Reservations(t.Context(), pool.ID)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	again := func() { // a worker sweeps when it starts
		t.Helper()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		w, stop = work(t, s, io.Discard)
	}
	again()
	until(t, "what the machine has is confirmed", func() bool {
		list := kept()
		return len(list) == 1 && list[0].Confirmed && list[0].Machine == runs[0].Machine
	})

	away.Store(true) // an uninstall needs no service
	put(t, w, orchestrator.Order{Source: "panel", ID: "2", Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: runs[0].Machine})
	stands("the machine is removed", func(r api.Run) bool { return r.State == "removed" })
	away.Store(false)
	if list := kept(); len(list) != 1 {
		t.Errorf("%d reservations while the address rests", len(list))
	}
	until(t, "the addresses have rested", func() bool {
		n, err := w.Store.EndQuarantine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		records, err := w.Store.Addresses(t.Context())
		return n >= 0 && err == nil && len(records) == 0
	})
	again()
	until(t, "they are given back", func() bool { return len(kept()) == 0 })
}
