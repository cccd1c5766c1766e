package suspend

import (
	"context"
	"errors"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/uninstall"
)

// handleMonitored says that monitoring knew the machine before it was asked to forget it.
const handleMonitored = "monitored"

// unregister has monitoring forget the machine, and notes first that it knew it: one that it was never told of is not told at the end.
func unregister(m orchestrator.Monitoring) act {
	forget := uninstall.UnregisterMonitoring(m)
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		noted := s.Handle(handleMonitored) != ""
		if !noted {
			switch _, err := m.ObserveHost(ctx, s.Machine.ID); {
			case errors.Is(err, orchestrator.ErrNotFound):
				return orchestrator.Finished("monitoring does not know it")
			case err != nil:
				return orchestrator.Outcome{}, err
			}
		}
		s.Machine.Suspension.Monitored = true
		if !noted {
			if err := s.Record(ctx, handleMonitored, "yes"); err != nil { // in one commit with what the machine's row says
				return orchestrator.Outcome{}, err
			}
		}
		return forget(ctx, s)
	}
}

// register tells monitoring of the machine again.
func register(m orchestrator.Monitoring) act {
	tell := install.RegisterMonitoring(m)
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		if !s.Machine.Suspension.Monitored {
			return orchestrator.Finished("monitoring was not told to forget it")
		}
		return tell(ctx, s)
	}
}
