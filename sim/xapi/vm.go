package xapi

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Power states of a VM.
const (
	Halted    = "Halted"
	Running   = "Running"
	Paused    = "Paused"
	Suspended = "Suspended"
)

func vmHandlers() map[string]handler {
	return map[string]handler{
		"VM.create":                    vmCreate,
		"VM.destroy":                   vmDestroy,
		"VM.clone":                     vmClone,
		"VM.copy":                      vmCopy,
		"VM.snapshot":                  vmSnapshot,
		"VM.provision":                 vmProvision,
		"VM.set_is_a_template":         vmSetIsATemplate,
		"VM.start":                     vmStart,
		"VM.start_on":                  vmStartOn,
		"VM.pause":                     vmPause,
		"VM.unpause":                   vmUnpause,
		"VM.clean_shutdown":            vmCleanShutdown,
		"VM.hard_shutdown":             vmHardShutdown,
		"VM.shutdown":                  vmCleanShutdown,
		"VM.clean_reboot":              vmReboot,
		"VM.hard_reboot":               vmReboot,
		"VM.suspend":                   vmSuspend,
		"VM.resume":                    vmResume,
		"VM.power_state_reset":         vmHardShutdown,
		"VM.pool_migrate":              vmPoolMigrate,
		"VM.set_VCPUs_max":             vmSetVCPUs,
		"VM.set_VCPUs_at_startup":      vmSetVCPUs,
		"VM.set_VCPUs_number_live":     vmSetVCPUsLive,
		"VM.set_memory_limits":         vmSetMemoryLimits,
		"VM.set_memory":                vmSetMemory,
		"VM.set_memory_static_range":   vmSetMemoryPart,
		"VM.set_memory_dynamic_range":  vmSetMemoryPart,
		"VM.set_memory_static_min":     vmSetMemoryPart,
		"VM.set_memory_static_max":     vmSetMemoryPart,
		"VM.set_memory_dynamic_min":    vmSetMemoryPart,
		"VM.set_memory_dynamic_max":    vmSetMemoryPart,
		"VM.set_HVM_boot_policy":       vmSetBootPolicy,
		"VM.compute_memory_overhead":   func(c *call, a []any) (any, error) { return c.vmValue(a[0], overhead) },
		"VM.get_allowed_VIF_devices":   func(c *call, a []any) (any, error) { return c.freeDevices(a[0], "VIFs", "device", 7) },
		"VM.get_allowed_VBD_devices":   func(c *call, a []any) (any, error) { return c.freeDevices(a[0], "VBDs", "userdevice", 255) },
		"VM.assert_can_boot_here":      vmAssertCanBootHere,
		"VM.get_possible_hosts":        vmGetPossibleHosts,
		"VM.assert_operation_valid":    vmAssertOperationValid,
		"VM.update_allowed_operations": func(c *call, a []any) (any, error) { return c.vmValue(a[0], func(*object) any { return nil }) },
		"VM.get_boot_record": func(c *call, a []any) (any, error) {
			return c.vmValue(a[0], func(o *object) any { return o.snapshot() })
		},
		"VM.retrieve_wlb_recommendations": func(*call, []any) (any, error) { return nil, fail("WLB_NOT_INITIALIZED") },
	}
}

// vmValue answers with something that is read from a VM.
func (c *call) vmValue(ref any, f func(*object) any) (any, error) {
	vm, err := c.object("VM", ref)
	if err != nil {
		return nil, err
	}
	return f(vm), nil
}

// inState is the check that a VM is in one of the states; the error lists them as xapi does.
func inState(vm *object, states ...string) error {
	if slices.Contains(states, vm.str("power_state")) {
		return nil
	}
	return fail("VM_BAD_POWER_STATE", vm.ref, strings.ToLower(strings.Join(states, ", ")), strings.ToLower(vm.str("power_state")))
}

// permitted checks what an operation needs besides a free VM: nobody blocked it, and the state is right.
func permitted(vm *object, op string, states ...string) error {
	if reason, blocked := vm.dict("blocked_operations")[op]; blocked {
		return fail("OPERATION_BLOCKED", vm.ref, reason.(string))
	}
	return inState(vm, states...)
}

// operate runs one operation on one VM: waits for its turn, shows it, spends its time, does it.
func (c *call) operate(vm *object, op string, check func() error, d time.Duration, do func() error) (any, error) {
	if err := c.begin(vm, op, check); err != nil {
		return nil, err
	}
	defer c.end(vm)
	if err := c.pause(d); err != nil {
		return nil, err
	}
	return nil, do()
}

