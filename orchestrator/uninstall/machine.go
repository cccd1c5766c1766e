package uninstall

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"slipway/orchestrator"
)

// Handles of these steps.
const (
	handleStop     = "stop"      // the shutdown's task
	handleStopHard = "stop_hard" // "yes" once the clean way has failed
	handleDisks    = "disks"     // VDI uuids, recorded before the VM that names them is destroyed
	// HandleClone is create_machine's task; its undo waits for it, for a clone cannot be called back.
	HandleClone = "clone"
)

// StopMachine shuts the VM down, cleanly if the guest can, otherwise at once.
func StopMachine(h orchestrator.Hypervisor) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		pool := s.Machine.Placement.Pool
		if pool == "" {
			return orchestrator.Finished("the machine was never placed")
		}
		if task := s.Handle(handleStop); task != "" {
			state, err := h.ObserveTask(ctx, pool, task)
			if err != nil {
				return orchestrator.Outcome{}, err
			}
			if state.State == orchestrator.TaskPending {
				return orchestrator.WaitFor(orchestrator.WakeTask(pool, task), 0, "waiting for the shutdown")
			}
			forget(ctx, h, s, pool, task)
			if err := s.Record(ctx, handleStop, ""); err != nil {
				return orchestrator.Outcome{}, err
			}
			if state.State == orchestrator.TaskFailed {
				s.Log.Info("clean shutdown failed, pulling the plug", "error", state.Err)
				if err := s.Record(ctx, handleStopHard, "yes"); err != nil {
					return orchestrator.Outcome{}, err
				}
			}
		}
		vm, err := h.FindMachine(ctx, s.Ref())
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
			return orchestrator.Finished("there is no VM")
		case err != nil:
			return orchestrator.Outcome{}, err
		case vm.Power == "halted":
			return orchestrator.Finished("VM %s is halted", vm.UUID)
		}
		ref := s.Ref()
		ref.VM = vm.UUID
		hard := s.Handle(handleStopHard) != "" || !vm.GuestLive
		task, err := h.StopMachine(ctx, ref, hard)
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		if task != "" {
			if err := s.Record(ctx, handleStop, task); err != nil {
				return orchestrator.Outcome{}, err
			}
		}
		return orchestrator.WaitFor(orchestrator.WakeTask(pool, task), 0, "waiting for the shutdown")
	}
}

// DestroyMachine removes the VM and the disks recorded for it, and records the machine as absent once nothing of it is found.
func DestroyMachine(h orchestrator.Hypervisor) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		pool := s.Machine.Placement.Pool
		if pool == "" {
			s.Machine.Presence = orchestrator.Absent
			return orchestrator.Finished("the machine was never placed")
		}
		if task := s.Handle(HandleClone); task != "" {
			state, err := h.ObserveTask(ctx, pool, task)
			if err != nil {
				return orchestrator.Outcome{}, err
			}
			if state.State == orchestrator.TaskPending {
				return orchestrator.WaitFor(orchestrator.WakeTask(pool, task), time.Second, "waiting for the clone to end before it is removed")
			}
		}
		disks := recordedDisks(s)
		vm, err := h.FindMachine(ctx, s.Ref())
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
		case err != nil:
			return orchestrator.Outcome{}, err
		default:
			for _, d := range vm.Disks {
				if !slices.Contains(disks, d.UUID) {
					disks = append(disks, d.UUID)
				}
			}
			if err := s.Record(ctx, handleDisks, strings.Join(disks, ",")); err != nil {
				return orchestrator.Outcome{}, err
			}
		}
		ref := s.Ref()
		ref.VM = vm.UUID
		if err := h.DestroyMachine(ctx, ref, disks); err != nil {
			return orchestrator.Outcome{}, err
		}
		if left, err := h.FindMachine(ctx, s.Ref()); err == nil {
			return orchestrator.Outcome{}, orchestrator.Errorf("destroy_machine", orchestrator.Transient, "VM %s is still there", left.UUID)
		} else if !errors.Is(err, orchestrator.ErrNotFound) {
			return orchestrator.Outcome{}, err
		}
		s.Machine.Presence, s.Machine.VM, s.Machine.Disks = orchestrator.Absent, "", nil
		return orchestrator.Finished("VM and %d disks are gone", len(disks))
	}
}

// ReleaseAddresses gives back what place promised; addresses, MAC and port rest first.
func ReleaseAddresses(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
	outcome, _ := orchestrator.Finished("addresses rest for %s", s.Estate.QuarantineOrDefault())
	outcome.Changes = []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: s.Estate.QuarantineOrDefault()}}
	return outcome, nil
}

func recordedDisks(s *orchestrator.Step) []string {
	disks := slices.Clone(s.Machine.Disks)
	for _, d := range strings.Split(s.Handle(handleDisks), ",") {
		if d != "" && !slices.Contains(disks, d) {
			disks = append(disks, d)
		}
	}
	return disks
}

func forget(ctx context.Context, h orchestrator.Hypervisor, s *orchestrator.Step, pool, task string) {
	if err := h.ForgetTask(ctx, pool, task); err != nil {
		s.Log.Debug("task was not destroyed; the pool collects it", "error", err)
	}
}
