package orchestrator

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Ledger is what has been promised and what there is to promise, as one transaction sees it. The store loads it under its ledger lock;
// Place reads it and writes into it, so that several decisions can share one load.
type Ledger struct {
	Pools     map[string]*PoolLedger
	MACs      map[string]bool            // taken: ours, resting, or in any VIF of any pool
	Ports     map[string]map[uint16]bool // console group → taken ports
	Addresses map[netip.Addr]bool        // taken: ours, resting or foreign
	// ForeignAddresses and ForeignMACs are those of the taken ones that are somebody else's.
	ForeignAddresses map[netip.Addr]bool
	ForeignMACs      map[string]bool
	Groups           map[string]Group
	Held             map[Subject]Hold // in maintenance
}

// PoolLedger is one pool's room.
type PoolLedger struct {
	Hosts     []HostLedger
	SRs       []SRLedger
	Templates map[string]string
	Machines  int
	// Unread is a pool that no worker has read since one of them started. Strange counts the machines whose VMs are in the pool with our tag and
	// that the store does not know: it may be an older copy, and what they have is not known to be theirs.
	Unread  bool
	Strange int
}

// HostLedger is one host's memory.
type HostLedger struct {
	HostInventory
	ReservedMiB int64
}

// SRLedger is one storage's room.
type SRLedger struct {
	SRInventory
	ReservedBytes int64
}

// Considered is one candidate of a placement and what became of it; `slipway explain` prints it.
type Considered struct {
	Pool   string `json:"pool"`
	Host   string `json:"host,omitempty"`
	SR     string `json:"sr,omitempty"`
	Filter string `json:"filter,omitempty"` // the filter that refused it, and why; "" when it passed
	Weight int64  `json:"weight,omitempty"` // higher is better
	Chosen bool   `json:"chosen,omitempty"`
}

// PlaceRequest is what a machine needs.
type PlaceRequest struct {
	Machine string
	Image   string
	Plan    Plan
	Pool    string // "" for any
	// Looking is a placement that will not be kept: of a pool whose addresses a service gives, they are taken for granted.
	Looking bool
	// Given is what the service of Pool gave.
	Given *Reservation
}

const gib = 1 << 30

// Place promises a machine everything it needs, or nothing: host memory, storage, the address pair, the MAC, the console port and its
// appliance groups. What it promises is written into the ledger. Kind Exhausted says which resource is missing; the considered
// candidates come back in both cases.
//
// Filters: the pool asked for, the image's template, an enabled host with enough free memory, a storage plugged there with enough room,
// free addresses, a free console port, groups below their capacity. Weight: the host's free memory after the promise (MiB), so that load
// spreads; equal ones in the order of pool and host.
func (l *Ledger) Place(estate *Estate, req PlaceRequest) (Placement, json.RawMessage, error) {
	var considered []Considered
	best, bestSR := -1, ""
	for _, pool := range estate.Pools {
		if why := l.older(estate); why != "" {
			considered = append(considered, Considered{Pool: pool.ID, Filter: why})
			continue
		}
		if req.Pool != "" && pool.ID != req.Pool {
			considered = append(considered, Considered{Pool: pool.ID, Filter: "the order names pool " + req.Pool})
			continue
		}
		if why := l.refusesPool(pool, req); why != "" {
			considered = append(considered, Considered{Pool: pool.ID, Filter: why})
			continue
		}
		for _, host := range l.Pools[pool.ID].Hosts {
			c := Considered{Pool: pool.ID, Host: host.UUID}
			free := host.MemoryMiB - host.ReservedMiB
			sr := l.storageFor(pool.ID, host.UUID, req.Plan)
			switch {
			case !host.Enabled:
				c.Filter = "host is disabled"
			case free < req.Plan.MemoryMiB:
				c.Filter = fmt.Sprintf("host has %d MiB free", free)
			case host.CPUs > 0 && host.CPUs < req.Plan.VCPUs:
				c.Filter = fmt.Sprintf("host has %d CPUs", host.CPUs)
			case sr == "":
				c.Filter = fmt.Sprintf("no storage with %d GiB free is plugged there", req.Plan.DiskGiB)
			default:
				c.Weight, c.SR = free-req.Plan.MemoryMiB, sr
				if best < 0 || c.Weight > considered[best].Weight {
					best, bestSR = len(considered), sr
				}
			}
			considered = append(considered, c)
		}
	}
	if best < 0 {
		return Placement{}, explain(considered), Errorf("place", Exhausted, "no room: %s", strings.Join(refusals(considered), "; "))
	}
	considered[best].Chosen = true
	pool, _ := estate.PoolByID(considered[best].Pool)
	placement := l.promise(pool, considered[best].Host, bestSR, req)
	return placement, explain(considered), nil
}

