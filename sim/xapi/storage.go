package xapi

import (
	"fmt"
	"strconv"
	"time"
)

func storageHandlers() map[string]handler {
	return map[string]handler{
		"SR.create":              srCreate,
		"SR.destroy":             srForget,
		"SR.forget":              srForget,
		"SR.scan":                func(c *call, a []any) (any, error) { return c.onSR(a[0], "scan") },
		"SR.update":              func(c *call, a []any) (any, error) { return c.onSR(a[0], "update") },
		"SR.get_supported_types": func(*call, []any) (any, error) { return []any{"dummy"}, nil },
		"PBD.plug":               func(c *call, a []any) (any, error) { return c.setPlugged(a[0], true) },
		"PBD.unplug":             func(c *call, a []any) (any, error) { return c.setPlugged(a[0], false) },
		"network.create":         networkCreate,
		"network.destroy":        networkDestroy,
	}
}

func srCreate(c *call, args []any) (any, error) {
	host, err := c.object("host", args[0])
	if err != nil {
		return nil, err
	}
	config := args[1].(map[string]any)
	size, kind := args[2].(int64), args[5].(string)
	if kind != "dummy" {
		return nil, internal(`Unix.Unix_error(Unix.ENOENT, "connect", "")`)
	}
	if text, ok := config["size"].(string); ok {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			size = n
		}
	}
	if err := c.pause(350 * time.Millisecond); err != nil {
		return nil, err
	}
	sr := c.s.newSR(args[3].(string), size, args[7].(bool), []*object{host}, config)
	c.s.db.set(sr, "name_description", args[4])
	c.s.db.set(sr, "content_type", args[6])
	return sr.ref, nil
}

// newSR makes a storage repository with a plugged PBD on each of the hosts.
func (s *Server) newSR(name string, size int64, shared bool, hosts []*object, config map[string]any) *object {
	db := s.db
	sr := db.create("SR", map[string]any{
		"name_label": name, "type": "dummy", "content_type": "user", "shared": shared, "physical_size": size, "allowed_operations": opsSR,
	})
	for _, h := range hosts {
		pbd := db.create("PBD", map[string]any{
			"host": h.ref, "SR": sr.ref, "device_config": config, "currently_attached": true,
			"other_config": map[string]any{"storage_driver_domain": h.str("control_domain")},
		})
		db.link(sr, "PBDs", pbd.ref)
		db.link(h, "PBDs", pbd.ref)
	}
	return sr
}

func srForget(c *call, args []any) (any, error) {
	sr, err := c.object("SR", args[0])
	if err != nil {
		return nil, err
	}
	if c.s.sees(nil, sr) {
		return nil, fail("SR_HAS_PBD", sr.ref)
	}
	db := c.s.db
	for _, vdi := range db.refs(sr, "VDIs") {
		c.s.removeVDI(vdi)
	}
	for _, pbd := range db.refs(sr, "PBDs") {
		db.unlink(db.get("host", pbd.str("host")), "PBDs", pbd.ref)
		db.destroy(pbd)
	}
	db.destroy(sr)
	return nil, nil
}

func (c *call) onSR(ref any, op string) (any, error) {
	sr, err := c.object("SR", ref)
	if err != nil {
		return nil, err
	}
	if err := c.plugged(sr); err != nil {
		return nil, err
	}
	if err := c.begin(sr, op, nil); err != nil {
		return nil, err
	}
	defer c.end(sr)
	return nil, c.pause(60 * time.Millisecond)
}

func (c *call) setPlugged(ref any, on bool) (any, error) {
	pbd, err := c.object("PBD", ref)
	if err != nil {
		return nil, err
	}
	c.s.db.set(pbd, "currently_attached", on)
	return nil, nil
}

func networkCreate(c *call, args []any) (any, error) {
	v, err := c.construct(args[0])
	if err != nil {
		return nil, err
	}
	bridge, _ := v["bridge"].(string)
	if managed, given := v["managed"].(bool); given && !managed && bridge != "" {
		return nil, fail("INVALID_VALUE", "bridge", bridge)
	}
	return c.s.newNetwork(v).ref, nil
}

func (s *Server) newNetwork(v map[string]any) *object {
	if bridge, _ := v["bridge"].(string); bridge == "" {
		v["bridge"] = fmt.Sprintf("xapi%d", len(s.db.tables[s.db.class("network")].objs))
	}
	return s.db.create("network", v)
}

// networkDestroy takes the VIFs along when none of them is in use.
func networkDestroy(c *call, args []any) (any, error) {
	n, err := c.object("network", args[0])
	if err != nil {
		return nil, err
	}
	db := c.s.db
	if pifs := n.set("PIFs"); len(pifs) > 0 {
		return nil, fail("NETWORK_CONTAINS_PIF", pifs[0].(string))
	}
	for _, vif := range db.refs(n, "VIFs") {
		if vif.flag("currently_attached") {
			return nil, fail("NETWORK_CONTAINS_VIF", vif.ref)
		}
	}
	for _, vif := range db.refs(n, "VIFs") {
		c.s.removeVIF(vif)
	}
	db.destroy(n)
	return nil, nil
}
