package xapi

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"slipway/orchestrator"
)

// candidate is a VM that may be the machine.
type candidate struct {
	ref    Ref
	rec    vmRecord
	tag    tag
	tagged bool
}

// candidates are the machine's VMs, the one to keep first: tagged before untagged, provisioned before template, older attempt before
// younger.
func (p *pool) candidates(ctx context.Context, machine string) ([]candidate, error) {
	vms, err := p.vms(ctx)
	if err != nil {
		return nil, err
	}
	var out []candidate
	for ref, rec := range vms {
		if t, tagged, ok := rec.belongsTo(machine); ok {
			out = append(out, candidate{ref, rec, t, tagged})
		}
	}
	rank := func(worse bool) int {
		if worse {
			return 1
		}
		return 0
	}
	slices.SortFunc(out, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(rank(!a.tagged), rank(!b.tagged)),
			cmp.Compare(rank(a.rec.Template), rank(b.rec.Template)),
			cmp.Compare(a.tag.run, b.tag.run),
			cmp.Compare(a.tag.attempt, b.tag.attempt),
			cmp.Compare(a.rec.UUID, b.rec.UUID),
		)
	})
	return out, nil
}

// FindMachine implements orchestrator.Hypervisor. With a uuid that still exists it costs a few reads; without one it reads every VM of
// the pool.
func (b *Backend) FindMachine(ctx context.Context, ref orchestrator.MachineRef) (orchestrator.VM, error) {
	p, err := b.refPool("FindMachine", ref)
	if err != nil {
		return orchestrator.VM{}, err
	}
	if ref.VM != "" {
		_, rec, found, err := p.owned(ctx, ref)
		if err != nil {
			return orchestrator.VM{}, err
		}
		if found {
			return p.observe(ctx, rec)
		}
	}
	found, err := p.candidates(ctx, ref.Machine)
	if err != nil {
		return orchestrator.VM{}, err
	}
	if len(found) == 0 {
		return orchestrator.VM{}, orchestrator.Errorf("xapi.FindMachine", orchestrator.Transient, "pool %s has no VM of machine %s: %w", p.id, ref.Machine, orchestrator.ErrNotFound)
	}
	for _, other := range found[1:] {
		if ref.LookOnly {
			break
		}
		if _, err := p.removeExtra(ctx, other); err != nil {
			return orchestrator.VM{}, err
		}
	}
	return p.observe(ctx, found[0].rec)
}

// refPool checks a reference before anything is asked with it.
func (b *Backend) refPool(op string, ref orchestrator.MachineRef) (*pool, error) {
	if !isUUID(ref.Machine) {
		return nil, orchestrator.Errorf("xapi."+op, orchestrator.Permanent, "machine id %q is no uuid", printable(ref.Machine))
	}
	return b.pool(op, ref.Pool)
}

// owned reads the VM of a reference and refuses one that is somebody else's.
func (p *pool) owned(ctx context.Context, ref orchestrator.MachineRef) (Ref, vmRecord, bool, error) {
	vm, rec, found, err := p.vm(ctx, ref.VM)
	if err != nil || !found {
		return "", vmRecord{}, false, err
	}
	if _, _, ours := rec.belongsTo(ref.Machine); !ours {
		return "", vmRecord{}, false, orchestrator.Errorf("xapi", orchestrator.Permanent,
			"VM %s (%q) does not carry the tag of machine %s: it is not touched", ref.VM, printable(rec.Name), ref.Machine)
	}
	return vm, rec, true, nil
}

// removeSiblings removes what other attempts left beside the VM that was kept: a clone whose answer was lost may appear late. left are the
// uuids of those that could not be removed.
func (p *pool) removeSiblings(ctx context.Context, machine, kept string) (left []string, err error) {
	found, err := p.candidates(ctx, machine)
	if err != nil {
		return nil, err
	}
	for _, other := range found {
		if other.rec.UUID == kept {
			continue
		}
		removed, err := p.removeExtra(ctx, other)
		if err != nil {
			return nil, err
		}
		if !removed {
			left = append(left, other.rec.UUID)
		}
	}
	return left, nil
}

// removeExtra removes a surplus VM of ours, which must be halted and idle; another one is left and named in the log.
func (p *pool) removeExtra(ctx context.Context, extra candidate) (removed bool, err error) {
	if _, operation := extra.rec.busy(); extra.rec.Power != "Halted" || operation != "" || !extra.tagged && !extra.rec.Template {
		p.log.WarnContext(ctx, "a second VM of the machine is left alone: not halted, or busy", "vm", extra.rec.UUID, "machine", extra.tag.machine, "power", extra.rec.Power)
		return false, nil
	}
	p.log.InfoContext(ctx, "removing a second VM of the machine", "vm", extra.rec.UUID, "machine", extra.tag.machine, "run", extra.tag.run, "attempt", extra.tag.attempt)
	return true, p.remove(ctx, extra.ref, extra.rec, extra.tag.machine)
}

// remove destroys a halted VM of ours with its own disks. They are tagged first: a crash between VM and disks leaves them findable, and
// DestroyMachine sweeps them.
func (p *pool) remove(ctx context.Context, vm Ref, rec vmRecord, machine string) error {
	attached, err := p.disks(ctx, rec)
	if err != nil {
		return err
	}
	disks := ownDisks(attached, machine)
	for _, d := range disks {
		if err := p.tagDisk(ctx, d, machine); err != nil && !HasCode(err, codeHandleInvalid) {
			return err
		}
	}
	if err := p.finish(ctx, "VM.destroy", vm); err != nil && !HasCode(err, codeHandleInvalid) {
		return err
	}
	var errs []error
	for _, d := range disks {
		errs = append(errs, p.destroyDisk(ctx, d.ref, d.rec.UUID))
	}
	return errors.Join(errs...)
}

// ownDisks are the disks that came with a clone: those with the machine's tag, and as long as none has it all that have no tag, for shaping
// gives it to every one. Another was attached by somebody, and is not ours to destroy.
func ownDisks(attached []disk, machine string) []disk {
	tagged := slices.ContainsFunc(attached, func(d disk) bool { return d.rec.owner() == machine })
	return slices.DeleteFunc(slices.Clone(attached), func(d disk) bool {
		owner := d.rec.owner()
		return owner != machine && (owner != "" || tagged)
	})
}
