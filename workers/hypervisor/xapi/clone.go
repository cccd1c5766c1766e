package xapi

import (
	"context"
	"slices"
	"time"

	"slipway/orchestrator"
)

// cloneWait is how long StartClone waits for its turn before it gives up with Exhausted: a fast clone takes less than a second, and a
// worker is not worth more.
const cloneWait = 2 * time.Second

// cloneQueue lets the clones of one template go one at a time. xapi would queue them itself, but behind a random back-off of 1 to 20 s:
// six clones of 0.3 s were measured to take 26 s.
type cloneQueue struct {
	gate chan struct{}
	task Ref // the last one; guarded by gate
}

func (p *pool) cloneQueue(template string) *cloneQueue {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.clones[template]
	if q == nil {
		q = &cloneQueue{gate: make(chan struct{}, 1)}
		p.clones[template] = q
	}
	return q
}

// cloneEnded reports, once, whether the task was a clone of ours.
func (p *pool) cloneEnded(task Ref) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.wakeTasks[task]
	delete(p.wakeTasks, task)
	return was
}

// StartClone implements orchestrator.Hypervisor. A template whose disks lie on another storage than the machine's is copied there in full.
func (b *Backend) StartClone(ctx context.Context, spec orchestrator.MachineSpec) (string, error) {
	p, err := b.refPool("StartClone", spec.MachineRef)
	if err != nil {
		return "", err
	}
	if spec.Run == "" || spec.Attempt < 1 {
		return "", orchestrator.Errorf("xapi.StartClone", orchestrator.Permanent, "run %q, attempt %d: a clone is named after both", printable(spec.Run), spec.Attempt)
	}
	if err := checkSpec(spec); err != nil {
		return "", err
	}
	template, rec, err := p.template(ctx, spec.Image)
	if err != nil {
		return "", err
	}
	q := p.cloneQueue(rec.UUID)
	waiting, cancel := context.WithTimeout(ctx, cloneWait)
	defer cancel()
	busy := orchestrator.Errorf("xapi.StartClone", orchestrator.Exhausted, "another clone of template %s is in flight on pool %s", rec.UUID, p.id)
	select {
	case q.gate <- struct{}{}:
		defer func() { <-q.gate }()
	case <-waiting.Done():
		return "", busy
	}
	if rec, err = p.idleTemplate(ctx, waiting, q, template); err != nil || rec.UUID == "" {
		if err == nil {
			err = busy
		}
		return "", err
	}
	method, args, err := p.cloneCall(ctx, template, rec, spec)
	if err != nil {
		return "", err
	}
	task, err := p.client.StartTask(ctx, method, args...)
	if err != nil {
		return "", err
	}
	q.task = task
	p.mu.Lock()
	p.wakeTasks[task] = true
	p.mu.Unlock()
	return string(task), nil
}

// idleTemplate waits until nobody clones the template, neither we nor another process, and gives its record; an empty one when the
// waiting time is over.
func (p *pool) idleTemplate(ctx, waiting context.Context, q *cloneQueue, template Ref) (vmRecord, error) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		pending := false
		if q.task != "" {
			state, err := p.client.ObserveTask(ctx, q.task)
			if err != nil {
				return vmRecord{}, err
			}
			pending = state.Status == TaskPending
		}
		if !pending {
			p.cloneEnded(q.task)
			q.task = ""
			var rec vmRecord
			if err := p.client.Call(ctx, "VM.get_record", &rec, template); err != nil {
				return vmRecord{}, err
			}
			if _, operation := rec.busy("clone", "copy"); operation == "" {
				return rec, nil
			}
		}
		if !sleep(waiting, pause) {
			return vmRecord{}, nil
		}
	}
}

