package xapi

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"
	"strings"

	"slipway/orchestrator"
)

type hostRecord struct {
	UUID     string            `json:"uuid"`
	Name     string            `json:"name_label"`
	Enabled  bool              `json:"enabled"`
	Overhead int64             `json:"memory_overhead"`
	Metrics  Ref               `json:"metrics"`
	CPUs     []Ref             `json:"host_CPUs"`
	CPUInfo  map[string]string `json:"cpu_info"`
}

type hostMetricsRecord struct {
	Total int64 `json:"memory_total"`
	Live  bool  `json:"live"`
}

type srRecord struct {
	UUID        string `json:"uuid"`
	Name        string `json:"name_label"`
	Size        int64  `json:"physical_size"`
	Shared      bool   `json:"shared"`
	ContentType string `json:"content_type"`
	Type        string `json:"type"`
	ToolsSR     bool   `json:"is_tools_sr"`
}

type pbdRecord struct {
	Host     Ref  `json:"host"`
	SR       Ref  `json:"SR"`
	Attached bool `json:"currently_attached"`
}

// whole is one reading of a pool. The parts are read one after another, so they may differ by what happened in between.
type whole struct {
	vms     records[vmRecord]
	hosts   records[hostRecord]
	metrics records[hostMetricsRecord]
	srs     records[srRecord]
	pbds    records[pbdRecord]
	vdis    records[vdiRecord]
	vifs    records[vifRecord]
	nets    records[networkRecord]
}

func (p *pool) readWhole(ctx context.Context) (whole, error) {
	var w whole
	var err error
	if w.vms, err = p.vms(ctx); err != nil {
		return w, err
	}
	for _, part := range []struct {
		class string
		into  any
	}{
		{"host", &w.hosts}, {"host_metrics", &w.metrics}, {"SR", &w.srs}, {"PBD", &w.pbds}, {"VDI", &w.vdis}, {"VIF", &w.vifs}, {"network", &w.nets},
	} {
		if err := p.client.Call(ctx, part.class+".get_all_records", part.into); err != nil {
			return w, err
		}
	}
	return w, nil
}

// Inventory implements orchestrator.Hypervisor. An image whose template is ambiguous is left out and named in the log; of several on
// storages of their own, one uuid stands for all.
func (b *Backend) Inventory(ctx context.Context, poolID string) (orchestrator.Inventory, error) {
	p, err := b.pool("Inventory", poolID)
	if err != nil {
		return orchestrator.Inventory{}, err
	}
	w, err := p.readWhole(ctx)
	if err != nil {
		return orchestrator.Inventory{}, err
	}
	out := orchestrator.Inventory{Pool: poolID, Hosts: w.hostInventory(), SRs: p.storageInventory(w), Templates: p.imageInventory(ctx, w)}
	for _, vif := range w.vifs {
		if mac, err := net.ParseMAC(vif.MAC); err == nil && len(mac) == 6 && !w.ours(vif.VM) {
			out.MACs = append(out.MACs, strings.ToLower(vif.MAC))
		}
	}
	for _, n := range w.nets {
		if isUUID(n.UUID) {
			out.Networks = append(out.Networks, n.UUID)
		}
	}
	for ref, rec := range w.vms {
		if w.ours(ref) {
			out.Tagged = append(out.Tagged, rec.machine())
		}
	}
	out.Residents = w.residents()
	slices.Sort(out.Tagged)
	out.Tagged = slices.Compact(out.Tagged)
	slices.Sort(out.MACs)
	slices.Sort(out.Networks)
	return out, nil
}

// ours reports whether a VM is a machine of slipway's, finished or not.
func (w whole) ours(vm Ref) bool {
	rec, ok := w.vms[vm]
	if !ok || rec.Snapshot {
		return false
	}
	_, tagged := rec.tag()
	return tagged || rec.isClone()
}

// residents are our VMs that run, by the host's uuid.
func (w whole) residents() map[string][]string {
	out := map[string][]string{}
	for ref, rec := range w.vms {
		if host, ok := w.hosts[rec.Host]; ok && w.ours(ref) && isUUID(host.UUID) && isUUID(rec.UUID) {
			out[host.UUID] = append(out[host.UUID], rec.UUID)
		}
	}
	for _, vms := range out {
		slices.Sort(vms)
	}
	return out
}

// perVM: xapi adds about 0.8 % and up to 11 MiB to the memory of each VM that it starts; 3 % covers both from 512 MiB upwards.
const perVM = 103

