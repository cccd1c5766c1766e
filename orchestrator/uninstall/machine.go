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
	handleStopHard = "stop_hard" // "yes" once the clean way has failed
	handleDisks    = "disks"     // VDI uuids, recorded before the VM that names them is destroyed
	handleClones   = "clones"    // tasks of which one may be a clone of ours whose answer was lost
	// HandleClone and HandleStart are tasks of create_machine and start_machine; their undo waits for them, for neither can be called back.
	HandleClone = "clone"
	HandleStart = "start"
	// HandleStop is the shutdown's task.
	HandleStop = "stop"
)

// StopMachine shuts the VM down, cleanly if the guest can, otherwise at once.
func StopMachine(h orchestrator.Hypervisor) act {
	var do act
	do = func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		pool := s.Machine.Placement.Pool
		if pool == "" {
			return orchestrator.Finished("the machine was never placed")
		}
		if pending, err := underWay(ctx, h, s, HandleStart); pending || err != nil {
			return waitForTask(s, HandleStart, "waiting for the start to end before it is stopped", err)
		}
		ended, err := shutdown(ctx, h, s)
		if ended == orchestrator.TaskPending || err != nil {
			return waitForTask(s, HandleStop, "waiting for the shutdown", err)
		}
		vm, err := h.FindMachine(ctx, s.Ref())
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
			return orchestrator.Finished("there is no VM")
		case err != nil:
			return orchestrator.Outcome{}, err
		case vm.Power == "halted":
			return orchestrator.Finished("VM %s is halted", vm.UUID)
		case ended == orchestrator.TaskSucceeded:
			return orchestrator.Outcome{}, orchestrator.Errorf("stop_machine", orchestrator.Transient, "VM %s was shut down and is %s", vm.UUID, vm.Power)
		}
		return stop(ctx, h, s, vm, s.Handle(handleStopHard) != "" || !vm.GuestLive, do)
	}
	return do
}

// stop begins the shutdown and has the step look again: it may have ended already.
func stop(ctx context.Context, h orchestrator.Hypervisor, s *orchestrator.Step, vm orchestrator.VM, hard bool, look act) (orchestrator.Outcome, error) {
	ref := s.Ref()
	ref.VM = vm.UUID
	task, err := h.StopMachine(ctx, ref, hard)
	if err != nil {
		return orchestrator.Outcome{}, err
	}
	if task == "" {
		return orchestrator.WaitFor("", time.Second, "waiting for the shutdown")
	}
	if err := s.Record(ctx, HandleStop, task); err != nil {
		return orchestrator.Outcome{}, err
	}
	return look(ctx, s)
}

// shutdown follows the shutdown that this step began and tells how its task ended, "" when there is none; after a clean one that failed
// the next is a hard one.
func shutdown(ctx context.Context, h orchestrator.Hypervisor, s *orchestrator.Step) (orchestrator.TaskState, error) {
	pool, task := s.Machine.Placement.Pool, s.Handle(HandleStop)
	if task == "" {
		return "", nil
	}
	state, err := h.ObserveTask(ctx, pool, task)
	if err != nil || state.State == orchestrator.TaskPending {
		return state.State, err
	}
	forget(ctx, h, s, pool, task)
	if err := s.Record(ctx, HandleStop, ""); err != nil {
		return "", err
	}
	if state.State == orchestrator.TaskFailed {
		if s.Handle(handleStopHard) != "" {
			return state.State, state.Err
		}
		s.Log.Info("clean shutdown failed, pulling the plug", "error", state.Err)
		return state.State, s.Record(ctx, handleStopHard, "yes")
	}
	return state.State, nil
}

// underWay reports whether the task of a handle is pending: what it does would come after its undo.
func underWay(ctx context.Context, h orchestrator.Hypervisor, s *orchestrator.Step, handle string) (bool, error) {
	task := s.Handle(handle)
	if task == "" {
		return false, nil
	}
	state, err := h.ObserveTask(ctx, s.Machine.Placement.Pool, task)
	return state.State == orchestrator.TaskPending, err
}

// Settled looks at the VM once nothing is changing its power any more: neither a start or shutdown that this step has begun, nor one that only
// the VM shows, because its answer was lost. Until then waits has a Wait. vm is zero when there is no VM.
func Settled(ctx context.Context, h orchestrator.Hypervisor, s *orchestrator.Step) (vm orchestrator.VM, waits orchestrator.Outcome, err error) {
	const reason = "waiting for the VM's start or shutdown to end"
	for _, handle := range []string{HandleStart, HandleStop} {
		if pending, err := underWay(ctx, h, s, handle); pending || err != nil {
			waits, err := waitForTask(s, handle, reason, err)
			return orchestrator.VM{}, waits, err
		}
	}
	vm, err = h.FindMachine(ctx, s.Ref())
	switch {
	case errors.Is(err, orchestrator.ErrNotFound):
		return orchestrator.VM{}, orchestrator.Outcome{}, nil
	case err == nil && vm.PowerTask != "":
		waits, err = orchestrator.WaitFor(orchestrator.WakeTask(s.Machine.Placement.Pool, vm.PowerTask), 0, reason)
	}
	return vm, waits, err
}

