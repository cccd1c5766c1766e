package uninstall

import (
	"context"
	"errors"

	"slipway/orchestrator"
)

// named is the When of unregister_dns: what was registered goes, whatever is configured now.
func named(s *orchestrator.Step) (bool, string) {
	return !s.Machine.DNS.IsZero(), "nothing of it is in the DNS"
}

// Monitored is the When of the rows about monitoring.
func Monitored(s *orchestrator.Step) (bool, string) {
	return s.Estate.Monitored, "no monitoring is configured"
}

// UnregisterDNS removes the machine's records and looks that none is left. What others have made of its names meanwhile stays.
func UnregisterDNS(n orchestrator.Names) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		record := s.Machine.DNS
		if record.IsZero() {
			return orchestrator.Finished("nothing of it is in the DNS")
		}
		if err := n.RemoveName(ctx, s.Machine.ID, record); err != nil {
			return orchestrator.Outcome{}, err
		}
		state, err := n.ObserveName(ctx, s.Machine.ID, record)
		switch {
		case err != nil:
			return orchestrator.Outcome{}, err
		case state.Left:
			return orchestrator.WaitFor("", 0, "waiting for the name server to drop %s", record.Name)
		}
		s.Machine.DNS = orchestrator.NameRecord{}
		return orchestrator.Finished("%s is not the machine's any more", record.Name)
	}
}

// UnregisterMonitoring removes the machine from the site's monitoring and looks that it is gone.
func UnregisterMonitoring(m orchestrator.Monitoring) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		if err := m.RemoveHost(ctx, s.Machine.ID); err != nil {
			return orchestrator.Outcome{}, err
		}
		switch _, err := m.ObserveHost(ctx, s.Machine.ID); {
		case errors.Is(err, orchestrator.ErrNotFound):
			return orchestrator.Finished("monitoring does not know it")
		case err != nil:
			return orchestrator.Outcome{}, err
		default:
			return orchestrator.WaitFor("", 0, "waiting for monitoring to drop it")
		}
	}
}
