// Package uninstall takes a machine away. Each step starts from what it finds, so that it removes a finished machine, half of one, or
// nothing at all; the install table uses the same functions to undo its rows.
package uninstall

import (
	"time"

	"slipway/orchestrator"
)

// Name of the process in stored runs.
const Name = "uninstall"

// Ports are what the steps need of the world.
type Ports struct {
	Hypervisor orchestrator.Hypervisor
	Desired    orchestrator.Desired
	Names      orchestrator.Names
	Monitoring orchestrator.Monitoring
}

// New is the table. It only goes forward: what is taken away is not brought back.
func New(p Ports) *orchestrator.Process {
	return &orchestrator.Process{Name: Name, Guarded: true, Rows: []orchestrator.Row{
		{From: "uninstall_requested", Step: "close_console", To: "console_closed", Uses: orchestrator.UsesConsole, Do: CloseConsole(p.Desired)},
		// Before the machine stops, or monitoring raises an alarm.
		{From: "console_closed", Step: "unregister_monitoring", To: "monitoring_unregistered", When: Monitored,
			Do: UnregisterMonitoring(p.Monitoring), Marks: orchestrator.Marks{Skip: true}},
		{From: "monitoring_unregistered", Step: "stop_machine", To: "stopped", Uses: orchestrator.UsesPool, Do: StopMachine(p.Hypervisor), Policy: orchestrator.Policy{Timeout: 2 * time.Minute}},
		{From: "stopped", Step: "drop_rules", To: "rules_dropped", Uses: orchestrator.UsesFirewall, Do: DropRules(p.Desired)},
		{From: "rules_dropped", Step: "forget_dhcp", To: "dhcp_forgotten", Uses: orchestrator.UsesDHCP, Do: ForgetDHCP(p.Desired)},
		{From: "dhcp_forgotten", Step: "destroy_machine", To: "machine_destroyed", Uses: orchestrator.UsesPool, Do: DestroyMachine(p.Hypervisor), Policy: orchestrator.Policy{Timeout: 5 * time.Minute}},
		// Before the address may be another's.
		{From: "machine_destroyed", Step: "unregister_dns", To: "dns_unregistered", When: named,
			Do: UnregisterDNS(p.Names), Marks: orchestrator.Marks{Skip: true}},
		{From: "dns_unregistered", Step: "release_addresses", To: "removed", Do: ReleaseAddresses},
	}}
}
