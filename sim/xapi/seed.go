package xapi

import (
	"fmt"
	"net/netip"
	"strings"
)

// handlers are the messages that do more than read and write a field.
func handlers() map[string]handler {
	out := map[string]handler{}
	for _, group := range []map[string]handler{
		sessionHandlers(), taskHandlers(), eventHandlers(), vmHandlers(), vdiHandlers(), vbdHandlers(), vifHandlers(), hostHandlers(), storageHandlers(),
	} {
		for name, h := range group {
			out[name] = h
		}
	}
	return out
}

// seed makes the content of a fresh pool. The lock is held.
func (s *Server) seed() {
	db := s.db
	s.pool = db.create("pool", map[string]any{
		"other_config":     map[string]any{"memory-ratio-hvm": "0.25", "memory-ratio-pv": "0.25"},
		"ha_cluster_stack": "xhad", "allowed_operations": opsPool, "telemetry_uuid": "OpaqueRef:" + db.newUUID(),
		"cpu_info":     map[string]any{"features_pv_host": "", "socket_count": "1", "cpu_count": fmt.Sprint(s.cfg.HostCPUs), "vendor": "unknown", "features_hvm_host": ""},
		"restrictions": map[string]any{"restrict_dmc": fmt.Sprint(!s.cfg.BallooningFree)},
	})
	address, err := netip.ParseAddr(s.cfg.HostAddress)
	for i := range s.cfg.Hosts {
		text := s.cfg.HostAddress
		if err == nil && !s.cfg.SameAddress {
			text, address = address.String(), address.Next()
		}
		s.hosts = append(s.hosts, s.newHost(i, text))
	}
	db.set(s.pool, "master", s.hosts[0].ref)
	s.newNetwork(map[string]any{
		"name_label": "Host internal management network", "bridge": "xenapi",
		"name_description": "Network on which guests will be assigned a private link-local IP address which can be used to talk XenAPI",
		"other_config": map[string]any{
			"is_guest_installer_network": "true", "is_host_internal_management_network": "true",
			"ip_begin": "169.254.0.1", "ip_end": "169.254.255.254", "netmask": "255.255.0.0",
		},
	})
	for i, name := range s.cfg.Networks {
		s.seedNetwork(i, name)
	}
	s.seedStorage()
	if s.cfg.DefaultOS {
		s.seedDefaultTemplates()
	}
}

func (s *Server) newHost(i int, address string) *object {
	db := s.db
	name := fmt.Sprintf("host%d", i+1)
	metrics := db.create("host_metrics", map[string]any{
		"memory_total": s.cfg.HostMemory, "memory_free": s.cfg.HostMemory - dom0Memory, "live": true, "last_updated": s.today(),
	})
	h := db.create("host", map[string]any{
		"name_label": name, "name_description": "Default install", "hostname": name, "address": address, "metrics": metrics.ref,
		"allowed_operations": opsHost, "API_version_major": int64(2), "API_version_minor": int64(21), "API_version_vendor": "XenSource",
		"enabled": true, "sched_policy": "credit", "supported_bootloaders": list("pygrub", "eliloader"), "ssl_legacy": false,
		"capabilities": list("xen-3.0-x86_64", "hvm-3.0-x86_32", "hvm-3.0-x86_64"),
		"software_version": map[string]any{
			"product_version": "8.3.0", "product_version_text": "8.3", "product_version_text_short": "8.3", "platform_name": "XCP",
			"platform_version": "3.4.0", "product_brand": "XCP-ng", "build_number": "sim", "xapi": "24.11", "xapi_build": "24.11.0", "hostname": "localhost",
		},
		"cpu_info":     map[string]any{"cpu_count": fmt.Sprint(s.cfg.HostCPUs), "socket_count": "1", "vendor": "unknown", "modelname": ""},
		"chipset_info": map[string]any{"iommu": "false"}, "virtual_hardware_platform_versions": []any{int64(0), int64(1), int64(2)},
	})
	dom0 := s.newVM(map[string]any{
		"name_label": "Control domain on host: " + name, "is_control_domain": true, "power_state": Running, "resident_on": h.ref,
		"name_description": "The domain which manages physical devices and manages other domains", "affinity": h.ref,
		"VCPUs_max": int64(1), "VCPUs_at_startup": int64(1), "user_version": int64(1), "actions_after_shutdown": "destroy",
		"actions_after_reboot": "destroy", "actions_after_crash": "destroy", "other_config": map[string]any{"is_system_domain": "true"},
		"memory_static_min": int64(dom0Memory), "memory_static_max": int64(dom0Memory),
		"memory_dynamic_min": int64(dom0Memory), "memory_dynamic_max": int64(dom0Memory),
	})
	dom0.put("domid", int64(0))
	dom0.put("domain_type", "pv")
	for _, protocol := range []string{"rfb", "vt100"} {
		c := db.create("console", map[string]any{
			"protocol": protocol, "VM": dom0.ref, "location": "https://" + address + "/console?ref=" + dom0.ref,
		})
		db.link(dom0, "consoles", c.ref)
	}
	db.link(h, "resident_VMs", dom0.ref)
	db.set(h, "control_domain", dom0.ref)
	return h
}

