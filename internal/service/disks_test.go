package service_test

import (
	"slices"
	"strings"
	"testing"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// What somebody has attached to a machine, or made of it, is not the machine's: an uninstall leaves it, says so, and the audit shows what has
// the customer's data still.
func TestUninstallLeavesSomebodysDisks(t *testing.T) {
	a := newAudited(t)
	var machine api.Machine
	if err := a.client.Get(t.Context(), "/v1/machines/"+a.run.Machine, &machine); err != nil {
		t.Fatal(err)
	}
	var vm, sr, data, uuid, snapshot string
	a.call(&vm, "VM.get_by_uuid", machine.VM)
	a.call(&snapshot, "VDI.get_by_uuid", machine.Disks[0])
	a.call(&sr, "VDI.get_SR", snapshot)
	a.call(&data, "VDI.create", map[string]any{"name_label": "their data", "name_description": "", "SR": sr, "virtual_size": "1048576", "type": "user",
		"sharable": false, "read_only": false, "other_config": map[string]string{}, "xenstore_data": map[string]string{}, "sm_config": map[string]string{}, "tags": []string{}})
	a.call(&uuid, "VDI.get_uuid", data)
	a.call(nil, "VBD.create", map[string]any{"VM": vm, "VDI": data, "userdevice": "5", "bootable": false, "mode": "RW", "type": "Disk", "empty": false,
		"unpluggable": true, "other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{}})
	found := a.audit().Findings
	if len(found) != 1 || found[0].Kind != api.FindingDrift || !strings.Contains(found[0].Problem, uuid) {
		t.Errorf("a disk of somebody's at the machine: %+v", found)
	}
	a.call(&snapshot, "VM.snapshot", vm, "nightly")

	put(t, a.worker, orchestrator.Order{Source: "panel", ID: "gone", Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: a.run.Machine})
	until(t, "the machine is removed", func() bool {
		return a.client.Get(t.Context(), "/v1/machines/"+a.run.Machine, &machine) == nil && machine.Presence == string(orchestrator.Absent)
	})
	if a.call(&uuid, "VDI.get_uuid", data); !slices.ContainsFunc(machine.Attempts, func(at api.Attempt) bool {
		return at.Step == "destroy_machine" && strings.Contains(at.Message, "VM and 1 disks are gone; left, for they are not the machine's: "+uuid)
	}) {
		t.Errorf("the journal does not say what was left: %+v", machine.Attempts)
	}
	until(t, "the audit shows the snapshot alone", func() bool {
		found = a.audit().Findings
		return len(found) == 1
	})
	if f := found[0]; f.Kind != api.FindingLeak || !strings.HasPrefix(f.Object, "snapshot ") || f.Safe {
		t.Errorf("%+v", f)
	}
}
