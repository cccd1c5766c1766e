package install

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/uninstall"
)

// startMachine boots the VM on the host that place chose, or, when that one is full after all, on any that has room.
func startMachine(h orchestrator.Hypervisor) act {
	var do act
	do = func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		pool, ended := s.Machine.Placement.Pool, false
		if task := s.Handle(uninstall.HandleStart); task != "" {
			state, err := h.ObserveTask(ctx, pool, task)
			switch {
			case err != nil:
				return orchestrator.Outcome{}, err
			case state.State == orchestrator.TaskPending:
				return orchestrator.WaitFor(orchestrator.WakeTask(pool, task), 0, "waiting for the start")
			case state.State != orchestrator.TaskGone:
				if err := h.ForgetTask(ctx, pool, task); err != nil {
					s.Log.Debug("task was not destroyed; the pool collects it", "error", err)
				}
			}
			if err := s.Record(ctx, uninstall.HandleStart, ""); err != nil {
				return orchestrator.Outcome{}, err
			}
			if state.State == orchestrator.TaskFailed {
				return orchestrator.Outcome{}, state.Err
			}
			ended = state.State == orchestrator.TaskSucceeded
		}
		vm, err := h.FindMachine(ctx, s.Ref())
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
			return orchestrator.Outcome{}, orchestrator.Errorf("start_machine", orchestrator.Permanent, "VM %s is gone from pool %s", s.Machine.VM, pool)
		case err != nil:
			return orchestrator.Outcome{}, err
		case vm.Power == "running":
			return runsOn(s, vm)
		case ended:
			return orchestrator.Outcome{}, orchestrator.Errorf("start_machine", orchestrator.Transient, "VM %s was started and is %s", vm.UUID, vm.Power)
		}
		task, err := h.StartMachine(ctx, s.Ref(), s.Machine.Placement.Host)
		if orchestrator.KindOf(err) == orchestrator.Exhausted {
			s.Log.Info("the host that was chosen is full, any other will do", "host", s.Machine.Placement.Host, "error", err)
			task, err = h.StartMachine(ctx, s.Ref(), "")
		}
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		if task == "" {
			return orchestrator.WaitFor("", time.Second, "waiting for the start")
		}
		if err := s.Record(ctx, uninstall.HandleStart, task); err != nil {
			return orchestrator.Outcome{}, err
		}
		return do(ctx, s) // it may have ended already
	}
	return do
}

// runsOn ends the step. A machine that came up on another host than the one that place chose takes its promise along.
func runsOn(s *orchestrator.Step, vm orchestrator.VM) (orchestrator.Outcome, error) {
	outcome, _ := orchestrator.Finished("VM %s runs on host %s", vm.UUID, vm.Host)
	placement, plan := s.Machine.Placement, s.Machine.Plan
	if vm.Host == "" || vm.Host == placement.Host {
		return outcome, nil
	}
	outcome.Decide = func(ledger *orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
		return ledger.Follow(placement, plan, vm.Host), nil, nil
	}
	return outcome, nil
}
