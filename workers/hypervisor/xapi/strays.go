package xapi

import (
	"context"
	"errors"
	"maps"
	"slices"
)

// RemoveStrays implements orchestrator.Hypervisor. One read of the pool's VMs; nothing more when there is no stray.
func (b *Backend) RemoveStrays(ctx context.Context, poolID string, settled map[string]string) (int, error) {
	p, err := b.pool("RemoveStrays", poolID)
	if err != nil {
		return 0, err
	}
	vms, err := p.vms(ctx)
	if err != nil {
		return 0, err
	}
	there := map[string]bool{}
	for _, rec := range vms {
		there[rec.UUID] = true
	}
	n := 0
	var errs []error
	for _, ref := range slices.Sorted(maps.Keys(vms)) {
		rec := vms[ref]
		machine := rec.machine()
		kept, known := settled[machine]
		t, tagged, ok := rec.belongsTo(machine)
		if !ok || !known || rec.UUID == kept {
			continue
		}
		if kept != "" && !there[kept] { // this may be the machine itself, which took the place of the one that is recorded
			continue
		}
		removed, err := p.removeExtra(ctx, candidate{ref, rec, t, tagged})
		if removed && err == nil {
			n++
		}
		errs = append(errs, err)
	}
	return n, errors.Join(errs...)
}

// machine is whose VM this may be, by its tag or its clone's name; belongsTo has the last word.
func (v vmRecord) machine() string {
	if t, ok := v.tag(); ok {
		return t.machine
	}
	if v.isClone() {
		return v.Name[len("slipway-") : len("slipway-")+uuidLen]
	}
	return ""
}