func (s *Server) seedNetwork(i int, name string) {
	db := s.db
	n := s.newNetwork(map[string]any{"name_label": name, "bridge": fmt.Sprintf("xenbr%d", i), "other_config": map[string]any{}})
	for j, h := range s.hosts {
		pif := db.create("PIF", map[string]any{
			"device": fmt.Sprintf("eth%d", i), "network": n.ref, "host": h.ref, "MTU": int64(1500), "VLAN": int64(-1),
			"MAC": fmt.Sprintf("02:ff:%02x:%02x:%02x:%02x", s.cfg.Seed&0xff, i, j>>8, j&0xff), "physical": true, "currently_attached": true,
			"management": i == 0, "IP": h.str("address"), "ip_configuration_mode": "Static", "primary_address_type": "IPv4", "managed": true,
		})
		db.link(n, "PIFs", pif.ref)
		db.link(h, "PIFs", pif.ref)
	}
}

const driverFeatures = "SR_ATTACH SR_CREATE SR_DELETE SR_DETACH SR_PROBE SR_SCAN SR_UPDATE THIN_PROVISIONING VDI_ACTIVATE VDI_ATTACH VDI_CLONE " +
	"VDI_CREATE VDI_DEACTIVATE VDI_DELETE VDI_DETACH VDI_GENERATE_CONFIG VDI_INTRODUCE VDI_RESET_ON_BOOT VDI_RESIZE VDI_SNAPSHOT VDI_UPDATE"

func (s *Server) seedStorage() {
	db := s.db
	features := map[string]any{}
	for name := range strings.FieldsSeq(driverFeatures) {
		features[name] = int64(1)
	}
	features["VDI_RESET_ON_BOOT"] = int64(2)
	db.create("SM", map[string]any{
		"name_label": "Dummy SR", "name_description": "bookkeeping only", "type": "dummy", "vendor": "test", "copyright": "test", "version": "1.0",
		"required_api_version": "1.0", "configuration": map[string]any{"size": "bytes"}, "driver_filename": "dummySR",
		"capabilities": anySlice(strings.Fields(driverFeatures)), "features": features,
	})
	var first *object
	for i := range max(0, s.cfg.SRs) {
		suffix := ""
		if i > 0 {
			suffix = fmt.Sprintf(" %d", i+1)
		}
		if s.cfg.SharedSR {
			sr := s.newSR("Shared storage"+suffix, s.cfg.SRSize, true, s.hosts, map[string]any{})
			if first == nil {
				first = sr
				s.seedTemplates(sr, nil)
			}
			continue
		}
		for _, h := range s.hosts {
			sr := s.newSR("Local storage"+suffix, s.cfg.SRSize, false, []*object{h}, map[string]any{})
			if first == nil {
				first = sr
			}
			if i == 0 {
				s.seedTemplates(sr, h)
			}
		}
	}
	if first != nil {
		db.set(s.pool, "default_SR", first.ref)
		db.set(s.pool, "suspend_image_SR", first.ref)
	}
}

// seedTemplates makes the templates on an SR. With local storage every host has its own copies, since a clone stays on its SR.
func (s *Server) seedTemplates(sr, host *object) {
	for _, t := range s.cfg.Templates {
		other := map[string]any{"mac_seed": s.db.newUUID()}
		if t.Image != "" {
			other[ImageKey] = t.Image
		}
		v := templateRecord(t.Name, other)
		if host != nil && len(s.hosts) > 1 {
			v["affinity"] = host.ref
		}
		vm := s.newVM(v)
		vdi, err := s.newVDI(sr, t.DiskGiB<<30, map[string]any{"name_label": t.Name + " root", "type": "user"}, thick)
		if err != nil {
			s.log.Warn("template left without a disk", "template", t.Name, "error", err)
			continue
		}
		s.newVBD(map[string]any{"VM": vm.ref, "VDI": vdi.ref, "userdevice": "0", "bootable": true, "mode": "RW", "type": "Disk", "unpluggable": true})
		s.newVBD(map[string]any{"VM": vm.ref, "VDI": nullRef, "userdevice": "3", "empty": true, "mode": "RO", "type": "CD", "unpluggable": true})
		for _, n := range s.db.all("network") {
			if len(n.set("PIFs")) > 0 {
				s.newVIF(map[string]any{"VM": vm.ref, "device": "0", "network": n.ref, "MAC": "", "MTU": int64(1500), "other_config": map[string]any{}})
				break
			}
		}
		for _, vbd := range s.db.refs(vm, "VBDs") {
			s.refresh(vbd)
		}
	}
}

func templateRecord(name string, other map[string]any) map[string]any {
	const mem = 512 << 20
	return map[string]any{
		"name_label": name, "is_a_template": true, "power_state": Halted, "user_version": int64(1), "other_config": other, "hardware_platform_version": int64(2),
		"memory_static_min": int64(mem), "memory_static_max": int64(mem), "memory_dynamic_min": int64(mem), "memory_dynamic_max": int64(mem),
		"VCPUs_max": int64(1), "VCPUs_at_startup": int64(1), "actions_after_shutdown": "destroy", "actions_after_reboot": "restart",
		"actions_after_crash": "restart", "HVM_boot_policy": "BIOS order", "HVM_boot_params": map[string]any{"order": "cdn", "firmware": "bios"},
		"platform": map[string]any{"acpi": "1", "apic": "true", "nx": "true", "pae": "true", "viridian": "false", "device_id": "0001"},
	}
}

func (s *Server) seedDefaultTemplates() {
	for _, name := range []string{"Debian Bookworm 12", "Ubuntu Noble Numbat 24.04", "Rocky Linux 9", "Windows Server 2022 (64-bit)", "Other install media"} {
		v := templateRecord(name, map[string]any{
			"mac_seed": s.db.newUUID(), "default_template": "true",
			"disks": `<provision><disk device="0" size="10737418240" sr="" bootable="true" type="system"/></provision>`,
		})
		v["is_default_template"] = true
		s.newVM(v)
	}
}
