package suspend

import (
	"context"
	"errors"
	"net/netip"

	"slipway/orchestrator"
)

// verify looks as a customer would: nothing answers, neither the machine nor its console, and the VM is as the order wants it.
func verify(h orchestrator.Hypervisor, p orchestrator.Prober) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		m := s.Machine
		vm, err := h.FindMachine(ctx, s.Ref())
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
			return orchestrator.Outcome{}, orchestrator.Errorf("verify", orchestrator.Permanent, "VM %s is gone from pool %s", m.VM, m.Placement.Pool)
		case err != nil:
			return orchestrator.Outcome{}, err
		case m.Suspension.Power == orchestrator.PowerStop && vm.Power == "running":
			return orchestrator.Outcome{}, orchestrator.Errorf("verify", orchestrator.Transient, "VM %s was shut down and runs", vm.UUID)
		}
		port, ok := FrontDoor(m.Firewall)
		if !ok {
			port = 22
		}
		target := netip.AddrPortFrom(m.Placement.Reached(), port)
		answer, err := p.TryPort(ctx, m.Placement.Pool, target)
		if err == nil && answer != orchestrator.PortSilent {
			err = orchestrator.Errorf("verify", orchestrator.Transient, "%s is to be silent and is %s", target, answer)
		}
		if err := s.Check(ctx, err); err != nil {
			return orchestrator.Outcome{}, err
		}
		if err := s.Check(ctx, p.NoConsole(ctx, *m)); err != nil {
			return orchestrator.Outcome{}, err
		}
		return orchestrator.Finished("%s is silent; the console is closed; VM %s is %s", target, vm.UUID, vm.Power)
	}
}
