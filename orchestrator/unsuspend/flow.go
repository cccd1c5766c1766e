// Package unsuspend brings a suspended machine back as it was: its rules, its console at the same port with the same password, its VM running
// if it ran.
package unsuspend

import (
	"context"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/suspend"
	"slipway/orchestrator/uninstall"
)

// Name of the process in stored runs.
const Name = "unsuspend"

// Ports are what the steps need of the world.
type Ports struct {
	Hypervisor orchestrator.Hypervisor
	Desired    orchestrator.Desired
	Prober     orchestrator.Prober
	Monitoring orchestrator.Monitoring // nil where the estate has none
}

type act = func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error)

// New is the table. The way is open before the guest boots: what it wants of the network at its boot is there. A machine that is not
// suspended walks the table without a step being done.
func New(p Ports) *orchestrator.Process {
	type (
		row    = orchestrator.Row
		policy = orchestrator.Policy
	)
	return &orchestrator.Process{Name: Name, Cancelable: true, Tells: orchestrator.EventUnsuspended, Rows: []orchestrator.Row{
		row{From: "unsuspend_requested", Step: "open_traffic", To: "traffic_opened", Uses: orchestrator.UsesFirewall, When: suspended,
			Do: suspend.OpenTraffic(p.Desired), Undo: orchestrator.UnlessTakenOver(suspend.BlockTraffic(p.Desired))},
		row{From: "traffic_opened", Step: "restore_console", To: "console_restored", Uses: orchestrator.UsesConsole, When: suspended,
			Do: suspend.RestoreConsole(p.Desired), Undo: orchestrator.UnlessTakenOver(uninstall.CloseConsole(p.Desired))},
		row{From: "console_restored", Step: "start_machine", To: "machine_started", Uses: orchestrator.UsesPool, When: ran,
			Do: install.StartMachine(p.Hypervisor), Undo: stopAgain(p.Hypervisor), Policy: policy{Timeout: 2 * time.Minute}},
		row{From: "machine_started", Step: "verify", To: "verified", Uses: orchestrator.UsesPool, When: suspended,
			Do: verify(p.Prober), Undo: suspendAgain, Policy: policy{Budget: 10 * time.Minute}, Marks: orchestrator.Marks{Check: true}},
		// Once it answers, or monitoring raises an alarm.
		row{From: "verified", Step: "register_monitoring", To: orchestrator.StateReady, When: monitored,
			Do:    install.RegisterMonitoring(p.Monitoring),
			Undo:  orchestrator.UnlessTakenOver(uninstall.UnregisterMonitoring(p.Monitoring)),
			Marks: orchestrator.Marks{Skip: true}},
	}}
}

// suspended is false for a machine that was in use when the order came.
func suspended(s *orchestrator.Step) (bool, string) {
	return s.Run.Alteration.State == orchestrator.StateSuspended, "the machine is not suspended"
}

func monitored(s *orchestrator.Step) (bool, string) {
	if applies, why := suspended(s); !applies {
		return false, why
	}
	if applies, why := uninstall.Monitored(s); !applies {
		return false, why
	}
	return s.Run.Alteration.Suspension.Monitored, "monitoring was not told to forget it"
}

func ran(s *orchestrator.Step) (bool, string) {
	if applies, why := suspended(s); !applies {
		return false, why
	}
	return s.Run.Alteration.Suspension.Running, "the VM did not run when the machine was suspended"
}

// stopAgain takes a start back: one that is under way ends first, for it cannot be called back. A VM that was left running is left running
// again.
func stopAgain(h orchestrator.Hypervisor) act {
	stop := uninstall.StopMachine(h)
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		vm, waits, err := uninstall.Settled(ctx, h, s)
		switch {
		case err != nil || waits.Wait != nil:
			return waits, err
		case s.Run.Successor != "":
			return orchestrator.Finished("VM %s is left to %s", s.Machine.VM, s.Run.Successor)
		case s.Run.Alteration.Suspension.Power == orchestrator.PowerKeep:
			return orchestrator.Finished("VM %s is %s in a suspension that keeps it", vm.UUID, vm.Power)
		}
		return stop(ctx, s)
	}
}
