// Package importing takes a foreign VM into management as it runs. It changes nothing in the guest and nothing of the VM but its tag, and
// its way back never stops or destroys it: the VM becomes foreign again.
package importing

import (
	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/uninstall"
)

// Name of the process in stored runs.
const Name = "import"

// Ports are what the steps need of the world.
type Ports struct {
	Hypervisor orchestrator.Hypervisor
	Importer   orchestrator.Importer
	Desired    orchestrator.Desired
	Prober     orchestrator.Prober
}

// New is the table.
func New(p Ports) *orchestrator.Process {
	dhcp, rules, console := install.CarryDHCP(p.Desired), install.CarryRules(p.Desired), install.CarryConsole(p.Desired)
	type (
		row   = orchestrator.Row
		marks = orchestrator.Marks
	)
	return &orchestrator.Process{Name: Name, Cancelable: true, Returns: true, Rows: []orchestrator.Row{
		row{From: "import_requested", Step: "claim", To: "claimed", Uses: orchestrator.UsesPool, Do: claim(p.Importer), Undo: giveBack},
		row{From: "claimed", Step: "tag_machine", To: "tagged", Uses: orchestrator.UsesPool, Do: tagMachine(p.Importer), Undo: untagMachine(p.Importer)},
		row{From: "tagged", Step: "take_dhcp", To: "dhcp_taken", Uses: orchestrator.UsesDHCP, When: dhcp.When, Reserve: dhcp.Reserve, Do: dhcp.Do,
			Undo: uninstall.ForgetDHCP(p.Desired), Marks: marks{Skip: true}},
		row{From: "dhcp_taken", Step: "take_rules", To: "rules_taken", Uses: orchestrator.UsesFirewall, Reserve: rules.Reserve, Do: rules.Do, Undo: uninstall.DropRules(p.Desired)},
		row{From: "rules_taken", Step: "take_console", To: "console_taken", Uses: orchestrator.UsesConsole, Reserve: console.Reserve, Do: console.Do,
			Undo: uninstall.CloseConsole(p.Desired), Marks: marks{Skip: true}},
		row{From: "console_taken", Step: "verify_import", To: "production_ready", Uses: orchestrator.UsesPool, Do: verifyImport(p.Hypervisor, p.Prober), Marks: marks{Check: true}},
	}}
}
