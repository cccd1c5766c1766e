package xapi

import (
	"strconv"
	"strings"
	"time"
)

func vbdHandlers() map[string]handler {
	return map[string]handler{
		"VBD.create":            vbdCreate,
		"VBD.destroy":           vbdDestroy,
		"VBD.plug":              vbdPlug,
		"VBD.unplug":            vbdUnplug,
		"VBD.unplug_force":      vbdUnplug,
		"VBD.insert":            vbdInsert,
		"VBD.eject":             vbdEject,
		"VBD.assert_attachable": nothing,
	}
}

func vbdCreate(c *call, args []any) (any, error) {
	v, err := c.construct(args[0])
	if err != nil {
		return nil, err
	}
	vm, err := c.object("VM", v["VM"])
	if err != nil {
		return nil, err
	}
	db, device := c.s.db, v["userdevice"].(string)
	cd := v["type"] == "CD"
	if cd && v["mode"] != "RO" {
		return nil, fail("VBD_CDS_MUST_BE_READONLY")
	}
	if !cd || !v["empty"].(bool) {
		vdi, err := c.object("VDI", v["VDI"])
		if err != nil {
			return nil, err
		}
		if v["mode"] == "RW" && vdi.flag("read_only") {
			return nil, fail("VDI_READONLY", vdi.ref)
		}
		v["empty"] = false
	}
	used := map[string]bool{}
	for _, other := range db.refs(vm, "VBDs") {
		used[other.str("userdevice")] = true
	}
	if device == "autodetect" {
		for i := range len(used) + 1 {
			if device = strconv.Itoa(i); !used[device] {
				break
			}
		}
		v["userdevice"] = device
	}
	if n, ok := diskNumber(device); !ok || n < 0 {
		return nil, fail("INVALID_DEVICE", device)
	}
	if used[device] {
		return nil, fail("DEVICE_ALREADY_EXISTS", device)
	}
	if v["VDI"] == "" || cd && v["empty"] == true {
		v["VDI"] = nullRef
	}
	v["currently_attached"] = false
	vbd := c.s.newVBD(v)
	c.s.refresh(vbd)
	return vbd.ref, nil
}

// diskNumber is the number of a userdevice: a decimal number or a name such as xvda, sdb, hdc with one letter of the first 16.
func diskNumber(device string) (int, bool) {
	if n, err := strconv.Atoi(device); err == nil {
		return n, true
	}
	for _, prefix := range []string{"xvd", "sd", "hd"} {
		if rest, ok := strings.CutPrefix(device, prefix); ok && len(rest) == 1 && rest[0] >= 'a' && rest[0] <= 'p' {
			return int(rest[0] - 'a'), true
		}
	}
	return 0, false
}

func diskName(device string) string {
	n, ok := diskNumber(device)
	if !ok || n > 25 {
		return "xvd" + device
	}
	return "xvd" + string(rune('a'+n))
}

func (s *Server) newVBD(v map[string]any) *object {
	db := s.db
	v["metrics"] = db.create("VBD_metrics", nil).ref
	vbd := db.create("VBD", v)
	if vm := db.get("VM", vbd.str("VM")); vm != nil {
		db.link(vm, "VBDs", vbd.ref)
	}
	if vdi := db.get("VDI", vbd.str("VDI")); vdi != nil {
		db.link(vdi, "VBDs", vbd.ref)
	}
	return vbd
}

func (s *Server) removeVBD(vbd *object) {
	db := s.db
	db.unlink(db.get("VM", vbd.str("VM")), "VBDs", vbd.ref)
	db.unlink(db.get("VDI", vbd.str("VDI")), "VBDs", vbd.ref)
	if m := db.objs[vbd.str("metrics")]; m != nil {
		db.destroy(m)
	}
	db.destroy(vbd)
}

// drive resolves a VBD and its VM.
func (c *call) drive(ref any) (vbd, vm *object, err error) {
	if vbd, err = c.object("VBD", ref); err == nil {
		vm, err = c.object("VM", vbd.str("VM"))
	}
	return vbd, vm, err
}

