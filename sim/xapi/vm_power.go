package xapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

func vmStart(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	return c.boot(vm, nil, args[1].(bool))
}

func vmStartOn(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	host, err := c.object("host", args[1])
	if err != nil {
		return nil, err
	}
	return c.boot(vm, host, args[2].(bool))
}

// boot starts a VM on a host, or on the best one when host is nil: then every reason not to is NO_HOSTS_AVAILABLE.
func (c *call) boot(vm, host *object, paused bool) (any, error) {
	s := c.s
	op := c.msg.name
	check := func() error {
		if vm.flag("is_a_snapshot") {
			return fail("VM_IS_SNAPSHOT", vm.ref, op)
		}
		if vm.flag("is_a_template") {
			return fail("VM_IS_TEMPLATE", vm.ref, op)
		}
		return permitted(vm, op, Halted)
	}
	if err := c.begin(vm, op, check); err != nil {
		return nil, err
	}
	defer c.end(vm)
	for _, vbd := range s.db.refs(vm, "VBDs") {
		if err := s.free(vbd); err != nil {
			return nil, err
		}
	}
	s.prepareBoot(vm)
	if host == nil {
		if host = s.chooseHost(vm); host == nil {
			return nil, fail("NO_HOSTS_AVAILABLE")
		}
	} else if err := s.fits(vm, host); err != nil {
		return nil, err
	}
	s.db.set(vm, "scheduled_to_be_resident_on", host.ref) // its memory is taken from now on
	if _, ok := vm.dict("platform")["device-model"]; !ok && vm.str("domain_type") == "hvm" && vm.dict("last_boot_CPU_flags")["vendor"] == nil {
		s.db.set(vm, "platform", withKey(vm.dict("platform"), "device-model", "qemu-upstream-compat")) // once, at the first boot
	}
	s.booting[vm] = true
	defer delete(s.booting, vm)
	c.attaching(vm, true)
	err := c.pause(80 * time.Millisecond)
	c.attaching(vm, false)
	if err != nil {
		s.db.set(vm, "scheduled_to_be_resident_on", nullRef)
		return nil, err
	}
	d := s.domain(vm, paused)
	if err := c.onGuest(vm, func(ctx context.Context, g Guests, _ string) error { return g.Start(ctx, d) }); err != nil {
		s.db.set(vm, "scheduled_to_be_resident_on", nullRef)
		return nil, internal("xenopsd internal error: " + err.Error())
	}
	s.boot(vm, host)
	s.newGuest(vm)
	state := Running
	if paused {
		state = Paused
	}
	s.setPower(vm, state, true)
	return nil, nil
}

// attaching shows the attach operation on the drives and interfaces of a VM that starts.
func (c *call) attaching(vm *object, on bool) {
	s := c.s
	if s.cfg.Latency != Real && s.holds[c.msg.full] == nil && on {
		return // over before anybody could look
	}
	for _, field := range []string{"VBDs", "VIFs"} {
		for _, o := range s.db.refs(vm, field) {
			ops := withoutKey(o.dict("current_operations"), c.task.ref)
			if on {
				ops = withKey(ops, c.task.ref, "attach")
			}
			s.db.set(o, "current_operations", ops)
			if on {
				s.refresh(o)
			}
		}
	}
}

// boot attaches everything to a new domain on a host: first boot or reboot.
func (s *Server) boot(vm, host *object) {
	db := s.db
	s.domid++
	db.set(vm, "domid", s.domid)
	s.bootRecord(vm)
	db.set(vm, "scheduled_to_be_resident_on", nullRef)
	db.set(vm, "resident_on", host.ref)
	db.link(host, "resident_VMs", vm.ref)
	for _, vbd := range db.refs(vm, "VBDs") {
		s.attachVBD(vbd)
	}
	for _, vif := range db.refs(vm, "VIFs") {
		db.set(vif, "currently_attached", true)
		s.refresh(vif)
	}
	if len(vm.set("consoles")) == 0 {
		uuid := db.newUUID()
		c := db.create("console", map[string]any{
			"uuid": uuid, "protocol": "rfb", "VM": vm.ref, "location": fmt.Sprintf("https://%s/console?uuid=%s", host.str("address"), uuid),
		})
		db.link(vm, "consoles", c.ref)
	}
	if m := db.get("VM_metrics", vm.str("metrics")); m != nil {
		db.set(m, "start_time", s.today())
		db.set(m, "VCPUs_number", vm.num("VCPUs_at_startup"))
		db.set(m, "VCPUs_utilisation", map[string]any{"0": 0.0})
		db.set(m, "current_domain_type", vm.str("domain_type"))
	}
	s.measure(host)
}

// prepareBoot fills what the first attempt to start fills, even when there is no host for the VM.
func (s *Server) prepareBoot(vm *object) {
	if len(vm.dict("bios_strings")) > 0 {
		return
	}
	s.db.set(vm, "bios_strings", biosStrings)
}

