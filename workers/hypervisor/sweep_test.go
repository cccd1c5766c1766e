package hypervisor_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	"slipway/workers/hypervisor"
)

// records is a store as a sweep reads it; pool notes what it is told to keep.
type records struct {
	machines []orchestrator.Machine
	active   []orchestrator.RunView
	other    *orchestrator.PoolLedger
}

func (r records) Machines(context.Context) ([]orchestrator.Machine, error) { return r.machines, nil }
func (r records) Runs(context.Context, orchestrator.RunFilter) ([]orchestrator.RunView, error) {
	return r.active, nil
}

func (r records) Ledger(context.Context) (*orchestrator.Ledger, error) {
	return &orchestrator.Ledger{Pools: map[string]*orchestrator.PoolLedger{"a": {}, "b": r.other}}, nil
}

type pool struct {
	orchestrator.Hypervisor
	settled map[string]string
}

func (p *pool) RemoveStrays(_ context.Context, _ string, settled map[string]string) (int, error) {
	p.settled = settled
	return 0, nil
}

// Only machines that we made and that no run is at work on are vouched for: what late effect an imported one may have is a tag of ours on a
// VM that is somebody else's again.
func TestSweepVouchesForWhatWeMade(t *testing.T) {
	machine := func(id string, p orchestrator.Presence, vm string) orchestrator.Machine {
		return orchestrator.Machine{ID: id, Presence: p, VM: vm}
	}
	imported := func(m orchestrator.Machine) orchestrator.Machine {
		m.Import = orchestrator.Import{VM: "foreign"}
		return m
	}
	r := records{
		other: &orchestrator.PoolLedger{},
		machines: []orchestrator.Machine{
			machine("ready", orchestrator.Present, "vm-1"), machine("gone", orchestrator.Absent, ""), machine("planned", orchestrator.Planned, ""),
			machine("unknown-vm", orchestrator.Present, ""), machine("at-work", orchestrator.Present, "vm-2"), machine("leaving", orchestrator.Absent, ""),
			imported(machine("imported", orchestrator.Present, "vm-3")), imported(machine("given-back", orchestrator.Absent, "")),
		},
		active: []orchestrator.RunView{{Run: orchestrator.Run{Machine: "at-work"}}, {Run: orchestrator.Run{Machine: "leaving"}}},
	}
	var p pool
	if _, err := hypervisor.Sweep(t.Context(), r, &p, "a"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"ready": "vm-1", "gone": ""}, p.settled); diff != "" {
		t.Error(diff)
	}
}

// An older copy of the store vouches for nothing, in any pool; nor does one that nobody has compared with the pools yet.
func TestSweepOfAnOlderStoreRemovesNothing(t *testing.T) {
	for name, other := range map[string]orchestrator.PoolLedger{"unknown machines": {Strange: 1}, "not read": {Unread: true}} {
		var p pool
		r := records{machines: []orchestrator.Machine{{ID: "gone", Presence: orchestrator.Absent}}, other: &other}
		if _, err := hypervisor.Sweep(t.Context(), r, &p, "a"); err != nil || p.settled != nil {
			t.Errorf("%s: vouched for %v, %v", name, p.settled, err)
		}
	}
}
