package uninstall

import (
	"context"

	"slipway/orchestrator"
)

type act = func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error)

// CloseConsole takes the machine's line out of its console group and waits until no appliance carries it.
func CloseConsole(d orchestrator.Desired) act {
	return dropEntry(d, func(p orchestrator.Placement) string { return p.Console })
}

// DropRules takes the machine's filter and NAT out of its firewall group; the applier cuts its connections.
func DropRules(d orchestrator.Desired) act {
	return dropEntry(d, func(p orchestrator.Placement) string { return p.Firewall })
}

// ForgetDHCP takes the machine's host block out of its DHCP group.
func ForgetDHCP(d orchestrator.Desired) act {
	return dropEntry(d, func(p orchestrator.Placement) string { return p.DHCP })
}

func dropEntry(d orchestrator.Desired, groupOf func(orchestrator.Placement) string) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		group := groupOf(s.Machine.Placement)
		if group == "" {
			return orchestrator.Finished("the machine has no such group")
		}
		state, err := d.EntryState(ctx, group, s.Machine.ID)
		switch {
		case err != nil:
			return orchestrator.Outcome{}, err
		case !state.Found:
			return orchestrator.Finished("%s carries nothing of it", group)
		case !state.Removed:
			outcome, _ := orchestrator.WaitFor(orchestrator.WakeGroup(group), 0, "waiting for %s to drop it", group)
			outcome.Changes = []orchestrator.Change{orchestrator.DropEntry{Group: group}}
			return outcome, nil
		case !state.IsApplied():
			reason := ""
			if state.Problem != "" {
				reason = ": " + state.Problem
			}
			return orchestrator.WaitFor(orchestrator.WakeGroup(group), 0, "waiting for %s to drop it%s", group, reason)
		default:
			return orchestrator.Finished("%s carries nothing of it since generation %d", group, state.Generation)
		}
	}
}
