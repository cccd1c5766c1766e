package xapi

import (
	"context"
	"errors"
	"slices"

	"slipway/orchestrator"
)

// DestroyMachine implements orchestrator.Hypervisor. xapi keeps the disks of a VM that it destroys, so the caller records them first and
// names them here; another one, which somebody has attached, is not the machine's and stays. Disks that carry the machine's tag and are attached
// nowhere go as well: a crash between VM and disks may have left them. So do other attempts' halted VMs of the machine.
func (b *Backend) DestroyMachine(ctx context.Context, ref orchestrator.MachineRef, disks []string) error {
	p, err := b.refPool("DestroyMachine", ref)
	if err != nil {
		return err
	}
	if err := p.destroyVM(ctx, ref, disks); err != nil {
		return err
	}
	left, err := p.removeSiblings(ctx, ref.Machine, ref.VM)
	if err != nil {
		return err
	}
	if len(left) > 0 { // it may use the machine's MAC and address: the machine is not gone
		return orchestrator.Errorf("xapi.DestroyMachine", orchestrator.Transient, "machine %s has a further VM that is not halted or busy: %s", ref.Machine, left[0])
	}
	var errs []error
	for _, uuid := range disks {
		errs = append(errs, p.destroyRecorded(ctx, uuid, ref.Machine))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return p.sweepDisks(ctx, ref.Machine)
}

func (p *pool) destroyVM(ctx context.Context, ref orchestrator.MachineRef, disks []string) error {
	if ref.VM == "" {
		return nil
	}
	vm, rec, found, err := p.owned(ctx, ref)
	if err != nil || !found {
		return err
	}
	if rec.Power != "Halted" {
		return orchestrator.Errorf("xapi.DestroyMachine", orchestrator.Conflict, "VM %s is %s: stop it first", ref.VM, rec.Power)
	}
	if _, operation := rec.busy(); operation != "" {
		return orchestrator.Errorf("xapi.DestroyMachine", orchestrator.Transient, "VM %s is busy with %s", ref.VM, printable(operation))
	}
	attached, err := p.disks(ctx, rec)
	if err != nil {
		return err
	}
	for _, d := range attached { // a machine that was never shaped has untagged disks
		if !slices.Contains(disks, d.rec.UUID) {
			continue
		}
		if err := p.tagDisk(ctx, d, ref.Machine); err != nil && !HasCode(err, codeHandleInvalid) {
			return err
		}
	}
	if err := p.finish(ctx, "VM.destroy", vm); err != nil && !HasCode(err, codeHandleInvalid) {
		return err
	}
	return nil
}

// destroyRecorded destroys a disk that was recorded as the machine's. A tag of another machine is a record gone wrong.
func (p *pool) destroyRecorded(ctx context.Context, uuid, machine string) error {
	if !isUUID(uuid) {
		return orchestrator.Errorf("xapi.DestroyMachine", orchestrator.Permanent, "%q is no disk uuid", printable(uuid))
	}
	var ref Ref
	if err := p.client.Call(ctx, "VDI.get_by_uuid", &ref, uuid); HasCode(err, codeUUIDInvalid) {
		return nil
	} else if err != nil {
		return err
	}
	var rec vdiRecord
	if gone, err := p.read(ctx, "VDI.get_record", &rec, ref); err != nil || gone {
		return err
	}
	if other := rec.owner(); other != machine && other != "" {
		return orchestrator.Errorf("xapi.DestroyMachine", orchestrator.Permanent, "disk %s carries the tag of machine %s: it is not touched", uuid, printable(other))
	}
	return p.destroyDisk(ctx, ref, uuid)
}

// destroyDisk destroys a disk unless a VM has it: xapi itself would take a disk away from a halted VM, and from a template.
func (p *pool) destroyDisk(ctx context.Context, ref Ref, uuid string) error {
	var rec vdiRecord
	if gone, err := p.read(ctx, "VDI.get_record", &rec, ref); err != nil || gone {
		return err
	}
	for _, vbdRef := range rec.VBDs {
		var vbd vbdRecord
		if gone, err := p.read(ctx, "VBD.get_record", &vbd, vbdRef); err != nil {
			return err
		} else if gone {
			continue
		}
		if !vbd.VM.IsNull() {
			p.log.WarnContext(ctx, "disk is left: another VM uses it", "disk", uuid)
			return nil
		}
	}
	if err := p.finish(ctx, "VDI.destroy", ref); err != nil && !HasCode(err, codeHandleInvalid, codeUUIDInvalid) {
		return err
	}
	return nil
}

// sweepDisks destroys the machine's disks that belong to no VM any more.
func (p *pool) sweepDisks(ctx context.Context, machine string) error {
	var all records[vdiRecord]
	if err := p.client.Call(ctx, "VDI.get_all_records", &all); err != nil {
		return err
	}
	var errs []error
	for ref, rec := range all {
		if machine == rec.owner() && len(rec.VBDs) == 0 {
			errs = append(errs, p.destroyDisk(ctx, ref, rec.UUID))
		}
	}
	return errors.Join(errs...)
}

// owner is the machine whose tag the disk itself carries, "" for none; a snapshot or copy carries it beside another uuid.
func (r vdiRecord) owner() string {
	if r.Snapshot || r.OtherConfig[keySelf] != r.UUID {
		return ""
	}
	return r.OtherConfig[keyMachine]
}
