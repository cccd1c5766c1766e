package suspend

import (
	"context"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/uninstall"
)

// startAgain takes a shutdown back: one that is under way ends first, for it cannot be called back.
func startAgain(h orchestrator.Hypervisor) act {
	start := install.StartMachine(h)
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		pool := s.Machine.Placement.Pool
		if task := s.Handle(uninstall.HandleStop); task != "" {
			state, err := h.ObserveTask(ctx, pool, task)
			switch {
			case err != nil:
				return orchestrator.Outcome{}, err
			case state.State == orchestrator.TaskPending:
				return orchestrator.WaitFor(orchestrator.WakeTask(pool, task), 0, "waiting for the shutdown to end before it is started")
			case state.State != orchestrator.TaskGone:
				if err := h.ForgetTask(ctx, pool, task); err != nil {
					s.Log.Debug("task was not destroyed; the pool collects it", "error", err)
				}
			}
			if err := s.Record(ctx, uninstall.HandleStop, ""); err != nil {
				return orchestrator.Outcome{}, err
			}
		}
		return start(ctx, s)
	}
}
