package xapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// Guests runs the VMs of a pool and keeps its disks, as package qemu does. Without one a pool keeps books only. VMs and disks are named by
// their uuids. Every method is called from any goroutine and outside of the pool's lock; calls that concern the same VM or disk come one at
// a time, except that Stop may come while Shutdown waits.
type Guests interface {
	// Open is called once, before any other method, and tells where the guests' own doings are to be reported.
	Open(GuestEvents) error
	// Close ends every guest and waits for it.
	Close()

	// TemplateDisk makes the disk of a template from the image of that name, whatever its size is.
	TemplateDisk(uuid, image string, bytes int64) error
	CreateDisk(ctx context.Context, uuid string, bytes int64) error
	// CloneDisk makes a disk that shares what the other one has at this moment. The error is ErrChain when too many lie on each other already.
	CloneDisk(ctx context.Context, from, uuid string) error
	CopyDisk(ctx context.Context, from, uuid string) error
	ResizeDisk(ctx context.Context, uuid string, bytes int64) error
	RemoveDisk(uuid string)

	// Start returns when the guest's processor runs.
	Start(context.Context, Domain) error
	// Shutdown presses the power button and waits for the guest's end, at most until the context's.
	Shutdown(ctx context.Context, vm string) error
	// Stop pulls the plug. A guest that does not run is stopped.
	Stop(vm string)
	// Reset presses the reset button.
	Reset(ctx context.Context, vm string) error
	Pause(ctx context.Context, vm string) error
	Resume(ctx context.Context, vm string) error
	// Console connects to the guest's screen: RFB without authentication.
	Console(ctx context.Context, vm string) (net.Conn, error)
}

// GuestEvents is what guests do without being asked.
type GuestEvents interface {
	// GuestEnded says that a guest has switched itself off, or that its process ended.
	GuestEnded(vm string)
	// GuestBooted says that a guest has restarted itself.
	GuestBooted(vm string)
	// GuestReported says what the agent in a guest tells; nil when it has fallen silent.
	GuestReported(vm string, r *GuestReport)
}

// GuestReport is what the agent in a guest tells.
type GuestReport struct {
	Agent     string                  // its version
	OS        map[string]string       // as VM_guest_metrics.os_version has it: name, uname, distro, major, minor
	Addresses map[string][]netip.Addr // by MAC, lower case
}

// Domain is what a VM is started with.
type Domain struct {
	VM, Name  string
	MemoryMiB int64
	VCPUs     int64
	Disks     []string // uuids, the one to boot from first
	VIFs      []DomainVIF
	Paused    bool
}

// DomainVIF is an interface on a bridge.
type DomainVIF struct{ Device, MAC, Bridge string }

// ErrChain says that a disk cannot be cloned: its chain is as long as the storage allows.
var ErrChain = errors.New("the snapshot chain is too long")

// outside does what takes real time, without the lock, which is held before and after.
func (c *call) outside(do func(context.Context) error) error {
	c.s.unlock()
	err := do(c.ctx)
	c.s.mu.Lock()
	if c.ctx.Err() != nil {
		return errStopped
	}
	return err
}

// onDisk has a new disk's file made, or takes its row away again. The lock is given away meanwhile.
func (c *call) onDisk(made *object, do func(ctx context.Context, g Guests, uuid string) error) error {
	g := c.s.cfg.Guests
	if g == nil {
		return nil
	}
	uuid := made.str("uuid")
	err := c.outside(func(ctx context.Context) error { return do(ctx, g, uuid) })
	if err == nil {
		return nil
	}
	if c.s.db.objs[made.ref] == made {
		c.s.removeVDI(made)
	}
	if errors.Is(err, ErrChain) {
		return fail("SR_BACKEND_FAILURE_109", "", "The snapshot chain is too long [opterr="+err.Error()+"]", "")
	}
	return fail("SR_BACKEND_FAILURE_1200", "", err.Error(), "")
}

// onGuest has something done to a VM's guest, when guests are real.
func (c *call) onGuest(vm *object, do func(ctx context.Context, g Guests, uuid string) error) error {
	g := c.s.cfg.Guests
	if g == nil {
		return nil
	}
	uuid := vm.str("uuid")
	return c.outside(func(ctx context.Context) error { return do(ctx, g, uuid) })
}

// refuseWithGuests is for what real guests are not able to do here.
func (c *call) refuseWithGuests() error {
	if c.s.cfg.Guests == nil {
		return nil
	}
	return fail("NOT_IMPLEMENTED", c.msg.full)
}

