package service_test

import (
	"io"
	"testing"

	"slipway/internal/api"
)

// A clone that comes into being when its machine is finished is removed by the next worker that looks.
func TestLateCloneIsRemoved(t *testing.T) {
	s := site(t)
	w, stop := work(t, s, io.Discard)
	put(t, w, order())
	client := api.NewClient(s.Config.Socket)
	defer client.Close()
	var runs []api.Run
	until(t, "a machine is ready", func() bool {
		return client.Get(t.Context(), "/v1/runs", &runs) == nil && len(runs) == 1 && runs[0].State == "production_ready"
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	type vm struct {
		Name        string            `json:"name_label"`
		Template    bool              `json:"is_a_template"`
		OtherConfig map[string]string `json:"other_config"`
	}
	all := func() (vms map[string]vm) {
		if err := s.Call(t.Context(), 0, &vms, "VM.get_all_records"); err != nil {
			t.Fatal(err)
		}
		return vms
	}
	name := "slipway-" + runs[0].Machine + "-" + runs[0].Run + "-1"
	for ref, vm := range all() {
		if vm.Template && vm.OtherConfig["slipway_image"] == "debian-12" {
			if err := s.Call(t.Context(), 0, nil, "VM.clone", ref, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	late := func() (n int) {
		for _, vm := range all() {
			if vm.Name == name {
				n++
			}
		}
		return n
	}
	if late() != 1 {
		t.Fatalf("%d late clones", late())
	}
	work(t, s, io.Discard)
	until(t, "the late clone is gone", func() bool { return late() == 0 })
	machine := 0
	for _, vm := range all() {
		if vm.OtherConfig["slipway_machine"] == runs[0].Machine {
			machine++
		}
	}
	if machine != 1 {
		t.Errorf("%d VMs of the machine are left", machine)
	}
}
