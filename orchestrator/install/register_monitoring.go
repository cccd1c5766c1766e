package install

import (
	"context"
	"errors"

	"slipway/orchestrator"
)

// registerMonitoring tells the site's monitoring of the machine, and waits until it shows it.
func registerMonitoring(m orchestrator.Monitoring) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		host := monitoredHost(*s.Machine)
		if err := m.EnsureHost(ctx, host); err != nil {
			return orchestrator.Outcome{}, err
		}
		seen, err := m.ObserveHost(ctx, host.Machine)
		switch {
		case err != nil && !errors.Is(err, orchestrator.ErrNotFound):
			return orchestrator.Outcome{}, err
		case seen != host:
			return orchestrator.WaitFor("", 0, "waiting for monitoring to show it")
		}
		return orchestrator.Finished("monitoring knows it as %s at %s", host.Hostname, host.Address)
	}
}

func monitoredHost(m orchestrator.Machine) orchestrator.MonitoredHost {
	h := orchestrator.MonitoredHost{
		Machine: m.ID, Tenant: m.Tenant, Name: m.Name, Hostname: m.Hostname, Pool: m.Placement.Pool, Image: m.Image, Address: m.Placement.Public,
	}
	if !h.Address.IsValid() {
		h.Address = m.Placement.Private
	}
	if !m.DNS.IsZero() {
		h.Hostname = m.DNS.Name
	}
	return h
}
