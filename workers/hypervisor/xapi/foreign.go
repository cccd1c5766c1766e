package xapi

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"

	"slipway/orchestrator"
)

type guestMetricsRecord struct {
	Live     bool              `json:"live"`
	Networks map[string]string `json:"networks"`
}

// Strangers lists the VMs of a pool that are not slipway's, in the order of their uuids: running or not. Templates, snapshots and control
// domains are left out, for none of them is on a network. A halted VM's addresses are those that its guest reported last. It reads whole
// classes: meant for a scan, not for a loop.
func (b *Backend) Strangers(ctx context.Context, poolID string) ([]orchestrator.Stranger, error) {
	p, err := b.pool("Strangers", poolID)
	if err != nil {
		return nil, err
	}
	vms, err := p.vms(ctx)
	if err != nil {
		return nil, err
	}
	w := whole{vms: vms}
	metrics := map[Ref]guestMetricsRecord{}
	for _, part := range []struct {
		class string
		into  any
	}{{"VIF", &w.vifs}, {"network", &w.nets}, {"VM_guest_metrics", &metrics}} {
		if err := p.client.Call(ctx, part.class+".get_all_records", part.into); err != nil {
			return nil, err
		}
	}
	var out []orchestrator.Stranger
	for ref, rec := range w.vms {
		if rec.Template || rec.Snapshot || rec.ControlDomain || w.ours(ref) {
			continue
		}
		s := strangerOf(rec)
		reported := guestAddresses(metrics[rec.GuestMetrics].Networks)
		for _, ref := range rec.VIFs {
			if vif, ok := w.vifs[ref]; ok {
				s.add(vif, w.nets[vif.Network].UUID, reported[vif.Device])
			}
		}
		out = append(out, s.sorted())
	}
	slices.SortFunc(out, func(a, b orchestrator.Stranger) int { return strings.Compare(a.UUID, b.UUID) })
	return out, nil
}

// stranger is a Stranger while its interfaces are read.
type stranger struct{ orchestrator.Stranger }

func strangerOf(rec vmRecord) stranger {
	s := stranger{orchestrator.Stranger{
		VM: orchestrator.VM{UUID: rec.UUID, Name: rec.Name, Power: strings.ToLower(rec.Power), Template: rec.Template,
			MemoryMiB: (rec.StaticMax + mib - 1) / mib, VCPUs: int(rec.VCPUsStart)},
		Snapshot: rec.Snapshot, Control: rec.ControlDomain,
	}}
	if t, ok := rec.tag(); ok {
		s.Tag = t.machine
	}
	_, s.Busy = rec.busy()
	return s
}

func (s *stranger) add(vif vifRecord, network string, addresses []netip.Addr) {
	s.VIFs = append(s.VIFs, orchestrator.VIF{Device: vif.Device, MAC: strings.ToLower(vif.MAC), Network: network, Addresses: addresses})
	for _, text := range vif.IPv4Allowed[:min(len(vif.IPv4Allowed), maxGuestAddresses)] {
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is4() {
			continue
		}
		if s.Allowed == nil {
			s.Allowed = map[string][]netip.Addr{}
		}
		s.Allowed[vif.Device] = append(s.Allowed[vif.Device], a)
	}
}

func (s *stranger) sorted() orchestrator.Stranger {
	slices.SortFunc(s.VIFs, func(a, b orchestrator.VIF) int {
		return cmp.Or(cmp.Compare(len(a.Device), len(b.Device)), strings.Compare(a.Device, b.Device)) // numbers without leading zeros
	})
	return s.Stranger
}
