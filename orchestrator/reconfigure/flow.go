// Package reconfigure changes a finished machine: its firewall rules, the customer's keys, its hostname, its console password, any of them in
// one order. The former values are in the run from the beginning, and every Undo leads back to them.
package reconfigure

import (
	"context"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
)

// Name of the process in stored runs.
const Name = "reconfigure"

// Ports are what the steps need of the world.
type Ports struct {
	Hypervisor orchestrator.Hypervisor
	Desired    orchestrator.Desired
	Installer  orchestrator.Installer // knows the port at which the maintainer comes in
	Maintainer orchestrator.Maintainer
	Prober     orchestrator.Prober
	Names      orchestrator.Names
	Monitoring orchestrator.Monitoring // nil where the estate has none
}

type act = func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error)

// New is the table. The guest comes first, while the rules that are known to work are in force; the new rules close the way in again.
func New(p Ports) *orchestrator.Process {
	type (
		row    = orchestrator.Row
		policy = orchestrator.Policy
		marks  = orchestrator.Marks
	)
	unlessTakenOver := orchestrator.UnlessTakenOver
	return &orchestrator.Process{Name: Name, Cancelable: true, Tells: orchestrator.EventReconfigured, Rows: []orchestrator.Row{
		row{From: "reconfigure_requested", Step: "open_door", To: "door_opened", Uses: orchestrator.UsesFirewall, When: changesGuest,
			Do: openDoor(p.Desired, p.Installer), Undo: unlessTakenOver(rules(p.Desired, former))},
		row{From: "door_opened", Step: "change_guest", To: "guest_changed", Uses: orchestrator.UsesPool, When: changesGuest,
			Do: changeGuest(p.Hypervisor, p.Installer, p.Maintainer), Undo: unlessTakenOver(changeBack(p.Hypervisor, p.Installer, p.Maintainer)),
			Policy: policy{Timeout: 2 * time.Minute}},
		row{From: "guest_changed", Step: "change_dhcp", To: "dhcp_changed", Uses: orchestrator.UsesDHCP, When: changesHost,
			Do: host(p.Desired, wanted), Undo: unlessTakenOver(host(p.Desired, former))},
		row{From: "dhcp_changed", Step: "rename_dns", To: "dns_renamed", When: changesName,
			Do: renameDNS(p.Names, wanted), Undo: unlessTakenOver(renameBack(p.Names)), Marks: marks{Skip: true}},
		row{From: "dns_renamed", Step: "rename_monitoring", To: "monitoring_renamed", When: changesMonitored,
			Do: renameMonitored(p.Monitoring, wanted), Undo: unlessTakenOver(renameMonitored(p.Monitoring, former)), Marks: marks{Skip: true}},
		row{From: "monitoring_renamed", Step: "change_rules", To: "rules_changed", Uses: orchestrator.UsesFirewall, When: changesRules,
			Do: rules(p.Desired, wanted), Undo: unlessTakenOver(reopenDoor(p.Desired, p.Installer))},
		row{From: "rules_changed", Step: "change_console", To: "console_changed", Uses: orchestrator.UsesConsole, When: changesConsole,
			Do: console(p.Desired, wanted), Undo: unlessTakenOver(console(p.Desired, former))},
		row{From: "console_changed", Step: "verify", To: orchestrator.StateReady, Uses: orchestrator.UsesPool,
			Do: verify(p.Hypervisor, p.Prober), Policy: policy{Timeout: 2 * time.Minute}, Marks: marks{Check: true}},
	}}
}

func changesGuest(s *orchestrator.Step) (bool, string) {
	return s.Run.Alteration.ChangesKeys() || s.Run.Alteration.ChangesHostname(), "keys and hostname stay"
}

func changesHost(s *orchestrator.Step) (bool, string) {
	if s.Machine.Placement.DHCP == "" {
		return false, "the pool's network is served by others"
	}
	return s.Run.Alteration.ChangesHostname(), "the hostname stays"
}

// changesRules is true, too, when there is a door to close.
func changesRules(s *orchestrator.Step) (bool, string) {
	guest, _ := changesGuest(s)
	return guest || s.Run.Alteration.ChangesRules(), "the rules stay"
}

func changesConsole(s *orchestrator.Step) (bool, string) {
	return s.Run.Alteration.ChangesConsole(), "the console's password stays"
}

// side chooses what a step leads to: forward to what is wanted, back to what was.
type side func(*orchestrator.Step) orchestrator.Settings

func wanted(s *orchestrator.Step) orchestrator.Settings { return s.Run.Alteration.Wanted }
func former(s *orchestrator.Step) orchestrator.Settings { return s.Run.Alteration.Former }

// then has the machine's row follow once an effect is there.
func then(do act, learn func(*orchestrator.Step)) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		outcome, err := do(ctx, s)
		if err == nil && outcome.Wait == nil {
			learn(s)
		}
		return outcome, err
	}
}

// rules puts one side's rules into the firewall, and nothing beside them.
func rules(d orchestrator.Desired, of side) act {
	return then(install.EnsureEntry(d, orchestrator.Firewall, func(s *orchestrator.Step) (string, any) {
		return s.Machine.Placement.Firewall, s.Machine.OpenEntry(of(s).Firewall)
	}), func(s *orchestrator.Step) { s.Machine.Firewall = of(s).Firewall })
}

// host puts one side's hostname into the machine's host block: what DHCP says must not undo it at the next lease.
func host(d orchestrator.Desired, of side) act {
	return install.EnsureEntry(d, orchestrator.DHCP, func(s *orchestrator.Step) (string, any) {
		return s.Machine.Placement.DHCP, s.Machine.HostEntry(of(s).Hostname)
	})
}

// console puts one side's password on the machine's console.
func console(d orchestrator.Desired, of side) act {
	return then(install.EnsureEntry(d, orchestrator.Console, func(s *orchestrator.Step) (string, any) {
		return s.Machine.Placement.Console, s.Machine.ConsoleEntry(of(s).ConsolePassword)
	}), func(s *orchestrator.Step) {
		s.Machine.ConsolePassword, s.Machine.ConsoleAge = of(s).ConsolePassword, of(s).ConsoleAge
	})
}
