package xapi_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
	sim "slipway/sim/xapi"
	"slipway/workers/hypervisor/hypervisortest"
	"slipway/workers/hypervisor/xapi"
)

const (
	pool  = "pool-a"
	image = "debian-12"
)

// world is a simulated pool with a backend, and a client of our own to look at it and to spoil it.
type world struct {
	*xapi.Backend
	sim     *sim.Server
	admin   *xapi.Client
	network string
	host    string
	sr      string
}

var password = orchestrator.NewSecret("pool-password")

func open(t *testing.T, cfg sim.Config, change ...func(*xapi.PoolConfig)) *world {
	t.Helper()
	cfg.Password = password
	server, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	front := httptest.NewServer(server.Handler())
	t.Cleanup(front.Close)
	w := attach(t, server, front.URL, change...)
	w.look(t)
	return w
}

// attach makes a backend, and the admin's client, on a simulated pool.
func attach(t *testing.T, server *sim.Server, url string, change ...func(*xapi.PoolConfig)) *world {
	t.Helper()
	cfg := xapi.Config{Addresses: []string{url}, User: "root", Password: password, Insecure: true}
	admin, err := xapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	poolCfg := xapi.PoolConfig{Config: cfg}
	for _, f := range change {
		f(&poolCfg)
	}
	b, err := xapi.NewBackend(map[string]xapi.PoolConfig{pool: poolCfg}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(b.Close(ctx), admin.Close(ctx)); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return &world{Backend: b, sim: server, admin: admin}
}

// look finds the network, a host and its storage.
func (w *world) look(t *testing.T) {
	t.Helper()
	inv, err := w.Inventory(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	w.host = inv.Hosts[0].UUID
	for _, sr := range inv.SRs {
		if slices.Contains(sr.Hosts, w.host) {
			w.sr = sr.UUID
		}
	}
	var networks map[xapi.Ref]struct {
		UUID   string `json:"uuid"`
		Bridge string `json:"bridge"`
	}
	w.call(t, "network.get_all_records", &networks)
	for _, n := range networks {
		if n.Bridge != "xenapi" {
			w.network = n.UUID
		}
	}
}

// call is the admin's.
func (w *world) call(t *testing.T, method string, result any, args ...any) {
	t.Helper()
	if err := w.admin.Call(t.Context(), method, result, args...); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
}

func (w *world) ref(t *testing.T, class, uuid string) xapi.Ref {
	t.Helper()
	var ref xapi.Ref
	w.call(t, class+".get_by_uuid", &ref, uuid)
	return ref
}

type vmView struct {
	UUID        string            `json:"uuid"`
	Name        string            `json:"name_label"`
	Template    bool              `json:"is_a_template"`
	OtherConfig map[string]string `json:"other_config"`
	VBDs        []xapi.Ref        `json:"VBDs"`
	VIFs        []xapi.Ref        `json:"VIFs"`
}

// vms are the pool's VMs whose name or tag is slipway's.
func (w *world) vms(t *testing.T) map[xapi.Ref]vmView {
	t.Helper()
	var all map[xapi.Ref]vmView
	w.call(t, "VM.get_all_records", &all)
	for ref, vm := range all {
		if !strings.HasPrefix(vm.Name, "slipway-") && vm.OtherConfig["slipway_machine"] == "" {
			delete(all, ref)
		}
	}
	return all
}

func (w *world) count(t *testing.T, class string) int {
	t.Helper()
	var all []xapi.Ref
	w.call(t, class+".get_all", &all)
	return len(all)
}

func (w *world) spec(n, attempt int) orchestrator.MachineSpec {
	return orchestrator.MachineSpec{
		MachineRef: orchestrator.MachineRef{Pool: pool, Machine: fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", n)},
		Run:        fmt.Sprintf("bbbbbbbb-0000-4000-8000-%012d", n), Attempt: attempt,
		Image: image, Plan: orchestrator.Plan{VCPUs: 4, MemoryMiB: 2048, DiskGiB: 10},
		SR: w.sr, Host: w.host, Network: w.network,
		MAC: fmt.Sprintf("02:16:3e:00:00:%02x", n), Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}),
	}
}

// until asks a bounded number of times.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never seen: %s", what)
		}
	}
}

func (w *world) ended(t *testing.T, task string) orchestrator.Task {
	t.Helper()
	var state orchestrator.Task
	until(t, "the end of task "+task, func() bool {
		var err error
		if state, err = w.ObserveTask(t.Context(), pool, task); err != nil {
			t.Fatal(err)
		}
		return state.State != orchestrator.TaskPending
	})
	return state
}

