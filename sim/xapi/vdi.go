package xapi

import (
	"context"
	"fmt"
	"time"
)

// The numbers of the storage driver that the recordings were made with: sizes in steps of 2 MiB, no smaller again, between 1 MB and
// 2088960 MB, and SR_BACKEND_FAILURE_44 when the SR is full. A clone counts with its whole size, so that space is never overcommitted.
const (
	vdiStep  = 2 << 20
	vdiMost  = 2088960 << 20
	vdiClone = 1 << 20 // what a fresh clone or snapshot occupies
	thick    = int64(-1)
)

func errNoSpace() error { return fail("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "") }

func vdiHandlers() map[string]handler {
	return map[string]handler{
		"VDI.create":        vdiCreate,
		"VDI.destroy":       vdiDestroy,
		"VDI.resize":        vdiResize,
		"VDI.resize_online": func(*call, []any) (any, error) { return nil, fail("MESSAGE_REMOVED") },
		"VDI.clone":         vdiDuplicate,
		"VDI.snapshot":      vdiDuplicate,
		"VDI.copy":          vdiCopy,
		"VDI.pool_migrate": func(c *call, args []any) (any, error) {
			return nil, fail("VDI_NEEDS_VM_FOR_MIGRATE", args[0].(string))
		},
		"VDI.forget": vdiDestroy,
		"VDI.update": nothing,
	}
}

func vdiCreate(c *call, args []any) (any, error) {
	v, err := c.construct(args[0])
	if err != nil {
		return nil, err
	}
	sr, err := c.object("SR", v["SR"])
	if err != nil {
		return nil, err
	}
	if err := c.plugged(sr); err != nil {
		return nil, err
	}
	if err := c.begin(sr, "vdi_create", nil); err != nil {
		return nil, err
	}
	defer c.end(sr)
	if err := c.pause(80 * time.Millisecond); err != nil {
		return nil, err
	}
	vdi, err := c.s.newVDI(sr, v["virtual_size"].(int64), v, thick)
	if err != nil {
		return nil, err
	}
	size := vdi.num("virtual_size")
	if err := c.onDisk(vdi, func(ctx context.Context, g Guests, uuid string) error { return g.CreateDisk(ctx, uuid, size) }); err != nil {
		return nil, err
	}
	return vdi.ref, nil
}

// roundSize is the size that the driver makes of a wish.
func roundSize(size int64) (int64, error) {
	if size < 0 || size > vdiMost {
		return 0, fail("SR_BACKEND_FAILURE_79", "", "VDI Invalid size [opterr=VDI size must be between 1 MB and 2088960 MB]", "")
	}
	return (size + vdiStep - 1) / vdiStep * vdiStep, nil
}

// newVDI makes a disk if there is room. Occupied is its physical size, or thick for a new one.
func (s *Server) newVDI(sr *object, size int64, v map[string]any, occupied int64) (*object, error) {
	size, err := roundSize(size)
	if err != nil {
		return nil, err
	}
	db := s.db
	cost := size
	if v["is_a_snapshot"] == true { // costs what it occupies, and that only
		cost = 0
	}
	if sr.num("virtual_allocation")+cost > sr.num("physical_size") {
		return nil, errNoSpace()
	}
	if occupied == thick {
		occupied = size / 100
	}
	uuid := db.newUUID()
	v["uuid"], v["location"], v["SR"], v["managed"] = uuid, uuid, sr.ref, true
	v["virtual_size"], v["physical_utilisation"], v["allowed_operations"] = size, occupied, opsVDI
	vdi := db.create("VDI", v)
	db.link(sr, "VDIs", vdi.ref)
	s.account(sr, cost, occupied)
	return vdi, nil
}

func (s *Server) account(sr *object, virtual, physical int64) {
	s.db.set(sr, "virtual_allocation", sr.num("virtual_allocation")+virtual)
	s.db.set(sr, "physical_utilisation", sr.num("physical_utilisation")+physical)
}

func (s *Server) removeVDI(vdi *object) {
	db := s.db
	if s.cfg.Guests != nil {
		s.cfg.Guests.RemoveDisk(vdi.str("uuid"))
	}
	for _, vbd := range db.refs(vdi, "VBDs") {
		s.removeVBD(vbd)
	}
	if of := db.get("VDI", vdi.str("snapshot_of")); of != nil {
		db.unlink(of, "snapshots", vdi.ref)
	}
	for _, snap := range db.refs(vdi, "snapshots") {
		db.set(snap, "snapshot_of", nullRef)
	}
	if sr := db.get("SR", vdi.str("SR")); sr != nil {
		db.unlink(sr, "VDIs", vdi.ref)
		cost := vdi.num("virtual_size")
		if vdi.flag("is_a_snapshot") {
			cost = 0
		}
		s.account(sr, -cost, -vdi.num("physical_utilisation"))
	}
	db.destroy(vdi)
}

// attachedVBD is a drive through which a running VM uses the disk.
func (s *Server) attachedVBD(vdi *object) *object {
	for _, vbd := range s.db.refs(vdi, "VBDs") {
		if vbd.flag("currently_attached") {
			return vbd
		}
	}
	return nil
}

func (c *call) plugged(sr *object) error {
	if c.s.sees(nil, sr) {
		return nil
	}
	return fail("SR_HAS_NO_PBDS", sr.ref)
}

// onVDI runs an operation on a disk and its SR.
func (c *call) onVDI(vdi *object, op, srOp string, inUse bool, d time.Duration, do func(sr *object) error) error {
	sr := c.s.db.get("SR", vdi.str("SR"))
	check := func() error {
		if sr == nil {
			return fail("HANDLE_INVALID", "SR", vdi.str("SR"))
		}
		if err := c.plugged(sr); err != nil {
			return err
		}
		if !inUse && c.s.attachedVBD(vdi) != nil {
			return fail("VDI_IN_USE", vdi.ref, op)
		}
		return nil
	}
	if err := c.begin(vdi, op, check); err != nil {
		return err
	}
	defer c.end(vdi)
	if err := c.begin(sr, srOp, nil); err != nil {
		return err
	}
	defer c.end(sr)
	if err := c.pauseAs("VDI."+op, d); err != nil {
		return err
	}
	return do(sr)
}

// vdiDestroy succeeds for a disk of a halted VM or template, and takes the drives along: nothing protects a template's disk.
func vdiDestroy(c *call, args []any) (any, error) {
	vdi, err := c.object("VDI", args[0])
	if err != nil {
		return nil, err
	}
	return nil, c.onVDI(vdi, "destroy", "vdi_destroy", false, 80*time.Millisecond, func(*object) error {
		c.s.removeVDI(vdi)
		return nil
	})
}

func vdiResize(c *call, args []any) (any, error) {
	vdi, err := c.object("VDI", args[0])
	if err != nil {
		return nil, err
	}
	return nil, c.onVDI(vdi, "resize", "vdi_resize", false, 80*time.Millisecond, func(sr *object) error {
		size, err := roundSize(args[1].(int64))
		if err != nil {
			return err
		}
		grown := size - vdi.num("virtual_size")
		if grown < 0 {
			return fail("SR_BACKEND_FAILURE_79", "", "VDI Invalid size [opterr=shrinking not allowed]", "")
		}
		if sr.num("virtual_allocation")+grown > sr.num("physical_size") {
			return errNoSpace()
		}
		if g := c.s.cfg.Guests; g != nil {
			uuid := vdi.str("uuid")
			if err := c.outside(func(ctx context.Context) error { return g.ResizeDisk(ctx, uuid, size) }); err != nil {
				return fail("SR_BACKEND_FAILURE_1200", "", err.Error(), "")
			}
		}
		c.s.db.set(vdi, "virtual_size", size)
		c.s.account(sr, grown, 0)
		return nil
	})
}

// vdiDuplicate is VDI.clone and VDI.snapshot.
func vdiDuplicate(c *call, args []any) (any, error) {
	vdi, err := c.object("VDI", args[0])
	if err != nil {
		return nil, err
	}
	copied, err := c.cloneVDI(vdi, c.msg.name)
	if err != nil {
		return nil, err
	}
	return copied.ref, nil
}

func (c *call) cloneVDI(vdi *object, op string) (*object, error) {
	var made *object
	err := c.onVDI(vdi, op, "vdi_"+op, true, perDisk, func(sr *object) error {
		if c.s.cfg.Guests != nil && c.s.attachedVBD(vdi) != nil {
			return fail("SR_OPERATION_NOT_SUPPORTED", sr.ref)
		}
		v := inherited(vdi)
		v["snapshot_time"] = c.s.today()
		if op == "snapshot" {
			v["is_a_snapshot"], v["snapshot_of"] = true, vdi.ref
		}
		var err error
		if made, err = c.s.newVDI(sr, vdi.num("virtual_size"), v, vdiClone); err != nil {
			return err
		}
		from := vdi.str("uuid")
		if err := c.onDisk(made, func(ctx context.Context, g Guests, uuid string) error { return g.CloneDisk(ctx, from, uuid) }); err != nil {
			made = nil
			return err
		}
		if op == "snapshot" {
			c.s.db.link(vdi, "snapshots", made.ref)
		}
		return nil
	})
	return made, err
}

// inherited are the fields that a copy of a disk has from its original.
func inherited(vdi *object) map[string]any {
	v := map[string]any{}
	for _, name := range []string{"name_label", "name_description", "type", "sharable", "read_only", "other_config", "xenstore_data", "tags", "on_boot", "allow_caching"} {
		v[name] = vdi.get(name)
	}
	return v
}

func vdiCopy(c *call, args []any) (any, error) {
	vdi, err := c.object("VDI", args[0])
	if err != nil {
		return nil, err
	}
	ref, _ := args[1].(string)
	copied, err := c.copyVDI(vdi, c.s.db.get("SR", ref), 0)
	if err != nil {
		return nil, err
	}
	return copied.ref, nil
}

// copyVDI is a full copy: slow, and the one operation that a cancellation really ends.
func (c *call) copyVDI(vdi, sr *object, progress float64) (*object, error) {
	db := c.s.db
	if sr == nil {
		sr = db.get("SR", vdi.str("SR"))
	}
	var made *object
	err := c.onVDI(vdi, "copy", "vdi_copy", true, 0, func(*object) error {
		db.set(vdi, "other_config", withKey(vdi.dict("other_config"), "content_id", db.newUUID())) // the copy has the same
		v := inherited(vdi)
		if err := c.plugged(sr); err != nil {
			return err
		}
		if sr.num("virtual_allocation")+vdi.num("virtual_size") > sr.num("physical_size") {
			return errNoSpace()
		}
		for part := range 5 {
			for _, t := range []*object{c.ensureTask(), c.parent} {
				if t != nil {
					db.set(t, "progress", progress+float64(part)/5*(1-progress))
				}
			}
			if err := c.pauseAs("VDI.copying", perDisk); err != nil {
				return err
			}
			if c.task.cancelled() || c.parent != nil && c.parent.cancelled() {
				return fail("VDI_COPY_FAILED", fmt.Sprintf("Server_error(TASK_CANCELLED, [ %s ])", c.task.ref))
			}
		}
		var err error
		if made, err = c.s.newVDI(sr, vdi.num("virtual_size"), v, vdi.num("physical_utilisation")); err != nil {
			return err
		}
		from := vdi.str("uuid")
		if err := c.onDisk(made, func(ctx context.Context, g Guests, uuid string) error { return g.CopyDisk(ctx, from, uuid) }); err != nil {
			made = nil
			return err
		}
		return nil
	})
	return made, err
}