// older tells why nothing is given out while there are machines that the store does not know: any address, MAC or port may be one of theirs,
// in whatever pool.
func (l *Ledger) older(estate *Estate) string {
	for _, p := range estate.Pools {
		if known := l.Pools[p.ID]; known != nil && known.Strange > 0 {
			return fmt.Sprintf("the database may be an older copy: pool %s has VMs of %d machines that it does not know: slipway audit", p.ID, known.Strange)
		}
	}
	return ""
}

// Older reports whether some pool has machines of ours that the store does not know: it may have been put back from a backup, and nobody
// removes anything by its word.
func (l *Ledger) Older() bool {
	for _, p := range l.Pools {
		if p.Strange > 0 || p.Unread {
			return true
		}
	}
	return false
}

// refusesPool checks what does not depend on the host.
func (l *Ledger) refusesPool(pool Pool, req PlaceRequest) string {
	ledger, ok := l.Pools[pool.ID]
	if !ok || ledger.Unread {
		return "the pool has not been read yet"
	}
	if hold, held := l.Held[PoolSubject(pool.ID)]; held {
		return hold.String()
	}
	if !slices.Contains(pool.Images, req.Image) || ledger.Templates[req.Image] == "" {
		return "the pool has no template for " + req.Image
	}
	if pool.IPAM != "" {
		if req.Given == nil && !req.Looking {
			return "its address service " + pool.IPAM + " was not asked"
		}
	} else if !l.freeAddress(pool.Private).IsValid() {
		return "no private address is free"
	} else if pool.Strategy == NAT && !l.freeAddress(pool.Public).IsValid() {
		return "no public address is free"
	}
	if len(pool.DHCP) > 0 && l.lightest(pool.DHCP, nil) == "" {
		return "every DHCP group is full"
	}
	if l.lightest(pool.Firewall, nil) == "" {
		return "every firewall group is full"
	}
	if l.lightest(pool.Console, l.hasPort(pool)) == "" {
		return "no console port is free"
	}
	return ""
}

func (l *Ledger) storageFor(pool, host string, plan Plan) string {
	best, room := "", int64(-1)
	for _, sr := range l.Pools[pool].SRs {
		free := sr.Bytes - sr.ReservedBytes - plan.DiskGiB*gib
		if slices.Contains(sr.Hosts, host) && free >= 0 && free > room {
			best, room = sr.UUID, free
		}
	}
	return best
}

func (l *Ledger) promise(pool Pool, host, sr string, req PlaceRequest) Placement {
	ledger := l.Pools[pool.ID]
	for i := range ledger.Hosts {
		if ledger.Hosts[i].UUID == host {
			ledger.Hosts[i].ReservedMiB += req.Plan.MemoryMiB
		}
	}
	for i := range ledger.SRs {
		if ledger.SRs[i].UUID == sr {
			ledger.SRs[i].ReservedBytes += req.Plan.DiskGiB * gib
		}
	}
	ledger.Machines++
	p := Placement{Pool: pool.ID, Host: host, SR: sr}
	switch {
	case pool.IPAM != "" && req.Given != nil:
		p.Private, p.Public = req.Given.Private, req.Given.Public
		l.Addresses[p.Private] = true
		if p.Public.IsValid() {
			l.Addresses[p.Public] = true
		}
	case pool.IPAM != "": // only looking
	default:
		p.Private = l.takeAddress(pool.Private)
		if pool.Strategy == NAT {
			p.Public = l.takeAddress(pool.Public)
		}
	}
	p.MAC = l.takeMAC(pool.MACPrefix)
	l.takeGroups(pool, &p)
	return p
}

// takeGroups chooses the appliance groups of a placement, and its console port.
func (l *Ledger) takeGroups(pool Pool, p *Placement) {
	if len(pool.DHCP) > 0 {
		p.DHCP = l.takeGroup(pool.DHCP, nil)
	}
	p.Firewall = l.takeGroup(pool.Firewall, nil)
	p.Console = l.takeGroup(pool.Console, l.hasPort(pool))
	p.ConsolePort = l.freePort(p.Console, pool.ConsolePorts)
	if l.Ports[p.Console] == nil {
		l.Ports[p.Console] = map[uint16]bool{}
	}
	l.Ports[p.Console][p.ConsolePort] = true
}

