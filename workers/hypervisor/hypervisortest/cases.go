package hypervisortest

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

func lifeCycle(t *testing.T, b *bundle) {
	ctx, h, spec := t.Context(), b.Hypervisor, b.spec(1, 1)
	ref, vm := b.create(t, spec)
	if vm.Run != spec.Run || vm.Attempt != 1 || vm.Machine != spec.Machine || vm.Power != "halted" || vm.Template || vm.MemoryMiB != 1024 || vm.VCPUs != 2 {
		t.Errorf("shaped %+v, want halted, tagged, with %+v", vm, spec.Plan)
	}
	if len(vm.Disks) != 1 || vm.Disks[0].Bytes < 20<<30 || vm.Disks[0].SR != b.sr {
		t.Errorf("disks %+v, want one of 20 GiB on %s", vm.Disks, b.sr)
	}
	if len(vm.VIFs) != 1 || vm.VIFs[0].MAC != spec.MAC || !slices.Contains(b.inventory.Networks, vm.VIFs[0].Network) {
		t.Errorf("interfaces %+v, want one with %s", vm.VIFs, spec.MAC)
	}
	task, err := h.StartMachine(ctx, ref, b.host)
	b.succeed(t, task, err)
	if vm = b.find(t, ref); vm.Power != "running" || vm.Host != b.host {
		t.Errorf("started %+v", vm)
	}
	if b.ReportGuest != nil {
		b.ReportGuest(spec.MAC, spec.Address)
		vm = b.find(t, ref)
		if !vm.GuestLive || len(vm.VIFs) != 1 || !slices.Equal(vm.VIFs[0].Addresses, []netip.Addr{spec.Address}) {
			t.Errorf("the guest reported %s, seen: %+v", spec.Address, vm)
		}
		if !strings.Contains(vm.Console, "/console") {
			t.Errorf("console %q", vm.Console)
		}
	}
	if err := h.NameMachine(ctx, ref, "web-1"); err != nil || b.find(t, ref).Name != "web-1" {
		t.Errorf("NameMachine: %v", err)
	}
	wantKind(t, "destroy while running", h.DestroyMachine(ctx, ref, diskIDs(vm)), orchestrator.Conflict)
	task, err = h.StopMachine(ctx, ref, true)
	b.succeed(t, task, err)
	if vm = b.find(t, ref); vm.Power != "halted" || vm.GuestLive {
		t.Errorf("stopped %+v", vm)
	}
	if err := h.DestroyMachine(ctx, ref, diskIDs(vm)); err != nil {
		t.Fatalf("DestroyMachine: %v", err)
	}
	b.gone(t, ref)
}

func everyVerbTwice(t *testing.T, b *bundle) {
	ctx, h, spec := t.Context(), b.Hypervisor, b.spec(1, 1)
	ref, first := b.create(t, spec)
	again, err := h.ShapeMachine(ctx, spec, ref.VM)
	if err != nil || again.UUID != first.UUID || len(again.VIFs) != 1 || len(again.Disks) != 1 || again.Disks[0] != first.Disks[0] {
		t.Errorf("second ShapeMachine = %+v, %v", again, err)
	}
	task, err := h.StartMachine(ctx, ref, b.host)
	b.succeed(t, task, err)
	if task, err := h.StartMachine(ctx, ref, b.host); task != "" || err != nil {
		t.Errorf("second StartMachine = %q, %v", task, err)
	}
	if running, err := h.ShapeMachine(ctx, spec, ref.VM); err != nil || running.Power != "running" {
		t.Errorf("ShapeMachine of a running machine = %+v, %v", running, err)
	}
	task, err = h.StopMachine(ctx, ref, true)
	b.succeed(t, task, err)
	if task, err := h.StopMachine(ctx, ref, true); task != "" || err != nil {
		t.Errorf("second StopMachine = %q, %v", task, err)
	}
	for range 2 {
		if err := h.NameMachine(ctx, ref, "web-1"); err != nil {
			t.Errorf("NameMachine: %v", err)
		}
	}
	for range 2 {
		if err := h.DestroyMachine(ctx, ref, diskIDs(first)); err != nil {
			t.Errorf("DestroyMachine: %v", err)
		}
	}
	if task, err := h.StopMachine(ctx, ref, false); task != "" || err != nil {
		t.Errorf("StopMachine of a machine that is gone = %q, %v", task, err)
	}
}

