package orchestrator_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
)

// emptyLedger is the ledger of the test estate with nothing promised.
func emptyLedger() *orchestrator.Ledger {
	l := &orchestrator.Ledger{
		Pools: map[string]*orchestrator.PoolLedger{}, MACs: map[string]bool{}, Ports: map[string]map[uint16]bool{}, Addresses: map[netip.Addr]bool{}, Groups: map[string]orchestrator.Group{},
	}
	for _, inv := range orchestratortest.Inventories() {
		p := &orchestrator.PoolLedger{Templates: inv.Templates}
		for _, h := range inv.Hosts {
			p.Hosts = append(p.Hosts, orchestrator.HostLedger{HostInventory: h})
		}
		for _, r := range inv.SRs {
			p.SRs = append(p.SRs, orchestrator.SRLedger{SRInventory: r})
		}
		l.Pools[inv.Pool] = p
		for _, mac := range inv.MACs {
			l.MACs[mac] = true
		}
	}
	for _, g := range orchestratortest.Groups() {
		l.Groups[g.ID] = g
	}
	return l
}

func request() orchestrator.PlaceRequest {
	return orchestrator.PlaceRequest{Machine: "m", Image: "debian-12", Plan: orchestrator.Plan{VCPUs: 2, MemoryMiB: 1024, DiskGiB: 10}}
}

func TestPlacePromisesEverything(t *testing.T) {
	l := emptyLedger()
	p, explained, err := l.Place(orchestratortest.Estate(), request())
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	want := orchestrator.Placement{
		Pool: "pool-a", Host: "pool-a-host-1", SR: "pool-a-storage", Private: addr("10.0.0.10"), Public: addr("198.51.100.10"), MAC: "02:16:3e:00:00:01",
		ConsolePort: 20000, DHCP: "dhcp-a", Firewall: "firewall-a", Console: "console",
	}
	if p != want {
		t.Errorf("%+v", p)
	}
	pool := l.Pools["pool-a"]
	if pool.Hosts[0].ReservedMiB != 1024 || pool.SRs[0].ReservedBytes != 10<<30 || pool.Machines != 1 || !l.MACs[p.MAC] || !l.Addresses[p.Private] || !l.Addresses[p.Public] || !l.Ports["console"][20000] || l.Groups["dhcp-a"].Entries != 1 {
		t.Errorf("the ledger does not carry the promise: %+v", l)
	}
	var considered []orchestrator.Considered
	if err := json.Unmarshal(explained, &considered); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]orchestrator.Considered{
		{Pool: "pool-a", Host: "pool-a-host-1", SR: "pool-a-storage", Weight: 3072, Chosen: true},
		{Pool: "pool-a", Host: "pool-a-host-2", SR: "pool-a-storage", Weight: 3072},
		{Pool: "pool-b", Host: "pool-b-host-1", SR: "pool-b-storage", Weight: 3072},
		{Pool: "pool-b", Host: "pool-b-host-2", SR: "pool-b-storage", Weight: 3072},
		{Pool: "pool-c", Filter: "its address service corp was not asked"},
	}, considered); diff != "" {
		t.Error(diff)
	}
	if next, _, err := l.Place(orchestratortest.Estate(), request()); err != nil || next.Host != "pool-a-host-2" {
		t.Errorf("the next goes where most is free: %+v, %v", next, err)
	}
}

