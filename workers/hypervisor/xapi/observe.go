package xapi

import (
	"context"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"slipway/orchestrator"
)

const mib = 1 << 20

// disk is a VDI that is attached to a VM.
type disk struct {
	ref    Ref
	rec    vdiRecord
	device int
}

// disks reads the VM's disks in the order of their device, CDs left out.
func (p *pool) disks(ctx context.Context, rec vmRecord) ([]disk, error) {
	var out []disk
	for _, ref := range rec.VBDs {
		var vbd vbdRecord
		if gone, err := p.read(ctx, "VBD.get_record", &vbd, ref); err != nil {
			return nil, err
		} else if gone || vbd.Type != "Disk" || vbd.VDI.IsNull() {
			continue
		}
		d := disk{ref: vbd.VDI}
		if gone, err := p.read(ctx, "VDI.get_record", &d.rec, vbd.VDI); err != nil {
			return nil, err
		} else if gone {
			continue
		}
		device, err := strconv.Atoi(vbd.UserDevice)
		if err != nil {
			device = 1 << 10 // "autodetect" and the like come last
		}
		d.device = device
		out = append(out, d)
	}
	slices.SortStableFunc(out, func(a, b disk) int { return a.device - b.device })
	return out, nil
}

// read is a Call that tells an object that is gone from a failure.
func (p *pool) read(ctx context.Context, method string, result any, ref Ref) (gone bool, err error) {
	err = p.client.Call(ctx, method, result, ref)
	if HasCode(err, codeHandleInvalid) {
		return true, nil
	}
	return false, err
}

// uuid is that of a storage or network, "" when it is gone. A reference never changes its object, so that each is asked for once.
func (p *pool) uuid(ctx context.Context, class string, ref Ref) (string, error) {
	p.mu.Lock()
	uuid, known := p.uuids[ref]
	p.mu.Unlock()
	if known {
		return uuid, nil
	}
	if gone, err := p.read(ctx, class+".get_uuid", &uuid, ref); err != nil || gone {
		return "", err
	}
	p.mu.Lock()
	p.uuids[ref] = uuid
	p.mu.Unlock()
	return uuid, nil
}

// observe reads everything the orchestrator wants to know about a VM.
func (p *pool) observe(ctx context.Context, rec vmRecord) (orchestrator.VM, error) {
	if !isUUID(rec.UUID) {
		return orchestrator.VM{}, orchestrator.Errorf("xapi", orchestrator.Transient, "pool %s shows a VM under the uuid %q", p.id, printable(rec.UUID))
	}
	out := orchestrator.VM{
		UUID: rec.UUID, Name: rec.Name, Power: strings.ToLower(rec.Power), Template: rec.Template,
		MemoryMiB: rec.StaticMax / mib, VCPUs: int(rec.VCPUsStart),
	}
	task, _ := rec.busy(powerOperations()...)
	out.PowerTask = string(task)
	if t, ok := rec.tag(); ok {
		out.Machine, out.Run, out.Attempt = t.machine, t.run, t.attempt
	}
	disks, err := p.disks(ctx, rec)
	if err != nil {
		return orchestrator.VM{}, err
	}
	for _, d := range disks {
		sr, err := p.uuid(ctx, "SR", d.rec.SR)
		if err != nil {
			return orchestrator.VM{}, err
		}
		out.Disks = append(out.Disks, orchestrator.Disk{UUID: d.rec.UUID, Bytes: d.rec.Size, SR: sr, Machine: d.rec.owner()})
	}
	addresses := map[string][]netip.Addr{}
	if rec.Power == "Running" {
		if out.GuestLive, addresses, err = p.guest(ctx, rec); err != nil {
			return orchestrator.VM{}, err
		}
		if out.Host, out.Console, err = p.resident(ctx, rec); err != nil {
			return orchestrator.VM{}, err
		}
	}
	for _, ref := range rec.VIFs {
		var vif vifRecord
		if gone, err := p.read(ctx, "VIF.get_record", &vif, ref); err != nil {
			return orchestrator.VM{}, err
		} else if gone {
			continue
		}
		network, err := p.uuid(ctx, "network", vif.Network)
		if err != nil {
			return orchestrator.VM{}, err
		}
		out.VIFs = append(out.VIFs, orchestrator.VIF{Device: vif.Device, MAC: strings.ToLower(vif.MAC), Network: network, Addresses: addresses[vif.Device]})
	}
	slices.SortFunc(out.VIFs, func(a, b orchestrator.VIF) int { return strings.Compare(a.Device, b.Device) })
	return out, nil
}

// guest reads what the guest's agent reports. A halted VM keeps the last report with live=true, so that power is asked by the caller.
func (p *pool) guest(ctx context.Context, rec vmRecord) (bool, map[string][]netip.Addr, error) {
	if rec.GuestMetrics.IsNull() {
		return false, nil, nil
	}
	var m struct {
		Live     bool              `json:"live"`
		Networks map[string]string `json:"networks"`
	}
	gone, err := p.read(ctx, "VM_guest_metrics.get_record", &m, rec.GuestMetrics)
	if err != nil || gone || !m.Live {
		return false, nil, err
	}
	return true, guestAddresses(m.Networks), nil
}

// maxGuestAddresses bounds what one interface may report: the guest writes these itself.
const maxGuestAddresses = 16

// guestAddresses reads VM_guest_metrics.networks, "<device>/ip", "<device>/ipv4/<n>" and "<device>/ipv6/<n>", by VIF device. What cannot be
// a machine's own address is left out.
func guestAddresses(networks map[string]string) map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for key, text := range networks {
		device, rest, _ := strings.Cut(key, "/")
		family, _, _ := strings.Cut(rest, "/")
		if family != "ip" && family != "ipv4" && family != "ipv6" {
			continue
		}
		a, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil || a.Zone() != "" || !a.IsGlobalUnicast() {
			continue
		}
		a = a.Unmap()
		if !slices.Contains(out[device], a) && len(out[device]) < maxGuestAddresses {
			out[device] = append(out[device], a)
		}
	}
	for _, list := range out {
		slices.SortFunc(list, netip.Addr.Compare) // IPv4 first
	}
	return out
}

// resident is the host a VM runs on and the URL of its graphical console there. The URL is read afresh for each use: it moves with the
// VM, and only that host serves it.
func (p *pool) resident(ctx context.Context, rec vmRecord) (host, console string, err error) {
	if rec.Host.IsNull() {
		return "", "", nil
	}
	var h struct {
		UUID    string `json:"uuid"`
		Address string `json:"address"`
	}
	if gone, err := p.read(ctx, "host.get_record", &h, rec.Host); err != nil || gone {
		return "", "", err
	}
	for _, ref := range rec.Consoles {
		var c struct {
			Protocol string `json:"protocol"`
			Location string `json:"location"`
		}
		if gone, err := p.read(ctx, "console.get_record", &c, ref); err != nil {
			return "", "", err
		} else if gone || c.Protocol != "rfb" {
			continue
		}
		u, err := url.Parse(c.Location)
		if err != nil {
			continue
		}
		if u.Hostname() == "" {
			u.Host = h.Address // xapi leaves it out where the host has no address yet
		}
		return h.UUID, u.String(), nil
	}
	return h.UUID, "", nil
}
