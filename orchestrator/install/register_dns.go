package install

import (
	"context"

	"slipway/orchestrator"
)

// handleName shows in the journal under which name an attempt went to the server.
const handleName = "name"

// named is the When of register_dns. What was begun goes on, whatever is configured now.
func named(s *orchestrator.Step) (bool, string) {
	if !s.Machine.DNS.IsZero() {
		return true, ""
	}
	_, why := orchestrator.NameOf(s.Pool, *s.Machine)
	return why == "", why
}

// registerDNS publishes the machine's name and address, and waits until the server shows them. What it is about to register is in the store
// before: whoever takes the machine away knows what to look for.
func registerDNS(n orchestrator.Names) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		if s.Machine.DNS.IsZero() {
			s.Machine.DNS, _ = orchestrator.NameOf(s.Pool, *s.Machine)
			if err := s.Record(ctx, handleName, s.Machine.DNS.Name); err != nil {
				return orchestrator.Outcome{}, err
			}
		}
		record := s.Machine.DNS
		if err := n.EnsureName(ctx, s.Machine.ID, record); err != nil {
			return orchestrator.Outcome{}, err
		}
		state, err := n.ObserveName(ctx, s.Machine.ID, record)
		switch {
		case err != nil:
			return orchestrator.Outcome{}, err
		case !state.Whole:
			return orchestrator.WaitFor("", 0, "waiting for the name server to show that %s", record)
		}
		return orchestrator.Finished("%s", record)
	}
}
