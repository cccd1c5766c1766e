// Package hypervisor is what every hypervisor backend shares: the suite that each passes (hypervisortest) and the sweep for what came too
// late.
package hypervisor

import (
	"context"

	"slipway/orchestrator"
)

// Records is what a sweep reads of the store.
type Records interface {
	Machines(ctx context.Context) ([]orchestrator.Machine, error)
	Runs(ctx context.Context, f orchestrator.RunFilter) ([]orchestrator.RunView, error)
	Ledger(ctx context.Context) (*orchestrator.Ledger, error)
}

// maxActive is how many runs a sweep reads; with more of them under way it waits for a calmer hour.
const maxActive = 100_000

// Sweep removes the late effects of workers that lost their run: a hypervisor has no fences, so that a clone which was asked for in time may
// appear when another worker has finished the machine, or the machine is gone. Machines are only looked at while no run is at work on them, and a
// machine that the store does not know is nobody's to touch: the store may be an older copy. Nor is a machine that was imported: nothing was ever
// cloned for it, and what comes late there is our tag, on a VM that is somebody else's again. While any pool has machines that the store does not
// know, or was not read yet, nothing is removed at all. It returns how many VMs it removed.
func Sweep(ctx context.Context, records Records, h orchestrator.Hypervisor, pool string) (int, error) {
	active, err := records.Runs(ctx, orchestrator.RunFilter{Limit: maxActive, Status: []orchestrator.Status{
		orchestrator.StatusReady, orchestrator.StatusRunning, orchestrator.StatusWaiting, orchestrator.StatusParked, orchestrator.StatusCanceling,
	}})
	if err != nil || len(active) == maxActive {
		return 0, err
	}
	ledger, err := records.Ledger(ctx)
	if err != nil || ledger.Older() {
		return 0, err
	}
	machines, err := records.Machines(ctx)
	if err != nil {
		return 0, err
	}
	settled := map[string]string{}
	for _, m := range machines {
		switch {
		case !m.Import.IsZero():
		case m.Presence == orchestrator.Absent:
			settled[m.ID] = ""
		case m.Presence == orchestrator.Present && m.VM != "":
			settled[m.ID] = m.VM
		}
	}
	for _, r := range active {
		delete(settled, r.Machine)
	}
	return h.RemoveStrays(ctx, pool, settled)
}