// bootRecord fills what a boot fills, and filters what reaches the guest.
func (s *Server) bootRecord(vm *object) {
	db := s.db
	db.set(vm, "last_boot_CPU_flags", map[string]any{"vendor": "unknown", "features": ""})
	kept := map[string]any{}
	for k, v := range vm.dict("xenstore_data") { // only these keys reach the guest
		if strings.HasPrefix(k, "vm-data") || strings.HasPrefix(k, "FIST") {
			kept[k] = v
		}
	}
	db.set(vm, "xenstore_data", kept)
}

var biosStrings = map[string]any{
	"bios-vendor": "Xen", "bios-version": "", "system-manufacturer": "Xen", "system-product-name": "HVM domU", "system-version": "",
	"system-serial-number": "", "baseboard-manufacturer": "", "baseboard-product-name": "", "baseboard-version": "",
	"baseboard-serial-number": "", "baseboard-asset-tag": "", "baseboard-location-in-chassis": "", "enclosure-asset-tag": "",
	"hp-rombios": "", "oem-1": "Xen", "oem-2": "MS_VM_CERT/SHA1/bdbeb6e0a816d43fa6d3fe8aaef04c2bad9d3e3d",
}

// setPower changes the power state, what depends on it, and tells OnPower.
func (s *Server) setPower(vm *object, state string, boot bool) {
	db := s.db
	db.set(vm, "power_state", state)
	s.refresh(vm)
	for _, field := range []string{"VBDs", "VIFs"} {
		for _, o := range db.refs(vm, field) {
			s.refresh(o)
		}
	}
	s.tellPower(vm, boot)
}

func (s *Server) tellPower(vm *object, boot bool) {
	db := s.db
	p := Power{VM: vm.str("uuid"), Name: vm.str("name_label"), State: vm.str("power_state"), Boot: boot}
	for _, vif := range db.refs(vm, "VIFs") {
		n := VIF{Device: vif.str("device"), MAC: vif.str("MAC")}
		if net := db.get("network", vif.str("network")); net != nil {
			n.Network = net.str("name_label")
		}
		p.VIFs = append(p.VIFs, n)
	}
	s.power.add(p)
}

// halt takes the domain down. The guest metrics of the last boot stay on the halted VM, still live and with the old address.
func (s *Server) halt(vm *object, state string) {
	db := s.db
	host := db.get("host", vm.str("resident_on"))
	db.unlink(host, "resident_VMs", vm.ref)
	db.set(vm, "resident_on", nullRef)
	db.set(vm, "domid", int64(-1))
	for _, con := range db.refs(vm, "consoles") {
		db.unlink(vm, "consoles", con.ref)
		db.destroy(con)
	}
	for _, vbd := range db.refs(vm, "VBDs") {
		s.detachVBD(vbd)
	}
	for _, vif := range db.refs(vm, "VIFs") {
		db.set(vif, "currently_attached", false)
	}
	s.setPower(vm, state, false)
	if host != nil {
		s.measure(host)
	}
}

func vmPause(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	return c.operate(vm, "pause", func() error { return permitted(vm, "pause", Running) }, 20*time.Millisecond, func() error {
		if err := c.onGuest(vm, func(ctx context.Context, g Guests, uuid string) error { return g.Pause(ctx, uuid) }); err != nil {
			return err
		}
		c.s.setPower(vm, Paused, false)
		return nil
	})
}

func vmUnpause(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	return c.operate(vm, "unpause", func() error { return permitted(vm, "unpause", Paused) }, 20*time.Millisecond, func() error {
		if err := c.onGuest(vm, func(ctx context.Context, g Guests, uuid string) error { return g.Resume(ctx, uuid) }); err != nil {
			return err
		}
		c.s.setPower(vm, Running, false)
		return nil
	})
}

// vmCleanShutdown asks the guest's tools.
func vmCleanShutdown(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	return c.operate(vm, "clean_shutdown", func() error { return permitted(vm, "clean_shutdown", Running) }, 150*time.Millisecond, func() error {
		if vm.str("power_state") == Halted { // a hard shutdown came in between
			return nil
		}
		if c.s.guest(vm) == nil {
			return fail("VM_MISSING_PV_DRIVERS", vm.ref)
		}
		if err := c.shutdown(vm); err != nil {
			return err
		}
		if vm.str("power_state") != Halted {
			c.s.halt(vm, Halted)
		}
		return nil
	})
}

