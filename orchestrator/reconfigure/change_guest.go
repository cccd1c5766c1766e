package reconfigure

import (
	"context"
	"errors"
	"net/netip"

	"slipway/orchestrator"
)

// changeGuest gives the guest the wanted keys and hostname, and reads them back there.
func changeGuest(h orchestrator.Hypervisor, i orchestrator.Installer, m orchestrator.Maintainer) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		return apply(ctx, h, i, m, s, former(s), wanted(s))
	}
}

// changeBack gives it the former ones again. A guest that was never reached was never changed. One that can be reached no more, because it is
// off or its customer has shut the way in, keeps what it has, and the machine's row says so: a way back that waits for a customer is none.
func changeBack(h orchestrator.Hypervisor, i orchestrator.Installer, m orchestrator.Maintainer) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		if s.Handle(handleEntered) == "" && s.Run.State != "guest_changed" {
			return orchestrator.Finished("the guest was not changed")
		}
		outcome, err := apply(ctx, h, i, m, s, wanted(s), former(s))
		if orchestrator.KindOf(err) == orchestrator.Permanent {
			s.Machine.Hostname, s.Machine.SSHKeys = wanted(s).Hostname, wanted(s).SSHKeys
			return orchestrator.Finished("the guest keeps its new keys and hostname: %s", err)
		}
		return outcome, err
	}
}

// handleEntered says that the guest was asked, so that it may have changed.
const handleEntered = "entered"

func apply(ctx context.Context, h orchestrator.Hypervisor, i orchestrator.Installer, m orchestrator.Maintainer, s *orchestrator.Step, from, to orchestrator.Settings) (orchestrator.Outcome, error) {
	guest, err := reach(ctx, h, i, s)
	if err != nil {
		return orchestrator.Outcome{}, err
	}
	first := s.Handle(handleEntered) == ""
	if first {
		if err := s.Record(ctx, handleEntered, "yes"); err != nil {
			return orchestrator.Outcome{}, err
		}
	}
	change := orchestrator.GuestChange{}
	if s.Run.Alteration.ChangesHostname() {
		change.Hostname = to.Hostname
	}
	if s.Run.Alteration.ChangesKeys() {
		change.Drop, change.Keys = from.SSHKeys, to.SSHKeys
	}
	err = m.ChangeGuest(ctx, guest, change)
	if first && orchestrator.KindOf(err) == orchestrator.Permanent {
		delete(s.Run.Handles, handleEntered) // it was not let in: nothing has changed
	}
	if err != nil {
		return orchestrator.Outcome{}, err
	}
	s.Machine.Hostname, s.Machine.SSHKeys = to.Hostname, to.SSHKeys
	return orchestrator.Finished("the guest has %d keys of ours and calls itself %s", len(to.SSHKeys), to.Hostname)
}

// reach finds the guest at the address where the installer had met it.
func reach(ctx context.Context, h orchestrator.Hypervisor, i orchestrator.Installer, s *orchestrator.Step) (orchestrator.Guest, error) {
	m := s.Machine
	ports, err := i.Ports(m.Image)
	if err != nil {
		return orchestrator.Guest{}, err
	}
	vm, err := h.FindMachine(ctx, s.Ref())
	switch {
	case errors.Is(err, orchestrator.ErrNotFound):
		return orchestrator.Guest{}, orchestrator.Errorf(s.Run.Step, orchestrator.Permanent, "VM %s is gone from pool %s", m.VM, m.Placement.Pool)
	case err != nil:
		return orchestrator.Guest{}, err
	case vm.Power != "running":
		return orchestrator.Guest{}, orchestrator.Errorf(s.Run.Step, orchestrator.Permanent, "VM %s is %s: a guest takes keys and a hostname while it runs; start it and retry, or cancel", vm.UUID, vm.Power)
	}
	return orchestrator.Guest{
		Machine: m.ID, Pool: m.Placement.Pool, Image: m.Image, Address: netip.AddrPortFrom(m.Placement.Reached(), ports[0]), HostKey: m.HostKey, Own: true,
	}, nil
}
