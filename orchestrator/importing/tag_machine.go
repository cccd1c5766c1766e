package importing

import (
	"context"
	"errors"

	"slipway/orchestrator"
)

// tagMachine makes the VM the machine's.
func tagMachine(i orchestrator.Importer) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		vm, err := i.ClaimMachine(ctx, imported(s), s.Run.ID, s.Run.Attempt)
		if errors.Is(err, orchestrator.ErrNotFound) {
			return orchestrator.Outcome{}, orchestrator.Errorf("tag_machine", orchestrator.Permanent, "VM %s is gone from pool %s", s.Machine.Import.VM, s.Machine.Placement.Pool)
		}
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		s.Machine.Presence, s.Machine.VM, s.Machine.Disks = orchestrator.Present, vm.UUID, nil
		for _, d := range vm.Disks {
			s.Machine.Disks = append(s.Machine.Disks, d.UUID)
		}
		s.Machine.Address = s.Machine.Placement.Private
		return orchestrator.Finished("VM %s with %d disks carries the tag", vm.UUID, len(vm.Disks))
	}
}

// untagMachine lets the VM go as it is.
func untagMachine(i orchestrator.Importer) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		if err := i.ReleaseMachine(ctx, imported(s)); err != nil {
			return orchestrator.Outcome{}, err
		}
		s.Machine.VM, s.Machine.Disks = "", nil
		return orchestrator.Finished("VM %s does not carry the tag", s.Machine.Import.VM)
	}
}

// imported names the VM, whether it carries the tag by now or not.
func imported(s *orchestrator.Step) orchestrator.MachineRef {
	ref := s.Ref()
	ref.VM = s.Machine.Import.VM
	return ref
}