func (w whole) hostInventory() []orchestrator.HostInventory {
	held := map[Ref]int64{} // by others' VMs, the control domains among them
	for ref, rec := range w.vms {
		if !rec.Host.IsNull() && !w.ours(ref) {
			held[rec.Host] += amount(rec.DynamicMax) + amount(rec.Overhead)
		}
	}
	out := []orchestrator.HostInventory{}
	for ref, h := range w.hosts {
		m := w.metrics[h.Metrics]
		if !isUUID(h.UUID) {
			continue
		}
		free := max(0, amount(m.Total)-amount(h.Overhead)-held[ref])
		out = append(out, orchestrator.HostInventory{
			UUID: h.UUID, Name: printable(h.Name), MemoryMiB: free / perVM * 100 / mib, CPUs: h.cpus(), Enabled: h.Enabled && m.Live,
		})
	}
	slices.SortFunc(out, func(a, b orchestrator.HostInventory) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID))
	})
	return out
}

// cpus counts the physical CPUs; newer hosts list them in cpu_info only.
func (h hostRecord) cpus() int {
	if n, err := strconv.Atoi(h.CPUInfo["cpu_count"]); err == nil && n > 0 {
		return n
	}
	return len(h.CPUs)
}

func (p *pool) storageInventory(w whole) []orchestrator.SRInventory {
	held := map[Ref]int64{}
	for _, vdi := range w.vdis {
		switch {
		case w.ourDisk(vdi):
		case vdi.Snapshot:
			held[vdi.SR] += amount(vdi.Used) // shares the rest with its parent
		default:
			held[vdi.SR] += amount(max(vdi.Size, vdi.Used))
		}
	}
	plugged := map[Ref][]string{}
	for _, pbd := range w.pbds {
		if host, ok := w.hosts[pbd.Host]; ok && pbd.Attached {
			plugged[pbd.SR] = append(plugged[pbd.SR], host.UUID)
		}
	}
	out := []orchestrator.SRInventory{}
	for ref, sr := range w.srs {
		if !p.usable(sr) || !isUUID(sr.UUID) {
			continue
		}
		slices.Sort(plugged[ref])
		out = append(out, orchestrator.SRInventory{UUID: sr.UUID, Name: printable(sr.Name), Bytes: max(0, max(0, sr.Size)-held[ref]), Shared: sr.Shared, Hosts: plugged[ref]})
	}
	slices.SortFunc(out, func(a, b orchestrator.SRInventory) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID))
	})
	return out
}

// usable: chosen by the operator, or any that holds disks rather than CDs and devices.
func (p *pool) usable(sr srRecord) bool {
	if len(p.srs) > 0 {
		return slices.Contains(p.srs, sr.UUID)
	}
	return sr.ContentType != "iso" && sr.Type != "iso" && sr.Type != "udev" && !sr.ToolsSR && sr.Size > 0
}

// ourDisk: tagged. A clone's disk counts as others' until ShapeMachine tags it, which errs on the safe side.
func (w whole) ourDisk(vdi vdiRecord) bool {
	return vdi.owner() != ""
}

func (p *pool) imageInventory(ctx context.Context, w whole) map[string]string {
	out := map[string]string{}
	on := map[Ref]Ref{} // VBD → SR
	for _, vdi := range w.vdis {
		for _, vbd := range vdi.VBDs {
			on[vbd] = vdi.SR
		}
	}
	for image, refs := range templates(w.vms) {
		var found []stored
		for _, ref := range refs {
			t := stored{ref: ref, rec: w.vms[ref]}
			for _, vbd := range t.rec.VBDs {
				if sr, ok := on[vbd]; ok {
					t.srs = append(t.srs, sr)
				}
			}
			found = append(found, t)
		}
		best, err := p.choose(image, "", found)
		if err != nil {
			p.log.WarnContext(ctx, "image is not offered", "err", err)
			continue
		}
		out[image] = best.rec.UUID
	}
	byUUID := map[string]bool{}
	for _, rec := range w.vms {
		if rec.Template && !rec.Snapshot {
			byUUID[rec.UUID] = true
		}
	}
	for image, uuid := range p.images {
		if !byUUID[uuid] {
			p.log.WarnContext(ctx, "image's configured template is not there", "image", image, "template", uuid)
			delete(out, image)
			continue
		}
		out[image] = uuid
	}
	return out
}
