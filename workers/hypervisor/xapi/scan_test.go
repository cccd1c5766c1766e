package xapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"

	"slipway/orchestrator"
)

func testPool(c *Client) *pool {
	return &pool{id: "p", client: c, log: slog.New(slog.DiscardHandler), clones: map[string]*cloneQueue{}, wakeTasks: map[Ref]bool{}, uuids: map[Ref]string{}}
}

// TestReadsOfAllVMsAreShared: while one read is out, everybody who comes shares the next one, and nobody takes the one that began before
// they asked.
func TestReadsOfAllVMsAreShared(t *testing.T) {
	const askers = 50
	arrived, release := make(chan struct{}, askers), make(chan struct{})
	var mu sync.Mutex
	reads := 0
	m := newMember(t, func(string, []json.RawMessage) reply {
		mu.Lock()
		reads++
		name := "old"
		if reads > 1 {
			name = "new"
		}
		mu.Unlock()
		arrived <- struct{}{}
		<-release
		return ok(map[string]vmRecord{"OpaqueRef:vm": {Name: name, ControlDomain: true}})
	})
	p := testPool(newClient(t, testConfig(m.URL)))
	var wg, asking sync.WaitGroup
	ask := func(want string) {
		asking.Add(1)
		wg.Go(func() {
			asking.Done()
			vms, err := p.vms(t.Context())
			if err != nil || vms["OpaqueRef:vm"].Name != want {
				t.Errorf("vms = %+v, %v; want the %s ones", vms, err, want)
			}
		})
	}
	ask("old")
	<-arrived
	for range askers {
		ask("new")
	}
	asking.Wait()
	close(release)
	wg.Wait()
	p.scans.work.Wait()
	if reads > askers/5 { // two, unless some were put to sleep between asking and joining
		t.Errorf("%d reads for %d askers", reads, askers+1)
	}
}

func TestGuestMetricsCountWhileTheAgentLives(t *testing.T) {
	for _, live := range []bool{true, false} {
		m := newMember(t, always(ok(map[string]any{"live": live, "networks": map[string]string{"0/ip": "10.0.0.5"}})))
		p := testPool(newClient(t, testConfig(m.URL)))
		got, addresses, err := p.guest(t.Context(), vmRecord{GuestMetrics: "OpaqueRef:metrics"})
		if err != nil || got != live || (len(addresses) > 0) != live {
			t.Errorf("live %v gives %v, %v, %v", live, got, addresses, err)
		}
	}
}

func TestAReadDoesNotEndWithItsFirstAsker(t *testing.T) {
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	m := newMember(t, func(string, []json.RawMessage) reply {
		arrived <- struct{}{}
		<-release
		return ok(map[string]vmRecord{})
	})
	p := testPool(newClient(t, testConfig(m.URL)))
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { _, err := p.vms(ctx); gone <- err }()
	<-arrived
	cancel()
	if err := <-gone; orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("the asker who left: %v", err)
	}
	close(release)
	p.scans.work.Wait()
	if n := m.count("VM.get_all_records"); n != 1 || p.scans.next != nil {
		t.Errorf("%d reads", n)
	}
}
