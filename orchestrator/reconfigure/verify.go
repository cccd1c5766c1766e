package reconfigure

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"slipway/orchestrator"
)

// verify looks as a customer would: where the rules let nobody in there is silence, and the console opens by its password. A port
// that is let in and does not answer is told and no failure: what listens in a machine in use is its customer's affair, and the agents
// have proven the rules themselves. Keys and hostname were read back in the guest.
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
			return orchestrator.Finished("VM %s is %s, nothing is there to answer; the appliances carry what was ordered", vm.UUID, vm.Power)
		}
		var said []string
		for _, port := range probed(former(s).Firewall, wanted(s).Firewall) {
			target := netip.AddrPortFrom(m.Placement.Reached(), port)
			answer, err := p.TryPort(ctx, m.Placement.Pool, target)
			if err == nil && answer != orchestrator.PortSilent && !allows(wanted(s).Firewall, port, false) {
				err = orchestrator.Errorf("verify", orchestrator.Transient, "nobody is let in at %s, and it is %s", target, answer)
			}
			if err := s.Check(ctx, err); err != nil {
				return orchestrator.Outcome{}, err
			}
			said = append(said, fmt.Sprintf("port %d is %s", port, answer))
		}
		if err := s.Check(ctx, p.Console(ctx, *m)); err != nil {
			return orchestrator.Outcome{}, err
		}
		return orchestrator.Finished("%s; console opens", strings.Join(said, ", "))
	}
}

// maxProbed bounds how many ports one look costs: a silent one takes its time.
const maxProbed = 8

// probed are the ports that tell something: SSH, and the single TCP ports that everybody could or can reach, the changed ones first.
func probed(former, wanted []orchestrator.FirewallRule) []uint16 {
	const ssh = 22
	changed, same := []uint16{}, []uint16{ssh}
	for _, r := range slices.Concat(former, wanted) {
		if r.Protocol != "tcp" || r.Source.Bits() != 0 {
			continue
		}
		for _, ports := range r.Ports {
			port := ports.First
			if allows(former, port, true) != allows(wanted, port, true) {
				changed = append(changed, port)
			} else {
				same = append(same, port)
			}
		}
	}
	var all []uint16
	for _, port := range append(changed, same...) {
		if !slices.Contains(all, port) && len(all) < maxProbed {
			all = append(all, port)
		}
	}
	return all
}

// allows reports whether the rules let somebody in at a TCP port, or everybody.
func allows(rules []orchestrator.FirewallRule, port uint16, everybody bool) bool {
	return slices.ContainsFunc(rules, func(r orchestrator.FirewallRule) bool {
		return r.Protocol == "tcp" && (!everybody || r.Source.Bits() == 0) &&
			slices.ContainsFunc(r.Ports, func(p orchestrator.PortRange) bool { return p.First <= port && port <= p.Last })
	})
}
