package install

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"slipway/orchestrator"
)

// verify looks at the finished machine as a customer would, from the pool's probe point, and then gives it its final name.
func verify(h orchestrator.Hypervisor, i orchestrator.Installer, p orchestrator.Prober) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		m := s.Machine
		vm, err := h.FindMachine(ctx, s.Ref())
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
			return orchestrator.Outcome{}, orchestrator.Errorf("verify", orchestrator.Permanent, "VM %s is gone from pool %s", m.VM, m.Placement.Pool)
		case err != nil:
			return orchestrator.Outcome{}, err
		case vm.Power != "running":
			return orchestrator.Outcome{}, orchestrator.Errorf("verify", orchestrator.Transient, "VM %s is %s", vm.UUID, vm.Power)
		}
		target := m.Placement.Public
		if !target.IsValid() {
			target = m.Placement.Private
		}
		serves, err := i.Serves(m.Image)
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		for _, port := range probePorts(serves) {
			if err := s.Check(ctx, probe(ctx, p, *m, netip.AddrPortFrom(target, port), slices.Contains(serves, port))); err != nil {
				return orchestrator.Outcome{}, err
			}
		}
		if err := s.Check(ctx, p.Console(ctx, *m)); err != nil {
			return orchestrator.Outcome{}, err
		}
		if err := h.NameMachine(ctx, s.Ref(), m.Name); err != nil {
			return orchestrator.Outcome{}, err
		}
		return orchestrator.Finished("answers as it should on %s; console opens; identity is its own", target)
	}
}

// probe tries whether a port of the machine is what its rules say. Where nobody is let in the firewall drops, so only silence is right: a
// refusal is the guest's own and means that the packet came past the firewall. Where everybody is let in, a port that the image serves
// answers. Where some are, the probe point may be one of them or not.
func probe(ctx context.Context, p orchestrator.Prober, m orchestrator.Machine, target netip.AddrPort, served bool) error {
	port := target.Port()
	answer, err := p.TryPort(ctx, m.Placement.Pool, target)
	switch {
	case err != nil:
		return err
	case served && allowsEverybody(m.Firewall, port):
		switch answer {
		case orchestrator.PortSilent:
			return orchestrator.Errorf("verify", orchestrator.Transient, "port %d of %s is allowed and does not answer", port, target.Addr())
		case orchestrator.PortRefused:
			return orchestrator.Errorf("verify", orchestrator.Transient, "port %d of %s is allowed and refused: what should listen there in the guest does not", port, target.Addr())
		}
	case !allowsSomebody(m.Firewall, port):
		switch answer {
		case orchestrator.PortOpen:
			return orchestrator.Errorf("verify", orchestrator.Transient, "port %d of %s is not allowed and answers", port, target.Addr())
		case orchestrator.PortRefused:
			return orchestrator.Errorf("verify", orchestrator.Transient,
				"port %d of %s is not allowed and refused: the firewall should have dropped it silently, and the guest has seen it", port, target.Addr())
		}
	}
	return nil
}

// probePorts are those that the image serves, and those of the installers: most of them are shut by now, and that can be told as well.
func probePorts(serves []uint16) []uint16 {
	ports := append(slices.Clone(serves), sshPort, winrmPort)
	slices.Sort(ports)
	return slices.Compact(ports)
}

const (
	sshPort   = 22
	winrmPort = 5986
)

// allowsEverybody is true when the probe point must get through, wherever it stands.
func allowsEverybody(rules []orchestrator.FirewallRule, port uint16) bool {
	return slices.ContainsFunc(rules, func(r orchestrator.FirewallRule) bool { return r.Source.Bits() == 0 && letsIn(r, port) })
}

func allowsSomebody(rules []orchestrator.FirewallRule, port uint16) bool {
	return slices.ContainsFunc(rules, func(r orchestrator.FirewallRule) bool { return letsIn(r, port) })
}

func letsIn(r orchestrator.FirewallRule, port uint16) bool {
	return r.Protocol == "tcp" && slices.ContainsFunc(r.Ports, func(p orchestrator.PortRange) bool { return p.First <= port && port <= p.Last })
}
