package service_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"slipway/internal/config"
	"slipway/internal/service"
	"slipway/orchestrator"
	"slipway/sim/xapi"
)

// silent is an address where connections are taken and nothing is ever said.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	var taking sync.WaitGroup
	taking.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		taking.Wait()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	return l.Addr().String()
}

// runsOf are the newest runs of a tenant, by status.
func runsOf(t *testing.T, w *service.Service, tenant string) map[orchestrator.Status]int {
	t.Helper()
	runs, err := w.Store.Runs(t.Context(), orchestrator.RunFilter{Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	n := map[orchestrator.Status]int{}
	for _, r := range runs {
		n[r.Status]++
	}
	return n
}

// One tenant has more runs in a pool whose toolstack answers nothing than the worker has hands, and more behind an appliance that says
// nothing; another tenant's installs in a third pool are made meanwhile, each step at its first attempt.
func TestWhatHangsTakesNoHandFromOthers(t *testing.T) {
	const many, few = 12, 4
	s := sites(t, 3)
	s.Config.Workers = 6
	for i := range s.Config.Pools {
		s.Config.Pools[i].InFlight = 2
	}
	for i, g := range s.Config.Groups {
		if g.ID == s.Config.Pools[1].DHCP[0] {
			s.Config.Groups[i].Members[0].Local = nil
			s.Config.Groups[i].Members[0].SSH = &config.SSHAgent{Address: silent(t), User: "slipway", Key: s.Config.LoginKey, HostKey: order().SSHKeys[0]}
		}
	}
	w, stop := work(t, s, io.Discard)
	until(t, "every pool is read", func() bool {
		ledger, err := w.Store.Ledger(t.Context())
		return err == nil && len(ledger.Pools) == 3
	})
	if err := s.Fault(0, xapi.Fault{Method: "*", Hang: true}); err != nil {
		t.Fatal(err)
	}
	n := 0
	ask := func(tenant string, pool, count int) {
		for range count {
			n++
			o := order()
			o.ID, o.Tenant, o.Name, o.Pool = fmt.Sprint(n), tenant, fmt.Sprint("web-", n), s.Config.Pools[pool].ID
			put(t, w, o)
		}
	}
	ask("flood", 0, many)
	ask("flood", 1, many)
	until(t, "the pool that hangs has all the hands that it gets, and the group's runs wait for it", func() bool {
		waits, err := w.Store.Runs(t.Context(), orchestrator.RunFilter{Tenant: "flood", Pool: s.Config.Pools[1].ID, Status: []orchestrator.Status{orchestrator.StatusWaiting}})
		return err == nil && len(waits) == many && w.InPools()[s.Config.Pools[0].ID] == 2
	})
	ask("other", 2, few)
	until(t, "the other tenant's machines", func() bool {
		if held := w.InPools(); held[s.Config.Pools[0].ID] > 2 {
			t.Errorf("in hand: %v", held)
		}
		return runsOf(t, w, "other")[orchestrator.StatusDone] == few
	})
	if got := runsOf(t, w, "flood"); got[orchestrator.StatusDone] != 0 {
		t.Errorf("the others were to hang: %v", got)
	}
	machines, err := w.Store.Machines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range machines {
		attempts, err := w.Store.Attempts(t.Context(), m.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range attempts {
			if m.Tenant == "other" && (a.Outcome == orchestrator.OutcomeFailed || a.Outcome == orchestrator.OutcomeInterrupted || a.Number > 1) {
				t.Errorf("%s was disturbed: %+v", m.Name, a)
			}
		}
	}
	s.Close() // calls under way end
	_ = stop()
}
