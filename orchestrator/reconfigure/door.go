package reconfigure

import (
	"context"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
)

// openDoor lets the maintainer in, beside the customer's rules: those go on as they are.
func openDoor(d orchestrator.Desired, i orchestrator.Installer) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		ports, err := i.Ports(s.Machine.Image)
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		return install.EnsureEntry(d, orchestrator.Firewall, func(s *orchestrator.Step) (string, any) {
			return s.Machine.Placement.Firewall, s.Machine.DoorEntry(former(s).Firewall, s.Pool.Installer, ports[:1])
		})(ctx, s)
	}
}

// reopenDoor takes new rules back: to what openDoor left when the guest has to be changed back, else to the former rules alone.
func reopenDoor(d orchestrator.Desired, i orchestrator.Installer) act {
	open, plain := openDoor(d, i), rules(d, former)
	return then(func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		if guest, _ := changesGuest(s); guest {
			return open(ctx, s)
		}
		return plain(ctx, s)
	}, func(s *orchestrator.Step) { s.Machine.Firewall = former(s).Firewall })
}
