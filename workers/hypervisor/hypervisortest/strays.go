package hypervisortest

import (
	"errors"
	"testing"

	"slipway/orchestrator"
)

// strays: a second VM of a machine that is settled goes, and all of one that is absent; those of a machine that nobody vouches for stay.
func strays(t *testing.T, b *bundle) {
	ctx := t.Context()
	ready, gone, unknown := b.spec(1, 1), b.spec(2, 1), b.spec(3, 1)
	ref, _ := b.create(t, ready)
	late, err := b.Hypervisor.StartClone(ctx, b.spec(1, 2)) // of an attempt that had lost the run
	b.succeed(t, late, err)
	b.clone(t, gone)
	b.clone(t, unknown)
	running, _ := b.create(t, b.spec(4, 1))
	task, err := b.Hypervisor.StartMachine(ctx, running, b.host)
	b.succeed(t, task, err)
	replaced := b.spec(5, 1)
	b.clone(t, replaced) // the VM that is recorded of it is not there
	settled := map[string]string{ready.Machine: ref.VM, gone.Machine: "", running.Machine: "", replaced.Machine: "00000000-0000-4000-8000-000000000001"}
	for round, want := range []int{2, 0} {
		if n, err := b.Hypervisor.RemoveStrays(ctx, b.Pool, settled); n != want || err != nil {
			t.Errorf("round %d: %d removed, %v; want %d", round, n, err, want)
		}
	}
	if vm := b.find(t, ref); vm.UUID != ref.VM {
		t.Errorf("the machine's own VM is %s now", vm.UUID)
	}
	b.gone(t, gone.MachineRef)
	if _, err := b.Hypervisor.FindMachine(ctx, orchestrator.MachineRef{Pool: b.Pool, Machine: unknown.Machine, LookOnly: true}); errors.Is(err, orchestrator.ErrNotFound) {
		t.Error("the VM of a machine that nobody vouched for was removed")
	}
	if _, err := b.Hypervisor.FindMachine(ctx, orchestrator.MachineRef{Pool: b.Pool, Machine: replaced.Machine, LookOnly: true}); errors.Is(err, orchestrator.ErrNotFound) {
		t.Error("the VM of a machine whose recorded VM is not there was removed")
	}
	if vm := b.find(t, running); vm.Power != "running" {
		t.Error("a running VM was touched")
	}
}
