package install

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/uninstall"
)

type act = func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error)

// createMachine adopts what an earlier attempt has made, or clones the template; then it gives the clone the order's shape.
func createMachine(h orchestrator.Hypervisor) act {
	var do act
	do = func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		pool, lost := s.Machine.Placement.Pool, false
		if task := s.Handle(uninstall.HandleClone); task != "" {
			state, err := h.ObserveTask(ctx, pool, task)
			switch {
			case err != nil:
				return orchestrator.Outcome{}, err
			case state.State == orchestrator.TaskPending:
				return orchestrator.WaitFor(orchestrator.WakeTask(pool, task), 0, "waiting for the clone")
			case state.State != orchestrator.TaskGone:
				if err := h.ForgetTask(ctx, pool, task); err != nil {
					s.Log.Debug("task was not destroyed; the pool collects it", "error", err)
				}
			}
			if err := s.Record(ctx, uninstall.HandleClone, ""); err != nil {
				return orchestrator.Outcome{}, err
			}
			if state.State == orchestrator.TaskFailed {
				return orchestrator.Outcome{}, state.Err
			}
			lost = true
		}
		spec := machineSpec(s)
		vm, err := h.FindMachine(ctx, s.Ref())
		if errors.Is(err, orchestrator.ErrNotFound) {
			if lost {
				return orchestrator.Outcome{}, orchestrator.Errorf("create_machine", orchestrator.Unknown, "the clone's task has ended and pool %s has no VM of it", pool)
			}
			if waiting, err := startClone(ctx, h, s, spec); waiting != nil || err != nil {
				return orchestrator.Outcome{Wait: waiting}, err
			}
			return do(ctx, s) // it may have ended already
		}
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		vm, err = h.ShapeMachine(ctx, spec, vm.UUID)
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		s.Machine.Presence, s.Machine.VM, s.Machine.Disks = orchestrator.Present, vm.UUID, nil
		for _, d := range vm.Disks {
			s.Machine.Disks = append(s.Machine.Disks, d.UUID)
		}
		return orchestrator.Finished("VM %s with %d disks", vm.UUID, len(vm.Disks))
	}
	return do
}

// unmakeMachine destroys the VM, and forgets what was known of its guest. When the run goes on from here, the machine is planned again: its
// name, addresses, MAC and port stay its own meanwhile.
func unmakeMachine(h orchestrator.Hypervisor) act {
	destroy := uninstall.DestroyMachine(h)
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		outcome, err := destroy(ctx, s)
		if err != nil || outcome.Wait != nil {
			return outcome, err
		}
		s.Machine.Identity, s.Machine.Address = "", netip.Addr{}
		if s.GoesOn() {
			s.Machine.Presence = orchestrator.Planned
		}
		return outcome, nil
	}
}

// startClone records the task that it began, or says what it waits for.
func startClone(ctx context.Context, h orchestrator.Hypervisor, s *orchestrator.Step, spec orchestrator.MachineSpec) (*orchestrator.Wait, error) {
	task, err := h.StartClone(ctx, spec)
	if orchestrator.KindOf(err) == orchestrator.Exhausted {
		return &orchestrator.Wait{Reason: "waiting to clone: " + err.Error(), Key: orchestrator.WakeCapacity, Poll: time.Second}, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, s.Record(ctx, uninstall.HandleClone, task)
}

func machineSpec(s *orchestrator.Step) orchestrator.MachineSpec {
	m := s.Machine
	return orchestrator.MachineSpec{
		MachineRef: s.Ref(), Run: s.Run.ID, Attempt: s.Run.Attempt, Image: m.Image, Plan: m.Plan,
		SR: m.Placement.SR, Host: m.Placement.Host, Network: s.Pool.Network, MAC: m.Placement.MAC, Address: m.Placement.Private, Hostname: m.Hostname,
		Card: m.Card(s.Run.Order).String(),
	}
}