func (w *world) clone(t *testing.T, spec orchestrator.MachineSpec) orchestrator.VM {
	t.Helper()
	task, err := w.StartClone(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if state := w.ended(t, task); state.State != orchestrator.TaskSucceeded {
		t.Fatalf("clone: %+v", state)
	}
	vm, err := w.FindMachine(t.Context(), spec.MachineRef)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func (w *world) shape(t *testing.T, spec orchestrator.MachineSpec, vm string) orchestrator.VM {
	t.Helper()
	shaped, err := w.ShapeMachine(t.Context(), spec, vm)
	if err != nil {
		t.Fatal(err)
	}
	return shaped
}

func TestHypervisor(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  sim.Config
	}{
		{"one host", sim.Config{}},
		{"three hosts with storage of their own", sim.Config{Hosts: 3}},
		{"no licence for VIF locking", sim.Config{RestrictVIF: true}},
		{"ballooning", sim.Config{BallooningFree: true, SharedSR: true, Hosts: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hypervisortest.Exercise(t, func(t *testing.T) hypervisortest.World {
				w := open(t, tt.cfg)
				return hypervisortest.World{
					Hypervisor: w, Pool: pool, Image: image, Network: w.network,
					ReportGuest: func(mac string, a netip.Addr) { w.sim.ReportGuest(mac, a.String()) },
				}
			})
		})
	}
}

func TestTemplateByKeyOrUUIDNeverByName(t *testing.T) {
	w := open(t, sim.Config{})
	inv, err := w.Inventory(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	template := inv.Templates[image]
	w.clone(t, w.spec(1, 1)) // carries the template's key until it is shaped: must not count
	if vm := w.clone(t, w.spec(2, 1)); vm.UUID == "" {
		t.Error("no second clone")
	}
	spec := w.spec(3, 1)
	spec.Image = "Debian 12" // its name
	if _, err := w.StartClone(t.Context(), spec); orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), "xe template-param-set") {
		t.Errorf("a name was taken for an image: %v", err)
	}
	other := w.ref(t, "VM", inv.Templates["debian-13"])
	w.call(t, "VM.remove_from_other_config", nil, other, "slipway_image")
	w.call(t, "VM.add_to_other_config", nil, other, "slipway_image", image)
	if _, err := w.StartClone(t.Context(), w.spec(3, 1)); orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), "2 templates") {
		t.Errorf("two templates of one image: %v", err)
	}
	if now, err := w.Inventory(t.Context(), pool); err != nil || now.Templates[image] != "" {
		t.Errorf("the inventory offers an ambiguous image: %v, %v", now.Templates, err)
	}
	chosen := attach(t, w.sim, front(t, w.sim), func(c *xapi.PoolConfig) { c.Images = map[string]string{image: template} })
	if _, err := chosen.StartClone(t.Context(), w.spec(3, 1)); err != nil {
		t.Errorf("the configured uuid did not decide: %v", err)
	}
	gone := attach(t, w.sim, front(t, w.sim), func(c *xapi.PoolConfig) {
		c.Images = map[string]string{image: "99999999-0000-4000-8000-000000000000"}
	})
	if _, err := gone.StartClone(t.Context(), w.spec(4, 1)); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("a configured template that is gone: %v", err)
	}
}

