package orchestratortest

import (
	"net/netip"
	"time"

	"slipway/orchestrator"
)

// The pools of Estate: one for each network strategy, and one for each way to come by addresses.
const (
	PoolNAT    = "pool-a" // behind 1:1 NAT, everything served by us, machines in the DNS forward and back
	PoolRouted = "pool-b" // routed, its addresses given out by others, machines in the DNS without pointers
	PoolIPAM   = "pool-c" // as PoolNAT, and a service of somebody else's chooses the addresses
)

// Estate has these three pools.
func Estate() *orchestrator.Estate {
	installer := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	return &orchestrator.Estate{
		Images: []string{"debian-12"}, Quarantine: time.Hour, Monitored: true,
		Pools: []orchestrator.Pool{
			{
				ID: PoolNAT, Strategy: orchestrator.NAT, Network: "network-a", Images: []string{"debian-12"},
				Private: subnet("10.0.0"), Public: subnet("198.51.100"), MACPrefix: "02:16:3e",
				DHCP: []string{"dhcp-a"}, Firewall: []string{"firewall-a"}, Console: []string{"console"},
				ConsolePorts: orchestrator.PortRange{First: 20000, Last: 20009}, Installer: installer,
				DNS: orchestrator.DNS{Zone: "vm.example.net", Reverse: []orchestrator.ReverseZone{{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Zone: "100.51.198.in-addr.arpa"}}},
			},
			{
				ID: PoolRouted, Strategy: orchestrator.Routed, Network: "network-b", Images: []string{"debian-12"},
				Private: subnet("203.0.113"), MACPrefix: "02:16:3e",
				Firewall: []string{"firewall-b"}, Console: []string{"console"},
				ConsolePorts: orchestrator.PortRange{First: 20010, Last: 20019}, Installer: installer,
				DNS: orchestrator.DNS{Zone: "routed.example.net"},
			},
			{
				ID: PoolIPAM, Strategy: orchestrator.NAT, Network: "network-c", Images: []string{"debian-12"}, IPAM: "corp",
				Private: unranged("10.1.0"), Public: unranged("192.0.2"), MACPrefix: "02:16:3e",
				DHCP: []string{"dhcp-a"}, Firewall: []string{"firewall-a"}, Console: []string{"console"},
				ConsolePorts: orchestrator.PortRange{First: 20020, Last: 20029}, Installer: installer,
			},
		},
	}
}

func subnet(net string) orchestrator.Subnet {
	return orchestrator.Subnet{
		Prefix: netip.MustParsePrefix(net + ".0/24"), Gateway: netip.MustParseAddr(net + ".1"),
		Ranges: []orchestrator.AddressRange{{First: netip.MustParseAddr(net + ".10"), Last: netip.MustParseAddr(net + ".19")}},
	}
}

// unranged is a subnet whose addresses are a service's to give.
func unranged(net string) orchestrator.Subnet {
	s := subnet(net)
	s.Ranges = nil
	return s
}

// Groups are the appliances of Estate.
func Groups() []orchestrator.Group {
	return []orchestrator.Group{
		{ID: "dhcp-a", Unit: orchestrator.DHCP, MinApplied: 1},
		{ID: "firewall-a", Unit: orchestrator.Firewall, MinApplied: 1},
		{ID: "firewall-b", Unit: orchestrator.Firewall, MinApplied: 1},
		{ID: "console", Unit: orchestrator.Console, MinApplied: 1},
	}
}

// Inventories are what the pools of Estate have: two hosts with room for four machines of 1 GiB each, and one shared storage.
func Inventories() []orchestrator.Inventory {
	var all []orchestrator.Inventory
	for _, pool := range []string{PoolNAT, PoolRouted, PoolIPAM} {
		hosts := []string{pool + "-host-1", pool + "-host-2"}
		all = append(all, orchestrator.Inventory{
			Pool: pool, Templates: map[string]string{"debian-12": pool + "-template"}, MACs: []string{"02:16:3e:00:00:00"},
			Hosts: []orchestrator.HostInventory{
				{UUID: hosts[0], Name: "one", MemoryMiB: 4096, CPUs: 8, Enabled: true},
				{UUID: hosts[1], Name: "two", MemoryMiB: 4096, CPUs: 8, Enabled: true},
			},
			SRs: []orchestrator.SRInventory{{UUID: pool + "-storage", Name: "storage", Bytes: 100 << 30, Shared: true, Hosts: hosts}},
		})
	}
	return all
}
