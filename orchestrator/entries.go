package orchestrator

import (
	"encoding/base64"
	"net/netip"
)

// OpenEntry is the firewall's entry of a machine in use: NAT and the customer's rules.
func (m Machine) OpenEntry(rules []FirewallRule) FirewallEntry {
	return FirewallEntry{Machine: m.ID, Private: m.Placement.Private, Public: m.Placement.Public, Phase: PhaseCustomer, Rules: rules}
}

// DoorEntry is OpenEntry with the way in for the maintainer beside the customer's rules.
func (m Machine) DoorEntry(rules []FirewallRule, sources []netip.Prefix, ports []uint16) FirewallEntry {
	e := m.OpenEntry(rules)
	e.Installer, e.Ports = sources, ports
	return e
}

// BlockedEntry is the firewall's entry of a suspended machine: its addresses stay its own, and nothing passes in either direction.
func (m Machine) BlockedEntry() FirewallEntry {
	return FirewallEntry{Machine: m.ID, Private: m.Placement.Private, Public: m.Placement.Public, Phase: PhaseSuspended}
}

// ConsoleEntry is the machine's line in its console group.
func (m Machine) ConsoleEntry(password Sealed) ConsoleEntry {
	return ConsoleEntry{
		Machine: m.ID, Pool: m.Placement.Pool, VM: m.VM, Port: m.Placement.ConsolePort, Password: base64.StdEncoding.EncodeToString(password),
	}
}

// HostEntry is the machine's host block.
func (m Machine) HostEntry(hostname string) DHCPHost {
	return DHCPHost{Machine: m.ID, MAC: m.Placement.MAC, Address: m.Placement.Private, Hostname: hostname}
}
