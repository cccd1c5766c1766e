package xapi

// Allowed operations, in the order in which xapi lists them.
var (
	opsTemplate = list("changing_NVRAM", "changing_dynamic_range", "changing_shadow_memory", "changing_static_range", "migrate_send", "provision", "destroy", "export", "clone", "copy")
	opsDefault  = list("provision", "export", "clone", "copy")
	opsSnapshot = list("destroy", "export", "revert", "clone", "copy")
	opsHalted   = list("create_vtpm", "changing_NVRAM", "changing_dynamic_range", "changing_shadow_memory", "changing_static_range", "make_into_template", "migrate_send", "destroy", "export", "start_on", "start", "clone", "copy", "snapshot")
	opsRunning  = list("changing_dynamic_range", "migrate_send", "pool_migrate", "changing_VCPUs_live", "suspend", "hard_reboot", "hard_shutdown", "clean_reboot", "clean_shutdown", "pause", "checkpoint", "snapshot")
	opsPaused   = list("hard_reboot", "hard_shutdown", "unpause", "checkpoint", "snapshot")
	opsAsleep   = list("resume_on", "resume", "hard_shutdown", "destroy", "export", "clone", "copy", "snapshot")
	opsDom0     = list("changing_dynamic_range", "changing_static_range")
	opsCloned   = list("export", "clone", "copy")
	opsClosing  = list("hard_reboot", "hard_shutdown")

	opsVDI      = list("generate_config", "update", "forget", "destroy", "snapshot", "resize", "copy", "clone")
	opsVDIInUse = list("snapshot", "clone")
	opsSR       = list("vdi_introduce", "unplug", "plug", "pbd_create", "update", "pbd_destroy", "vdi_resize", "vdi_clone", "scan", "vdi_snapshot", "vdi_create", "vdi_destroy", "vdi_set_on_boot")
	opsHost     = list("vm_migrate", "provision", "vm_resume", "enable", "evacuate", "vm_start")
	opsPool     = list("cluster_create", "sync_updates", "tls_verification_enable", "designate_new_master", "exchange_ca_certificates_on_join", "configure_repositories", "apply_updates", "ha_enable", "get_updates", "cert_refresh", "eject", "copy_primary_host_certs", "exchange_certificates_on_join")
)

func list(items ...string) []any { return anySlice(items) }

// refresh brings an object's allowed_operations in line with its state.
func (s *Server) refresh(o *object) {
	var ops []any
	switch o.class.name {
	case "VM":
		ops = vmOps(o)
	case "VDI":
		ops = s.vdiOps(o)
	case "VBD":
		ops = s.vbdOps(o)
	case "VIF":
		ops = s.vifOps(o)
	default:
		return
	}
	s.db.set(o, "allowed_operations", ops)
}

func vmOps(vm *object) []any {
	for _, op := range vm.dict("current_operations") {
		switch op {
		case "clone", "copy", "export":
			return opsCloned
		case "clean_shutdown", "clean_reboot":
			return opsClosing
		}
	}
	if len(vm.dict("current_operations")) > 0 {
		return []any{}
	}
	switch {
	case vm.flag("is_control_domain"):
		return opsDom0
	case vm.flag("is_a_snapshot"):
		return opsSnapshot
	case vm.flag("is_default_template"):
		return opsDefault
	case vm.flag("is_a_template"):
		return opsTemplate
	}
	switch vm.str("power_state") {
	case Running:
		return opsRunning
	case Paused:
		return opsPaused
	case Suspended:
		return opsAsleep
	default:
		return opsHalted
	}
}

func (s *Server) vdiOps(vdi *object) []any {
	switch {
	case len(vdi.dict("current_operations")) > 0:
		return []any{}
	case s.attachedVBD(vdi) != nil:
		return opsVDIInUse
	default:
		return opsVDI
	}
}

func (s *Server) vbdOps(vbd *object) []any {
	vm := s.db.get("VM", vbd.str("VM"))
	if vm == nil || len(vbd.dict("current_operations")) > 0 {
		return []any{}
	}
	cd, empty, power := vbd.str("type") == "CD", vbd.flag("empty"), vm.str("power_state")
	media := "eject"
	if empty {
		media = "insert"
	}
	switch {
	case power == Halted && cd:
		return list("attach", media)
	case power == Halted:
		return list("attach")
	case cd && empty:
		return list("attach", "unpause", "insert", "pause")
	case cd:
		return list("attach", "unpause", "pause", "eject")
	case power != Running:
		return list("attach", "unpause", "pause")
	case vbd.flag("currently_attached"):
		return list("attach", "unpause", "unplug", "unplug_force", "pause")
	default:
		return list("attach", "unpause", "plug", "pause")
	}
}

func (s *Server) vifOps(vif *object) []any {
	vm := s.db.get("VM", vif.str("VM"))
	switch {
	case vm == nil || len(vif.dict("current_operations")) > 0:
		return []any{}
	case vm.str("power_state") != Running:
		return list("attach")
	case vif.flag("currently_attached"):
		return list("attach", "unplug")
	default:
		return list("attach", "plug")
	}
}
