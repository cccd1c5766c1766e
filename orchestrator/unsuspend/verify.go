package unsuspend

import (
	"context"
	"net/netip"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/suspend"
)

// verify waits until the machine does again what it did before: answer, where it answered, and show its console, where it ran. What never
// answered is its customer's affair.
func verify(p orchestrator.Prober) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		m, was := s.Machine, s.Run.Alteration.Suspension
		said := "the machine did not answer before either"
		if port, ok := suspend.FrontDoor(m.Firewall); ok && was.Answered {
			target := netip.AddrPortFrom(m.Placement.Reached(), port)
			answer, err := p.TryPort(ctx, m.Placement.Pool, target)
			if err != nil {
				return orchestrator.Outcome{}, err
			}
			if answer != orchestrator.PortOpen {
				failure := orchestrator.Errorf("verify", orchestrator.Transient, "%s does not answer yet", target)
				if err := s.Check(ctx, failure); err != nil { // a boot takes its time
					return orchestrator.WaitFor("", 2*time.Second, "waiting for the machine: %s", err)
				}
			}
			said = target.String() + " answers"
		}
		if was.Running {
			if err := s.Check(ctx, p.Console(ctx, *m)); err != nil {
				return orchestrator.Outcome{}, err
			}
			said += "; console opens"
		}
		m.Suspension = orchestrator.Suspension{}
		return orchestrator.Finished("%s", said)
	}
}

// suspendAgain keeps the note of what the machine was like for the next time.
func suspendAgain(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
	s.Machine.Suspension = s.Run.Alteration.Suspension
	return orchestrator.Finished("the machine is suspended")
}
