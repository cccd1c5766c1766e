package orchestrator

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Holding is an address, a MAC or a console port that is not free, as the store has it.
type Holding struct {
	Kind    string // SightedAddress, SightedMAC or SightedPort
	Scope   string // the pool of an address or a MAC, the console group of a port
	Value   string // as in a Sighting
	Role    string // of an address: "private" or "public"
	Owner   string // OwnerSlipway or OwnerForeign
	Machine string // "" for what is foreign
	State   string // one of the address states; MACs and ports are never reserved
}

// Books is everything that the store says of what exists once, as one transaction sees it.
type Books struct {
	Ledger   *Ledger
	Holdings []Holding
	Machines []Machine           // all there ever were
	Active   map[string]Status   // machine → how its run stands that is not over
	Orders   map[string]OrderKey // machine → the order that it came from
}

// Account is one resource of one place, by what becomes of it. Free is counted as a placement would look for it, the rest from what is
// recorded, so that the sum is worth comparing.
type Account struct {
	Resource string // "address", "mac", "port", "name", "memory" (MiB) or "storage" (bytes)
	Place    string // a pool, a console group, POOL/HOST, POOL/SR; "" for names
	Role     string // of addresses

	Total                                      int64
	Free, Promised, Held, Quarantined, Foreign int64
	// Outside are those that lie outside of what may be given out, beside the total: a range was narrowed, or a stranger's MAC.
	Outside int64
	Faults  []Fault
}

// Balances reports whether the account is in order.
func (a Account) Balances() bool { return a.sum() == a.Total && len(a.Faults) == 0 }

func (a Account) sum() int64 { return a.Free + a.Promised + a.Held + a.Quarantined + a.Foreign }

// Fault is something in the books that contradicts itself.
type Fault struct {
	Machine string // "" when it is no machine's
	Value   string
	Problem string
}

// Accounts draws up the accounts of an estate, in its order. Accounts without anything in them are left out.
func (b Books) Accounts(estate *Estate) []Account {
	f := b.faults()
	var all []Account
	for _, p := range estate.Pools {
		all = append(all, b.addresses(p, "private", p.Private, f), b.addresses(p, "public", p.Public, f), b.macs(p, f))
	}
	for _, group := range consoleGroups(estate) {
		all = append(all, b.ports(estate, group, f))
	}
	all = append(all, b.names())
	for _, p := range estate.Pools {
		all = append(all, b.rooms(p.ID)...)
	}
	return slices.DeleteFunc(all, func(a Account) bool { return a.Total == 0 && a.Outside == 0 && a.Balances() })
}

func (b Books) addresses(p Pool, role string, s Subnet, faults map[Holding][]Fault) Account {
	a := Account{Resource: SightedAddress, Place: p.ID, Role: role}
	for _, r := range s.Ranges {
		for addr := r.First; addr.IsValid() && r.Contains(addr); addr = addr.Next() {
			if s.Gives(addr) {
				a.Total++
			}
		}
	}
	a.Free = int64(b.Ledger.Free(s))
	for _, h := range b.Holdings {
		if h.Kind != SightedAddress {
			continue
		}
		addr, err := netip.ParseAddr(h.Value)
		inside := err == nil && s.Gives(addr)
		if inside {
			a.enter(h.State)
		} else if h.Scope == p.ID && h.Role == role {
			a.Outside++
		}
		if h.Scope == p.ID && h.Role == role {
			a.Faults = append(a.Faults, faults[h]...)
		}
	}
	a.Faults = append(a.Faults, faults[Holding{Kind: SightedAddress, Scope: p.ID, Role: role}]...)
	return a
}

func (b Books) macs(p Pool, faults map[Holding][]Fault) Account {
	a := Account{Resource: SightedMAC, Place: p.ID, Total: macTail}
	taken := map[string]bool{}
	for mac := range b.Ledger.MACs {
		if underPrefix(p.MACPrefix, mac) {
			taken[mac] = true
		}
	}
	a.Free = a.Total - int64(len(taken))
	for _, h := range b.Holdings {
		if h.Kind != SightedMAC {
			continue
		}
		switch {
		case underPrefix(p.MACPrefix, h.Value):
			a.enter(h.State)
		case h.Scope == p.ID:
			a.Outside++
		}
		if h.Scope == p.ID {
			a.Faults = append(a.Faults, faults[h]...)
		}
	}
	a.Faults = append(a.Faults, faults[Holding{Kind: SightedMAC, Scope: p.ID}]...)
	return a
}

func (b Books) ports(estate *Estate, group string, faults map[Holding][]Fault) Account {
	a := Account{Resource: SightedPort, Place: group}
	given := map[uint16]bool{}
	for _, p := range estate.Pools {
		if !slices.Contains(p.Console, group) {
			continue
		}
		for port := int(p.ConsolePorts.First); port <= int(p.ConsolePorts.Last); port++ {
			given[uint16(port)] = true
		}
	}
	a.Total = int64(len(given))
	for port := range given {
		if !b.Ledger.Ports[group][port] {
			a.Free++
		}
	}
	for _, h := range b.Holdings {
		if h.Kind != SightedPort || h.Scope != group {
			continue
		}
		if port, err := strconv.ParseUint(h.Value, 10, 16); err == nil && given[uint16(port)] {
			a.enter(h.State)
		} else {
			a.Outside++
		}
		a.Faults = append(a.Faults, faults[h]...)
	}
	a.Faults = append(a.Faults, faults[Holding{Kind: SightedPort, Scope: group}]...)
	return a
}

