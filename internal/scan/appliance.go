package scan

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// Appliance looks through what a member of a group has around our part.
//
//   - a host block: its MAC and its addresses;
//   - a range that dhcpd gives to anybody: those of its addresses that a pool might give out;
//   - a rule: each single address that it names; of a network or a span that it translates, what a pool might give out. A filter rule about
//     a whole network says nothing of whose its addresses are;
//   - a console: its port.
func Appliance(estate *orchestrator.Estate, group, member string, survey apply.Survey) Found {
	g := gathering{estate: estate, near: PoolsOf(estate, group), source: MemberSource(group, member)}
	home := ""
	if len(g.near) > 0 {
		home = g.near[0]
	}
	for _, h := range survey.Hosts {
		s := orchestrator.Sighting{Object: "host " + h.Name, Name: h.Name, Place: h.Place.String()}
		g.mac(h.MAC, home, s)
		for _, a := range h.Addresses {
			g.address(a, s)
		}
	}
	for _, r := range survey.Ranges {
		g.span(r.First, r.Last, orchestrator.Sighting{Object: fmt.Sprintf("range %s-%s", r.First, r.Last), Place: r.Place.String()})
	}
	for _, r := range survey.Rules {
		g.rule(r)
	}
	for _, c := range survey.Consoles {
		s := orchestrator.Sighting{Kind: orchestrator.SightedPort, Scope: group, Value: strconv.Itoa(int(c.Port)), Object: "multiplex port", Place: c.Place.String()}
		if c.VM != "" {
			s.Object, s.Name = fmt.Sprintf("console of %s in %s", c.VM, c.Pool), c.VM
		}
		if c.Port != 0 {
			g.add(s)
		}
	}
	return g.out
}

// PoolsOf are the pools that use a group, in the order of the configuration.
func PoolsOf(estate *orchestrator.Estate, group string) []string {
	var ids []string
	for _, p := range estate.Pools {
		if slices.Contains(slices.Concat(p.DHCP, p.Firewall, p.Console), group) {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

func (g *gathering) rule(r apply.SurveyedRule) {
	s := orchestrator.Sighting{Object: fmt.Sprintf("%s %s: %s", r.Table, r.Chain, r.Text), Name: r.Chain, Place: fmt.Sprintf("%s %s rule %d", r.Table, r.Chain, r.Number)}
	from, to, pair := pairOf(r)
	for _, p := range r.Prefixes {
		one := s
		switch {
		case p.Bits() == 32:
			if pair && p.Addr() == from {
				one.Peer = to.String()
			}
			g.address(p.Addr(), one)
		case r.Table == "nat" && len(r.To)+len(r.Prefixes) > 1:
			g.span(p.Masked().Addr(), lastOf(p), one)
		}
	}
	for _, t := range r.To {
		one := s
		if t.First != t.Last {
			g.span(t.First, t.Last, one)
			continue
		}
		if pair {
			one.Peer = from.String()
		}
		g.address(t.First, one)
	}
}

// pairOf tells the one address that a rule translates and the one that it translates it to.
func pairOf(r apply.SurveyedRule) (from, to netip.Addr, ok bool) {
	var singles []netip.Addr
	for _, p := range r.Prefixes {
		if p.Bits() == 32 {
			singles = append(singles, p.Addr())
		}
	}
	if r.Table != "nat" || len(singles) != 1 || len(r.To) != 1 || r.To[0].First != r.To[0].Last || singles[0] == r.To[0].First {
		return netip.Addr{}, netip.Addr{}, false
	}
	return singles[0], r.To[0].First, true
}

// span adds those addresses of first to last that a pool might give out. The pools' own ranges bound the work.
func (g *gathering) span(first, last netip.Addr, s orchestrator.Sighting) {
	done := map[netip.Addr]bool{}
	for _, p := range g.estate.Pools {
		for _, subnet := range []orchestrator.Subnet{p.Private, p.Public} {
			for _, r := range subnet.Ranges {
				for a := later(r.First, first); a.IsValid() && r.Contains(a) && !last.Less(a); a = a.Next() {
					if len(done) >= maxSightings {
						return
					}
					if subnet.Gives(a) && !done[a] {
						done[a] = true
						g.address(a, s)
					}
				}
			}
		}
	}
}

func later(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}
