package install

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"slipway/orchestrator"
)

// awaitGuest waits until the guest answers on its login port and shows the host key that is expected of it.
func awaitGuest(h orchestrator.Hypervisor, i orchestrator.Installer) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		guest, why, err := reach(ctx, h, i, s)
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		if why != "" {
			return orchestrator.WaitFor("", 2*time.Second, "%s", why)
		}
		evidence, err := i.Probe(ctx, guest)
		switch orchestrator.KindOf(err) {
		case "":
			s.Machine.Address = guest.Address.Addr()
			return orchestrator.Outcome{Summary: evidence, Detail: addressedDetail(s)}, nil
		case orchestrator.Transient, orchestrator.Unknown:
			if errors.Is(err, syscall.ECONNREFUSED) {
				noteAddressed(s)
			}
			return orchestrator.WaitFor("", 2*time.Second, "waiting for the guest: %s", err)
		default:
			return orchestrator.Outcome{}, err
		}
	}
}

// reach finds the address that the pool's strategy installs through; why says what is still missing.
func reach(ctx context.Context, h orchestrator.Hypervisor, i orchestrator.Installer, s *orchestrator.Step) (guest orchestrator.Guest, why string, err error) {
	m := s.Machine
	ports, err := i.Ports(m.Image)
	if err != nil {
		return guest, "", err
	}
	vm, err := h.FindMachine(ctx, s.Ref())
	switch {
	case errors.Is(err, orchestrator.ErrNotFound):
		return guest, "", orchestrator.Errorf(s.Run.Step, orchestrator.Permanent, "VM %s is gone from pool %s", m.VM, m.Placement.Pool)
	case err != nil:
		return guest, "", err
	case vm.Power != "running":
		return guest, "", orchestrator.Errorf(s.Run.Step, orchestrator.Transient, "the guest is dead: VM %s is %s", vm.UUID, vm.Power)
	}
	if reported(vm, m.Placement).IsValid() {
		noteAddressed(s)
	}
	address := m.Placement.Public
	if s.Pool.Strategy == orchestrator.Routed {
		address = reported(vm, m.Placement)
	}
	if !address.IsValid() {
		return guest, "waiting for the guest agent to report the address", nil
	}
	return orchestrator.Guest{
		Machine: m.ID, Pool: m.Placement.Pool, Image: m.Image, Address: netip.AddrPortFrom(address, ports[0]),
		HostKey: m.HostKey, Own: m.Identity != "",
	}, "", nil
}

// handleAddressed is when the guest was first seen to have the machine's address; it rides in the commits of the step's waits.
const handleAddressed = "addressed"

// noteAddressed keeps the moment in which the guest is seen to have its address, which is not the moment in which it got it: its agent says
// so, or its login port refuses. The installer's rules let that packet through, so a refusal is the guest's own; of an address that nobody
// has, the router before it says that it is unreachable, or nothing.
func noteAddressed(s *orchestrator.Step) {
	if s.Run.Step == StepAwait && s.Handle(handleAddressed) == "" {
		s.Run.Handles[handleAddressed] = s.Now.UTC().Format(time.RFC3339Nano)
	}
}

// addressedDetail keeps it in the journal's line of the attempt that finds the guest, whose handles are those of the attempt's beginning.
func addressedDetail(s *orchestrator.Step) json.RawMessage {
	at := s.Handle(handleAddressed)
	if at == "" {
		return nil
	}
	detail, err := json.Marshal(map[string]string{handleAddressed: at})
	if err != nil {
		return nil // a text always marshals
	}
	return detail
}

// Addressed reads from an attempt of await_guest when the guest was first seen to have its address; ok is false when it was not seen.
func Addressed(handles map[string]string, detail json.RawMessage) (at time.Time, ok bool) {
	text := handles[handleAddressed]
	if text == "" && len(detail) > 0 {
		var kept map[string]string
		if json.Unmarshal(detail, &kept) != nil {
			return at, false
		}
		text = kept[handleAddressed]
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	return at, err == nil
}

// reported is the machine's address if the guest agent shows it on our VIF; another address there is an old lease.
func reported(vm orchestrator.VM, p orchestrator.Placement) netip.Addr {
	for _, vif := range vm.VIFs {
		if vif.MAC != p.MAC {
			continue
		}
		for _, a := range vif.Addresses {
			if a == p.Private {
				return a
			}
		}
	}
	return netip.Addr{}
}
