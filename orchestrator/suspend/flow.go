// Package suspend takes a finished machine out of use and leaves it as it is: its traffic is blocked, its console closed, its VM shut down
// or left running. Package unsuspend brings it back. What the machine was like is in its row; nothing is guessed when it comes back.
package suspend

import (
	"context"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/uninstall"
)

// Name of the process in stored runs.
const Name = "suspend"

// Ports are what the steps need of the world.
type Ports struct {
	Hypervisor orchestrator.Hypervisor
	Desired    orchestrator.Desired
	Prober     orchestrator.Prober
	Monitoring orchestrator.Monitoring // nil where the estate has none
}

type act = func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error)

// New is the table. A machine that is suspended already walks it without a step being done, so that a panel that orders twice gets the same
// answer twice.
func New(p Ports) *orchestrator.Process {
	type (
		row    = orchestrator.Row
		policy = orchestrator.Policy
	)
	return &orchestrator.Process{Name: Name, Cancelable: true, Guarded: true, Tells: orchestrator.EventSuspended, Rows: []orchestrator.Row{
		row{From: "suspend_requested", Step: "note_power", To: "power_noted", Uses: orchestrator.UsesPool, When: inUse,
			Do: notePower(p.Hypervisor, p.Prober), Undo: forgetSuspension},
		// Before the machine falls silent, or monitoring raises an alarm.
		row{From: "power_noted", Step: "unregister_monitoring", To: "monitoring_unregistered", When: monitored,
			Do: unregister(p.Monitoring), Undo: orchestrator.UnlessTakenOver(register(p.Monitoring)), Marks: orchestrator.Marks{Skip: true}},
		row{From: "monitoring_unregistered", Step: "block_traffic", To: "traffic_blocked", Uses: orchestrator.UsesFirewall, When: inUse,
			Do: BlockTraffic(p.Desired), Undo: orchestrator.UnlessTakenOver(OpenTraffic(p.Desired))},
		row{From: "traffic_blocked", Step: "revoke_console", To: "console_revoked", Uses: orchestrator.UsesConsole, When: inUse,
			Do: uninstall.CloseConsole(p.Desired), Undo: orchestrator.UnlessTakenOver(RestoreConsole(p.Desired))},
		row{From: "console_revoked", Step: "stop_machine", To: "machine_stopped", Uses: orchestrator.UsesPool, When: stops,
			Do: uninstall.StopMachine(p.Hypervisor), Undo: startAgain(p.Hypervisor), Policy: policy{Timeout: 2 * time.Minute}},
		row{From: "machine_stopped", Step: "verify", To: orchestrator.StateSuspended, Uses: orchestrator.UsesPool, When: inUse,
			Do: verify(p.Hypervisor, p.Prober), Marks: orchestrator.Marks{Check: true}},
	}}
}

// inUse is false for a machine that was suspended when the order came.
func inUse(s *orchestrator.Step) (bool, string) {
	return s.Run.Alteration.State != orchestrator.StateSuspended, "the machine is suspended already"
}

func monitored(s *orchestrator.Step) (bool, string) {
	if applies, why := inUse(s); !applies {
		return false, why
	}
	return uninstall.Monitored(s)
}

// stops tells whether the VM is to be shut down.
func stops(s *orchestrator.Step) (bool, string) {
	if applies, why := inUse(s); !applies {
		return false, why
	}
	switch was := s.Machine.Suspension; {
	case was.Power != orchestrator.PowerStop:
		return false, "the order leaves the VM running"
	case !was.Running:
		return false, "the VM did not run"
	}
	return true, ""
}
