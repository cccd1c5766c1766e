package xapi

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

const perDisk = 100 * time.Millisecond // what a copy-on-write clone of one disk takes

func vmClone(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	return c.duplicate(vm, duplication{name: args[1].(string), op: "clone", states: []string{Halted, Suspended}})
}

func vmSnapshot(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	return c.duplicate(vm, duplication{name: args[1].(string), op: "snapshot", states: []string{Halted, Running, Paused, Suspended}})
}

func vmCopy(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	// An unknown SR means the original one, without an error.
	return c.duplicate(vm, duplication{
		name: args[1].(string), op: "copy", sr: c.s.db.get("SR", args[2].(string)), states: []string{Halted, Suspended},
	})
}

type duplication struct {
	name, op string
	sr       *object // of a copy; nil is the disk's own
	states   []string
}

// duplicate makes a VM from a VM with all its disks. When a disk fails, what was made before is taken away again.
func (c *call) duplicate(vm *object, d duplication) (any, error) {
	check := func() error {
		if err := inState(vm, d.states[0]); len(d.states) < 3 && err != nil && vm.str("power_state") != Suspended {
			return err
		}
		return permitted(vm, d.op, d.states...)
	}
	if err := c.begin(vm, d.op, check); err != nil {
		return nil, err
	}
	defer c.end(vm)
	if err := c.reachable(vm, d.op); err != nil {
		return nil, err
	}
	disks, err := c.duplicateDisks(vm, d)
	if err != nil {
		for _, vdi := range disks {
			c.s.removeVDI(vdi)
		}
		return nil, err
	}
	return c.s.duplicateVM(vm, d, disks).ref, nil
}

// reachable checks that some host sees the disks' SRs.
func (c *call) reachable(vm *object, op string) error {
	for _, vdi := range c.s.disks(vm) {
		if c.s.sees(nil, c.s.db.get("SR", vdi.str("SR"))) {
			continue
		}
		if op == "copy" {
			return internal("Not_found")
		}
		return fail("NO_HOSTS_AVAILABLE")
	}
	return nil
}

func (c *call) duplicateDisks(vm *object, d duplication) (map[string]*object, error) {
	made := map[string]*object{}
	vbds := slices.Clone(c.s.db.refs(vm, "VBDs"))
	for i, vbd := range vbds {
		if vbd.str("type") != "Disk" {
			continue
		}
		vdi := c.s.db.get("VDI", vbd.str("VDI"))
		if vdi == nil {
			continue
		}
		var copied *object
		var err error
		if d.op == "copy" {
			part := c.part("Async.VDI.copy")
			copied, err = part.copyVDI(vdi, d.sr, float64(i)/float64(len(vbds)))
			c.partDone(part, err)
		} else {
			part := c.part("Async.VDI." + d.op)
			copied, err = part.cloneVDI(vdi, d.op)
			c.partDone(part, err)
		}
		if err != nil {
			return made, err
		}
		made[vbd.ref] = copied
	}
	if len(made) == 0 {
		return made, c.pause(5 * time.Millisecond)
	}
	return made, nil
}

// duplicateVM makes the rows: the VM, its drives, and for clones its VIFs.
func (s *Server) duplicateVM(vm *object, d duplication, disks map[string]*object) *object {
	db := s.db
	v := map[string]any{}
	for _, f := range vm.class.fields {
		v[f.name] = vm.vals[f.index]
	}
	for _, name := range []string{
		"uuid", "current_operations", "VIFs", "VBDs", "consoles", "guest_metrics", "metrics", "snapshots", "snapshot_of", "snapshot_time",
		"is_a_snapshot", "snapshot_info", "snapshot_metadata", "transportable_snapshot_id", "resident_on", "is_default_template",
		"children", "parent", "domid", "suspend_VDI", "VGPUs", "VUSBs", "VTPMs", "crash_dumps", "blobs", "attached_PCIs",
		"requires_reboot", "last_booted_record",
	} {
		delete(v, name)
	}
	v["name_label"], v["power_state"] = d.name, Halted
	v["generation_id"] = fmt.Sprintf("%d:%d", db.rng.Int64(), db.rng.Int64())
	if d.op == "snapshot" {
		v["is_a_template"], v["is_a_snapshot"], v["snapshot_of"], v["snapshot_time"] = true, true, vm.ref, s.today()
		v["children"] = []any{vm.ref}
		v["snapshot_info"] = map[string]any{"disk-snapshot-type": "crash_consistent", "power-state-at-snapshot": vm.str("power_state")}
		v["allowed_operations"] = opsSnapshot
	} else {
		other := maps.Clone(vm.dict("other_config"))
		if vm.flag("is_a_template") {
			other["base_template_name"] = vm.str("name_label")
		}
		other["mac_seed"] = db.newUUID()
		v["other_config"] = other
	}
	dup := s.newVM(v)
	if d.op == "snapshot" {
		db.link(vm, "snapshots", dup.ref)
		db.set(vm, "parent", dup.ref)
	}
	for _, vbd := range db.refs(vm, "VBDs") {
		s.duplicateVBD(vbd, dup, disks[vbd.ref])
	}
	for _, vif := range db.refs(vm, "VIFs") {
		s.duplicateVIF(vif, dup)
	}
	return dup
}

func (s *Server) duplicateVBD(vbd, vm, vdi *object) {
	v := map[string]any{"VM": vm.ref, "VDI": nullRef, "empty": true}
	for _, name := range []string{"userdevice", "bootable", "mode", "type", "unpluggable", "other_config", "qos_algorithm_type", "qos_algorithm_params"} {
		v[name] = vbd.get(name)
	}
	if vdi != nil {
		v["VDI"], v["empty"] = vdi.ref, false
		v["other_config"] = withKey(vbd.dict("other_config"), "owner", "")
	}
	s.newVBD(v)
}

func (s *Server) duplicateVIF(vif, vm *object) {
	v := map[string]any{"VM": vm.ref, "MAC": ""}
	for _, name := range []string{"device", "network", "MTU", "other_config", "qos_algorithm_type", "qos_algorithm_params", "locking_mode", "ipv4_allowed", "ipv6_allowed"} {
		v[name] = vif.get(name)
	}
	s.newVIF(v)
}
