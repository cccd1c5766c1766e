package suspend

import (
	"context"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/uninstall"
)

// startAgain takes a shutdown back: one that is under way ends first, for it cannot be called back. A VM that is gone is not the suspension's
// doing, and the machine is as it would be without it.
func startAgain(h orchestrator.Hypervisor) act {
	start := install.StartMachine(h)
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		vm, waits, err := uninstall.Settled(ctx, h, s)
		switch {
		case err != nil || waits.Wait != nil:
			return waits, err
		case vm.UUID == "":
			return orchestrator.Finished("VM %s is gone from pool %s: there is nothing to start again", s.Machine.VM, s.Machine.Placement.Pool)
		case s.Run.Successor != "":
			return orchestrator.Finished("VM %s is %s, and left to %s", vm.UUID, vm.Power, s.Run.Successor)
		}
		if task := s.Handle(uninstall.HandleStop); task != "" {
			if err := h.ForgetTask(ctx, s.Machine.Placement.Pool, task); err != nil {
				s.Log.Debug("task was not destroyed; the pool collects it", "error", err)
			}
			if err := s.Record(ctx, uninstall.HandleStop, ""); err != nil {
				return orchestrator.Outcome{}, err
			}
		}
		return start(ctx, s)
	}
}
