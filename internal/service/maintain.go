package service

import (
	"context"
	"fmt"

	"slipway/orchestrator"
	"slipway/orchestrator/reconfigure"
	"slipway/orchestrator/suspend"
	"slipway/orchestrator/unsuspend"
)

var _ orchestrator.Maintainer = installers{}

// maintainer is nil for an image whose transport leaves no way in.
func (i installers) maintainer(image string) (orchestrator.Maintainer, error) {
	to, err := i.of(image)
	if err != nil {
		return nil, err
	}
	m, ok := to.(orchestrator.Maintainer)
	if !ok {
		return nil, orchestrator.Errorf("maintain", orchestrator.Permanent, "slipway keeps no way into machines of image %q", image)
	}
	return m, nil
}

// Maintainable implements orchestrator.Maintainer.
func (i installers) Maintainable(image string) (why string) {
	m, err := i.maintainer(image)
	if err != nil {
		return fmt.Sprintf("slipway keeps no way into machines of image %q", image)
	}
	return m.Maintainable(image)
}

// ChangeGuest implements orchestrator.Maintainer.
func (i installers) ChangeGuest(ctx context.Context, g orchestrator.Guest, c orchestrator.GuestChange) error {
	m, err := i.maintainer(g.Image)
	if err != nil {
		return err
	}
	return m.ChangeGuest(ctx, g, c)
}

// changeable refuses at the border what would park at change_guest.
func changeable(maintainer orchestrator.Maintainer) func(orchestrator.Machine, orchestrator.Order) error {
	return func(m orchestrator.Machine, o orchestrator.Order) error {
		if o.Type != orchestrator.OrderReconfigure {
			return nil
		}
		var errs orchestrator.FieldErrors
		why := maintainer.Maintainable(m.Image)
		if why != "" && o.SSHKeys != nil {
			errs = append(errs, orchestrator.FieldError{Field: "ssh_keys", Problem: "cannot be changed: " + why, Fix: "leave it out, and change the keys in the guest"})
		}
		if why != "" && o.Hostname != "" {
			errs = append(errs, orchestrator.FieldError{Field: "hostname", Problem: "cannot be changed: " + why, Fix: "leave it out, and change the name in the guest"})
		}
		if why == "" && len(o.Hostname) > maxGuestName {
			errs = append(errs, orchestrator.FieldError{Field: "hostname", Problem: fmt.Sprintf("has %d characters", len(o.Hostname)), Fix: fmt.Sprintf("use at most %d: Linux takes no more", maxGuestName)})
		}
		if len(errs) == 0 {
			return nil
		}
		return errs
	}
}

// alterations are the processes about finished machines.
func (s *Service) alterations(i installers, p orchestrator.Prober) []*orchestrator.Process {
	return []*orchestrator.Process{
		reconfigure.New(reconfigure.Ports{Hypervisor: s.Xapi, Desired: s.Store, Installer: i, Maintainer: i, Prober: p, Names: s.names, Monitoring: monitor(s.monitoring)}),
		suspend.New(suspend.Ports{Hypervisor: s.Xapi, Desired: s.Store, Prober: p, Monitoring: monitor(s.monitoring)}),
		unsuspend.New(unsuspend.Ports{Hypervisor: s.Xapi, Desired: s.Store, Prober: p, Monitoring: monitor(s.monitoring)}),
	}
}
