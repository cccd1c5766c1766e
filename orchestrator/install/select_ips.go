package install

import (
	"context"

	"slipway/orchestrator"
)

// selectIPs turns the promised pair into the machine's own.
func selectIPs(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
	p := s.Machine.Placement
	outcome, _ := orchestrator.Finished("private %s", p.Private)
	if p.Public.IsValid() {
		outcome, _ = orchestrator.Finished("private %s, public %s", p.Private, p.Public)
	}
	outcome.Changes = []orchestrator.Change{orchestrator.BindAddresses{}}
	return outcome, nil
}