func TestRoutedPoolHasNeitherPublicAddressNorDHCP(t *testing.T) {
	req := request()
	req.Pool = "pool-b"
	p, _, err := emptyLedger().Place(orchestratortest.Estate(), req)
	if err != nil || p.Public.IsValid() || p.DHCP != "" || p.Firewall != "firewall-b" || p.ConsolePort != 20010 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestFilters(t *testing.T) {
	everyHost := func(change func(*orchestrator.HostLedger)) func(*orchestrator.Ledger, *orchestrator.Estate, *orchestrator.PlaceRequest) {
		return func(l *orchestrator.Ledger, _ *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			for i := range l.Pools["pool-a"].Hosts {
				change(&l.Pools["pool-a"].Hosts[i])
			}
		}
	}
	take := func(l *orchestrator.Ledger, s orchestrator.Subnet) {
		for a := s.Ranges[0].First; s.Ranges[0].Contains(a); a = a.Next() {
			l.Addresses[a] = true
		}
	}
	type change = func(*orchestrator.Ledger, *orchestrator.Estate, *orchestrator.PlaceRequest)
	for name, test := range map[string]struct {
		change change
		want   string
	}{
		"another pool": {func(_ *orchestrator.Ledger, _ *orchestrator.Estate, r *orchestrator.PlaceRequest) { r.Pool = "pool-z" }, "the order names pool pool-z"},
		"not read": {func(l *orchestrator.Ledger, _ *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			delete(l.Pools, "pool-a")
		}, "the pool has not been read yet"},
		"no template": {func(l *orchestrator.Ledger, _ *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			l.Pools["pool-a"].Templates = nil
		}, "the pool has no template for debian-12"},
		"not offered": {func(_ *orchestrator.Ledger, e *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			e.Pools[0].Images = nil
		}, "the pool has no template for debian-12"},
		"no private": {func(l *orchestrator.Ledger, e *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			take(l, e.Pools[0].Private)
		}, "no private address is free"},
		"no public": {func(l *orchestrator.Ledger, e *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			take(l, e.Pools[0].Public)
		}, "no public address is free"},
		"full dhcp": {func(l *orchestrator.Ledger, _ *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			l.Groups["dhcp-a"] = orchestrator.Group{ID: "dhcp-a", Capacity: 3, Entries: 3}
		}, "every DHCP group is full"},
		"full firewall": {func(l *orchestrator.Ledger, _ *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			delete(l.Groups, "firewall-a")
		}, "every firewall group is full"},
		"no port": {func(l *orchestrator.Ledger, e *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			l.Ports["console"] = map[uint16]bool{}
			for p := e.Pools[0].ConsolePorts.First; p <= e.Pools[0].ConsolePorts.Last; p++ {
				l.Ports["console"][p] = true
			}
		}, "no console port is free"},
		"disabled":  {everyHost(func(h *orchestrator.HostLedger) { h.Enabled = false }), "host is disabled"},
		"no memory": {everyHost(func(h *orchestrator.HostLedger) { h.ReservedMiB = 4000 }), "host has 96 MiB free"},
		"few CPUs":  {everyHost(func(h *orchestrator.HostLedger) { h.CPUs = 1 }), "host has 1 CPUs"},
		"no storage": {func(l *orchestrator.Ledger, _ *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			l.Pools["pool-a"].SRs[0].ReservedBytes = 91 << 30
		}, "no storage with 10 GiB free"},
		"unplugged": {func(l *orchestrator.Ledger, _ *orchestrator.Estate, _ *orchestrator.PlaceRequest) {
			l.Pools["pool-a"].SRs[0].Hosts = nil
		}, "no storage with 10 GiB free"},
	} {
		t.Run(name, func(t *testing.T) {
			l, e, req := emptyLedger(), orchestratortest.Estate(), request()
			e.Pools = e.Pools[:1]
			test.change(l, e, &req)
			p, explained, err := l.Place(e, req)
			if orchestrator.KindOf(err) != orchestrator.Exhausted || !strings.Contains(err.Error(), test.want) || !p.IsZero() {
				t.Errorf("%+v, %v", p, err)
			}
			if !strings.Contains(string(explained), test.want) {
				t.Errorf("explained: %s", explained)
			}
		})
	}
}

func TestConsoleGroupWithAFreePortIsFound(t *testing.T) {
	l, e := emptyLedger(), orchestratortest.Estate()
	e.Pools = e.Pools[:1]
	e.Pools[0].Console, e.Pools[0].ConsolePorts = []string{"console", "other"}, orchestrator.PortRange{First: 20000, Last: 20000}
	l.Groups["other"] = orchestrator.Group{ID: "other", Entries: 5}
	l.Ports["console"] = map[uint16]bool{20000: true} // resting: no entry is counted for it
	p, _, err := l.Place(e, request())
	if err != nil || p.Console != "other" || p.ConsolePort != 20000 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestChosenCandidateIsAlwaysExplained(t *testing.T) {
	l, e := emptyLedger(), orchestratortest.Estate()
	pool := l.Pools["pool-a"]
	for n := range 100 {
		pool.Hosts = append(pool.Hosts, orchestrator.HostLedger{HostInventory: orchestrator.HostInventory{UUID: fmt.Sprint("more-", n), MemoryMiB: int64(5000 + n), Enabled: true}})
		pool.SRs[0].Hosts = append(pool.SRs[0].Hosts, fmt.Sprint("more-", n))
	}
	p, explained, err := l.Place(e, request())
	if err != nil || p.Host != "more-99" || !strings.Contains(string(explained), `"more-99"`) {
		t.Errorf("%s, %v, %d bytes", p.Host, err, len(explained))
	}
}

// Whatever is asked for, in whatever order: nothing is promised twice or beyond what is there, and "no room" is said only when it is so.
func TestLedgerNeverPromisesTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, e := emptyLedger(), orchestratortest.Estate()
		e.Pools[0].Console = []string{"console", "console-2"}
		l.Groups["console-2"] = orchestrator.Group{ID: "console-2", Capacity: rapid.IntRange(0, 4).Draw(t, "capacity")}
		for pool, p := range l.Pools {
			for i := range p.Hosts {
				p.Hosts[i].MemoryMiB = rapid.Int64Range(0, 16384).Draw(t, pool+" memory")
				p.Hosts[i].Enabled = rapid.Bool().Draw(t, pool+" enabled")
			}
			p.SRs[0].Bytes = rapid.Int64Range(0, 200).Draw(t, pool+" storage") << 30
		}
		for range rapid.IntRange(0, 5).Draw(t, "foreign") {
			l.Addresses[netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(10, 19).Draw(t, "address"))})] = true
		}
		taken := map[any]string{}
		for a := range l.Addresses {
			taken[a] = "foreign"
		}
		for mac := range l.MACs {
			taken[mac] = "foreign"
		}
		for n := range rapid.IntRange(1, 40).Draw(t, "machines") {
			req := orchestrator.PlaceRequest{
				Machine: fmt.Sprint(n), Image: "debian-12", Pool: rapid.SampledFrom([]string{"", "pool-a", "pool-b"}).Draw(t, "pool"),
				Plan: orchestrator.Plan{VCPUs: rapid.IntRange(1, 9).Draw(t, "vcpus"), MemoryMiB: rapid.Int64Range(256, 4096).Draw(t, "memory"), DiskGiB: rapid.Int64Range(1, 60).Draw(t, "disk")},
			}
			fits := hasRoom(l, e, req)
			p, _, err := l.Place(e, req)
			if err != nil {
				if orchestrator.KindOf(err) != orchestrator.Exhausted || fits {
					t.Fatalf("%v, though there is room: %t", err, fits)
				}
				continue
			}
			if !fits || req.Pool != "" && p.Pool != req.Pool {
				t.Fatalf("%+v for %+v", p, req)
			}
			type port struct {
				group string
				port  uint16
			}
			keys := []any{p.Private, p.MAC, port{p.Console, p.ConsolePort}}
			if p.Public.IsValid() {
				keys = append(keys, p.Public)
			}
			for _, k := range keys {
				if who, ok := taken[k]; ok {
					t.Fatalf("%v is promised to %s and %d", k, who, n)
				}
				taken[k] = req.Machine
			}
		}
		for id, p := range l.Pools {
			for _, h := range p.Hosts {
				if h.ReservedMiB > h.MemoryMiB {
					t.Fatalf("host %s of %s: %d of %d MiB", h.UUID, id, h.ReservedMiB, h.MemoryMiB)
				}
			}
			if p.SRs[0].ReservedBytes > p.SRs[0].Bytes {
				t.Fatalf("storage of %s: %d of %d", id, p.SRs[0].ReservedBytes, p.SRs[0].Bytes)
			}
		}
		for id, g := range l.Groups {
			if g.Capacity > 0 && g.Entries > g.Capacity {
				t.Fatalf("group %s: %d of %d", id, g.Entries, g.Capacity)
			}
		}
	})
}

