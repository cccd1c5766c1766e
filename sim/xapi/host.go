package xapi

import (
	"slices"
	"strconv"
	"strings"
)

// dom0Memory is what the control domain and the hypervisor keep for themselves.
const dom0Memory = 1035 << 20

func hostHandlers() map[string]handler {
	return map[string]handler{
		"host.compute_free_memory": func(c *call, a []any) (any, error) {
			return c.hostValue(a[0], func(h *object) any { return c.s.freeMemory(h, nil) })
		},
		"host.compute_memory_overhead": func(c *call, a []any) (any, error) {
			return c.hostValue(a[0], func(*object) any { return int64(0) })
		},
		"host.get_servertime": func(c *call, a []any) (any, error) {
			return c.hostValue(a[0], func(*object) any { return c.s.today() })
		},
		"host.get_server_localtime": func(c *call, a []any) (any, error) {
			return c.hostValue(a[0], func(*object) any { return c.s.today() })
		},
		"host.is_in_emergency_mode": func(*call, []any) (any, error) { return false, nil },
		"host.list_methods":         func(c *call, _ []any) (any, error) { return anySlice(c.s.db.model.names), nil },
		"host.enable":               func(c *call, a []any) (any, error) { return c.setEnabled(a[0], true) },
		"host.disable":              func(c *call, a []any) (any, error) { return c.setEnabled(a[0], false) },
		"host.get_management_interface": func(c *call, a []any) (any, error) {
			h, err := c.object("host", a[0])
			if err != nil {
				return nil, err
			}
			for _, pif := range c.s.db.refs(h, "PIFs") {
				if pif.flag("management") {
					return pif.ref, nil
				}
			}
			return nil, internal("Not_found")
		},
		"pool.is_slave": func(c *call, a []any) (any, error) {
			return c.hostValue(a[0], func(h *object) any { return c.s.pool.str("master") != h.ref })
		},
		"pool.get_license_state": func(*call, []any) (any, error) { return map[string]any{"edition": "", "expiry": "never"}, nil },
		"pool.sync_database":     nothing,
	}
}

func (c *call) hostValue(ref any, f func(*object) any) (any, error) {
	h, err := c.object("host", ref)
	if err != nil {
		return nil, err
	}
	return f(h), nil
}

func (c *call) setEnabled(ref any, on bool) (any, error) {
	h, err := c.object("host", ref)
	if err != nil {
		return nil, err
	}
	c.s.db.set(h, "enabled", on)
	return nil, nil
}

// need is the memory that a VM takes from its host.
func need(vm *object) int64 { return vm.num("memory_static_max") + overhead(vm).(int64) }

// freeMemory is what a host has left, reservations of starting VMs counted, except is left out.
func (s *Server) freeMemory(host, except *object) int64 {
	free := s.cfg.HostMemory - dom0Memory
	for _, vm := range s.db.refs(host, "resident_VMs") {
		if vm != except && !vm.flag("is_control_domain") {
			free -= need(vm)
		}
	}
	for vm := range s.booting { // has its place but does not run yet
		if vm != except && vm.str("scheduled_to_be_resident_on") == host.ref {
			free -= need(vm)
		}
	}
	return free
}

// measure brings a host's metrics up to date.
func (s *Server) measure(host *object) {
	if m := s.db.get("host_metrics", host.str("metrics")); m != nil {
		s.db.set(m, "memory_free", s.freeMemory(host, nil))
		s.db.set(m, "last_updated", s.today())
	}
}

// sees reports whether a host (any host when nil) has the SR attached.
func (s *Server) sees(host, sr *object) bool {
	if sr == nil {
		return false
	}
	for _, pbd := range s.db.refs(sr, "PBDs") {
		if pbd.flag("currently_attached") && (host == nil || pbd.str("host") == host.ref) {
			return true
		}
	}
	return false
}

// disks are the VDIs of a VM.
func (s *Server) disks(vm *object) []*object {
	var out []*object
	for _, vbd := range s.db.refs(vm, "VBDs") {
		if vdi := s.db.get("VDI", vbd.str("VDI")); vdi != nil {
			out = append(out, vdi)
		}
	}
	return out
}

// fits gives the reason why a VM cannot run on a host.
func (s *Server) fits(vm, host *object) error {
	if m := s.db.get("host_metrics", host.str("metrics")); m != nil && !m.flag("live") {
		return fail("HOST_NOT_LIVE")
	}
	if !host.flag("enabled") {
		return fail("HOST_DISABLED", host.ref)
	}
	if vm.str("domain_type") == "hvm" && !slices.ContainsFunc(host.set("capabilities"), func(v any) bool { return strings.HasPrefix(v.(string), "hvm") }) {
		return fail("VM_HVM_REQUIRED", vm.ref)
	}
	if n := vm.num("VCPUs_at_startup"); n > s.cfg.HostCPUs {
		return fail("HOST_NOT_ENOUGH_PCPUS", strconv.FormatInt(n, 10), strconv.FormatInt(s.cfg.HostCPUs, 10))
	}
	for _, vdi := range s.disks(vm) {
		if sr := s.db.get("SR", vdi.str("SR")); !s.sees(host, sr) {
			return fail("VM_REQUIRES_SR", vm.ref, vdi.str("SR"))
		}
	}
	if free, want := s.freeMemory(host, vm), need(vm); want > free || want < 0 { // a sum that overflowed does not fit either
		return fail("HOST_NOT_ENOUGH_FREE_MEMORY", strconv.FormatInt(want, 10), strconv.FormatInt(free, 10))
	}
	return nil
}

// chooseHost takes the affinity when it fits, else the host with the most memory left; nil when there is none.
func (s *Server) chooseHost(vm *object) *object {
	if h := s.db.get("host", vm.str("affinity")); h != nil && s.fits(vm, h) == nil {
		return h
	}
	var best *object
	var most int64
	for _, h := range s.hosts {
		if s.fits(vm, h) == nil {
			if free := s.freeMemory(h, vm); best == nil || free > most {
				best, most = h, free
			}
		}
	}
	return best
}

func vmAssertCanBootHere(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	h := c.s.db.get("host", args[1].(string))
	if h == nil {
		return nil, fail("HOST_NOT_LIVE")
	}
	return nil, c.s.fits(vm, h)
}

func vmGetPossibleHosts(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, h := range c.s.hosts {
		if c.s.fits(vm, h) == nil {
			out = append(out, h.ref)
		}
	}
	return out, nil
}
