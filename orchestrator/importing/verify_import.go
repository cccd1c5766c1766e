package importing

import (
	"context"
	"errors"

	"slipway/orchestrator"
)

// verifyImport looks whether the machine is the one that was claimed, still runs, and opens its console. What its guest serves is not ours
// to know.
func verifyImport(h orchestrator.Hypervisor, p orchestrator.Prober) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		m := s.Machine
		vm, err := h.FindMachine(ctx, s.Ref())
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
			return orchestrator.Outcome{}, orchestrator.Errorf("verify_import", orchestrator.Permanent, "VM %s is gone from pool %s", m.VM, m.Placement.Pool)
		case err != nil:
			return orchestrator.Outcome{}, err
		case len(vm.VIFs) != 1 || vm.VIFs[0].MAC != m.Placement.MAC:
			return orchestrator.Outcome{}, orchestrator.Errorf("verify_import", orchestrator.Permanent, "VM %s has interfaces %v; it should have %s alone", vm.UUID, vm.VIFs, m.Placement.MAC)
		case vm.Power != "running":
			return orchestrator.Outcome{}, orchestrator.Errorf("verify_import", orchestrator.Transient, "VM %s is %s", vm.UUID, vm.Power)
		}
		if err := s.Check(ctx, p.Console(ctx, *m)); err != nil {
			return orchestrator.Outcome{}, err
		}
		return orchestrator.Finished("VM %s runs with %s; its console opens", vm.UUID, m.Placement.MAC)
	}
}