// hasRoom says by counting whether one more machine fits somewhere.
func hasRoom(l *orchestrator.Ledger, e *orchestrator.Estate, req orchestrator.PlaceRequest) bool {
	for _, pool := range e.Pools {
		if req.Pool != "" && req.Pool != pool.ID {
			continue
		}
		console := false
		for _, id := range pool.Console {
			g := l.Groups[id]
			for p := int(pool.ConsolePorts.First); p <= int(pool.ConsolePorts.Last); p++ {
				console = console || !l.Ports[id][uint16(p)] && (g.Capacity == 0 || g.Entries < g.Capacity)
			}
		}
		if !console || l.Free(pool.Private) == 0 || pool.Strategy == orchestrator.NAT && l.Free(pool.Public) == 0 {
			continue
		}
		sr := l.Pools[pool.ID].SRs[0]
		for _, h := range l.Pools[pool.ID].Hosts {
			if h.Enabled && h.MemoryMiB-h.ReservedMiB >= req.Plan.MemoryMiB && h.CPUs >= req.Plan.VCPUs && sr.Bytes-sr.ReservedBytes >= req.Plan.DiskGiB<<30 {
				return true
			}
		}
	}
	return false
}

func TestFollow(t *testing.T) {
	plan := request().Plan
	for name, tt := range map[string]struct {
		host     string
		promised int64 // of the second host before
		moves    bool
	}{
		"the same host":    {"pool-a-host-1", 0, false},
		"one with room":    {"pool-a-host-2", 0, true},
		"just enough room": {"pool-a-host-2", 3072, true},
		"promised":         {"pool-a-host-2", 3073, false},
		"unknown":          {"elsewhere", 0, false},
		"halted meanwhile": {"", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := emptyLedger()
			p, _, err := l.Place(orchestratortest.Estate(), request())
			if err != nil {
				t.Fatal(err)
			}
			hosts := l.Pools["pool-a"].Hosts
			hosts[1].ReservedMiB = tt.promised
			want, first, second := p, int64(1024), tt.promised
			if tt.moves {
				want.Host, first, second = tt.host, 0, tt.promised+1024
			}
			if got := l.Follow(p, plan, tt.host); got != want || hosts[0].ReservedMiB != first || hosts[1].ReservedMiB != second {
				t.Errorf("%+v, promised %d and %d", got, hosts[0].ReservedMiB, hosts[1].ReservedMiB)
			}
		})
	}
}
