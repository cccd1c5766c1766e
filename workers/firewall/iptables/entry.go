package iptables

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"

	"slipway/orchestrator"
)

// maxAccepts bounds the rules of one machine after sources and ports are multiplied out: each is walked for every new connection.
const maxAccepts = 512

// EntryError is an entry that is not rendered, because of itself or because of another machine's.
type EntryError struct {
	Machine string
	Other   string // the machine that has the same address; "" when the entry is wrong by itself
	Field   string
	Problem string
}

func (e *EntryError) Error() string {
	if e.Other != "" {
		return fmt.Sprintf("machines %s and %s: %s: %s", e.Machine, e.Other, e.Field, e.Problem)
	}
	return fmt.Sprintf("machine %q: %s: %s", e.Machine, e.Field, e.Problem)
}

// EntryErrors lists every entry that Render refused; none for a fault of the configuration or the template.
func EntryErrors(err error) []*EntryError {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var found []*EntryError
		for _, e := range joined.Unwrap() {
			found = append(found, EntryErrors(e)...)
		}
		return found
	}
	if one := (*EntryError)(nil); errors.As(err, &one) {
		return []*EntryError{one}
	}
	return nil
}

// machine is what the template sees of an entry.
type machine struct {
	ID, Chain       string
	Private, Public netip.Addr
	Accepts         []accept
	Blocked         bool // nothing passes in either direction
}

// accept is one rule that lets something in. Source and Port are "" for any.
type accept struct{ Source, Protocol, Port string }

var machineID = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// chainOf names a machine's chain. iptables takes 28 characters, a uuid has 36: the chain carries a hash, the rule that jumps there the
// id as its comment.
func chainOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return machinePrefix + hex.EncodeToString(sum[:9])
}

