package orchestrator

import (
	"context"
	"net/netip"
)

// Kinds of a Sighting.
const (
	SightedAddress = "address"
	SightedMAC     = "mac"
	SightedPort    = "port"
)

// Sighting is an address, a MAC or a console port that somebody else's thing has, as a scan met it. Several may be about one value: a VM and
// a host block have the same address. Source, Object, Kind, Scope and Value together name it; the rest is for people and may change.
type Sighting struct {
	Kind  string // one of the constants above
	Scope string // the pool of an address or a MAC, the console group of a port
	Value string // as netip.Addr and the ledger write it; a port in decimal
	Role  string // of an address: "private" or "public"

	Source string // what was scanned: "pool pool-a", "dhcp-a/dhcp-1" (group and member)
	Object string // what has it, by a name that an edit elsewhere does not change: "VM 1b6c…", "host printer"
	Name   string // as its owner calls it
	Place  string // where it stands: "/etc/dhcp/dhcpd.conf line 12"
	Peer   string // the address to which a rule translates this one, "" for none
}

// What a scan makes of a sighting.
const (
	SightingNew      = "new"      // nobody's yet: it is, or would be, reserved as foreign
	SightingKnown    = "known"    // reserved as foreign before, and seen there before
	SightingOwn      = "own"      // everything that the object has is one machine's: what is left of it from before its import
	SightingConflict = "conflict" // a machine of ours has it; nothing is changed
)

// Verdict is a sighting and what becomes of it.
type Verdict struct {
	Sighting
	State   string
	Machine string // whose it is, for SightingOwn and SightingConflict; who had it, for a value that rests
}

// Scanned is what one scan of a source came to.
type Scanned struct {
	Verdicts []Verdict  // in the order of the sightings
	Gone     []Sighting // seen at this source before and not now: still reserved until an operator frees them
}

// Strangers keeps what on a site is somebody else's.
type Strangers interface {
	// Reserve takes in what a scan of a source found: values that are nobody's, or that only rest after a machine that is absent, become
	// foreign in the ledger. What a machine has is never touched. With dry nothing is written; the answer is the same. What was found
	// before changes nothing.
	Reserve(ctx context.Context, source string, found []Sighting, dry bool, actor, reason string) (Scanned, error)
	// Sightings are all that are kept, by scope, kind and value.
	Sightings(ctx context.Context) ([]Sighting, error)
	// Foreign lists what is reserved as foreign, whether a scan met it or an operator said so.
	Foreign(ctx context.Context) ([]ForeignValue, error)
	// Free takes such a reservation away, with its sightings. ErrNotFound when the value is not foreign.
	Free(ctx context.Context, kind, scope, value, actor, reason string) error
}

// ForeignValue is a reservation of somebody else's.
type ForeignValue struct {
	Kind, Scope, Value string
	Note               string // an operator's word, of an address
}

// Stranger is a VM of a pool that is not slipway's.
type Stranger struct {
	VM
	Snapshot bool
	Control  bool   // a control domain
	Tag      string // the machine whose tag it carries, "" for none
	Card     string // what was kept with the tag
	Busy     string // an operation under way, "" for none
	// Allowed are the addresses that the interfaces' locking lets them use, by device, where it is set.
	Allowed map[string][]netip.Addr
}

// Addresses are all that an interface is known to have: by its guest, and by what its locking allows.
func (s Stranger) Addresses(vif VIF) []netip.Addr {
	addrs := append([]netip.Addr(nil), vif.Addresses...)
	for _, a := range s.Allowed[vif.Device] {
		addrs = appendNew(addrs, a)
	}
	return addrs
}

func appendNew[T comparable](list []T, v T) []T {
	for _, have := range list {
		if have == v {
			return list
		}
	}
	return append(list, v)
}