func nothingThere(t *testing.T, b *bundle) {
	ref := b.spec(1, 1).MachineRef
	b.gone(t, ref)
	ref.VM = "99999999-0000-4000-8000-000000000000"
	b.gone(t, ref)
	if task, err := b.Hypervisor.StopMachine(t.Context(), ref, true); task != "" || err != nil {
		t.Errorf("StopMachine = %q, %v", task, err)
	}
	if err := b.Hypervisor.DestroyMachine(t.Context(), ref, []string{"99999999-0000-4000-8000-000000000001"}); err != nil {
		t.Errorf("DestroyMachine: %v", err)
	}
	if state, err := b.Hypervisor.ObserveTask(t.Context(), b.Pool, "OpaqueRef:99999999-0000-4000-8000-000000000002"); err != nil || state.State != orchestrator.TaskGone {
		t.Errorf("ObserveTask = %+v, %v", state, err)
	}
	if err := b.Hypervisor.ForgetTask(t.Context(), b.Pool, "OpaqueRef:99999999-0000-4000-8000-000000000002"); err != nil {
		t.Errorf("ForgetTask: %v", err)
	}
}

func adoption(t *testing.T, b *bundle) {
	spec := b.spec(1, 1)
	vm := b.clone(t, spec) // and the worker dies here
	next := b.spec(1, 2)
	shaped, err := b.Hypervisor.ShapeMachine(t.Context(), next, b.find(t, next.MachineRef).UUID)
	if err != nil || shaped.UUID != vm.UUID || shaped.Attempt != 1 {
		t.Errorf("the second attempt shaped %+v, %v; want VM %s of attempt 1", shaped, err, vm.UUID)
	}
}

func twoClones(t *testing.T, b *bundle) {
	first := b.clone(t, b.spec(1, 1))
	task, err := b.Hypervisor.StartClone(t.Context(), b.spec(1, 2))
	b.succeed(t, task, err)
	ref := b.spec(1, 2).MachineRef
	if kept := b.find(t, ref); kept.UUID != first.UUID {
		t.Errorf("kept %+v, want the first attempt's %s", kept, first.UUID)
	}
	ref.VM = first.UUID
	if err := b.Hypervisor.DestroyMachine(t.Context(), ref, diskIDs(first)); err != nil {
		t.Fatal(err)
	}
	ref.VM = ""
	b.gone(t, ref)
}

func lateClone(t *testing.T, b *bundle) {
	ref, vm := b.create(t, b.spec(1, 2))
	task, err := b.Hypervisor.StartClone(t.Context(), b.spec(1, 1)) // the first attempt's, whose answer was lost, comes late
	b.succeed(t, task, err)
	if err := b.Hypervisor.NameMachine(t.Context(), ref, "web-1"); err != nil {
		t.Fatal(err)
	}
	anew := ref
	anew.VM = ""
	if kept := b.find(t, anew); kept.UUID != vm.UUID || kept.Name != "web-1" {
		t.Errorf("kept %+v, want %s", kept, vm.UUID)
	}
	task, err = b.Hypervisor.StartClone(t.Context(), b.spec(1, 3))
	b.succeed(t, task, err)
	if err := b.Hypervisor.DestroyMachine(t.Context(), ref, diskIDs(vm)); err != nil {
		t.Fatal(err)
	}
	b.gone(t, anew)
}