// machinesOf checks every entry and every pair, and returns the machines in the order of their private addresses. All faults are
// reported, each an *EntryError.
func machinesOf(cfg Config, entries []orchestrator.FirewallEntry) ([]machine, error) {
	var errs []error
	owner := make(map[netip.Addr]string, 2*len(entries)) // of both addresses: one machine's private may not be another's public
	chains := make(map[string]string, len(entries))
	private := make(map[netip.Addr]netip.Addr, len(entries)) // by public
	claim := func(id, field string, a netip.Addr) {
		if other, taken := owner[a]; taken {
			errs = append(errs, &EntryError{Machine: other, Other: id, Field: field, Problem: a.String() + " belongs to both; an address has one machine"})
		}
		owner[a] = id
	}
	good := make([]orchestrator.FirewallEntry, 0, len(entries))
	for _, e := range entries {
		if err := validEntry(cfg, e); err != nil {
			errs = append(errs, err)
			continue
		}
		chain := chainOf(e.Machine)
		if other, taken := chains[chain]; taken {
			problem := "the same machine twice; a machine has one entry"
			if other != e.Machine {
				problem = "their chains have the same name " + chain + "; give one of them another id"
			}
			errs = append(errs, &EntryError{Machine: other, Other: e.Machine, Field: "machine", Problem: problem})
		}
		chains[chain] = e.Machine
		claim(e.Machine, "private", e.Private)
		if e.Public.IsValid() {
			claim(e.Machine, "public", e.Public)
			private[e.Public] = e.Private
		}
		good = append(good, e)
	}
	machines := make([]machine, 0, len(good))
	for _, e := range good {
		accepts := acceptsOf(e, private)
		if len(accepts) > maxAccepts {
			errs = append(errs, &EntryError{Machine: e.Machine, Field: "rules", Problem: fmt.Sprintf(
				"%d after sources and ports are multiplied out, %d are the most; join ports into ranges or sources into prefixes",
				len(accepts), maxAccepts)})
		}
		machines = append(machines, machine{ID: e.Machine, Chain: chainOf(e.Machine), Private: e.Private, Public: e.Public, Accepts: accepts, Blocked: e.Phase == orchestrator.PhaseSuspended})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	slices.SortFunc(machines, func(a, b machine) int { return a.Private.Compare(b.Private) })
	return machines, nil
}

// validEntry checks one entry by itself; the error is an *EntryError.
func validEntry(cfg Config, e orchestrator.FirewallEntry) error {
	fault := func(field, format string, args ...any) error {
		return &EntryError{Machine: e.Machine, Field: field, Problem: fmt.Sprintf(format, args...)}
	}
	if !machineID.MatchString(e.Machine) {
		return fault("machine", "not an id; 1 to 64 of a-z, 0-9 and -")
	}
	if err := validAddress(e.Private); err != nil {
		return fault("private", "%v", err)
	}
	if e.Public.IsValid() {
		if err := validAddress(e.Public); err != nil {
			return fault("public", "%v", err)
		}
		if !contains(cfg.Public, e.Public) {
			return fault("public", "%s is in none of the public ranges %v", e.Public, cfg.Public)
		}
		if !contains(cfg.Private, e.Private) {
			return fault("private", "%s is in none of the private ranges %v", e.Private, cfg.Private)
		}
	} else if !contains(cfg.Private, e.Private) && !contains(cfg.Public, e.Private) {
		return fault("private", "%s is in none of the ranges %v and %v", e.Private, cfg.Private, cfg.Public)
	}
	for _, a := range []netip.Addr{e.Private, e.Public} {
		if a.IsValid() && contains(cfg.Foreign, a) {
			return fault("private or public", "%s is foreign by the firewall's configuration; release it there or choose another", a)
		}
	}
	switch e.Phase {
	case orchestrator.PhaseInstaller:
		return validInstaller(e, fault)
	case orchestrator.PhaseCustomer:
		return validCustomer(e, fault)
	case orchestrator.PhaseSuspended:
		if len(e.Installer)+len(e.Ports)+len(e.Rules) > 0 {
			return fault("rules", "a suspended machine lets nobody in; leave rules, installer and ports empty")
		}
		return nil
	default:
		return fault("phase", "%q is none; %q, %q or %q", e.Phase, orchestrator.PhaseInstaller, orchestrator.PhaseCustomer, orchestrator.PhaseSuspended)
	}
}

func validInstaller(e orchestrator.FirewallEntry, fault func(field, format string, args ...any) error) error {
	if len(e.Rules) > 0 {
		return fault("rules", "a machine that is being installed has no customer's rules; they come with phase %q", orchestrator.PhaseCustomer)
	}
	return validDoor(e, fault)
}

// validDoor checks the way in that is ours.
func validDoor(e orchestrator.FirewallEntry, fault func(field, format string, args ...any) error) error {
	if len(e.Installer) == 0 {
		return fault("installer", "empty; name the addresses that install the machine")
	}
	for i, p := range e.Installer {
		if err := validPrefix(p, 1); err != nil {
			return fault(fmt.Sprintf("installer[%d]", i), "%v", err)
		}
	}
	if len(e.Ports) == 0 {
		return fault("ports", "empty; name the ports that the installer needs, 22 or 5986")
	}
	if slices.Contains(e.Ports, 0) {
		return fault("ports", "0 is no port; 1 to 65535")
	}
	return nil
}

func validCustomer(e orchestrator.FirewallEntry, fault func(field, format string, args ...any) error) error {
	if len(e.Installer) > 0 || len(e.Ports) > 0 { // while a guest in use is changed
		if err := validDoor(e, fault); err != nil {
			return err
		}
	}
	for i, r := range e.Rules {
		field := func(name string) string { return fmt.Sprintf("rules[%d].%s", i, name) }
		if err := validPrefix(r.Source, 0); err != nil {
			return fault(field("source"), "%v", err)
		}
		switch r.Protocol {
		case "tcp", "udp":
			if len(r.Ports) == 0 {
				return fault(field("ports"), "empty; %s needs destination ports, 1-65535 for all", r.Protocol)
			}
		case "icmp":
			if len(r.Ports) > 0 {
				return fault(field("ports"), "icmp has no ports; leave them out")
			}
		default:
			return fault(field("protocol"), "%q is not served; tcp, udp or icmp", r.Protocol)
		}
		for _, p := range r.Ports {
			if p.First == 0 || p.Last < p.First {
				return fault(field("ports"), "%d-%d is no range; first to last, 1 to 65535", p.First, p.Last)
			}
		}
	}
	return nil
}

func validAddress(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return errors.New("missing; give the machine's IPv4 address")
	case !a.Is4():
		return fmt.Errorf("%s is not IPv4, the only family served", a)
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s cannot be a machine's address", a)
	}
	return nil
}

// acceptsOf multiplies an entry's rules out, each once. A source that is exactly one machine's public address also stands for that
// machine's private one (privateOf): hairpinned traffic is filtered before its source is translated.
func acceptsOf(e orchestrator.FirewallEntry, privateOf map[netip.Addr]netip.Addr) []accept {
	var list []accept
	seen := make(map[accept]bool)
	add := func(source netip.Prefix, protocol, port string) {
		sources := []netip.Prefix{source}
		if private, ok := privateOf[source.Addr()]; ok && source.IsSingleIP() {
			sources = append(sources, netip.PrefixFrom(private, private.BitLen()))
		}
		for _, s := range sources {
			a := accept{Source: s.String(), Protocol: protocol, Port: port}
			if s.Bits() == 0 {
				a.Source = ""
			}
			if !seen[a] {
				seen[a] = true
				list = append(list, a)
			}
		}
	}
	for _, source := range e.Installer {
		for _, port := range e.Ports {
			add(source, "tcp", strconv.Itoa(int(port)))
		}
	}
	for _, r := range e.Rules {
		if r.Protocol == "icmp" {
			add(r.Source, "icmp", "")
		}
		for _, p := range r.Ports {
			add(r.Source, r.Protocol, portText(p))
		}
	}
	return list
}

// portText is a range as iptables-save prints it.
func portText(p orchestrator.PortRange) string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d:%d", p.First, p.Last)
}
