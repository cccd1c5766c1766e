// Package scan turns what is read of a site into sightings: which addresses, MACs and console ports somebody else's things have. It decides
// nothing: what becomes of a sighting is the store's to say, which knows what is ours. Everything that comes in was written by strangers.
package scan

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"slipway/orchestrator"
)

// Found is what a scan of one source met.
type Found struct {
	Sightings []orchestrator.Sighting
	Elsewhere int // addresses outside of every pool's networks: they can never be given out
}

// maxSightings bounds one source. 10,000 VMs with their MACs and addresses are 20,000.
const maxSightings = 200_000

// PoolSource and MemberSource name what was scanned.
func PoolSource(pool string) string            { return "pool " + pool }
func MemberSource(group, member string) string { return group + "/" + member }

// gathering is a source being looked through.
type gathering struct {
	estate *orchestrator.Estate
	near   []string // pools that are looked in first when several have one network
	source string
	out    Found
}

func (g *gathering) add(s orchestrator.Sighting) {
	if len(g.out.Sightings) < maxSightings {
		s.Source, s.Object, s.Name, s.Place = g.source, printable(s.Object), printable(s.Name), printable(s.Place)
		g.out.Sightings = append(g.out.Sightings, s)
	}
}

// address adds one that lies in a pool's network.
func (g *gathering) address(a netip.Addr, s orchestrator.Sighting) {
	a = a.Unmap()
	pool, role, ok := networkOf(g.estate, g.near, a)
	if !ok {
		g.out.Elsewhere++
		return
	}
	s.Kind, s.Scope, s.Value, s.Role = orchestrator.SightedAddress, pool, a.String(), role
	g.add(s)
}

// mac adds a MAC; what is none is left out.
func (g *gathering) mac(text, pool string, s orchestrator.Sighting) {
	hw, err := net.ParseMAC(text)
	if err != nil || len(hw) != 6 || slices.Max(hw) == 0 {
		return
	}
	s.Kind, s.Scope, s.Value = orchestrator.SightedMAC, pool, hw.String()
	g.add(s)
}

// networkOf finds the pool in whose private or public network an address lies; of several with the same network the first that is near.
func networkOf(estate *orchestrator.Estate, near []string, a netip.Addr) (pool, role string, ok bool) {
	pools := slices.Clone(estate.Pools)
	slices.SortStableFunc(pools, func(x, y orchestrator.Pool) int { return far(near, x.ID) - far(near, y.ID) })
	for _, p := range pools {
		for role, s := range map[string]orchestrator.Subnet{"private": p.Private, "public": p.Public} {
			if s.Prefix.IsValid() && s.Prefix.Contains(a) {
				return p.ID, role, true
			}
		}
	}
	return "", "", false
}

func far(near []string, pool string) int {
	if slices.Contains(near, pool) {
		return 0
	}
	return 1
}

// Pool looks through the VMs of a pool.
func Pool(estate *orchestrator.Estate, pool string, strangers []orchestrator.Stranger) Found {
	g := gathering{estate: estate, near: []string{pool}, source: PoolSource(pool)}
	for _, vm := range strangers {
		for _, vif := range vm.VIFs {
			s := orchestrator.Sighting{Object: "VM " + vm.UUID, Name: vm.Name, Place: fmt.Sprintf("interface %s, %s", vif.Device, vm.Power)}
			g.mac(vif.MAC, pool, s)
			for _, a := range vm.Addresses(vif) {
				if a.Is4() || a.Is4In6() {
					g.address(a, s)
				}
			}
		}
	}
	return g.out
}

// maxWords bounds what strangers call their things.
const maxWords = 200

// printable is one bounded line.
func printable(s string) string { return orchestrator.OneLine(s, maxWords) }
