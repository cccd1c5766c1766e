package orchestrator

import (
	"fmt"
	"net/netip"
	"strings"
)

// DNS says where a pool's machines are named. The zero value is nowhere. Zones are written without the final dot.
type DNS struct {
	Zone    string
	Reverse []ReverseZone
}

// ReverseZone holds the pointers of a prefix: a whole in-addr.arpa or ip6.arpa zone, or by RFC 2317 a zone of any name to which the parent
// zone's CNAMEs lead ("64/26.113.0.203.in-addr.arpa").
type ReverseZone struct {
	Prefix netip.Prefix
	Zone   string
}

// NameRecord is a machine in the DNS: a name that has its address, and where there is a reverse zone a pointer back. Names are lower case
// and without the final dot. The zero value is no name.
type NameRecord struct {
	Pool        string     `json:"pool"` // whose server and key
	Zone        string     `json:"zone"`
	Name        string     `json:"name"`
	Address     netip.Addr `json:"address"`
	ReverseZone string     `json:"reverse_zone,omitempty"`
	Pointer     string     `json:"pointer,omitempty"` // the name that has the PTR
}

// IsZero reports whether there is no name.
func (r NameRecord) IsZero() bool { return r.Name == "" }

func (r NameRecord) String() string {
	if r.Pointer == "" {
		return fmt.Sprintf("%s is %s", r.Name, r.Address)
	}
	return fmt.Sprintf("%s is %s and back", r.Name, r.Address)
}

// NameOf is the record that a placed machine of the pool gets: under its hostname, for the address that the world reaches it at. Where it
// gets none, why says so.
func NameOf(p Pool, m Machine) (record NameRecord, why string) {
	if p.DNS.Zone == "" {
		return NameRecord{}, "the pool has no DNS zone"
	}
	name := m.Hostname
	if !strings.Contains(name, ".") {
		name += "." + p.DNS.Zone
	}
	if !strings.HasSuffix(name, "."+p.DNS.Zone) {
		return NameRecord{}, fmt.Sprintf("%s is not in the pool's zone %s", name, p.DNS.Zone)
	}
	if problem := hostnameProblem(name); problem != "" {
		return NameRecord{}, fmt.Sprintf("%s cannot be in the DNS: %s", printable(name), problem)
	}
	address := m.Placement.Public
	if !address.IsValid() {
		address = m.Placement.Private
	}
	record = NameRecord{Pool: p.ID, Zone: p.DNS.Zone, Name: name, Address: address}
	if zone, ok := p.DNS.reverse(address); ok {
		record.ReverseZone, record.Pointer = zone.Zone, zone.pointer(address)
	}
	return record, ""
}

// reverse is the zone of the longest prefix that holds the address.
func (d DNS) reverse(a netip.Addr) (found ReverseZone, ok bool) {
	for _, z := range d.Reverse {
		if z.Prefix.Contains(a) && (!ok || z.Prefix.Bits() > found.Prefix.Bits()) {
			found, ok = z, true
		}
	}
	return found, ok
}

// pointer is the name in the zone that stands for an address. In a zone that is not above the address's own name, as RFC 2317 has them, it is
// the last label of that name.
func (z ReverseZone) pointer(a netip.Addr) string {
	full := reverseName(a)
	if strings.HasSuffix(full, "."+z.Zone) {
		return full
	}
	label, _, _ := strings.Cut(full, ".")
	return label + "." + z.Zone
}

// reverseName is the address in in-addr.arpa or ip6.arpa.
func reverseName(a netip.Addr) string {
	var b strings.Builder
	bytes := a.Unmap().AsSlice()
	for i := len(bytes) - 1; i >= 0; i-- {
		if len(bytes) == 4 {
			fmt.Fprintf(&b, "%d.", bytes[i])
		} else {
			fmt.Fprintf(&b, "%x.%x.", bytes[i]&15, bytes[i]>>4)
		}
	}
	if len(bytes) == 4 {
		return b.String() + "in-addr.arpa"
	}
	return b.String() + "ip6.arpa"
}

func (d DNS) validate(c *fieldCheck, field string) {
	if d.Zone == "" {
		if len(d.Reverse) > 0 {
			c.add(field+".zone", "is missing", "name the zone that the pointers lead to")
		}
		return
	}
	c.zone(field+".zone", d.Zone)
	for i, z := range d.Reverse {
		at := fmt.Sprintf("%s.reverse[%d]", field, i)
		c.zone(at+".zone", z.Zone)
		if !z.Prefix.IsValid() || z.Prefix != z.Prefix.Masked() {
			c.add(at+".prefix", "is not a network", "write one such as 198.51.100.0/24")
			continue
		}
		first, last := reverseName(z.Prefix.Addr()), reverseName(lastAddress(z.Prefix))
		above := strings.HasSuffix(first, "."+z.Zone) && strings.HasSuffix(last, "."+z.Zone)
		shared := commonParent(first, last)
		standard := strings.HasSuffix(z.Zone, ".in-addr.arpa") || strings.HasSuffix(z.Zone, ".ip6.arpa")
		switch {
		case above:
		case z.Prefix.Addr().Is4() && z.Prefix.Bits() < 24, z.Prefix.Addr().Is6() && z.Prefix.Bits() < 124:
			c.add(at+".zone", fmt.Sprintf("%s does not hold all of %s", z.Zone, z.Prefix), "name the zone "+shared+", or split the prefix")
		case standard && !strings.HasSuffix(z.Zone, "."+shared):
			c.add(at+".zone", fmt.Sprintf("%s is another network's", z.Zone), "name the zone "+shared+", or one delegated from it")
		}
	}
}

// commonParent is the longest common ending of two names, in whole labels.
func commonParent(a, b string) string {
	for a != b {
		_, restA, okA := strings.Cut(a, ".")
		_, restB, okB := strings.Cut(b, ".")
		if !okA || !okB {
			return ""
		}
		a, b = restA, restB
	}
	return a
}
