package install

import (
	"bytes"
	"context"
	"encoding/json"

	"slipway/orchestrator"
)

// What the processes about a finished machine share with this one.

// StartMachine boots the VM; it is done when it runs.
func StartMachine(h orchestrator.Hypervisor) act { return startMachine(h) }

// RegisterDNS and RegisterMonitoring make known what the machine's row says of its name; they are done when it is seen there.
func RegisterDNS(n orchestrator.Names) act             { return registerDNS(n) }
func RegisterMonitoring(m orchestrator.Monitoring) act { return registerMonitoring(m) }

// EnsureEntry puts an entry into a group and waits until the group carries exactly that: as a Do, or as the Undo that puts the former one
// back. An empty group is one that the machine does not have.
func EnsureEntry(d orchestrator.Desired, unit orchestrator.Unit, want func(*orchestrator.Step) (group string, entry any)) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		group, entry := want(s)
		if group == "" {
			return orchestrator.Finished("the machine has no such group")
		}
		body, err := json.Marshal(entry)
		if err != nil {
			return orchestrator.Outcome{}, orchestrator.E(s.Run.Step, orchestrator.Permanent, err)
		}
		state, err := d.EntryState(ctx, group, s.Machine.ID)
		switch {
		case err != nil:
			return orchestrator.Outcome{}, err
		case !state.Found, state.Removed, !bytes.Equal(state.Body, body), state.Bad != "" && s.Handle(handlePut) == "":
			s.Run.Handles[handlePut] = "yes" // rides in the wait's commit: an entry that was refused before is tried again, once
			outcome, _ := orchestrator.WaitFor(orchestrator.WakeGroup(group), 0, "waiting for %s to carry it", group)
			outcome.Changes = []orchestrator.Change{orchestrator.PutEntry{Group: group, Unit: unit, Body: body}}
			return outcome, nil
		case state.Bad != "":
			delete(s.Run.Handles, handlePut)
		}
		return carried(s, group, state)
	}
}

// handlePut says that the step has put its entry in.
const handlePut = "put"
