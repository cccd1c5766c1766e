package xapi

import (
	"context"
	"encoding/xml"
	"strconv"
	"strings"
	"time"
)

// provision is other_config:disks of a template: the disks that VM.provision creates.
type provision struct {
	XMLName xml.Name `xml:"provision"`
	Disks   []struct {
		Device   string `xml:"device,attr"`
		Size     string `xml:"size,attr"`
		SR       string `xml:"sr,attr"`
		Bootable string `xml:"bootable,attr"`
		Type     string `xml:"type,attr"`
	} `xml:"disk"`
}

// vmProvision clears the template flag first and cleans up nothing when a disk fails: the earlier disks and the "disks" key stay.
func vmProvision(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	check := func() error {
		if err := permitted(vm, "provision", Halted); err != nil {
			return err
		}
		if !vm.flag("is_a_template") {
			return fail("PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
		}
		return nil
	}
	return c.operate(vm, "provision", check, 10*time.Millisecond, func() error {
		db := c.s.db
		text, _ := vm.dict("other_config")["disks"].(string)
		var p provision
		if text != "" {
			if err := xml.Unmarshal([]byte(text), &p); err != nil {
				return internal("XML Error: expected root element line 1")
			}
		}
		db.set(vm, "is_a_template", false)
		db.set(vm, "is_default_template", false)
		for _, d := range p.Disks {
			if err := c.provisionDisk(vm, d.Device, d.Size, d.SR, d.Bootable == "true", d.Type); err != nil {
				return err
			}
		}
		if len(p.Disks) > 0 {
			db.set(vm, "other_config", withoutKey(vm.dict("other_config"), "disks"))
		}
		return nil
	})
}

func (c *call) provisionDisk(vm *object, device, size, srUUID string, bootable bool, kind string) error {
	db := c.s.db
	sr := db.tables[db.class("SR")].byUUID[srUUID]
	if sr == nil {
		return fail("UUID_INVALID", "sr", srUUID)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(size), 10, 64)
	if err != nil {
		return internal(`Failure("Int64.of_string")`)
	}
	if kind == "" {
		kind = "user"
	}
	vdi, err := c.s.newVDI(sr, n, map[string]any{
		"name_label": device, "name_description": "Created by template provisioner", "type": kind,
		"sm_config": map[string]any{"vmhint": vm.str("uuid")},
	}, thick)
	if err != nil {
		return err
	}
	if err := c.onDisk(vdi, func(ctx context.Context, g Guests, uuid string) error { return g.CreateDisk(ctx, uuid, n) }); err != nil {
		return err
	}
	vbd := c.s.newVBD(map[string]any{
		"VM": vm.ref, "VDI": vdi.ref, "userdevice": device, "bootable": bootable, "mode": "RW", "type": "Disk",
		"unpluggable": kind != "system", "other_config": map[string]any{"owner": ""},
	})
	c.s.refresh(vbd)
	return nil
}
