package install

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"slipway/orchestrator"
)

// sshPort is where every finished machine of the catalogue listens, so an allowed and a refused connection can both be told.
const sshPort = 22

// verify looks at the finished machine as a customer would, from the pool's probe point, and then gives it its final name.
func verify(h orchestrator.Hypervisor, p orchestrator.Prober) act {
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
		for _, port := range probePorts {
			if err := s.Check(ctx, probe(ctx, p, *m, netip.AddrPortFrom(target, port))); err != nil {
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

// probe tries whether a port of the machine is what its rules say, open or shut.
func probe(ctx context.Context, p orchestrator.Prober, m orchestrator.Machine, target netip.AddrPort) error {
	port := target.Port()
	want := allowsEverybody(m.Firewall, port)
	open, err := p.Open(ctx, m.Placement.Pool, target)
	switch {
	case err != nil:
		return err
	case want && !open:
		return orchestrator.Errorf("verify", orchestrator.Transient, "port %d of %s is allowed and does not answer", port, target.Addr())
	case !want && open && !allowsSomebody(m.Firewall, port):
		return orchestrator.Errorf("verify", orchestrator.Transient, "port %d of %s is not allowed and answers", port, target.Addr())
	}
	return nil
}

// probePorts tell something: SSH listens for sure; the installer's WinRM port must be shut by now.
var probePorts = [...]uint16{sshPort, 5986}

// allowsEverybody is true when the probe point must get through, wherever it stands.
func allowsEverybody(rules []orchestrator.FirewallRule, port uint16) bool {
	return port == sshPort && slices.ContainsFunc(rules, func(r orchestrator.FirewallRule) bool { return r.Source.Bits() == 0 && letsIn(r, port) })
}

func allowsSomebody(rules []orchestrator.FirewallRule, port uint16) bool {
	return slices.ContainsFunc(rules, func(r orchestrator.FirewallRule) bool { return letsIn(r, port) })
}

func letsIn(r orchestrator.FirewallRule, port uint16) bool {
	return r.Protocol == "tcp" && slices.ContainsFunc(r.Ports, func(p orchestrator.PortRange) bool { return p.First <= port && port <= p.Last })
}