// template finds the image's template: the configured uuid, else the one that carries our key. Two that carry it are nobody's to choose
// from.
func (p *pool) template(ctx context.Context, image string) (Ref, vmRecord, error) {
	if uuid := p.images[image]; uuid != "" {
		ref, rec, found, err := p.vm(ctx, uuid)
		switch {
		case err != nil:
			return "", vmRecord{}, err
		case !found || !rec.Template || rec.Snapshot:
			return "", vmRecord{}, orchestrator.Errorf("xapi", orchestrator.Permanent, "image %s: pool %s has no template %s; correct images in its configuration", image, p.id, uuid)
		}
		return ref, rec, nil
	}
	vms, err := p.vms(ctx)
	if err != nil {
		return "", vmRecord{}, err
	}
	found := templates(vms)[image]
	switch len(found) {
	case 0:
		return "", vmRecord{}, orchestrator.Errorf("xapi", orchestrator.Permanent,
			"image %s: no template of pool %s carries it; set it: xe template-param-set uuid=… other-config:%s=%s", printable(image), p.id, keyImage, printable(image))
	case 1:
		return found[0], vms[found[0]], nil
	}
	return "", vmRecord{}, orchestrator.Errorf("xapi", orchestrator.Permanent,
		"image %s: %d templates of pool %s carry it (%s, %s, …); remove the key %s from all but one", image, len(found), p.id, vms[found[0]].UUID, vms[found[1]].UUID, keyImage)
}

// templates are the templates by image. A clone in flight carries its template's key and is a template itself: it does not count, nor do
// snapshots and the copies that somebody made of our machines.
func templates(vms map[Ref]vmRecord) map[string][]Ref {
	out := map[string][]Ref{}
	for ref, rec := range vms {
		image := rec.OtherConfig[keyImage]
		if _, tagged := rec.tag(); image == "" || !rec.Template || rec.Snapshot || tagged || rec.isClone() {
			continue
		}
		out[image] = append(out[image], ref)
	}
	for _, refs := range out {
		slices.Sort(refs)
	}
	return out
}

// cloneCall chooses between the fast clone on the template's own storage and the full copy to another one, and looks for room.
func (p *pool) cloneCall(ctx context.Context, template Ref, rec vmRecord, spec orchestrator.MachineSpec) (string, []any, error) {
	name := cloneName(spec.Machine, spec.Run, spec.Attempt)
	disks, err := p.disks(ctx, rec)
	if err != nil {
		return "", nil, err
	}
	if len(disks) == 0 {
		return "", nil, orchestrator.Errorf("xapi", orchestrator.Permanent, "image %s: template %s has no disk to boot from", spec.Image, rec.UUID)
	}
	// xapi takes an unknown storage for "the same one", so it is looked up, never just passed on.
	sr, err := p.storage(ctx, spec.SR, spec.Plan.DiskGiB<<30)
	if err != nil {
		return "", nil, err
	}
	if slices.ContainsFunc(disks, func(d disk) bool { return d.rec.SR != sr }) {
		return "VM.copy", []any{template, name, sr}, nil
	}
	return "VM.clone", []any{template, name}, nil
}

// storage finds an SR by uuid and checks that it has room for bytes.
func (p *pool) storage(ctx context.Context, uuid string, bytes int64) (Ref, error) {
	var ref Ref
	err := p.client.Call(ctx, "SR.get_by_uuid", &ref, uuid)
	if HasCode(err, codeUUIDInvalid) {
		return "", orchestrator.Errorf("xapi", orchestrator.Permanent, "pool %s has no storage %q", p.id, printable(uuid))
	}
	if err != nil {
		return "", err
	}
	var sr struct {
		Size int64 `json:"physical_size"`
		Used int64 `json:"physical_utilisation"`
	}
	if err := p.client.Call(ctx, "SR.get_record", &sr, ref); err != nil {
		return "", err
	}
	if free := sr.Size - sr.Used; free < bytes {
		return "", orchestrator.Errorf("xapi", orchestrator.Exhausted, "storage %s has %d MiB free, %d are needed", uuid, free/mib, bytes/mib)
	}
	return ref, nil
}
