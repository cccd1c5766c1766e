package xapi_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/orchestrator"
	sim "slipway/sim/xapi"
	"slipway/workers/hypervisor/xapi"
)

// stranger makes a VM past slipway, with an interface for each MAC, and returns its uuid.
func (w *world) stranger(t *testing.T, name string, macs ...string) string {
	t.Helper()
	var templates, vifs []xapi.Ref
	var vm xapi.Ref
	var uuid string
	w.call(t, "VM.get_by_name_label", &templates, image)
	w.call(t, "VM.clone", &vm, templates[0], name)
	w.call(t, "VM.provision", nil, vm)
	w.call(t, "VM.get_uuid", &uuid, vm)
	w.call(t, "VM.get_VIFs", &vifs, vm)
	for _, vif := range vifs {
		w.call(t, "VIF.destroy", nil, vif)
	}
	for device, mac := range macs {
		w.call(t, "VIF.create", nil, map[string]any{"device": fmt.Sprint(device), "network": w.ref(t, "network", w.network), "VM": vm, "MAC": mac, "MTU": "1500",
			"other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}})
	}
	return uuid
}

// TestStrangers: others' VMs with what they have, and nothing of ours, no template and no snapshot.
func TestStrangers(t *testing.T) {
	w := open(t, sim.Config{Templates: []sim.Template{{Name: image, Image: image, DiskGiB: 4}}})
	spec := w.spec(1, 1)
	vm := w.clone(t, spec)
	if seen, err := w.Strangers(t.Context(), pool); err != nil || len(seen) != 0 {
		t.Fatalf("a clone of ours counts as a stranger: %+v, %v", seen, err)
	}
	vm = w.shape(t, spec, vm.UUID)
	one := w.stranger(t, "db", "02:16:3E:00:00:05", "aa:00:00:00:00:01")
	other := w.stranger(t, "mail", "aa:00:00:00:00:02")
	w.sim.ReportGuest("02:16:3e:00:00:05", "10.0.0.5")
	ref := w.ref(t, "VM", one)
	w.call(t, "VM.start", nil, ref, false, false)
	w.call(t, "VM.snapshot", nil, ref, "before the upgrade")
	var vifs []xapi.Ref
	w.call(t, "VM.get_VIFs", &vifs, w.ref(t, "VM", other))
	w.call(t, "VIF.set_ipv4_allowed", nil, vifs[0], []string{"10.0.0.6", "10.0.0.7"})
	// A copy of ours carries the tag of the original and is nobody's.
	var copied xapi.Ref
	w.call(t, "VM.clone", &copied, w.ref(t, "VM", vm.UUID), "a copy")

	seen, err := w.Strangers(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]int{}
	for i, s := range seen {
		byName[s.Name] = i
	}
	if len(seen) != 3 || len(byName) != 3 {
		t.Fatalf("strangers: %+v", seen)
	}
	db, mail := seen[byName["db"]], seen[byName["mail"]]
	if db.UUID != one || db.Power != "running" || len(db.VIFs) != 2 || db.VIFs[0].MAC != "02:16:3e:00:00:05" || db.VIFs[0].Network != w.network ||
		!slices.Equal(db.Addresses(db.VIFs[0]), []netip.Addr{netip.MustParseAddr("10.0.0.5")}) {
		t.Errorf("db: %+v", db)
	}
	if mail.Power != "halted" || !slices.Equal(mail.Addresses(mail.VIFs[0]), []netip.Addr{netip.MustParseAddr("10.0.0.6"), netip.MustParseAddr("10.0.0.7")}) {
		t.Errorf("mail: %+v", mail)
	}
}

func (w *world) otherConfig(t *testing.T, class string, ref xapi.Ref) map[string]string {
	t.Helper()
	var config map[string]string
	w.call(t, class+".get_other_config", &config, ref)
	return config
}

// TestClaimAndRelease: the tag comes and goes, however often, and nothing else of the VM changes; a VM of another machine is left alone.
func TestClaimAndRelease(t *testing.T) {
	w := open(t, sim.Config{Templates: []sim.Template{{Name: image, Image: image, DiskGiB: 4}}})
	uuid := w.stranger(t, "db", "aa:00:00:00:00:01")
	vm := w.ref(t, "VM", uuid)
	w.call(t, "VM.start", nil, vm, false, false)
	// It was copied from a machine of ours once.
	w.call(t, "VM.add_to_other_config", nil, vm, "slipway_machine", "11111111-0000-4000-8000-000000000009")
	w.call(t, "VM.add_to_other_config", nil, vm, "slipway_self", "11111111-0000-4000-8000-000000000008")
	before, err := w.FindStranger(t.Context(), pool, uuid)
	if err != nil || before.Tag != "" || before.Power != "running" || len(before.VIFs) != 1 || len(before.Disks) != 1 {
		t.Fatalf("%+v, %v", before, err)
	}
	ref := w.spec(1, 1).MachineRef
	ref.VM = uuid
	for range 2 {
		got, err := w.ClaimMachine(t.Context(), ref, "run-1", 3)
		if err != nil || got.Machine != ref.Machine || got.Run != "run-1" || got.Attempt != 3 || got.Name != "db" || got.Power != "running" || got.VIFs[0].MAC != before.VIFs[0].MAC {
			t.Fatalf("claimed %+v, %v", got, err)
		}
	}
	disk := w.ref(t, "VDI", before.Disks[0].UUID)
	if config := w.otherConfig(t, "VDI", disk); config["slipway_machine"] != ref.Machine {
		t.Errorf("disk %v", config)
	}
	if found, err := w.FindMachine(t.Context(), orchestrator.MachineRef{Pool: pool, Machine: ref.Machine}); err != nil || found.UUID != uuid {
		t.Errorf("found %+v, %v", found, err)
	}
	if seen, err := w.Strangers(t.Context(), pool); err != nil || len(seen) != 0 {
		t.Errorf("strangers %+v, %v", seen, err)
	}

	thief := w.spec(2, 1).MachineRef
	thief.VM = uuid
	_, err = w.ClaimMachine(t.Context(), thief, "run-2", 1)
	if orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("another machine claims it: %v", err)
	}
	if err := w.ReleaseMachine(t.Context(), thief); err != nil {
		t.Fatal(err)
	}
	if config := w.otherConfig(t, "VM", vm); config["slipway_machine"] != ref.Machine {
		t.Errorf("another machine released it: %v", config)
	}

	for range 2 {
		if err := w.ReleaseMachine(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	for class, ref := range map[string]xapi.Ref{"VM": vm, "VDI": disk} {
		for key := range w.otherConfig(t, class, ref) {
			if strings.HasPrefix(key, "slipway_") && key != "slipway_image" {
				t.Errorf("%s keeps %s", class, key)
			}
		}
	}
	after, err := w.FindStranger(t.Context(), pool, uuid)
	if diff := cmp.Diff(before.VM, after.VM, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("%v, -before +after:\n%s", err, diff)
	}
	ref.VM = "99999999-0000-4000-8000-000000000000"
	if err := w.ReleaseMachine(t.Context(), ref); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
	if _, err := w.ClaimMachine(t.Context(), ref, "r", 1); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("one that is gone: %v", err)
	}
}

// TestClaimDiesAnywhere: after a death at each of its calls the VM is nobody's or the machine's, and the next claim finishes.
func TestClaimDiesAnywhere(t *testing.T) {
	for n := 1; n < 9; n++ {
		w := open(t, sim.Config{Templates: []sim.Template{{Name: image, Image: image, DiskGiB: 4}}})
		ref := w.spec(1, 1).MachineRef
		ref.VM = w.stranger(t, "db", "aa:00:00:00:00:01")
		if err := w.sim.AddFault(sim.Fault{Method: "VM.add_to_other_config", Nth: n, Error: []string{"INTERNAL_ERROR", "died"}}); err != nil {
			t.Fatal(err)
		}
		_, err := w.ClaimMachine(t.Context(), ref, "run-1", 1)
		seen, findErr := w.FindStranger(t.Context(), pool, ref.VM)
		if findErr != nil || seen.Tag != "" && seen.Tag != ref.Machine {
			t.Fatalf("call %d: tag %q, %v", n, seen.Tag, findErr)
		}
		if got, again := w.ClaimMachine(t.Context(), ref, "run-1", 2); again != nil || got.Machine != ref.Machine {
			t.Fatalf("call %d: %+v, %v", n, got, again)
		}
		if err == nil {
			return
		}
	}
}
