// Package install makes a machine out of an order. The table is in New; each step has a file of its own.
package install

import (
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/uninstall"
)

// Name of the process in stored runs.
const Name = "install"

// Steps whose lines in the journal tell how far a guest has come.
const (
	StepStart   = "start_machine"
	StepAwait   = "await_guest"
	StepInstall = "post_install"
)

// Ports are what the steps need of the world.
type Ports struct {
	Hypervisor orchestrator.Hypervisor
	Desired    orchestrator.Desired
	Installer  orchestrator.Installer
	Prober     orchestrator.Prober
	Vault      orchestrator.Vault
	Names      orchestrator.Names
	Monitoring orchestrator.Monitoring
	// Boot is how long a guest may take until it answers; 0 is 30 minutes.
	Boot time.Duration
	// Addresses and Rooms are used for pools whose addresses a service gives; both may be nil where there are none.
	Addresses orchestrator.Addresses
	Rooms     orchestrator.Rooms
}

// New is the table.
func New(p Ports) *orchestrator.Process {
	type (
		row    = orchestrator.Row
		policy = orchestrator.Policy
		marks  = orchestrator.Marks
	)
	return &orchestrator.Process{Name: Name, Cancelable: true, Rows: []orchestrator.Row{
		row{From: "queued", Step: "place", To: "placed", Do: place(p.Addresses, p.Rooms), Undo: releasePlacement},
		row{From: "placed", Step: "create_machine", To: "machine_created", Uses: orchestrator.UsesPool, Do: createMachine(p.Hypervisor),
			Undo: unmakeMachine(p.Hypervisor), Policy: policy{Timeout: 5 * time.Minute, Budget: 2 * time.Hour}, Marks: marks{Adopt: true}},
		// The pair stays the machine's until it is recorded absent: undoing the binding is releasePlacement's.
		row{From: "machine_created", Step: "select_ips", To: "ips_selected", Do: selectIPs},
		// A skipped entry stays in its group's desired state: the group carries it when it can.
		row{From: "ips_selected", Step: "sync_dhcp", To: "dhcp_synchronized", Uses: orchestrator.UsesDHCP, When: servedByUs, Reserve: reserveDHCP,
			Do: awaitGroup(p.Desired, dhcpGroup), Undo: uninstall.ForgetDHCP(p.Desired), Marks: marks{Skip: true}},
		row{From: "dhcp_synchronized", Step: "configure_nat", To: "nat_configured", Uses: orchestrator.UsesFirewall, Reserve: reserveInstallerRules(p.Installer),
			Do: awaitGroup(p.Desired, firewallGroup), Undo: uninstall.DropRules(p.Desired)},
		row{From: "nat_configured", Step: "provision_console", To: "console_provisioned", Uses: orchestrator.UsesConsole, Reserve: reserveConsole,
			Do: awaitGroup(p.Desired, consoleGroup), Undo: uninstall.CloseConsole(p.Desired), Marks: marks{Skip: true}},
		row{From: "console_provisioned", Step: StepStart, To: "started", Uses: orchestrator.UsesPool, Do: startMachine(p.Hypervisor),
			Undo: uninstall.StopMachine(p.Hypervisor), Policy: policy{Timeout: 2 * time.Minute}},
		row{From: "started", Step: StepAwait, To: "guest_reachable", Uses: orchestrator.UsesPool, Do: awaitGuest(p.Hypervisor, p.Installer),
			Policy: policy{Timeout: 30 * time.Second, Budget: p.Boot}},
		// The installer leaves the guest at its end and does not come in again: only another VM can be installed anew.
		row{From: "guest_reachable", Step: StepInstall, To: "post_installed", Uses: orchestrator.UsesPool, Do: postInstall(p.Hypervisor, p.Installer, p.Vault),
			Policy: policy{Timeout: 2 * time.Minute, Budget: 2 * time.Hour, Attempts: 3},
			Marks:  marks{Check: true, UndoneWith: "create_machine"}},
		row{From: "post_installed", Step: "open_firewall", To: "rules_opened", Uses: orchestrator.UsesFirewall, Reserve: reserveCustomerRules,
			Do: awaitGroup(p.Desired, firewallGroup), Undo: uninstall.DropRules(p.Desired)},
		row{From: "rules_opened", Step: "register_dns", To: "dns_registered", When: named, Do: registerDNS(p.Names),
			Undo: uninstall.UnregisterDNS(p.Names), Marks: marks{Skip: true}},
		row{From: "dns_registered", Step: "register_monitoring", To: "monitoring_registered", When: uninstall.Monitored, Do: registerMonitoring(p.Monitoring),
			Undo: uninstall.UnregisterMonitoring(p.Monitoring), Marks: marks{Skip: true}},
		row{From: "monitoring_registered", Step: "verify", To: "production_ready", Uses: orchestrator.UsesPool, Do: verify(p.Hypervisor, p.Installer, p.Prober), Marks: marks{Check: true}},
	}}
}