// Follow moves the memory that a placed machine was promised to the host of its pool where it turned out to run. A host that the ledger does
// not know, or whose memory is promised to others by now, leaves the promise where it is: the machine runs there all the same, and nobody is
// promised what is not there.
func (l *Ledger) Follow(p Placement, plan Plan, host string) Placement {
	pool := l.Pools[p.Pool]
	if pool == nil || host == "" || host == p.Host {
		return p
	}
	at := func(uuid string) int {
		return slices.IndexFunc(pool.Hosts, func(h HostLedger) bool { return h.UUID == uuid })
	}
	to := at(host)
	if to < 0 || pool.Hosts[to].MemoryMiB-pool.Hosts[to].ReservedMiB < plan.MemoryMiB {
		return p
	}
	pool.Hosts[to].ReservedMiB += plan.MemoryMiB
	if from := at(p.Host); from >= 0 {
		pool.Hosts[from].ReservedMiB -= plan.MemoryMiB
	}
	p.Host = host
	return p
}

func (l *Ledger) freeAddress(s Subnet) netip.Addr {
	for _, r := range s.Ranges {
		for a := r.First; a.IsValid() && r.Contains(a); a = a.Next() {
			if !l.Addresses[a] && s.Gives(a) {
				return a
			}
		}
	}
	return netip.Addr{}
}

func (l *Ledger) takeAddress(s Subnet) netip.Addr {
	a := l.freeAddress(s)
	l.Addresses[a] = true
	return a
}

func (l *Ledger) takeMAC(prefix string) string {
	for n := range macTail {
		if mac := macAt(prefix, n); !l.MACs[mac] {
			l.MACs[mac] = true
			return mac
		}
	}
	return "" // 16 million machines under one prefix: the store's constraint refuses the empty MAC
}

func (l *Ledger) freePort(group string, r PortRange) uint16 {
	for port := int(r.First); port <= int(r.Last); port++ {
		if !l.Ports[group][uint16(port)] {
			return uint16(port)
		}
	}
	return 0
}

// hasPort tells the console groups that have a port left for a pool: a resting port is taken, though its machine is counted no more.
func (l *Ledger) hasPort(pool Pool) func(string) bool {
	return func(group string) bool { return l.freePort(group, pool.ConsolePorts) != 0 }
}

// lightest is the group with the most room, "" when all are full. fits may refuse further ones. One in maintenance comes after all others:
// what is promised there waits for its end.
func (l *Ledger) lightest(ids []string, fits func(string) bool) string {
	best := ""
	held := func(id string) int {
		if _, held := l.Held[GroupSubject(id)]; held {
			return 1
		}
		return 0
	}
	for _, id := range ids {
		g, ok := l.Groups[id]
		if !ok || g.Capacity > 0 && g.Entries >= g.Capacity || fits != nil && !fits(id) {
			continue
		}
		if best == "" || cmp.Or(cmp.Compare(held(id), held(best)), cmp.Compare(g.Entries, l.Groups[best].Entries)) < 0 {
			best = id
		}
	}
	return best
}

func (l *Ledger) takeGroup(ids []string, fits func(string) bool) string {
	id := l.lightest(ids, fits)
	g := l.Groups[id]
	g.Entries++
	l.Groups[id] = g
	return id
}

func refusals(considered []Considered) []string {
	seen := map[string]bool{}
	var out []string
	for _, c := range considered {
		line := c.Pool + ": " + c.Filter
		if !seen[line] && len(out) < 8 {
			seen[line] = true
			out = append(out, line)
		}
	}
	return out
}

// maxExplained bounds what the journal keeps of a decision; the chosen candidate is kept in any case.
const maxExplained = 64

func explain(considered []Considered) json.RawMessage {
	if len(considered) > maxExplained {
		all := considered
		considered = all[:maxExplained:maxExplained]
		for _, c := range all[maxExplained:] {
			if c.Chosen {
				considered = append(considered, c)
			}
		}
	}
	body, err := json.Marshal(considered)
	if err != nil {
		return nil
	}
	return body
}

// Free counts the addresses of a subnet that may still be given out.
func (l *Ledger) Free(s Subnet) int {
	n := 0
	for _, r := range s.Ranges {
		for a := r.First; a.IsValid() && r.Contains(a); a = a.Next() {
			if !l.Addresses[a] && s.Gives(a) {
				n++
			}
		}
	}
	return n
}
