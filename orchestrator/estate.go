package orchestrator

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"
)

// Estate is everything the operator has configured: pools, their networks and appliance groups, and the images that can be ordered.
// It is read once and not changed while a process runs.
type Estate struct {
	Pools  []Pool
	Images []string // keys of the post-install catalogue that serve has loaded
	// Quarantine is how long an address, MAC or console port rests after its machine is gone. 0 means 24 h.
	Quarantine time.Duration
	// Monitored machines are told to the site's monitoring.
	Monitored bool
}

// Strategy says how a pool's machines reach the world.
type Strategy string

const (
	// NAT (Ver1): a private address behind 1:1 NAT; the installer comes in through the public address.
	NAT Strategy = "nat"
	// Routed (Ver2): no NAT; the installer uses the address that the hypervisor reports for the VIF.
	Routed Strategy = "routed"
)

// Pool is one XenServer or XCP-ng pool and what belongs to it.
type Pool struct {
	ID       string
	Strategy Strategy
	Network  string   // XenAPI network uuid (or name in other_config) that the machines' VIF is on
	Images   []string // images this pool has a template for

	Private Subnet // the machines' own network
	Public  Subnet // 1:1 partners; zero under Routed

	// IPAM names the service that gives out this pool's addresses instead of us; "" is ourselves.
	IPAM string

	MACPrefix string // e.g. "02:16:3e"; unique to this installation

	DHCP, Firewall, Console []string // group ids; one of each is chosen per machine. No DHCP group: the pool's network is served by others
	ConsolePorts            PortRange

	// Installer is where the post-installer's connections come from, as the firewall sees them.
	Installer []netip.Prefix

	DNS DNS // zero: machines are not named
}

// Subnet is a network with the ranges that may be given out.
type Subnet struct {
	Prefix   netip.Prefix
	Gateway  netip.Addr
	Ranges   []AddressRange
	Reserved []netip.Addr // never given out, though in a range
	Delivery Delivery     // of public addresses
}

// Delivery says how packets to a pool's public addresses get to its firewall.
type Delivery string

const (
	// DeliveryRouted: the upstream routes the addresses to the firewall, which has nothing to announce. "" means the same.
	DeliveryRouted Delivery = "routed"
	// DeliveryARP: the upstream has the addresses on its own link and asks there; the active firewall answers.
	DeliveryARP Delivery = "arp"
)

// AddressRange is First to Last, both included.
type AddressRange struct{ First, Last netip.Addr }

// String is "10.0.0.10-10.0.0.99".
func (r AddressRange) String() string { return r.First.String() + "-" + r.Last.String() }

// Contains reports whether the address lies in the range.
func (r AddressRange) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// Gives reports whether the subnet may give out this address.
func (s Subnet) Gives(a netip.Addr) bool {
	return a != s.Gateway && !slices.Contains(s.Reserved, a) && slices.ContainsFunc(s.Ranges, func(r AddressRange) bool { return r.Contains(a) })
}

// PoolByID finds a pool.
func (e *Estate) PoolByID(id string) (Pool, bool) {
	for _, p := range e.Pools {
		if p.ID == id {
			return p, true
		}
	}
	return Pool{}, false
}

// QuarantineOrDefault is Quarantine, or 24 h.
func (e *Estate) QuarantineOrDefault() time.Duration {
	if e.Quarantine == 0 {
		return 24 * time.Hour
	}
	return e.Quarantine
}

// Check refuses an order that this estate can never carry out: an image or pool that it does not have. A refusal is FieldErrors.
func (e *Estate) Check(o Order) error {
	if o.Type != OrderInstall {
		return nil
	}
	var c fieldCheck
	if !slices.Contains(e.Images, o.Image) {
		c.add("image", fmt.Sprintf("%q is unknown", o.Image), "use one of "+strings.Join(sorted(e.Images), ", "))
	}
	if o.Pool != "" {
		pool, ok := e.PoolByID(o.Pool)
		switch {
		case !ok:
			ids := make([]string, len(e.Pools))
			for i, p := range e.Pools {
				ids[i] = p.ID
			}
			c.add("pool", fmt.Sprintf("%q is unknown", o.Pool), "use one of "+strings.Join(sorted(ids), ", ")+", or leave it out")
		case len(c.errs) == 0 && !slices.Contains(pool.Images, o.Image):
			c.add("image", fmt.Sprintf("pool %s has no template for %q", o.Pool, o.Image), "use one of "+strings.Join(sorted(pool.Images), ", ")+", or another pool")
		}
	} else if len(c.errs) == 0 && !slices.ContainsFunc(e.Pools, func(p Pool) bool { return slices.Contains(p.Images, o.Image) }) {
		c.add("image", fmt.Sprintf("no pool has a template for %q", o.Image), "publish the template to a pool first")
	}
	if len(c.errs) == 0 {
		return nil
	}
	return c.errs
}

