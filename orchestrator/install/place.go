package install

import (
	"context"
	"encoding/json"
	"time"

	"slipway/orchestrator"
)

// place promises the machine everything it needs in the transaction that commits the step, or nothing.
func place(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
	request := orchestrator.PlaceRequest{Machine: s.Machine.ID, Image: s.Machine.Image, Plan: s.Machine.Plan, Pool: s.Machine.PoolWanted}
	if s.Machine.Presence == orchestrator.Absent { // the run was rewound: the name is the machine's again before it gets a place
		s.Machine.Presence = orchestrator.Planned
		return orchestrator.WaitFor("", time.Millisecond, "waiting to be placed again")
	}
	outcome, _ := orchestrator.Finished("host, storage, addresses, MAC and console port are reserved")
	outcome.Decide = func(ledger *orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
		return ledger.Place(s.Estate, request)
	}
	return outcome, nil
}

// releasePlacement gives everything back. The machine is absent by now: create_machine's undo has recorded it, or it was never placed.
func releasePlacement(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
	if s.Machine.Placement.IsZero() {
		s.Machine.Presence = orchestrator.Absent
		return orchestrator.Finished("nothing was promised")
	}
	outcome, _ := orchestrator.Finished("reservations are released")
	outcome.Changes = []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: s.Estate.QuarantineOrDefault()}}
	return outcome, nil
}