func vbdDestroy(c *call, args []any) (any, error) {
	vbd, vm, err := c.drive(args[0])
	if err != nil {
		return nil, err
	}
	if vbd.flag("currently_attached") {
		return nil, fail("OPERATION_NOT_ALLOWED", "VBD '"+vbd.str("uuid")+"' still attached to '"+vm.str("uuid")+"'")
	}
	c.s.removeVBD(vbd)
	return nil, nil
}

func vbdPlug(c *call, args []any) (any, error) {
	if err := c.refuseWithGuests(); err != nil {
		return nil, err
	}
	vbd, vm, err := c.drive(args[0])
	if err != nil {
		return nil, err
	}
	if err := inState(vm, Running); err != nil {
		return nil, err
	}
	if vbd.flag("currently_attached") {
		return nil, fail("DEVICE_ALREADY_ATTACHED", vbd.ref)
	}
	if err := c.s.free(vbd); err != nil {
		return nil, err
	}
	if err := c.pause(60 * time.Millisecond); err != nil {
		return nil, err
	}
	c.s.attachVBD(vbd)
	return nil, nil
}

func vbdUnplug(c *call, args []any) (any, error) {
	if err := c.refuseWithGuests(); err != nil {
		return nil, err
	}
	vbd, vm, err := c.drive(args[0])
	if err != nil {
		return nil, err
	}
	if err := inState(vm, Running); err != nil {
		return nil, err
	}
	if !vbd.flag("currently_attached") {
		return nil, fail("DEVICE_ALREADY_DETACHED", vbd.ref)
	}
	if err := c.pause(15 * time.Millisecond); err != nil {
		return nil, err
	}
	c.s.detachVBD(vbd)
	return nil, nil
}

func vbdInsert(c *call, args []any) (any, error) {
	vbd, _, err := c.drive(args[0])
	if err != nil {
		return nil, err
	}
	if vbd.str("type") != "CD" {
		return nil, fail("VBD_NOT_REMOVABLE_MEDIA", vbd.ref)
	}
	if !vbd.flag("empty") {
		return nil, fail("VBD_NOT_EMPTY", vbd.ref)
	}
	vdi, err := c.object("VDI", args[1])
	if err != nil {
		return nil, err
	}
	db := c.s.db
	db.set(vbd, "VDI", vdi.ref)
	db.set(vbd, "empty", false)
	db.link(vdi, "VBDs", vbd.ref)
	c.s.refresh(vbd)
	c.s.refresh(vdi)
	return nil, nil
}

func vbdEject(c *call, args []any) (any, error) {
	vbd, _, err := c.drive(args[0])
	if err != nil {
		return nil, err
	}
	if vbd.str("type") != "CD" {
		return nil, fail("VBD_NOT_REMOVABLE_MEDIA", vbd.ref)
	}
	if vbd.flag("empty") {
		return nil, fail("VBD_IS_EMPTY", vbd.ref)
	}
	db := c.s.db
	vdi := db.get("VDI", vbd.str("VDI"))
	db.unlink(vdi, "VBDs", vbd.ref)
	db.set(vbd, "VDI", nullRef)
	db.set(vbd, "empty", true)
	c.s.refresh(vbd)
	if vdi != nil {
		c.s.refresh(vdi)
	}
	return nil, nil
}

func (s *Server) attachVBD(vbd *object) {
	db := s.db
	db.set(vbd, "device", diskName(vbd.str("userdevice")))
	db.set(vbd, "currently_attached", true)
	s.refresh(vbd)
	if vdi := db.get("VDI", vbd.str("VDI")); vdi != nil {
		s.refresh(vdi)
	}
}

func (s *Server) detachVBD(vbd *object) {
	db := s.db
	db.set(vbd, "currently_attached", false)
	s.refresh(vbd)
	if vdi := db.get("VDI", vbd.str("VDI")); vdi != nil {
		s.refresh(vdi)
	}
}

// free checks that no other running VM writes to the drive's disk.
func (s *Server) free(vbd *object) error {
	vdi := s.db.get("VDI", vbd.str("VDI"))
	if vdi == nil || vdi.flag("sharable") {
		return nil
	}
	for _, other := range s.db.refs(vdi, "VBDs") {
		if other != vbd && other.flag("currently_attached") && (other.str("mode") == "RW" || vbd.str("mode") == "RW") {
			return fail("VDI_IN_USE", vdi.ref)
		}
	}
	return nil
}