// lostClone names a clone that was under way when this was asked first and still is. A worker that died, or a connection that was lost,
// before the task could be recorded leaves no other trace of it; it becomes a VM when it ends, and would be nobody's by then.
func lostClone(ctx context.Context, h orchestrator.Hypervisor, s *orchestrator.Step) (task string, err error) {
	pool := s.Machine.Placement.Pool
	if s.Handle(handleClones) == "" {
		tasks, err := h.PendingClones(ctx, pool)
		if err != nil || len(tasks) == 0 {
			return "", err
		}
		s.Run.Handles[handleClones] = strings.Join(tasks, ",") // rides in the wait's commit
	}
	for _, task := range strings.Split(s.Handle(handleClones), ",") {
		state, err := h.ObserveTask(ctx, pool, task)
		if err != nil || state.State == orchestrator.TaskPending {
			return task, err
		}
	}
	return "", nil
}

func waitForTask(s *orchestrator.Step, handle, reason string, err error) (orchestrator.Outcome, error) {
	if err != nil {
		return orchestrator.Outcome{}, err
	}
	return orchestrator.WaitFor(orchestrator.WakeTask(s.Machine.Placement.Pool, s.Handle(handle)), 0, "%s", reason)
}

// DestroyMachine removes the VM and the disks recorded for it, and records the machine as absent once nothing of it is found.
func DestroyMachine(h orchestrator.Hypervisor) act {
	var do act
	do = func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		pool := s.Machine.Placement.Pool
		if pool == "" {
			s.Machine.Presence = orchestrator.Absent
			return orchestrator.Finished("the machine was never placed")
		}
		if pending, err := underWay(ctx, h, s, HandleClone); pending || err != nil {
			return waitForTask(s, HandleClone, "waiting for the clone to end before it is removed", err)
		}
		if s.Machine.VM == "" {
			if task, err := lostClone(ctx, h, s); task != "" || err != nil {
				outcome, _ := orchestrator.WaitFor(orchestrator.WakeTask(pool, task), 0, "waiting for the clones to end that were under way: one may be the machine's")
				return outcome, err
			}
		}
		ended, err := shutdown(ctx, h, s)
		if ended == orchestrator.TaskPending || err != nil {
			return waitForTask(s, HandleStop, "waiting for the shutdown", err)
		}
		var left []string
		disks := recordedDisks(s)
		vm, err := h.FindMachine(ctx, s.Ref())
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
		case err != nil:
			return orchestrator.Outcome{}, err
		case vm.Power != "halted" && ended == orchestrator.TaskSucceeded:
			return orchestrator.Outcome{}, orchestrator.Errorf("destroy_machine", orchestrator.Transient, "VM %s was shut down and is %s", vm.UUID, vm.Power)
		case vm.Power != "halted":
			// It was halted when stop_machine looked: a start whose answer was lost came late.
			return stop(ctx, h, s, vm, true, do)
		default:
			disks, left = ownDisks(s.Machine.ID, disks, vm)
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
		if len(left) > 0 {
			return orchestrator.Finished("VM and %d disks are gone; left, for they are not the machine's: %s", len(disks), strings.Join(left, ", "))
		}
		return orchestrator.Finished("VM and %d disks are gone", len(disks))
	}
	return do
}

// ReleaseAddresses gives back what place promised; addresses, MAC and port rest first.
func ReleaseAddresses(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
	outcome, _ := orchestrator.Finished("addresses rest for %s", s.Estate.QuarantineOrDefault())
	outcome.Changes = []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: s.Estate.QuarantineOrDefault()}}
	s.Machine.Suspension = orchestrator.Suspension{}
	return outcome, nil
}

// ownDisks adds to the recorded disks of a machine those of its VM that carry its tag; what is left was attached by somebody. A clone that was
// never shaped has neither: all of its disks are its own, but for those with another machine's tag.
func ownDisks(machine string, recorded []string, vm orchestrator.VM) (own, left []string) {
	untouched := len(recorded) == 0 && !slices.ContainsFunc(vm.Disks, func(d orchestrator.Disk) bool { return d.Machine == machine })
	own = recorded
	for _, d := range vm.Disks {
		switch {
		case slices.Contains(own, d.UUID):
		case d.Machine == machine, d.Machine == "" && untouched:
			own = append(own, d.UUID)
		default:
			left = append(left, d.UUID)
		}
	}
	return own, left
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
