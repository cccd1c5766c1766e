package simulation

import (
	"context"
	"errors"
	"strings"
	"testing"

	"slipway/orchestrator"
)

// Deliberate defects, each of a kind that others have shipped. The simulation is worth something if it finds them.
var defects = map[string]Hooks{
	// The store takes a commit from whoever comes: a worker that lost its run writes over what the next one did.
	"fence_not_compared": {Commit: func(next Committer, ctx context.Context, c orchestrator.Commit) orchestrator.CommitResult {
		now := next.Current(c.Run.ID)
		if now.Holder != "" {
			c.Run.Fence, c.Run.Holder = now.Fence, now.Holder
		}
		return next.Commit(ctx, c)
	}},
	// The appliances listen to whoever comes, with whatever generation.
	"fence_not_compared_by_appliances": {NoFence: true},
	// Events leave before what they tell is committed.
	"published_before_commit": {Commit: func(next Committer, ctx context.Context, c orchestrator.Commit) orchestrator.CommitResult {
		for _, e := range c.Events {
			next.Publish(e)
		}
		return next.Commit(ctx, c)
	}},
	// An undo says that it is done and has done nothing.
	"undo_does_nothing": {Row: func(row orchestrator.Row, undo bool, do act) act {
		if !undo || row.Step != "create_machine" {
			return do
		}
		return func(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
			s.Machine.Presence = orchestrator.Absent
			return orchestrator.Finished("undone")
		}
	}},
	// What a machine has is given back before anybody has looked whether it is gone.
	"released_before_absent": {Row: func(row orchestrator.Row, undo bool, do act) act {
		if undo || row.Step != "close_console" {
			return do
		}
		return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
			outcome, err := do(ctx, s)
			if err == nil && outcome.Wait == nil && !s.Machine.Placement.IsZero() {
				s.Machine.Presence = orchestrator.Absent
				outcome.Changes = append(outcome.Changes, orchestrator.ReleasePlacement{})
			}
			return outcome, err
		}
	}},
	// What carries the customer's name is taken for the machine.
	"adopted_by_name": {Hypervisor: func(h orchestrator.Hypervisor, eye Eye) orchestrator.Hypervisor { return byName{h, eye} }},
}

type byName struct {
	orchestrator.Hypervisor
	eye Eye
}

func (h byName) FindMachine(ctx context.Context, ref orchestrator.MachineRef) (orchestrator.VM, error) {
	vm, err := h.Hypervisor.FindMachine(ctx, ref)
	if !errors.Is(err, orchestrator.ErrNotFound) {
		return vm, err
	}
	for _, seen := range h.eye.VMs() {
		if seen.Name == h.eye.NameOf(ref.Machine) {
			return orchestrator.VM{UUID: seen.UUID, Name: seen.Name, Machine: seen.Machine, Power: seen.Power, Template: seen.Template, VIFs: []orchestrator.VIF{{MAC: seen.MAC}}}, nil
		}
	}
	return vm, err
}

// maxSeeds is within how many seeds each defect must be found.
const maxSeeds = 1000

func TestDefectsAreFound(t *testing.T) {
	for name, hooks := range defects {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRunner(t)
			r.Hooks = hooks
			for seed := uint64(1); seed <= maxSeeds; seed++ {
				result := r.Run(NewPlan(seed))
				if !result.Failed() {
					continue
				}
				p := result.Problems[0]
				if strings.HasPrefix(p.What, "broken") {
					t.Fatalf("seed %d: the simulation itself: %s", seed, p)
				}
				t.Logf("found after %d seeds: %s", seed, p)
				return
			}
			t.Errorf("not found in %d seeds", maxSeeds)
		})
	}
}