// TestLongChainIsCopied: a clone joins its template's chain of disks while that is short.
func TestLongChainIsCopied(t *testing.T) {
	w := open(t, sim.Config{})
	inv, err := w.Inventory(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	var vdi xapi.Ref
	var vbds []xapi.Ref
	w.call(t, "VM.get_VBDs", &vbds, w.ref(t, "VM", inv.Templates[image]))
	for _, vbd := range vbds {
		var disk xapi.Ref
		if w.call(t, "VBD.get_VDI", &disk, vbd); !disk.IsNull() {
			vdi = disk
		}
	}
	link := func(child xapi.Ref) (parent xapi.Ref) { // as the storage manager writes it
		var uuid string
		w.call(t, "VDI.create", &parent, map[string]any{"name_label": "base copy", "name_description": "", "SR": w.ref(t, "SR", w.sr), "virtual_size": "1048576",
			"type": "user", "sharable": false, "read_only": false, "other_config": map[string]string{}, "xenstore_data": map[string]string{}, "sm_config": map[string]string{}, "tags": []string{}})
		w.call(t, "VDI.get_uuid", &uuid, parent)
		w.call(t, "VDI.add_to_sm_config", nil, child, "vhd-parent", uuid)
		return parent
	}
	end := vdi
	for range 18 { // nineteen disks
		end = link(end)
	}
	w.clone(t, w.spec(1, 1))
	if n := w.sim.Calls()["VM.copy"]; n != 0 {
		t.Errorf("%d copies of a template with a chain of 19", n)
	}
	link(end)
	w.clone(t, w.spec(2, 1))
	if n := w.sim.Calls()["VM.copy"]; n != 1 {
		t.Errorf("%d copies of a template with a chain of 20", n)
	}
	w.call(t, "VDI.remove_from_sm_config", nil, end, "vhd-parent") // a chain that leads nowhere is as long as it is
	w.call(t, "VDI.add_to_sm_config", nil, end, "vhd-parent", "99999999-0000-4000-8000-000000000000")
	w.clone(t, w.spec(3, 1))
	if n := w.sim.Calls()["VM.copy"]; n != 1 {
		t.Errorf("%d copies after it was coalesced", n)
	}
}

func TestTemplateOnAnotherStorageIsCopied(t *testing.T) {
	w := open(t, sim.Config{Hosts: 2}) // one storage and one template of the image on each host
	var all map[xapi.Ref]vmView
	w.call(t, "VM.get_all_records", &all)
	spec := w.spec(1, 1)
	if vm := w.clone(t, spec); vm.Disks[0].SR != w.sr || w.sim.Calls()["VM.copy"] != 0 {
		t.Errorf("the template at hand was not taken: %+v", vm)
	}
	for ref, vm := range all { // only the other host's is left
		if vm.OtherConfig["slipway_image"] != image {
			continue
		}
		seen, err := w.FindMachine(t.Context(), orchestrator.MachineRef{Pool: pool, Machine: spec.Machine, VM: vm.UUID})
		if err == nil {
			t.Fatalf("a template passes for a machine: %+v", seen)
		}
		for _, vbd := range vm.VBDs {
			var vdi, sr xapi.Ref
			if w.call(t, "VBD.get_VDI", &vdi, vbd); vdi.IsNull() {
				continue
			}
			if w.call(t, "VDI.get_SR", &sr, vdi); sr == w.ref(t, "SR", w.sr) {
				w.call(t, "VM.remove_from_other_config", nil, ref, "slipway_image")
			}
		}
	}
	spec = w.spec(2, 1)
	if vm := w.shape(t, spec, w.clone(t, spec).UUID); vm.Disks[0].SR != w.sr || w.sim.Calls()["VM.copy"] != 1 {
		t.Errorf("%d copies, disks %+v; want one on %s", w.sim.Calls()["VM.copy"], vm.Disks, w.sr)
	}
}

func front(t *testing.T, server *sim.Server) string {
	t.Helper()
	f := httptest.NewServer(server.Handler())
	t.Cleanup(f.Close)
	return f.URL
}

func TestClonesOfOneTemplateGoOneAtATime(t *testing.T) {
	w := open(t, sim.Config{})
	release := w.sim.Hold("VM.clone")
	defer release()
	task, err := w.StartClone(t.Context(), w.spec(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	other := attach(t, w.sim, front(t, w.sim)) // another process, which has not seen the first one's task
	var wg sync.WaitGroup
	for n := range 3 {
		wg.Go(func() {
			if _, err := w.StartClone(t.Context(), w.spec(10+n, 1)); orchestrator.KindOf(err) != orchestrator.Exhausted {
				t.Errorf("a clone beside another: %v", err)
			}
		})
	}
	wg.Go(func() {
		if _, err := other.StartClone(t.Context(), w.spec(20, 1)); orchestrator.KindOf(err) != orchestrator.Exhausted {
			t.Errorf("another process's clone beside ours: %v", err)
		}
	})
	wg.Wait()
	if n := w.sim.Calls()["VM.clone"]; n != 1 {
		t.Errorf("%d clones were started", n)
	}
	release()
	w.ended(t, task)
	if _, err := w.StartClone(t.Context(), w.spec(10, 1)); err != nil {
		t.Errorf("the next clone: %v", err)
	}
}

// A clone is no VM before its task ends, so that only its task can be waited for by who does not know it.
func TestCloneUnderWayIsPending(t *testing.T) {
	w := open(t, sim.Config{})
	release := w.sim.Hold("VM.clone")
	defer release()
	task, err := w.StartClone(t.Context(), w.spec(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 { // the task is there a moment before its operation
		if w.sim.Held("VM.clone") > 0 {
			break
		}
		if _, err := w.ObserveTask(t.Context(), pool, task); err != nil {
			t.Fatal(err)
		}
	}
	if pending, err := w.PendingClones(t.Context(), pool); err != nil || !slices.Equal(pending, []string{task}) {
		t.Errorf("pending are %v, %v; want %s", pending, err, task)
	}
	if _, err := w.FindMachine(t.Context(), w.spec(1, 1).MachineRef); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("the clone is a VM already: %v", err)
	}
	release()
	w.ended(t, task)
	if pending, err := w.PendingClones(t.Context(), pool); err != nil || len(pending) != 0 {
		t.Errorf("after its end pending are %v, %v", pending, err)
	}
}

func TestLostAnswerToTheCloneIsAdopted(t *testing.T) {
	w := open(t, sim.Config{})
	if err := w.sim.AddFault(sim.Fault{Method: "VM.clone", When: sim.After, Close: true, Times: 1}); err != nil {
		t.Fatal(err)
	}
	release := w.sim.Hold("VM.clone")
	defer release()
	spec := w.spec(1, 1)
	if _, err := w.StartClone(t.Context(), spec); orchestrator.KindOf(err) != orchestrator.Unknown {
		t.Fatalf("a lost answer: %v", err)
	}
	second := w.spec(1, 2)
	if _, err := w.FindMachine(t.Context(), second.MachineRef); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Fatalf("FindMachine = %v", err)
	}
	if _, err := w.StartClone(t.Context(), second); orchestrator.KindOf(err) != orchestrator.Exhausted {
		t.Fatalf("a second clone while the first may still come: %v", err)
	}
	release()
	until(t, "the first attempt's clone", func() bool { return len(w.vms(t)) == 1 })
	vm, err := w.FindMachine(t.Context(), second.MachineRef)
	if err != nil {
		t.Fatal(err)
	}
	if shaped := w.shape(t, second, vm.UUID); shaped.Run != spec.Run || shaped.Attempt != 1 || len(w.vms(t)) != 1 {
		t.Errorf("adopted %+v among %d", shaped, len(w.vms(t)))
	}
}

// TestShapeSurvivesADeathAtEveryCall lets each call that changes something lose its answer in turn, before and after its effect.
func TestShapeSurvivesADeathAtEveryCall(t *testing.T) {
	calls := []string{
		"VM.remove_from_other_config", "VM.add_to_other_config", "VM.provision", "VM.set_memory_limits", "VM.set_VCPUs_max",
		"VM.set_VCPUs_at_startup", "VDI.remove_from_other_config", "VDI.add_to_other_config", "VDI.resize", "VIF.destroy", "VIF.create",
		"VIF.set_ipv4_allowed", "VIF.set_locking_mode",
	}
	for _, method := range calls {
		for _, when := range []sim.When{sim.Before, sim.After} {
			t.Run(method+" "+string(when), func(t *testing.T) {
				w := open(t, sim.Config{})
				spec := w.spec(1, 1)
				vm := w.clone(t, spec)
				vdis := w.count(t, "VDI")
				if err := w.sim.AddFault(sim.Fault{Method: method, When: when, Close: true, Times: 1}); err != nil {
					t.Fatal(err)
				}
				if _, err := w.ShapeMachine(t.Context(), spec, vm.UUID); orchestrator.KindOf(err) != orchestrator.Unknown {
					t.Fatalf("a lost answer: %v", err)
				}
				var shaped orchestrator.VM
				until(t, "the shape", func() bool {
					var err error
					shaped, err = w.ShapeMachine(t.Context(), spec, vm.UUID)
					return err == nil
				})
				if shaped.UUID != vm.UUID || shaped.VCPUs != 4 || shaped.MemoryMiB != 2048 || len(shaped.VIFs) != 1 || shaped.Disks[0].Bytes != 10<<30 {
					t.Errorf("shaped %+v", shaped)
				}
				if n := len(w.vms(t)); n != 1 || w.count(t, "VDI") != vdis {
					t.Errorf("%d VMs, %d disks, want one and %d", n, w.count(t, "VDI"), vdis)
				}
			})
		}
	}
}

func TestTemplatesInterfacesAreReplaced(t *testing.T) {
	w := open(t, sim.Config{})
	inv, err := w.Inventory(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	template := w.ref(t, "VM", inv.Templates[image])
	for _, device := range []string{"3", "5"} {
		w.call(t, "VIF.create", nil, map[string]any{
			"device": device, "network": w.ref(t, "network", w.network), "VM": template, "MAC": "AA:BB:CC:00:00:0" + device, "MTU": 1500,
			"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
		})
	}
	spec := w.spec(1, 1)
	shaped := w.shape(t, spec, w.clone(t, spec).UUID)
	if len(shaped.VIFs) != 1 || shaped.VIFs[0].MAC != spec.MAC || shaped.VIFs[0].Device != "0" || shaped.VIFs[0].Network != w.network {
		t.Errorf("interfaces %+v", shaped.VIFs)
	}
	var vif struct {
		Mode    string   `json:"locking_mode"`
		Allowed []string `json:"ipv4_allowed"`
		MTU     int      `json:"MTU"`
	}
	vm := w.vms(t)[w.ref(t, "VM", shaped.UUID)]
	w.call(t, "VIF.get_record", &vif, vm.VIFs[0])
	if vif.Mode != "locked" || !slices.Equal(vif.Allowed, []string{"10.0.0.1"}) || vif.MTU != 1500 {
		t.Errorf("interface %+v", vif)
	}
	now, err := w.Inventory(t.Context(), pool)
	if err != nil || !slices.Contains(now.MACs, "aa:bb:cc:00:00:03") {
		t.Errorf("MACs %v, %v: the template's are missing or not in lower case", now.MACs, err)
	}
}

func TestMACOfAnotherVMIsRefused(t *testing.T) {
	for _, spelling := range []func(string) string{strings.ToLower, strings.ToUpper} {
		w := open(t, sim.Config{})
		inv, err := w.Inventory(t.Context(), pool)
		if err != nil {
			t.Fatal(err)
		}
		spec := w.spec(0xab, 1)
		w.call(t, "VIF.create", nil, map[string]any{
			"device": "4", "network": w.ref(t, "network", w.network), "VM": w.ref(t, "VM", inv.Templates["debian-13"]), "MAC": spelling(spec.MAC), "MTU": 1500,
			"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
		})
		if _, err := w.ShapeMachine(t.Context(), spec, w.clone(t, spec).UUID); orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), spec.MAC) {
			t.Errorf("a MAC that is taken: %v", err)
		}
	}
}

func TestSecondCloneIsRemovedBeforeTheShape(t *testing.T) {
	w := open(t, sim.Config{})
	kept := w.clone(t, w.spec(1, 2))
	task, err := w.StartClone(t.Context(), w.spec(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	w.ended(t, task)
	w.shape(t, w.spec(1, 2), kept.UUID)
	for _, vm := range w.vms(t) {
		if vm.UUID != kept.UUID {
			t.Errorf("left %+v", vm)
		}
	}
}

func TestLateCloneIsRemovedByTheLastTouch(t *testing.T) {
	w := open(t, sim.Config{})
	vdis := w.count(t, "VDI")
	spec := w.spec(1, 2)
	ref := spec.MachineRef
	ref.VM = w.shape(t, spec, w.clone(t, spec).UUID).UUID
	task, err := w.StartClone(t.Context(), w.spec(1, 1)) // the first attempt's, late
	if err != nil {
		t.Fatal(err)
	}
	w.ended(t, task)
	if len(w.vms(t)) != 2 {
		t.Fatal("no late clone")
	}
	if err := w.NameMachine(t.Context(), ref, "web-1"); err != nil {
		t.Fatal(err)
	}
	left := w.vms(t)
	if len(left) != 1 || w.count(t, "VDI") != vdis+1 {
		t.Errorf("%d VMs, %d new disks; want one of each", len(left), w.count(t, "VDI")-vdis)
	}
	for _, vm := range left {
		if vm.UUID != ref.VM || vm.Name != "web-1" || vm.OtherConfig["slipway_image"] != "" {
			t.Errorf("left %+v", vm)
		}
	}
}

// TestShapeFollowsThePlanBothWays: vCPUs and memory up and down again, in an order that xapi accepts at each step; a disk only grows.
func TestShapeFollowsThePlanBothWays(t *testing.T) {
	w := open(t, sim.Config{})
	spec := w.spec(1, 1)
	vm := w.clone(t, spec)
	for _, plan := range []orchestrator.Plan{
		{VCPUs: 8, MemoryMiB: 8192, DiskGiB: 30}, {VCPUs: 1, MemoryMiB: 512, DiskGiB: 5}, {VCPUs: 2, MemoryMiB: 1024, DiskGiB: 31},
	} {
		spec.Plan = plan
		shaped := w.shape(t, spec, vm.UUID)
		if shaped.VCPUs != plan.VCPUs || shaped.MemoryMiB != plan.MemoryMiB || shaped.Disks[0].Bytes < max(plan.DiskGiB, 30)<<30 {
			t.Errorf("%+v became %+v", plan, shaped)
		}
	}
}

func TestBadSpecsAreRefusedBeforeAnyCall(t *testing.T) {
	w := open(t, sim.Config{})
	for name, change := range map[string]func(*orchestrator.MachineSpec){
		"multicast":     func(s *orchestrator.MachineSpec) { s.MAC = "03:16:3e:00:00:01" },
		"zero":          func(s *orchestrator.MachineSpec) { s.MAC = "00:00:00:00:00:00" },
		"upper case":    func(s *orchestrator.MachineSpec) { s.MAC = "02:16:3E:00:00:01" },
		"empty":         func(s *orchestrator.MachineSpec) { s.MAC = "" },
		"quote":         func(s *orchestrator.MachineSpec) { s.MAC = `02:16:3e:00:00:0"` },
		"no memory":     func(s *orchestrator.MachineSpec) { s.Plan.MemoryMiB = 0 },
		"2^62 memory":   func(s *orchestrator.MachineSpec) { s.Plan.MemoryMiB = 1 << 62 },
		"negative disk": func(s *orchestrator.MachineSpec) { s.Plan.DiskGiB = -1 },
		"machine":       func(s *orchestrator.MachineSpec) { s.Machine = "x" },
		"no run":        func(s *orchestrator.MachineSpec) { s.Run = "" },
	} {
		spec := w.spec(1, 1)
		change(&spec)
		before := w.sim.Calls()["VM.get_all_records"]
		if _, err := w.StartClone(t.Context(), spec); orchestrator.KindOf(err) != orchestrator.Permanent {
			t.Errorf("%s: %v", name, err)
		}
		if w.sim.Calls()["VM.get_all_records"] != before || w.sim.Calls()["VM.clone"] != 0 {
			t.Errorf("%s: the pool was asked", name)
		}
	}
}

func TestFullStorage(t *testing.T) {
	w := open(t, sim.Config{})
	spec := w.spec(1, 1)
	if err := w.sim.AddFault(sim.Fault{Method: "VM.clone", Error: []string{"SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""}, Times: 1}); err != nil {
		t.Fatal(err)
	}
	task, err := w.StartClone(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if state := w.ended(t, task); state.State != orchestrator.TaskFailed || orchestrator.KindOf(state.Err) != orchestrator.Exhausted || !xapi.HasCode(state.Err, "SR_BACKEND_FAILURE_44") {
		t.Errorf("clone: %+v", state)
	}
	small := open(t, sim.Config{SRSize: 64 << 30})
	spec = small.spec(1, 1)
	spec.Plan.DiskGiB = 80
	if _, err := small.StartClone(t.Context(), spec); orchestrator.KindOf(err) != orchestrator.Exhausted || !strings.Contains(err.Error(), "MiB free") {
		t.Errorf("no room for the plan: %v", err)
	}
	spec.Plan.DiskGiB = 5
	vm := small.clone(t, spec)
	spec.Plan.DiskGiB = 1500 // promised, and then somebody else took the room
	if _, err := small.ShapeMachine(t.Context(), spec, vm.UUID); orchestrator.KindOf(err) != orchestrator.Exhausted {
		t.Errorf("resize: %v", err)
	}
}

func TestFailedProvisionIsRemovedWithItsDisks(t *testing.T) {
	w := open(t, sim.Config{})
	inv, err := w.Inventory(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	vdis := w.count(t, "VDI")
	spec := w.spec(1, 1)
	vm := w.clone(t, spec)
	ref := w.ref(t, "VM", vm.UUID)
	// Somebody's recipe, whose second disk fits nowhere, run by somebody's hand: the first disk and the key stay behind.
	var sr string
	w.call(t, "SR.get_uuid", &sr, w.ref(t, "SR", w.sr))
	w.call(t, "VM.add_to_other_config", nil, ref, "disks",
		fmt.Sprintf(`<provision><disk device="1" size="1073741824" sr="%s" bootable="false" type="user"/><disk device="2" size="99999999999999999" sr="%s" bootable="false" type="user"/></provision>`, sr, sr))
	if err := w.admin.Call(t.Context(), "VM.provision", nil, ref); err == nil {
		t.Fatal("the provision did not fail")
	}
	if w.count(t, "VDI") <= vdis+1 {
		t.Fatalf("%d disks: the failed provision left none", w.count(t, "VDI"))
	}
	if _, err := w.ShapeMachine(t.Context(), spec, vm.UUID); orchestrator.KindOf(err) != orchestrator.Conflict {
		t.Errorf("half-provisioned: %v", err)
	}
	if n := len(w.vms(t)); n != 0 || w.count(t, "VDI") != vdis {
		t.Errorf("%d VMs and %d disks are left, want 0 and %d", n, w.count(t, "VDI"), vdis)
	}
	if vm := w.shape(t, w.spec(1, 2), w.clone(t, w.spec(1, 2)).UUID); len(vm.Disks) != 1 {
		t.Errorf("anew: %+v", vm)
	}
	if inv.Templates[image] == "" {
		t.Error("no template")
	}
}

func TestProvisionThatWasNotBegunKeepsTheClone(t *testing.T) {
	w := open(t, sim.Config{})
	spec := w.spec(1, 1)
	vm := w.clone(t, spec)
	if err := w.sim.AddFault(sim.Fault{Method: "VM.provision", Error: []string{"HOST_STILL_BOOTING"}, Times: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ShapeMachine(t.Context(), spec, vm.UUID); orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("first: %v", err)
	}
	if shaped := w.shape(t, spec, vm.UUID); shaped.UUID != vm.UUID {
		t.Errorf("shaped %+v, want the same clone", shaped)
	}
}

func TestCloneThatLostItsDisk(t *testing.T) {
	w := open(t, sim.Config{})
	spec := w.spec(1, 1)
	vm := w.clone(t, spec)
	w.call(t, "VDI.destroy", nil, w.ref(t, "VDI", vm.Disks[0].UUID)) // xapi takes it from a template without a word
	if _, err := w.ShapeMachine(t.Context(), spec, vm.UUID); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("ShapeMachine: %v", err)
	}
}

func TestSomebodysCopyOfOurMachineIsLeftAlone(t *testing.T) {
	w := open(t, sim.Config{})
	spec := w.spec(1, 1)
	shaped := w.shape(t, spec, w.clone(t, spec).UUID)
	var copied xapi.Ref
	w.call(t, "VM.clone", &copied, w.ref(t, "VM", shaped.UUID), "backup before the upgrade") // other_config and its tag are copied too
	var view vmView
	w.call(t, "VM.get_record", &view, copied)
	if view.OtherConfig["slipway_machine"] != spec.Machine {
		t.Fatalf("the copy has no tag to mislead us: %v", view.OtherConfig)
	}
	drives := len(view.VBDs)
	ref := spec.MachineRef
	if vm, err := w.FindMachine(t.Context(), ref); err != nil || vm.UUID != shaped.UUID {
		t.Errorf("found %+v, %v", vm, err)
	}
	ref.VM = shaped.UUID
	if err := w.DestroyMachine(t.Context(), ref, []string{shaped.Disks[0].UUID}); err != nil {
		t.Fatal(err)
	}
	w.call(t, "VM.get_record", &view, copied)
	if after := len(view.VBDs); after != drives {
		t.Errorf("the copy had %d drives, has %d", drives, after)
	}
	ref.VM = view.UUID
	if err := w.DestroyMachine(t.Context(), ref, nil); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("destroying the copy by its uuid: %v", err)
	}
}

// TestSecondVMThatRunsIsNeitherRemovedNorForgotten: somebody started a late clone by hand. It is not ours to stop, and the machine is not gone
// as long as it is there.
func TestSecondVMThatRunsIsNeitherRemovedNorForgotten(t *testing.T) {
	w := open(t, sim.Config{})
	spec := w.spec(1, 2)
	shaped := w.shape(t, spec, w.clone(t, spec).UUID)
	task, err := w.StartClone(t.Context(), w.spec(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	w.ended(t, task)
	var second xapi.Ref
	for ref, vm := range w.vms(t) {
		if vm.UUID != shaped.UUID {
			second = ref
		}
	}
	w.call(t, "VM.provision", nil, second)
	w.call(t, "VM.start", nil, second, false, false)
	ref := spec.MachineRef
	ref.VM = shaped.UUID
	if err := w.NameMachine(t.Context(), ref, "web-1"); err != nil {
		t.Fatal(err)
	}
	if err := w.DestroyMachine(t.Context(), ref, []string{shaped.Disks[0].UUID}); orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("DestroyMachine: %v", err)
	}
	var power string
	if w.call(t, "VM.get_power_state", &power, second); power != "Running" {
		t.Errorf("the second VM is %s", power)
	}
	w.call(t, "VM.hard_shutdown", nil, second)
	if err := w.DestroyMachine(t.Context(), ref, []string{shaped.Disks[0].UUID}); orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("DestroyMachine with a halted VM that somebody made his own: %v", err)
	}
}

// TestLookRemovesNothing: an operator looks while two clones of one machine are there and none is recorded. A step's look keeps one of them.
func TestLookRemovesNothing(t *testing.T) {
	w := open(t, sim.Config{})
	for attempt := 1; attempt <= 2; attempt++ {
		task, err := w.StartClone(t.Context(), w.spec(1, attempt))
		if err != nil {
			t.Fatal(err)
		}
		w.ended(t, task)
	}
	ref := w.spec(1, 1).MachineRef
	for _, tc := range []struct {
		lookOnly bool
		left     int
	}{{true, 2}, {false, 1}} {
		ref.LookOnly = tc.lookOnly
		if _, err := w.FindMachine(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if n := len(w.vms(t)); n != tc.left {
			t.Errorf("look only %v: %d VMs are left, want %d", tc.lookOnly, n, tc.left)
		}
	}
}

func TestDiskThatAnotherVMUsesStays(t *testing.T) {
	w := open(t, sim.Config{})
	one, two := w.spec(1, 1), w.spec(2, 1)
	first := w.shape(t, one, w.clone(t, one).UUID)
	second := w.shape(t, two, w.clone(t, two).UUID)
	disk := w.ref(t, "VDI", first.Disks[0].UUID)
	w.attach(t, second.UUID, "5", disk)
	ref := one.MachineRef
	ref.VM = first.UUID
	if err := w.DestroyMachine(t.Context(), ref, []string{first.Disks[0].UUID}); err != nil {
		t.Fatal(err)
	}
	var uuid string
	w.call(t, "VDI.get_uuid", &uuid, disk)
}

// disk makes a disk that slipway knows nothing of.
func (w *world) disk(t *testing.T, tags map[string]string) (ref xapi.Ref, uuid string) {
	t.Helper()
	w.call(t, "VDI.create", &ref, map[string]any{"name_label": "data", "name_description": "", "SR": w.ref(t, "SR", w.sr), "virtual_size": "1048576", "type": "user",
		"sharable": false, "read_only": false, "other_config": tags, "xenstore_data": map[string]string{}, "sm_config": map[string]string{}, "tags": []string{}})
	w.call(t, "VDI.get_uuid", &uuid, ref)
	return ref, uuid
}

// attach hangs a disk to a VM, as somebody may who gives it more room or rescues another machine.
func (w *world) attach(t *testing.T, vm, device string, disk xapi.Ref) {
	t.Helper()
	w.call(t, "VBD.create", nil, map[string]any{
		"VM": w.ref(t, "VM", vm), "VDI": disk, "userdevice": device, "bootable": false, "mode": "RW", "type": "Disk", "empty": false,
		"unpluggable": true, "other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	})
}

// Disks that somebody has attached to a machine outlive it, whoever removes it and whatever is known of its own ones; and they never get its tag.
func TestSomebodysDisksOutliveTheMachine(t *testing.T) {
	const other = "11111111-2222-4333-8444-555555555555"
	for _, c := range []struct {
		name   string
		shaped bool // else it is a clone that never came so far, and untagged disks are its own
		remove func(t *testing.T, w *world, ref orchestrator.MachineRef, own, theirs string) error
	}{
		{"by its record", true, func(t *testing.T, w *world, ref orchestrator.MachineRef, own, theirs string) error {
			return w.DestroyMachine(t.Context(), ref, []string{own})
		}},
		{"by its record, which has gone wrong", true, func(t *testing.T, w *world, ref orchestrator.MachineRef, own, theirs string) error {
			err := w.DestroyMachine(t.Context(), ref, []string{own, theirs})
			if orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), other) {
				t.Errorf("a record with another machine's disk: %v", err)
			}
			return w.DestroyMachine(t.Context(), ref, []string{own})
		}},
		{"as a stray", true, func(t *testing.T, w *world, ref orchestrator.MachineRef, _, _ string) error {
			_, err := w.RemoveStrays(t.Context(), ref.Pool, map[string]string{ref.Machine: ""})
			return err
		}},
		{"as a stray that was never shaped", false, func(t *testing.T, w *world, ref orchestrator.MachineRef, _, _ string) error {
			_, err := w.RemoveStrays(t.Context(), ref.Pool, map[string]string{ref.Machine: ""})
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := open(t, sim.Config{})
			spec := w.spec(1, 1)
			vm := w.clone(t, spec)
			before := w.count(t, "VDI") - len(vm.Disks)
			if c.shaped {
				vm = w.shape(t, spec, vm.UUID)
			}
			ref := spec.MachineRef
			ref.VM = vm.UUID
			theirs, theirID := w.disk(t, map[string]string{})
			w.call(t, "VDI.add_to_other_config", nil, theirs, "slipway_machine", other)
			w.call(t, "VDI.add_to_other_config", nil, theirs, "slipway_self", theirID)
			w.attach(t, vm.UUID, "5", theirs)
			kept := map[xapi.Ref]string{theirs: other}
			if c.shaped {
				data, _ := w.disk(t, map[string]string{})
				w.attach(t, vm.UUID, "6", data)
				kept[data] = ""
			}
			if err := c.remove(t, w, ref, vm.Disks[0].UUID, theirID); err != nil {
				t.Fatal(err)
			}
			for disk, tag := range kept {
				var config map[string]string
				if w.call(t, "VDI.get_other_config", &config, disk); config["slipway_machine"] != tag {
					t.Errorf("a disk of somebody's has the tag %q, had %q", config["slipway_machine"], tag)
				}
			}
			if n := w.count(t, "VDI"); n != before+len(kept) {
				t.Errorf("%d disks are there, want %d and %d of somebody's", n, before, len(kept))
			}
			if n := len(w.vms(t)); n != 0 {
				t.Errorf("%d VMs are left", n)
			}
		})
	}
}

func TestDeathBetweenVMAndDisksLeaksNothing(t *testing.T) {
	w := open(t, sim.Config{})
	vdis := w.count(t, "VDI")
	spec := w.spec(1, 1)
	shaped := w.shape(t, spec, w.clone(t, spec).UUID)
	w.call(t, "VM.destroy", nil, w.ref(t, "VM", shaped.UUID)) // and the worker dies, its record of the disks with it
	if err := w.DestroyMachine(t.Context(), spec.MachineRef, nil); err != nil || w.count(t, "VDI") != vdis {
		t.Errorf("DestroyMachine: %v; %d disks, want %d", err, w.count(t, "VDI"), vdis)
	}
}

func TestStartIsNotDoubledAndStopWaitsForIt(t *testing.T) {
	w := open(t, sim.Config{})
	spec := w.spec(1, 1)
	ref := spec.MachineRef
	ref.VM = w.shape(t, spec, w.clone(t, spec).UUID).UUID
	release := w.sim.Hold("VM.start_on")
	defer release()
	task, err := w.StartMachine(t.Context(), ref, w.host)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the start under way", func() bool { return w.sim.Held("VM.start_on") == 1 })
	if again, err := w.StartMachine(t.Context(), ref, w.host); err != nil || again != task {
		t.Errorf("a second start = %q, %v; want the first one's task %q", again, err, task)
	}
	if _, err := w.StopMachine(t.Context(), ref, true); orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("a stop during the start: %v", err)
	}
	release()
	if state := w.ended(t, task); state.State != orchestrator.TaskSucceeded {
		t.Errorf("start: %+v", state)
	}
}

// A shutdown whose answer was lost is seen on the VM, which still runs, and on no handle of ours.
func TestPowerTaskIsSeenWhileItRuns(t *testing.T) {
	w := open(t, sim.Config{})
	spec := w.spec(1, 1)
	ref := spec.MachineRef
	ref.VM = w.shape(t, spec, w.clone(t, spec).UUID).UUID
	look := func(power, task string) {
		t.Helper()
		if vm, err := w.FindMachine(t.Context(), ref); err != nil || vm.Power != power || vm.PowerTask != task {
			t.Errorf("%s, task %q, %v; want %s, task %q", vm.Power, vm.PowerTask, err, power, task)
		}
	}
	for _, c := range []struct {
		call          string
		begin         func() (string, error)
		before, after string
	}{
		{"VM.start_on", func() (string, error) { return w.StartMachine(t.Context(), ref, w.host) }, "halted", "running"},
		{"VM.hard_shutdown", func() (string, error) { return w.StopMachine(t.Context(), ref, true) }, "running", "halted"},
	} {
		look(c.before, "")
		release := w.sim.Hold(c.call)
		task, err := c.begin()
		if err != nil {
			t.Fatal(err)
		}
		until(t, c.call+" under way", func() bool { return w.sim.Held(c.call) == 1 })
		look(c.before, task)
		release()
		w.ended(t, task)
		look(c.after, "")
	}
}

func TestDisabledHostIsExhausted(t *testing.T) {
	w := open(t, sim.Config{})
	spec := w.spec(1, 1)
	ref := spec.MachineRef
	ref.VM = w.shape(t, spec, w.clone(t, spec).UUID).UUID
	w.call(t, "host.disable", nil, w.ref(t, "host", w.host))
	if _, err := w.StartMachine(t.Context(), ref, w.host); orchestrator.KindOf(err) != orchestrator.Exhausted || !xapi.HasCode(err, "HOST_DISABLED") {
		t.Errorf("a disabled host: %v", err)
	}
	if _, err := w.StartMachine(t.Context(), ref, "99999999-0000-4000-8000-000000000000"); orchestrator.KindOf(err) != orchestrator.Exhausted {
		t.Errorf("a host that left: %v", err)
	}
}

func TestRunWakesThoseWhoWait(t *testing.T) {
	server, err := sim.New(sim.Config{Password: password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	w := attach(t, server, front(t, server))
	w.look(t)
	keys := make(chan string, 1000)
	cfg := xapi.Config{Addresses: []string{front(t, server)}, User: "root", Password: password, Insecure: true, Originator: "slipway-run"}
	b, err := xapi.NewBackend(map[string]xapi.PoolConfig{pool: {Config: cfg}}, func(key string) { keys <- key }, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	until(t, "the follower's session", func() bool { return server.Sessions("slipway-run-events") == 1 })
	release := server.Hold("VM.clone")
	task, err := b.StartClone(t.Context(), w.spec(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	release()
	want := map[string]bool{orchestrator.WakeTask(pool, task): true, orchestrator.WakeCapacity: true}
	until(t, "both keys", func() bool {
		select {
		case key := <-keys:
			delete(want, key)
		default:
		}
		return len(want) == 0
	})
	cancel()
	wg.Wait()
	if err := b.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if n := server.Sessions("slipway-run") + server.Sessions("slipway-run-events"); n != 0 {
		t.Errorf("%d sessions are left on the pool", n)
	}
}

// TestTwentyMachinesAtOnce makes machines of one template in parallel, with sessions ending on the way, and counts what they cost.
func TestTwentyMachinesAtOnce(t *testing.T) {
	const machines = 20
	w := open(t, sim.Config{})
	vdis := w.count(t, "VDI")
	before := total(w.sim.Calls())
	t.Run("all", func(t *testing.T) {
		for n := range machines {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				spec := w.spec(n+1, 1)
				var task string
				until(t, "a free template", func() bool {
					var err error
					task, err = w.StartClone(t.Context(), spec)
					if err != nil && orchestrator.KindOf(err) != orchestrator.Exhausted {
						t.Fatalf("StartClone: %v", err)
					}
					return err == nil
				})
				if n == machines/2 {
					w.sim.ExpireSessions()
				}
				if state := w.ended(t, task); state.State != orchestrator.TaskSucceeded {
					t.Fatalf("clone: %+v", state)
				}
				ref := spec.MachineRef
				vm, err := w.FindMachine(t.Context(), ref)
				if err != nil {
					t.Fatalf("FindMachine: %v", err)
				}
				w.shape(t, spec, vm.UUID)
				ref.VM = vm.UUID
				if task, err = w.StartMachine(t.Context(), ref, w.host); err != nil {
					t.Fatalf("StartMachine: %v", err)
				}
				if state := w.ended(t, task); state.State != orchestrator.TaskSucceeded {
					t.Errorf("start: %+v", state)
				}
			})
		}
	})
	cost := (total(w.sim.Calls()) - before) / machines
	if n := len(w.vms(t)); n != machines || w.count(t, "VDI") != vdis+machines {
		t.Errorf("%d VMs and %d new disks, want %d of each", n, w.count(t, "VDI")-vdis, machines)
	}
	t.Logf("%d calls per machine", cost)
	if cost > 150 {
		t.Errorf("%d calls per machine", cost)
	}
}

func total(calls map[string]int) int {
	n := 0
	for _, c := range calls {
		n += c
	}
	return n
}

func TestSessionsGoneInTheMiddle(t *testing.T) {
	w := open(t, sim.Config{})
	spec := w.spec(1, 1)
	vm := w.clone(t, spec)
	w.sim.ExpireSessions()
	if shaped := w.shape(t, spec, vm.UUID); shaped.UUID != vm.UUID {
		t.Errorf("shaped %+v", shaped)
	}
}

// TestToolstackRestart: sessions and tasks are gone, a clone in flight with them, and the host is disabled for a while.
func TestToolstackRestart(t *testing.T) {
	w := open(t, sim.Config{})
	vdis := w.count(t, "VDI")
	release := w.sim.Hold("VM.clone")
	defer release()
	spec := w.spec(1, 1)
	task, err := w.StartClone(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the clone under way", func() bool { return w.sim.Held("VM.clone") == 1 })
	w.sim.Restart()
	release()
	if state := w.ended(t, task); state.State != orchestrator.TaskGone || orchestrator.KindOf(state.Err) != orchestrator.Unknown {
		t.Errorf("the task of before: %+v", state)
	}
	if vm, err := w.FindMachine(t.Context(), spec.MachineRef); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Fatalf("FindMachine = %+v, %v", vm, err)
	}
	spec.Attempt = 2
	ref := spec.MachineRef
	ref.VM = w.shape(t, spec, w.clone(t, spec).UUID).UUID
	if n := w.count(t, "VDI"); n != vdis+1 {
		t.Errorf("%d new disks", n-vdis)
	}
	if _, err := w.StartMachine(t.Context(), ref, w.host); orchestrator.KindOf(err) != orchestrator.Exhausted {
		t.Errorf("a start while the host is still disabled: %v", err)
	}
	w.sim.EnableHosts()
	if task, err = w.StartMachine(t.Context(), ref, w.host); err != nil {
		t.Fatal(err)
	}
	if state := w.ended(t, task); state.State != orchestrator.TaskSucceeded {
		t.Errorf("start: %+v", state)
	}
}

func TestFollowSeesATaskVanishInARestart(t *testing.T) {
	w := open(t, sim.Config{})
	release := w.sim.Hold("VM.clone")
	defer release()
	type report struct {
		task   xapi.Ref
		status xapi.TaskStatus
	}
	reports := make(chan report, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = w.admin.Follow(ctx, func(task xapi.Ref, status xapi.TaskStatus) { reports <- report{task, status} })
	})
	defer wg.Wait()
	defer cancel()
	task, err := w.StartClone(t.Context(), w.spec(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	heard := func(want xapi.TaskStatus) func() bool {
		return func() bool {
			select {
			case r := <-reports:
				return r.task == xapi.Ref(task) && r.status == want
			default:
				return false
			}
		}
	}
	until(t, "the clone's task pending", heard(xapi.TaskPending))
	w.sim.Restart()
	until(t, "the clone's task gone", heard(xapi.TaskGone))
}

func TestSlaveFirst(t *testing.T) {
	server, err := sim.New(sim.Config{Password: password, Hosts: 2, HostAddress: "127.0.0.1"}) // its second host is 127.0.0.2
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	master, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(master.Addr().String())
	slave, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(ctx, master, nil) })
	wg.Go(func() { _ = server.ServeSlave(ctx, slave, nil, 1) })
	w := attach(t, server, "http://"+slave.Addr().String())
	w.look(t)
	if vm := w.clone(t, w.spec(1, 1)); vm.UUID == "" {
		t.Error("no clone")
	}
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.admin.Close(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	wg.Wait()
}