// vmHardShutdown may come in the middle of a clean shutdown, which it cancels.
func vmHardShutdown(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	db := c.s.db
	check := func() error { return permitted(vm, "hard_shutdown", Paused, Suspended, Running) }
	if err := c.begin(vm, "hard_shutdown", check); err != nil {
		return nil, err
	}
	defer c.end(vm)
	for ref, op := range vm.dict("current_operations") {
		if t := db.get("task", ref); t != nil && t != c.task && op != "hard_shutdown" {
			db.set(t, "current_operations", map[string]any{"DummyRef:|" + db.newUUID() + "|task.cancel": "cancel"})
		}
	}
	if err := c.pause(30 * time.Millisecond); err != nil {
		return nil, err
	}
	if err := c.unplug(vm); err != nil {
		return nil, err
	}
	if vm.str("power_state") != Halted {
		c.s.halt(vm, Halted)
	}
	return nil, nil
}

// shutdownTimeout is how long a guest may take to switch itself off.
const shutdownTimeout = 5 * time.Minute

// shutdown asks a real guest and waits for its end.
func (c *call) shutdown(vm *object) error {
	err := c.onGuest(vm, func(ctx context.Context, g Guests, uuid string) error {
		ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
		defer cancel()
		return g.Shutdown(ctx, uuid)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fail("VM_SHUTDOWN_TIMEOUT", vm.ref, fmt.Sprint(shutdownTimeout.Seconds()))
	}
	return err
}

// unplug ends a real guest at once.
func (c *call) unplug(vm *object) error {
	return c.onGuest(vm, func(_ context.Context, g Guests, uuid string) error {
		g.Stop(uuid)
		return nil
	})
}

func vmReboot(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	s, states := c.s, []string{Running}
	if c.msg.name == "hard_reboot" {
		states = []string{Paused, Running}
	}
	return c.operate(vm, c.msg.name, func() error { return permitted(vm, c.msg.name, states...) }, 90*time.Millisecond, func() error {
		if vm.str("power_state") == Halted {
			return nil
		}
		host := s.db.get("host", vm.str("resident_on"))
		if err := c.reboot(vm); err != nil {
			return err
		}
		if s.cfg.Guests != nil && vm.str("resident_on") == nullRef { // it was switched off meanwhile
			return nil
		}
		s.boot(vm, host)
		if c.msg.name == "clean_reboot" || s.guest(vm) == nil { // a hard reboot was seen to keep the row
			s.newGuest(vm)
		}
		s.setPower(vm, Running, true)
		return nil
	})
}

// reboot ends a real guest, by the power button for a clean one, and starts it anew: a new domain, as in Xen.
func (c *call) reboot(vm *object) error {
	if c.s.cfg.Guests == nil {
		return nil
	}
	if c.msg.name == "hard_reboot" {
		return c.onGuest(vm, func(ctx context.Context, g Guests, uuid string) error { return g.Reset(ctx, uuid) })
	}
	c.s.rebooting[vm] = true
	defer delete(c.s.rebooting, vm)
	if err := c.shutdown(vm); err != nil || vm.str("power_state") == Halted { // a hard shutdown came in between
		return err
	}
	d := c.s.domain(vm, false)
	return c.onGuest(vm, func(ctx context.Context, g Guests, _ string) error { return g.Start(ctx, d) })
}

func vmSuspend(c *call, args []any) (any, error) {
	if err := c.refuseWithGuests(); err != nil {
		return nil, err
	}
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	return c.operate(vm, "suspend", func() error { return permitted(vm, "suspend", Running) }, 300*time.Millisecond, func() error {
		c.s.halt(vm, Suspended)
		return nil
	})
}

func vmResume(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	s := c.s
	return c.operate(vm, "resume", func() error { return permitted(vm, "resume", Suspended) }, 300*time.Millisecond, func() error {
		host := s.chooseHost(vm)
		if host == nil {
			return fail("NO_HOSTS_AVAILABLE")
		}
		s.boot(vm, host)
		s.newGuest(vm)
		state := Running
		if args[1].(bool) {
			state = Paused
		}
		s.setPower(vm, state, false)
		return nil
	})
}

func vmPoolMigrate(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	to, err := c.object("host", args[1])
	if err != nil {
		return nil, err
	}
	s := c.s
	return c.operate(vm, "pool_migrate", func() error { return permitted(vm, "pool_migrate", Running) }, 500*time.Millisecond, func() error {
		from := s.db.get("host", vm.str("resident_on"))
		if from == to {
			return nil
		}
		if err := s.fits(vm, to); err != nil {
			return err
		}
		s.db.unlink(from, "resident_VMs", vm.ref)
		s.db.link(to, "resident_VMs", vm.ref)
		s.db.set(vm, "resident_on", to.ref)
		for _, con := range s.db.refs(vm, "consoles") { // the console moves along
			s.db.set(con, "location", fmt.Sprintf("https://%s/console?uuid=%s", to.str("address"), con.str("uuid")))
		}
		s.measure(from)
		s.measure(to)
		return nil
	})
}