func vmCreate(c *call, args []any) (any, error) {
	v, err := c.construct(args[0])
	if err != nil {
		return nil, err
	}
	db := c.s.db
	other := v["other_config"].(map[string]any)
	if _, ok := other["mac_seed"]; !ok {
		v["other_config"] = withKey(other, "mac_seed", db.newUUID())
	}
	v["power_state"] = Halted
	if v["HVM_boot_policy"] == "" {
		v["has_vendor_device"], v["hardware_platform_version"] = false, int64(0)
	} else if _, given := v["hardware_platform_version"]; !given {
		v["hardware_platform_version"] = int64(2)
	}
	vm := c.s.newVM(v)
	return vm.ref, nil
}

// newVM makes a VM's row and its metrics.
func (s *Server) newVM(v map[string]any) *object {
	db := s.db
	v["metrics"] = db.create("VM_metrics", map[string]any{"install_time": s.today(), "current_domain_type": "unspecified"}).ref
	v["domid"] = int64(-1)
	vm := db.createRef("VM", "OpaqueRef:"+db.newUUID(), v)
	vm.put("domain_type", domainType(vm))
	vm.put("memory_overhead", overhead(vm))
	vm.put("allowed_operations", vmOps(vm))
	if aff := vm.str("affinity"); aff == "" {
		vm.put("affinity", nullRef)
	}
	return vm
}

func domainType(vm *object) string {
	if vm.str("HVM_boot_policy") == "" {
		return "pv"
	}
	return "hvm"
}

// overhead is what the hypervisor needs besides the guest's memory: 1 MiB, one more for HVM, one per vCPU, and the page tables.
func overhead(vm *object) any {
	const mib = 1 << 20
	n := 1 + vm.num("VCPUs_max") + (vm.num("memory_static_max")/mib+127)/128
	if domainType(vm) == "hvm" {
		n++
	}
	return n * mib
}

func vmDestroy(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	check := func() error {
		if vm.flag("is_control_domain") || vm.flag("is_default_template") {
			return fail("OPERATION_NOT_ALLOWED", "cannot be destroyed")
		}
		return permitted(vm, "destroy", Halted, Suspended)
	}
	return c.operate(vm, "destroy", check, 5*time.Millisecond, func() error {
		c.s.removeVM(vm)
		return nil
	})
}

// removeVM deletes a VM and all that belongs to it, but no VDI.
func (s *Server) removeVM(vm *object) {
	db := s.db
	for _, vbd := range db.refs(vm, "VBDs") {
		s.removeVBD(vbd)
	}
	for _, vif := range db.refs(vm, "VIFs") {
		s.removeVIF(vif)
	}
	for _, ref := range append(slices.Clone(vm.set("consoles")), vm.get("metrics"), vm.get("guest_metrics")) {
		if o := db.objs[ref.(string)]; o != nil {
			db.destroy(o)
		}
	}
	if of := db.get("VM", vm.str("snapshot_of")); of != nil {
		db.unlink(of, "snapshots", vm.ref)
	}
	for _, snap := range db.refs(vm, "snapshots") {
		db.set(snap, "snapshot_of", nullRef)
	}
	db.destroy(vm)
}

func vmSetIsATemplate(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	check := func() error { return permitted(vm, "make_into_template", Halted) }
	return c.operate(vm, "make_into_template", check, 0, func() error {
		if args[1].(bool) && !vm.flag("is_a_template") {
			db := c.s.db
			if gm := db.get("VM_guest_metrics", vm.str("guest_metrics")); gm != nil {
				db.destroy(gm)
				db.set(vm, "guest_metrics", nullRef)
			}
		}
		c.s.db.set(vm, "is_a_template", args[1])
		return nil
	})
}

func vmSetBootPolicy(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	c.s.db.set(vm, "HVM_boot_policy", args[1])
	c.s.db.set(vm, "domain_type", domainType(vm))
	return nil, nil
}

// freeDevices lists the device numbers below limit that come after the ones in use, and the gaps.
func (c *call) freeDevices(ref any, children, field string, limit int) (any, error) {
	vm, err := c.object("VM", ref)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, o := range c.s.db.refs(vm, children) {
		used[o.str(field)] = true
	}
	out := []any{}
	for i := range limit {
		if d := strconv.Itoa(i); !used[d] {
			out = append(out, d)
		}
	}
	return out, nil
}

func vmAssertOperationValid(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	op := args[1].(string)
	if slices.Contains(vm.set("allowed_operations"), any(op)) {
		return nil, nil
	}
	if conflicts(vm, op) {
		return nil, fail("OTHER_OPERATION_IN_PROGRESS", "VM."+op, vm.ref)
	}
	if vm.flag("is_a_template") {
		return nil, fail("VM_IS_TEMPLATE", vm.ref, op)
	}
	return nil, fail("OPERATION_NOT_ALLOWED", fmt.Sprintf("%s is not allowed in this state", op))
}