func anothersVM(t *testing.T, b *bundle) {
	ctx, h := t.Context(), b.Hypervisor
	ref, vm := b.create(t, b.spec(1, 1))
	thief := b.spec(2, 1)
	thief.VM = ref.VM
	_, err := h.FindMachine(ctx, thief.MachineRef)
	wantKind(t, "FindMachine", err, orchestrator.Permanent)
	_, err = h.ShapeMachine(ctx, thief, ref.VM)
	wantKind(t, "ShapeMachine", err, orchestrator.Permanent)
	_, err = h.StartMachine(ctx, thief.MachineRef, b.host)
	wantKind(t, "StartMachine", err, orchestrator.Permanent)
	_, err = h.StopMachine(ctx, thief.MachineRef, true)
	wantKind(t, "StopMachine", err, orchestrator.Permanent)
	wantKind(t, "NameMachine", h.NameMachine(ctx, thief.MachineRef, "x"), orchestrator.Permanent)
	wantKind(t, "DestroyMachine", h.DestroyMachine(ctx, thief.MachineRef, nil), orchestrator.Permanent)
	thief.VM = ""
	if err := h.DestroyMachine(ctx, thief.MachineRef, diskIDs(vm)); err == nil {
		t.Error("DestroyMachine took another machine's disk")
	}
	if now := b.find(t, ref); len(now.Disks) != 1 || now.Machine != ref.Machine {
		t.Errorf("the first machine is %+v", now)
	}
}

func unknowns(t *testing.T, b *bundle) {
	ctx, h := t.Context(), b.Hypervisor
	spec := b.spec(1, 1)
	spec.Image = "no-such-image"
	_, err := h.StartClone(ctx, spec)
	wantKind(t, "unknown image", err, orchestrator.Permanent)
	spec = b.spec(1, 1)
	spec.SR = "99999999-0000-4000-8000-000000000000"
	_, err = h.StartClone(ctx, spec)
	wantKind(t, "unknown storage", err, orchestrator.Permanent)
	_, err = h.Inventory(ctx, "no-such-pool")
	wantKind(t, "unknown pool", err, orchestrator.Permanent)
	spec = b.spec(1, 1)
	spec.VM = "99999999-0000-4000-8000-000000000000"
	_, err = h.ShapeMachine(ctx, spec, spec.VM)
	wantKind(t, "clone that is gone", err, orchestrator.Conflict)
	b.gone(t, b.spec(1, 1).MachineRef)
}

func noRoom(t *testing.T, b *bundle) {
	ctx, h := t.Context(), b.Hypervisor
	spec := b.spec(1, 1)
	spec.Plan.MemoryMiB = b.inventory.Hosts[0].MemoryMiB * 2
	ref, _ := b.create(t, spec)
	_, err := h.StartMachine(ctx, ref, b.host)
	wantKind(t, "a host without memory", err, orchestrator.Exhausted)
	if vm := b.find(t, ref); vm.Power != "halted" {
		t.Errorf("the VM is %s", vm.Power)
	}
	spec = b.spec(2, 1)
	spec.Plan.DiskGiB = 1 << 29
	_, err = h.StartClone(ctx, spec)
	wantKind(t, "a storage without room", err, orchestrator.Exhausted)
}

func inventory(t *testing.T, b *bundle) {
	host, sr := b.inventory.Hosts[0], b.inventory.SRs[0]
	if host.UUID == "" || host.MemoryMiB <= 0 || host.CPUs <= 0 || !host.Enabled {
		t.Errorf("host %+v", host)
	}
	if sr.Bytes < 100<<30 || len(sr.Hosts) == 0 {
		t.Errorf("storage %+v", sr)
	}
	spec := b.spec(1, 1)
	ref, _ := b.create(t, spec)
	task, err := b.Hypervisor.StartMachine(t.Context(), ref, b.host)
	b.succeed(t, task, err)
	now, err := b.Hypervisor.Inventory(t.Context(), b.Pool)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]string{b.host: {ref.VM}}, now.Residents); diff != "" {
		t.Errorf("who runs where: -want +got:\n%s", diff)
	}
	if slices.Contains(now.MACs, spec.MAC) {
		t.Error("our own MAC counts as somebody else's")
	}
	// What slipway may use in all does not shrink by what it uses.
	if now.Hosts[0] != host {
		t.Errorf("host %+v before our machine, %+v with it", host, now.Hosts[0])
	}
	for i := range now.SRs {
		if now.SRs[i].Bytes != b.inventory.SRs[i].Bytes {
			t.Errorf("storage %+v before our machine, %+v with it", b.inventory.SRs[i], now.SRs[i])
		}
	}
}
