package install

import (
	"context"
	"encoding/json"

	"slipway/orchestrator"
)

func dhcpGroup(p orchestrator.Placement) string     { return p.DHCP }
func firewallGroup(p orchestrator.Placement) string { return p.Firewall }
func consoleGroup(p orchestrator.Placement) string  { return p.Console }

// servedByUs is the When of sync_dhcp.
func servedByUs(s *orchestrator.Step) (bool, string) {
	return s.Machine.Placement.DHCP != "", "the pool's network is served by others"
}

func reserveDHCP(s *orchestrator.Step) ([]orchestrator.Change, error) {
	return put(s.Machine.Placement.DHCP, orchestrator.DHCP, s.Machine.HostEntry(s.Machine.Hostname))
}

// reserveInstallerRules lets the post-installer in, and nobody else.
func reserveInstallerRules(i orchestrator.Installer) func(*orchestrator.Step) ([]orchestrator.Change, error) {
	return func(s *orchestrator.Step) ([]orchestrator.Change, error) {
		m := s.Machine
		ports, err := i.Ports(m.Image)
		if err != nil {
			return nil, err
		}
		return put(m.Placement.Firewall, orchestrator.Firewall, orchestrator.FirewallEntry{
			Machine: m.ID, Private: m.Placement.Private, Public: m.Placement.Public,
			Phase: orchestrator.PhaseInstaller, Installer: s.Pool.Installer, Ports: ports,
		})
	}
}

// reserveCustomerRules replaces the installer's rule by the customer's.
func reserveCustomerRules(s *orchestrator.Step) ([]orchestrator.Change, error) {
	return put(s.Machine.Placement.Firewall, orchestrator.Firewall, s.Machine.OpenEntry(s.Machine.Firewall))
}

func reserveConsole(s *orchestrator.Step) ([]orchestrator.Change, error) {
	return put(s.Machine.Placement.Console, orchestrator.Console, s.Machine.ConsoleEntry(s.Machine.ConsolePassword))
}

func put(group string, unit orchestrator.Unit, entry any) ([]orchestrator.Change, error) {
	body, err := json.Marshal(entry)
	if err != nil {
		return nil, err
	}
	return []orchestrator.Change{orchestrator.PutEntry{Group: group, Unit: unit, Body: body}}, nil
}

// awaitGroup waits until enough members of the group carry the entry that was reserved with the step.
func awaitGroup(d orchestrator.Desired, groupOf func(orchestrator.Placement) string) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		group := groupOf(s.Machine.Placement)
		state, err := d.EntryState(ctx, group, s.Machine.ID)
		switch {
		case err != nil:
			return orchestrator.Outcome{}, err
		case !state.Found || state.Removed:
			return orchestrator.Outcome{}, orchestrator.Errorf(s.Run.Step, orchestrator.Conflict, "group %s has no entry of this machine; it is put in again", group)
		default:
			return carried(s, group, state)
		}
	}
}

// carried says how far a group is with the entry that it has been given.
func carried(s *orchestrator.Step, group string, state orchestrator.EntryState) (orchestrator.Outcome, error) {
	switch {
	case state.Bad != "":
		return orchestrator.Outcome{}, orchestrator.Errorf(s.Run.Step, orchestrator.Permanent, "group %s cannot carry this machine: %s", group, state.Bad)
	case !state.IsApplied():
		reason := ""
		if state.Problem != "" {
			reason = ": " + state.Problem
		}
		return orchestrator.WaitFor(orchestrator.WakeGroup(group), 0, "waiting for %s to carry it%s", group, reason)
	default:
		return orchestrator.Finished("%s carries it since generation %d", group, state.Generation)
	}
}
