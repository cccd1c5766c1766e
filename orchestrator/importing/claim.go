package importing

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"slipway/orchestrator"
)

type act = func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error)

// claim looks at the VM once more and turns its foreign reservations into the machine's own, in the transaction that commits the step.
func claim(i orchestrator.Importer) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		m := s.Machine
		if m.Presence == orchestrator.Absent { // the run was rewound: the name is the machine's again before it gets anything
			m.Presence = orchestrator.Planned
			return orchestrator.WaitFor("", time.Millisecond, "waiting to be claimed again")
		}
		pool, ok := s.Estate.PoolByID(m.PoolWanted)
		if !ok {
			return orchestrator.Outcome{}, orchestrator.Errorf("claim", orchestrator.Permanent, "pool %s is no longer configured", m.PoolWanted)
		}
		vm, err := i.FindStranger(ctx, pool.ID, m.Import.VM)
		if errors.Is(err, orchestrator.ErrNotFound) {
			return orchestrator.Outcome{}, orchestrator.Errorf("claim", orchestrator.Permanent, "VM %s is gone from pool %s", m.Import.VM, pool.ID)
		}
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		if err := m.Import.Fits(pool, vm, m.ID); err != nil {
			return orchestrator.Outcome{}, orchestrator.E("claim", orchestrator.Permanent, err)
		}
		m.Plan = PlanOf(vm)
		outcome, _ := orchestrator.Finished("%s, %s and the room of VM %s are the machine's", m.Import.Private, m.Import.MAC, vm.UUID)
		outcome.Changes = []orchestrator.Change{orchestrator.ClaimForeign{}, orchestrator.BindAddresses{}}
		wanted, host, sr := m.Import, vm.Host, vm.Disks[0].SR
		outcome.Decide = func(ledger *orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
			placement, err := ledger.Claim(pool, wanted, host, sr)
			return placement, nil, err
		}
		return outcome, nil
	}
}

// PlanOf is the size of a VM; disks are rounded up together.
func PlanOf(vm orchestrator.Stranger) orchestrator.Plan {
	bytes := int64(0)
	for _, d := range vm.Disks {
		bytes += d.Bytes
	}
	const gib = 1 << 30
	return orchestrator.Plan{VCPUs: vm.VCPUs, MemoryMiB: vm.MemoryMiB, DiskGiB: max(1, (bytes+gib-1)/gib)}
}

// giveBack makes everything foreign again. Nothing of ours is left by now: the tag is off, or never was on.
func giveBack(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
	s.Machine.Presence, s.Machine.VM, s.Machine.Disks = orchestrator.Absent, "", nil
	if s.Machine.Placement.IsZero() {
		return orchestrator.Finished("nothing was claimed")
	}
	outcome, _ := orchestrator.Finished("VM %s and what it has are foreign again", s.Machine.Import.VM)
	outcome.Changes = []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: s.Estate.QuarantineOrDefault(), Foreign: true}}
	return outcome, nil
}
