package xapi

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
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
	metrics := records[guestMetricsRecord]{}
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
			MemoryMiB: rec.StaticMax / mib, VCPUs: int(rec.VCPUsStart)},
		Snapshot: rec.Snapshot, Control: rec.ControlDomain,
	}}
	if t, ok := rec.tag(); ok {
		s.Tag, s.Card = t.machine, rec.OtherConfig[keyCard]
	}
	_, s.Busy = rec.busy()
	return s
}

func (s *stranger) add(vif vifRecord, network string, addresses []netip.Addr) {
	s.VIFs = append(s.VIFs, orchestrator.VIF{Device: vif.Device, MAC: strings.ToLower(vif.MAC), Network: network, Addresses: addresses})
	s.allow(vif)
}

// allow takes in what an interface's locking lets it use.
func (s *stranger) allow(vif vifRecord) {
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

var _ orchestrator.Importer = (*Backend)(nil)

// FindStranger implements orchestrator.Importer.
func (b *Backend) FindStranger(ctx context.Context, poolID, vm string) (orchestrator.Stranger, error) {
	p, err := b.pool("FindStranger", poolID)
	if err != nil {
		return orchestrator.Stranger{}, err
	}
	_, rec, found, err := p.vm(ctx, vm)
	if err != nil {
		return orchestrator.Stranger{}, err
	}
	if !found {
		return orchestrator.Stranger{}, orchestrator.Errorf("xapi.FindStranger", orchestrator.Transient, "pool %s has no VM %s: %w", poolID, vm, orchestrator.ErrNotFound)
	}
	s := strangerOf(rec)
	if s.VM, err = p.observe(ctx, rec); err != nil {
		return orchestrator.Stranger{}, err
	}
	for _, ref := range rec.VIFs {
		var vif vifRecord
		if gone, err := p.read(ctx, "VIF.get_record", &vif, ref); err != nil {
			return orchestrator.Stranger{}, err
		} else if !gone {
			s.allow(vif)
		}
	}
	return s.Stranger, nil
}

// ClaimMachine implements orchestrator.Importer. The tag stands when its last part does, keyMachine: until then the VM is nobody's.
func (b *Backend) ClaimMachine(ctx context.Context, ref orchestrator.MachineRef, run string, attempt int) (orchestrator.VM, error) {
	const op = "xapi.ClaimMachine"
	p, err := b.refPool("ClaimMachine", ref)
	if err != nil {
		return orchestrator.VM{}, err
	}
	vm, rec, found, err := p.vm(ctx, ref.VM)
	if err != nil {
		return orchestrator.VM{}, err
	}
	t, tagged := rec.tag()
	switch {
	case !found:
		return orchestrator.VM{}, orchestrator.Errorf(op, orchestrator.Transient, "pool %s has no VM %s: %w", p.id, ref.VM, orchestrator.ErrNotFound)
	case rec.Snapshot || rec.ControlDomain || rec.Template:
		return orchestrator.VM{}, orchestrator.Errorf(op, orchestrator.Permanent, "VM %s is a template, a snapshot or a control domain", ref.VM)
	case tagged && t.machine != ref.Machine:
		return orchestrator.VM{}, orchestrator.Errorf(op, orchestrator.Permanent, "VM %s carries the tag of machine %s: it is not touched", ref.VM, printable(t.machine))
	case !tagged:
		// A copy of a machine of ours has that one's tag with the original's uuid: beside its own uuid it would be a second VM of it.
		if err := p.untag(ctx, "VM", vm, rec.OtherConfig); err != nil {
			return orchestrator.VM{}, err
		}
		for _, kv := range [][2]string{{keyRun, run}, {keyAttempt, strconv.Itoa(attempt)}, {keySelf, rec.UUID}, {keyMachine, ref.Machine}} {
			if err := p.setOther(ctx, "VM", vm, nil, kv[0], kv[1]); err != nil {
				return orchestrator.VM{}, err
			}
		}
	}
	disks, err := p.disks(ctx, rec)
	if err != nil {
		return orchestrator.VM{}, err
	}
	for _, d := range disks {
		if err := p.tagDisk(ctx, d, ref.Machine); err != nil {
			return orchestrator.VM{}, err
		}
	}
	if _, rec, found, err = p.owned(ctx, ref); err == nil && !found {
		err = orchestrator.Errorf(op, orchestrator.Transient, "VM %s went away: %w", ref.VM, orchestrator.ErrNotFound)
	}
	if err != nil {
		return orchestrator.VM{}, err
	}
	return p.observe(ctx, rec)
}

// ReleaseMachine implements orchestrator.Importer. Disks first: a VM that still carries the tag is found again.
func (b *Backend) ReleaseMachine(ctx context.Context, ref orchestrator.MachineRef) error {
	p, err := b.refPool("ReleaseMachine", ref)
	if err != nil {
		return err
	}
	vm, rec, found, err := p.vm(ctx, ref.VM)
	if err != nil || !found {
		return err
	}
	disks, err := p.disks(ctx, rec)
	if err != nil {
		return err
	}
	for _, d := range disks {
		if d.rec.OtherConfig[keyMachine] != ref.Machine {
			continue
		}
		if err := p.untag(ctx, "VDI", d.ref, d.rec.OtherConfig); err != nil && !HasCode(err, codeHandleInvalid) {
			return err
		}
	}
	if rec.OtherConfig[keyMachine] != ref.Machine && rec.OtherConfig[keyMachine] != "" {
		return nil
	}
	if err := p.untag(ctx, "VM", vm, rec.OtherConfig); err != nil && !HasCode(err, codeHandleInvalid) {
		return err
	}
	return nil
}

// untag removes what a tag is made of, the part that makes it one first.
func (p *pool) untag(ctx context.Context, class string, ref Ref, have map[string]string) error {
	for _, key := range []string{keyMachine, keySelf, keyRun, keyAttempt, keyCard} {
		if _, there := have[key]; !there {
			continue
		}
		if err := p.client.Call(ctx, class+".remove_from_other_config", nil, ref, key); err != nil {
			return err
		}
	}
	return nil
}