// Validate checks the estate itself; a refusal is FieldErrors whose fields are configuration keys.
func (e *Estate) Validate() error {
	var c fieldCheck
	if len(e.Pools) == 0 {
		c.add("pools", "is empty", "describe at least one pool")
	}
	type owned struct {
		field  string
		prefix netip.Prefix
	}
	var subnets []owned
	seen := map[string]bool{}
	prefixes := map[string]string{}
	for _, p := range e.Pools {
		field := "pools." + p.ID
		c.label(field, p.ID)
		if seen[p.ID] {
			c.add(field, "is there twice", "give each pool a name of its own")
		}
		seen[p.ID] = true
		switch p.Strategy {
		case NAT:
			p.Public.validate(&c, field+".public", p.IPAM == "")
			if d := p.Public.Delivery; d != "" && d != DeliveryRouted && d != DeliveryARP {
				c.add(field+".public.delivery", fmt.Sprintf("%q is unknown", clip(string(d))), "use routed or arp")
			}
			subnets = append(subnets, owned{field + ".public", p.Public.Prefix})
		case Routed:
			if p.Public.Prefix.IsValid() {
				c.add(field+".public", "has no meaning for a routed pool", "leave it out")
			}
		default:
			c.add(field+".strategy", fmt.Sprintf("%q is unknown", clip(string(p.Strategy))), "use nat or routed")
		}
		p.Private.validate(&c, field+".private", p.IPAM == "")
		if p.Private.Delivery != "" {
			c.add(field+".private.delivery", "has a meaning for public addresses alone", "leave it out")
		}
		subnets = append(subnets, owned{field + ".private", p.Private.Prefix})
		if _, err := ParseMACPrefix(p.MACPrefix); err != nil {
			c.add(field+".mac_prefix", err.Error(), "write three bytes such as 02:16:3e")
		}
		if other, ok := prefixes[p.MACPrefix]; ok && other != p.MACPrefix {
			c.add(field+".mac_prefix", "differs only in case", "write lower case")
		}
		prefixes[strings.ToLower(p.MACPrefix)] = p.MACPrefix
		if len(p.Firewall) == 0 {
			c.add(field+".firewall", "is missing", "name at least one firewall group")
		}
		if len(p.Console) == 0 {
			c.add(field+".console", "is missing", "name at least one console group")
		}
		if p.ConsolePorts.First < 1024 || p.ConsolePorts.First > p.ConsolePorts.Last {
			c.add(field+".console_ports", fmt.Sprintf("%q is not a usable range", p.ConsolePorts), "use ports from 1024 up, such as 20000-20999")
		}
		if len(p.Installer) == 0 {
			c.add(field+".installer", "is missing", "name the addresses the post-installer connects from")
		}
		p.DNS.validate(&c, field+".dns")
	}
	for i, a := range subnets {
		for _, b := range subnets[:i] {
			if a.prefix.IsValid() && b.prefix.IsValid() && a.prefix != b.prefix && a.prefix.Overlaps(b.prefix) {
				c.add(a.field+".prefix", fmt.Sprintf("%s overlaps %s of %s", a.prefix, b.prefix, b.field), "give each subnet a prefix of its own, or share one exactly")
			}
		}
	}
	if len(c.errs) == 0 {
		return nil
	}
	return c.errs
}

// validate needs ranges where the addresses are ours to give.
func (s Subnet) validate(c *fieldCheck, field string, ranges bool) {
	if !s.Prefix.IsValid() {
		c.add(field+".prefix", "is missing", "write one such as 10.0.0.0/24")
		return
	}
	if !s.Prefix.Addr().Is4() {
		c.add(field+".prefix", "is IPv6, which is not served yet", "use an IPv4 prefix")
		return
	}
	if s.Prefix != s.Prefix.Masked() {
		c.add(field+".prefix", "has bits beyond its length", "write "+s.Prefix.Masked().String())
	}
	if ranges && len(s.Ranges) == 0 {
		c.add(field+".ranges", "is missing", "name the addresses that may be given out, e.g. 10.0.0.10-10.0.0.250")
	}
	if s.Gateway.IsValid() && !s.Prefix.Contains(s.Gateway) {
		c.add(field+".gateway", fmt.Sprintf("%s is not in %s", s.Gateway, s.Prefix), "use an address of the prefix")
	}
	network, broadcast := s.Prefix.Masked().Addr(), lastAddress(s.Prefix)
	for i, r := range s.Ranges {
		at := fmt.Sprintf("%s.ranges[%d]", field, i)
		switch {
		case !r.First.IsValid() || !r.Last.IsValid() || r.Last.Less(r.First):
			c.add(at, "is not a range", "write first-last")
		case !s.Prefix.Contains(r.First) || !s.Prefix.Contains(r.Last):
			c.add(at, fmt.Sprintf("%s leaves %s", r, s.Prefix), "stay inside the prefix")
		case s.Prefix.Bits() < 31 && (r.Contains(network) || r.Contains(broadcast)):
			c.add(at, fmt.Sprintf("%s holds the network or broadcast address", r), "leave the first and last address of the prefix out")
		}
	}
}

func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	sort.Strings(s)
	return s
}