func (a *Account) enter(state string) {
	switch state {
	case AddressReserved:
		a.Promised++
	case AddressBound:
		a.Held++
	case AddressQuarantine:
		a.Quarantined++
	case AddressForeign:
		a.Foreign++
	}
}

// names: one machine at a time has a tenant's name, from its order until it is recorded absent.
func (b Books) names() Account {
	a := Account{Resource: "name"}
	holder := map[string]string{}
	for _, m := range b.Machines {
		if m.Presence == Absent {
			continue
		}
		name := m.Tenant + "/" + m.Name
		if first, taken := holder[name]; taken {
			a.Faults = append(a.Faults, Fault{Machine: m.ID, Value: name, Problem: "is machine " + first + "'s as well"})
			continue
		}
		holder[name] = m.ID
		if m.Presence == Present {
			a.Held++
		} else {
			a.Promised++
		}
	}
	a.Total = int64(len(holder))
	return a
}

// rooms are a pool's hosts and storages: what is counted as promised there must be what its machines were promised.
func (b Books) rooms(pool string) []Account {
	ledger := b.Ledger.Pools[pool]
	if ledger == nil {
		return nil
	}
	memory, storage := map[string]int64{}, map[string]int64{}
	for _, m := range b.Machines {
		if m.Placement.Pool == pool {
			memory[m.Placement.Host] += m.Plan.MemoryMiB
			storage[m.Placement.SR] += m.Plan.DiskGiB * gib
		}
	}
	var all []Account
	room := func(resource, uuid, name string, total, counted, promised int64) {
		a := Account{Resource: resource, Place: pool + "/" + name, Total: total, Held: promised, Free: total - promised}
		if counted != promised {
			a.Faults = []Fault{{Value: uuid, Problem: fmt.Sprintf("counts %d as promised, and its machines were promised %d", counted, promised)}}
		}
		if a.Free < 0 { // the host has less than before: it keeps its promises and takes nothing new
			a.Outside, a.Free = -a.Free, 0
			a.Held = a.Total
		}
		all = append(all, a)
	}
	for _, h := range ledger.Hosts {
		room("memory", h.UUID, h.Name, h.MemoryMiB, h.ReservedMiB, memory[h.UUID])
	}
	for _, s := range ledger.SRs {
		room("storage", s.UUID, s.Name, s.Bytes, s.ReservedBytes, storage[s.UUID])
	}
	return all
}

// faults hold the machines' rows against the holdings, both ways. Those of a holding are under it; those of a machine that lacks one, under
// a holding without value.
func (b Books) faults() map[Holding][]Fault {
	out := map[Holding][]Fault{}
	type value struct{ kind, group, text string }
	key := func(kind, group, text string) value {
		if kind != SightedPort {
			group = ""
		}
		return value{kind, group, text}
	}
	machines, held := map[string]Machine{}, map[value]Holding{}
	for _, m := range b.Machines {
		machines[m.ID] = m
	}
	for _, h := range b.Holdings {
		held[key(h.Kind, h.Scope, h.Value)] = h
		if h.State != AddressReserved && h.State != AddressBound {
			continue
		}
		m, known := machines[h.Machine]
		switch {
		case !known:
			out[h] = append(out[h], Fault{Machine: h.Machine, Value: h.Value, Problem: "is held for a machine that does not exist"})
		case !slices.ContainsFunc(placed(m.Placement), func(p Holding) bool {
			return p.Kind == h.Kind && p.Value == h.Value && (h.Kind != SightedPort || p.Scope == h.Scope)
		}):
			out[h] = append(out[h], Fault{Machine: h.Machine, Value: h.Value, Problem: "is held for a machine that does not have it"})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(machines)) {
		for _, want := range placed(machines[id].Placement) {
			h, ok := held[key(want.Kind, want.Scope, want.Value)]
			none := Holding{Kind: want.Kind, Scope: want.Scope, Role: want.Role}
			switch {
			case !ok:
				out[none] = append(out[none], Fault{Machine: id, Value: want.Value, Problem: "is the machine's, and nothing keeps it from being given out"})
			case h.Machine != id || h.State == AddressQuarantine:
				out[none] = append(out[none], Fault{Machine: id, Value: want.Value, Problem: fmt.Sprintf("is the machine's, and is %s for %q", h.State, h.Machine)})
			}
		}
	}
	return out
}

// placed is a placement as holdings, without their states.
func placed(p Placement) (out []Holding) {
	if p.IsZero() {
		return nil
	}
	for _, a := range []Holding{{Role: "private", Value: addrText(p.Private)}, {Role: "public", Value: addrText(p.Public)}} {
		if a.Value != "" {
			a.Kind, a.Scope = SightedAddress, p.Pool
			out = append(out, a)
		}
	}
	out = append(out, Holding{Kind: SightedMAC, Scope: p.Pool, Value: p.MAC})
	if p.Console != "" {
		out = append(out, Holding{Kind: SightedPort, Scope: p.Console, Value: strconv.Itoa(int(p.ConsolePort))})
	}
	return out
}

func underPrefix(prefix, mac string) bool { return strings.HasPrefix(mac, prefix+":") }

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func consoleGroups(estate *Estate) (ids []string) {
	for _, p := range estate.Pools {
		for _, id := range p.Console {
			ids = appendNew(ids, id)
		}
	}
	return ids
}
