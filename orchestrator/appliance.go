package orchestrator

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Unit is one kind of configuration on an appliance: what an apply replaces as a whole.
type Unit string

const (
	DHCP     Unit = "dhcp"
	Firewall Unit = "firewall"
	Console  Unit = "console"
)

// Units lists every unit.
func Units() []Unit { return []Unit{DHCP, Firewall, Console} }

// Group is a set of appliances that carry the same desired state for one unit (a pair of DHCP servers, a firewall and its standby).
type Group struct {
	ID   string // operator's name, e.g. "dhcp-a"
	Unit Unit
	// Generation rises with every change of the group's entries; Applied is the newest one that MinApplied members have confirmed.
	Generation, Applied int64
	MinApplied          int // members that must have confirmed before a generation counts; 1..len(members)
	Capacity            int // entries this group takes at most; 0 is unbounded
	Entries             int // machines assigned now
	// Held is the group's maintenance in words: nothing is applied to any of its members; "" when there is none.
	Held string
}

// Entry is one machine's part of a group's desired state. Body is a DHCPHost, FirewallEntry or ConsoleEntry as JSON, by the group's unit.
type Entry struct {
	Group      string
	Machine    string
	Owner      string // OwnerSlipway or OwnerForeign; a foreign entry is never rendered
	Generation int64  // the generation that brought this text, or its removal
	Removed    bool   // gone from the desired state; kept until a generation without it has been applied
	Body       json.RawMessage
	// Live is the text that was last confirmed on an appliance, nil for an entry that never was: a new entry that breaks the file is taken
	// out, a live one keeps this text.
	Live json.RawMessage
	// Bad is the tool's line when Body broke the file; Body stays out of the render until it changes.
	Bad string
	// Backend is whose the entry of a console group is: what is ConsoleGateway's is not rendered for the group's appliances.
	Backend ConsoleBackend
}

// EntryState is what a step asks about its machine's entry in a group.
type EntryState struct {
	Found      bool
	Removed    bool
	Generation int64 // the entry's
	Applied    int64 // the group's
	Bad        string
	Body       json.RawMessage
	Problem    string // why the group does not get on, "" when it does
}

// IsApplied reports whether enough members of the group carry the entry (or its removal). An entry that is not found has no trace left.
func (s EntryState) IsApplied() bool { return !s.Found || s.Generation <= s.Applied }

// Owners of addresses, MACs, ports and rows.
const (
	OwnerSlipway = "slipway"
	OwnerForeign = "foreign"
)

// DHCPHost is the body of an entry in a DHCP group: one host block.
type DHCPHost struct {
	Machine  string     `json:"machine"` // uuid; names the block
	MAC      string     `json:"mac"`     // lower case, colons
	Address  netip.Addr `json:"address"`
	Hostname string     `json:"hostname"`
}

// FirewallPhase says whose rules an entry carries.
type FirewallPhase string

const (
	// PhaseInstaller: NAT, and only the installer's sources may come in.
	PhaseInstaller FirewallPhase = "installer"
	// PhaseCustomer: the customer's rules; the installer's rule is gone.
	PhaseCustomer FirewallPhase = "customer"
	// PhaseSuspended: nothing passes, in or out; NAT stays, so that nobody else is given the addresses.
	PhaseSuspended FirewallPhase = "suspended"
)

// FirewallEntry is the body of an entry in a firewall group: one machine's filter and NAT.
type FirewallEntry struct {
	Machine   string         `json:"machine"`
	Private   netip.Addr     `json:"private"`
	Public    netip.Addr     `json:"public,omitzero"` // 1:1 NAT partner; the zero Addr for a routed machine
	Phase     FirewallPhase  `json:"phase"`
	Installer []netip.Prefix `json:"installer,omitempty"` // sources of the post-installer; in PhaseCustomer while it changes the guest
	Ports     []uint16       `json:"ports,omitempty"`     // ports the post-installer needs (22 or 5986), with Installer
	Rules     []FirewallRule `json:"rules,omitempty"`     // PhaseCustomer only
}

// FirewallRule is one thing a customer lets in. Everything else that goes to the machine is dropped.
type FirewallRule struct {
	Protocol string       `json:"protocol"`        // "tcp", "udp" or "icmp"
	Source   netip.Prefix `json:"source"`          // who may come; 0.0.0.0/0 is everybody
	Ports    []PortRange  `json:"ports,omitempty"` // destination ports; required for tcp and udp, forbidden for icmp
}

// PortRange is First to Last, both included, 1..65535. In JSON it is "22" or "8000-8080".
type PortRange struct{ First, Last uint16 }

// ConsoleEntry is the body of an entry in a console group: one VM line of an xvp host.
type ConsoleEntry struct {
	Machine string `json:"machine"`
	Pool    string `json:"pool"` // pool id; the group's configuration knows its hosts and account
	VM      string `json:"vm"`   // XenAPI uuid
	Port    uint16 `json:"port"` // TCP, unique on the host
	// Password is sealed (base64) in the store. The applier opens it and hands the renderer xvp's own encryption of it (16 hex digits),
	// which is obfuscation only: rendered files are handled as secrets.
	Password string `json:"password"`
}

// Member is one appliance of a group.
type Member struct {
	Group, Name string
	Applied     int64  // newest generation it confirmed
	SHA256      string // of the files it confirmed
	Dirty       bool   // it missed an apply and must catch up before it counts
	Halted      string // why nothing more is applied here until an operator says so; "" when it goes on
	Problem     string // the last failure, "" after a success
	SeenAt      time.Time
	Held        string // its maintenance in words: it is left out of applies and not counted; "" when there is none
}

// Without leaves out the members in maintenance: the others are enough for a generation to count. standing is how many those are.
func (g Group) Without(members []Member) (_ Group, standing int) {
	for _, m := range members {
		if m.Held == "" {
			standing++
		}
	}
	g.MinApplied = max(1, min(g.MinApplied, standing))
	return g, standing
}