// domain is how a VM is to be started.
func (s *Server) domain(vm *object, paused bool) Domain {
	db := s.db
	d := Domain{VM: vm.str("uuid"), Name: vm.str("name_label"), MemoryMiB: vm.num("memory_static_max") >> 20, VCPUs: vm.num("VCPUs_at_startup"), Paused: paused}
	byDevice := func(field string) []*object {
		return slices.SortedFunc(slices.Values(db.refs(vm, field)), func(a, b *object) int {
			return device(a) - device(b)
		})
	}
	for _, vbd := range byDevice("VBDs") {
		if vdi := db.get("VDI", vbd.str("VDI")); vdi != nil && vbd.str("type") == "Disk" {
			d.Disks = append(d.Disks, vdi.str("uuid"))
		}
	}
	for _, vif := range byDevice("VIFs") {
		v := DomainVIF{Device: vif.str("device"), MAC: normalMAC(vif.str("MAC"))}
		if n := db.get("network", vif.str("network")); n != nil {
			v.Bridge = n.str("bridge")
		}
		d.VIFs = append(d.VIFs, v)
	}
	return d
}

// device is the number of a VBD or VIF; drives may have names such as xvda.
func device(o *object) int {
	text := o.str("device")
	if o.class.name == "VBD" {
		text = o.str("userdevice")
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 1 << 16
	}
	return n
}

// GuestEnded implements [GuestEvents].
func (s *Server) GuestEnded(vm string) {
	s.mu.Lock()
	defer s.unlock()
	if o := s.vmByUUID(vm); o != nil && o.str("resident_on") != nullRef && o.str("power_state") != Halted && !s.rebooting[o] {
		s.halt(o, Halted)
		s.ended() // whoever waits for this VM looks again
	}
}

// GuestBooted implements [GuestEvents]: a new domain, of which nothing is known yet.
func (s *Server) GuestBooted(vm string) {
	s.mu.Lock()
	defer s.unlock()
	if o := s.vmByUUID(vm); o != nil && o.str("power_state") == Running {
		s.boot(o, s.db.get("host", o.str("resident_on")))
		s.newGuest(o)
		s.setPower(o, Running, true)
	}
}

// GuestReported implements [GuestEvents].
func (s *Server) GuestReported(vm string, r *GuestReport) {
	s.mu.Lock()
	defer s.unlock()
	o := s.vmByUUID(vm)
	if o == nil || o.str("resident_on") == nullRef {
		return
	}
	gm := s.guest(o)
	if r == nil {
		if gm != nil {
			s.db.set(gm, "live", false)
		}
		return
	}
	if gm == nil {
		gm = s.db.create("VM_guest_metrics", map[string]any{
			"other": map[string]any{"feature-shutdown": "1"}, "can_use_hotplug_vbd": "unspecified", "can_use_hotplug_vif": "unspecified",
		})
		s.db.set(o, "guest_metrics", gm.ref)
	}
	os := map[string]any{}
	for k, v := range r.OS {
		os[k] = v
	}
	for name, value := range map[string]any{
		"os_version": os, "PV_drivers_version": map[string]any{"agent": r.Agent}, "PV_drivers_up_to_date": true, "PV_drivers_detected": true, "live": true,
	} {
		if !same(gm.get(name), value) {
			s.db.set(gm, name, value)
		}
	}
	networks := map[string]any{}
	for _, vif := range s.db.refs(o, "VIFs") {
		dev := vif.str("device")
		four, six := 0, 0
		for _, a := range r.Addresses[normalMAC(vif.str("MAC"))] {
			if a.Is4() {
				if four == 0 {
					networks[dev+"/ip"] = a.String()
				}
				networks[fmt.Sprintf("%s/ipv4/%d", dev, four)] = a.String()
				four++
			} else {
				networks[fmt.Sprintf("%s/ipv6/%d", dev, six)] = a.String()
				six++
			}
		}
	}
	if !same(gm.get("networks"), networks) {
		s.db.set(gm, "networks", networks)
		s.db.set(gm, "last_updated", s.today())
	}
}

func (s *Server) vmByUUID(uuid string) *object { return s.db.tables[s.db.class("VM")].byUUID[uuid] }

// openGuests gives the templates their disks.
func (s *Server) openGuests() error {
	g := s.cfg.Guests
	if g == nil {
		return nil
	}
	if err := g.Open(s); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.unlock()
	for _, vm := range s.db.all("VM") {
		image, _ := vm.dict("other_config")[ImageKey].(string)
		if image == "" {
			continue
		}
		for _, vdi := range s.disks(vm) {
			if err := g.TemplateDisk(vdi.str("uuid"), image, vdi.num("virtual_size")); err != nil {
				g.Close()
				return fmt.Errorf("template %s: %w", vm.str("name_label"), err)
			}
		}
	}
	return nil
}
