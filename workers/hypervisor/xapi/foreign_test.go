package xapi_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

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
