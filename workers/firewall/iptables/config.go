package iptables

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// Config is what a firewall's rules depend on besides the machines. All prefixes are IPv4 and masked.
type Config struct {
	// Private and Public are the ranges that slipway assigns from. Whatever is sent to them and not let in by a machine's rules is
	// dropped, and so is whatever claims to come from them and is no machine's address. Private is required.
	Private, Public []netip.Prefix
	// Foreign lists addresses, mostly inside the ranges, that are not slipway's: gateways, the site's own servers. Rules after ours
	// decide about traffic to and from them; they need no machine's permission to send, and get none to reach a machine.
	Foreign []netip.Prefix
	// InsideInterfaces are where the machines are, and nothing else but Foreign ("xenbr1", or "vlan+" for every name that begins so).
	// With them, a source is believed only on the right side of the firewall. Without them only unknown sources in the ranges are dropped.
	InsideInterfaces []string
	// ARP, when given, makes the firewall answer ARP for the public addresses in its ranges, which nobody routes to it.
	ARP *Delivery
}

// interfaceName is a kernel interface name (IFNAMSIZ 16 with its final zero) without the characters that iptables-save would quote.
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,13}[A-Za-z0-9+]?$`)

// Validate reports every fault: field, problem and fix.
func (c Config) Validate() error {
	var errs []error
	if len(c.Private) == 0 {
		errs = append(errs, errors.New("private: no range; give the prefixes that machines' addresses come from"))
	}
	var seen []netip.Prefix
	for _, group := range []struct {
		field    string
		prefixes []netip.Prefix
		shortest int // anything wider is a slip, and would drop what is not ours
	}{{"private", c.Private, 8}, {"public", c.Public, 8}, {"foreign", c.Foreign, 1}} {
		for i, p := range group.prefixes {
			field := fmt.Sprintf("%s[%d]", group.field, i)
			if err := validPrefix(p, group.shortest); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", field, err))
				continue
			}
			if group.field == "foreign" {
				continue
			}
			for _, other := range seen {
				if other.Overlaps(p) {
					errs = append(errs, fmt.Errorf("%s: %s overlaps %s; name each address once", field, p, other))
				}
			}
			seen = append(seen, p)
		}
	}
	if c.ARP != nil {
		errs = append(errs, c.ARP.validate(c.Public)...)
	}
	for i, name := range c.InsideInterfaces {
		if !interfaceName.MatchString(name) {
			errs = append(errs, fmt.Errorf("inside_interfaces[%d]: %q is no interface name; up to 15 of letters, digits, . _ - and a + at the end", i, name))
		}
	}
	return errors.Join(errs...)
}

func (d Delivery) validate(public []netip.Prefix) (errs []error) {
	if d.Members < 1 {
		errs = append(errs, fmt.Errorf("arp.members: %d; give the number of firewalls that carry the state", d.Members))
	}
	for i, r := range d.Ranges {
		inside := func(p netip.Prefix) bool { return p.Contains(r.First) && p.Contains(r.Last) }
		if !r.First.Is4() || !r.Contains(r.Last) || !slices.ContainsFunc(public, inside) {
			errs = append(errs, fmt.Errorf("arp.ranges[%d]: %s is in none of the public ranges %v", i, r, public))
		}
	}
	return errs
}

func validPrefix(p netip.Prefix, shortest int) error {
	switch {
	case !p.IsValid():
		return errors.New("not a prefix; write it as 192.0.2.0/24")
	case !p.Addr().Is4():
		return fmt.Errorf("%s is not IPv4, the only family served", p)
	case p != p.Masked():
		return fmt.Errorf("%s has bits beyond its length; write %s", p, p.Masked())
	case p.Bits() < shortest:
		return fmt.Errorf("%s is wider than /%d; name the addresses that are meant", p, shortest)
	}
	return nil
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
