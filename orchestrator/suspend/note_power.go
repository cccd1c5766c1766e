package suspend

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"slipway/orchestrator"
)

// notePower writes down what the machine is like before anything is done to it: whether its VM runs, and whether it answers.
func notePower(h orchestrator.Hypervisor, p orchestrator.Prober) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		vm, err := h.FindMachine(ctx, s.Ref())
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
			return orchestrator.Outcome{}, orchestrator.Errorf("note_power", orchestrator.Permanent, "VM %s is gone from pool %s", s.Machine.VM, s.Machine.Placement.Pool)
		case err != nil:
			return orchestrator.Outcome{}, err
		}
		was := orchestrator.Suspension{
			Power: cmp.Or(s.Run.Alteration.Power, orchestrator.PowerStop),
			// A VM that is suspended on disk uses nothing, and stopping it would throw its memory away.
			Running: vm.Power == "running" || vm.Power == "paused",
		}
		if port, ok := FrontDoor(s.Machine.Firewall); ok && was.Running {
			answer, err := p.TryPort(ctx, s.Machine.Placement.Pool, netip.AddrPortFrom(s.Machine.Placement.Reached(), port))
			if err != nil {
				return orchestrator.Outcome{}, err
			}
			was.Answered = answer == orchestrator.PortOpen
		}
		s.Machine.Suspension = was
		return orchestrator.Finished("VM %s is %s", vm.UUID, vm.Power)
	}
}

func forgetSuspension(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
	s.Machine.Suspension = orchestrator.Suspension{}
	return orchestrator.Finished("the machine is not suspended")
}

// FrontDoor is the port at which anybody can see whether the machine answers: SSH when everybody may use it, else the first that everybody
// may; ok is false when there is none.
func FrontDoor(rules []orchestrator.FirewallRule) (port uint16, ok bool) {
	const ssh = 22
	for _, r := range rules {
		if r.Protocol != "tcp" || r.Source.Bits() != 0 || len(r.Ports) == 0 {
			continue
		}
		if slices.ContainsFunc(r.Ports, func(p orchestrator.PortRange) bool { return p.First <= ssh && ssh <= p.Last }) {
			return ssh, true
		}
		if !ok {
			port, ok = r.Ports[0].First, true
		}
	}
	return port, ok
}
