package xapi

import (
	"context"
	"slices"
	"strings"
	"time"

	"slipway/orchestrator"
)

// cloneWait is how long StartClone waits for its turn before it gives up with Exhausted: a fast clone takes less than a second, and a
// worker is not worth more.
const cloneWait = 2 * time.Second

// cloneQueue lets the clones of one template go one at a time. xapi would queue them itself, but behind a random back-off of 1 to 20 s:
// six clones of 0.3 s were measured to take 26 s.
type cloneQueue struct {
	room chan struct{} // of size two: one is at it, one waits for its turn, and all others are told at once to come back
	gate chan struct{} // of size one
	task Ref           // the last one; guarded by gate
}

func (p *pool) cloneQueue(template string) *cloneQueue {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.clones[template]
	if q == nil {
		q = &cloneQueue{room: make(chan struct{}, 2), gate: make(chan struct{}, 1)}
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

// StartClone implements orchestrator.Hypervisor. A template whose disks lie on another storage than the machine's is copied there in full, and
// so is one whose chain of disks has maxChain links: a clone would add to it.
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
	// xapi takes an unknown storage for "the same one", so it is looked up, never just passed on.
	sr, err := p.storage(ctx, spec.SR, spec.Plan.DiskGiB<<30)
	if err != nil {
		return "", err
	}
	template, err := p.template(ctx, spec.Image, sr)
	if err != nil {
		return "", err
	}
	if len(template.srs) == 0 {
		return "", orchestrator.Errorf("xapi.StartClone", orchestrator.Permanent, "image %s: template %s has no disk to boot from", spec.Image, template.rec.UUID)
	}
	name := cloneName(spec.Machine, spec.Run, spec.Attempt)
	method, args := "VM.clone", []any{template.ref, name}
	length, err := p.chain(ctx, template)
	if err != nil {
		return "", err
	}
	if long := length >= maxChain; long || !template.on(sr) {
		if long {
			p.log.WarnContext(ctx, "the template's chain of disks is long: copying it in full; coalesce it or make the template anew", "image", spec.Image, "template", template.rec.UUID, "disks", length)
		}
		method, args = "VM.copy", append(args, sr)
	}
	return p.inTurn(ctx, template, func() (Ref, error) { return p.client.StartTask(ctx, method, args...) })
}

// PendingClones implements orchestrator.Hypervisor.
func (b *Backend) PendingClones(ctx context.Context, pool string) ([]string, error) {
	p, err := b.pool("PendingClones", pool)
	if err != nil {
		return nil, err
	}
	vms, err := p.vms(ctx)
	if err != nil {
		return nil, err
	}
	var tasks []string
	for _, rec := range vms {
		if !rec.Template || rec.Snapshot {
			continue
		}
		for task, operation := range rec.Operations {
			if ref := Ref(task); ref.valid() && (operation == "clone" || operation == "copy") {
				tasks = append(tasks, task)
			}
		}
	}
	slices.Sort(tasks)
	return slices.Compact(tasks), nil
}

// inTurn starts a clone of the template when no other one is in flight; Exhausted when its turn does not come soon.
func (p *pool) inTurn(ctx context.Context, template stored, start func() (Ref, error)) (string, error) {
	q := p.cloneQueue(template.rec.UUID)
	busy := orchestrator.Errorf("xapi.StartClone", orchestrator.Exhausted, "another clone of template %s is in flight on pool %s", template.rec.UUID, p.id)
	select {
	case q.room <- struct{}{}:
		defer func() { <-q.room }()
	default:
		return "", busy
	}
	waiting, cancel := context.WithTimeout(ctx, cloneWait)
	defer cancel()
	select {
	case q.gate <- struct{}{}:
		defer func() { <-q.gate }()
	case <-waiting.Done():
		return "", busy
	}
	idle, err := p.idleTemplate(ctx, waiting, q, template.ref)
	if err != nil {
		return "", err
	}
	if !idle {
		return "", busy
	}
	task, err := start()
	if err != nil {
		return "", err
	}
	q.task = task
	p.mu.Lock()
	p.wakeTasks[task] = true
	p.mu.Unlock()
	return string(task), nil
}

// idleTemplate waits until nobody clones the template, neither we nor another process; false when the waiting time is over.
func (p *pool) idleTemplate(ctx, waiting context.Context, q *cloneQueue, template Ref) (bool, error) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		pending := false
		if q.task != "" {
			state, err := p.client.ObserveTask(ctx, q.task)
			if err != nil {
				return false, err
			}
			pending = state.Status == TaskPending
		}
		if !pending {
			p.cloneEnded(q.task)
			q.task = ""
			var rec vmRecord
			if err := p.client.Call(ctx, "VM.get_record", &rec, template); err != nil {
				return false, err
			}
			if _, operation := rec.busy("clone", "copy"); operation == "" {
				return true, nil
			}
		}
		if !sleep(waiting, pause) {
			return false, nil
		}
	}
}

// stored is a template and the storages that its disks lie on.
type stored struct {
	ref   Ref
	rec   vmRecord
	disks []vdiRecord
	srs   []Ref
}

// on reports whether all its disks are on the storage.
func (t stored) on(sr Ref) bool {
	return len(t.srs) > 0 && !slices.ContainsFunc(t.srs, func(have Ref) bool { return have != sr })
}

// template finds the image's template for a storage: the configured uuid, else one that carries our key. A pool with local storages
// may have one on each.
func (p *pool) template(ctx context.Context, image string, sr Ref) (stored, error) {
	if uuid := p.images[image]; uuid != "" {
		ref, rec, found, err := p.vm(ctx, uuid)
		switch {
		case err != nil:
			return stored{}, err
		case !found || !rec.Template || rec.Snapshot:
			return stored{}, orchestrator.Errorf("xapi", orchestrator.Permanent, "image %s: pool %s has no template %s; correct images in its configuration", image, p.id, uuid)
		}
		return p.stored(ctx, ref, rec)
	}
	vms, err := p.vms(ctx)
	if err != nil {
		return stored{}, err
	}
	var found []stored
	for _, ref := range templates(vms)[image] {
		t, err := p.stored(ctx, ref, vms[ref])
		if err != nil {
			return stored{}, err
		}
		found = append(found, t)
	}
	return p.choose(image, sr, found)
}

func (p *pool) stored(ctx context.Context, ref Ref, rec vmRecord) (stored, error) {
	t := stored{ref: ref, rec: rec}
	disks, err := p.disks(ctx, rec)
	for _, d := range disks {
		t.disks, t.srs = append(t.disks, d.rec), append(t.srs, d.rec.SR)
	}
	return t, err
}

// choose takes the template on the wanted storage, else the first for a full copy. Two on one storage are nobody's to choose from.
func (p *pool) choose(image string, sr Ref, found []stored) (stored, error) {
	if len(found) == 0 {
		return stored{}, orchestrator.Errorf("xapi", orchestrator.Permanent,
			"image %s: no template of pool %s carries it; set it: xe template-param-set uuid=… other-config:%s=%s", printable(image), p.id, keyImage, printable(image))
	}
	on := map[Ref]string{}
	for _, t := range found {
		home := Null
		if len(t.srs) > 0 {
			home = t.srs[0]
		}
		if other := on[home]; other != "" {
			return stored{}, orchestrator.Errorf("xapi", orchestrator.Permanent,
				"image %s: 2 templates on one storage of pool %s carry it (%s and %s); remove the key %s from one", printable(image), p.id, other, t.rec.UUID, keyImage)
		}
		on[home] = t.rec.UUID
	}
	slices.SortFunc(found, func(a, b stored) int { return strings.Compare(a.rec.UUID, b.rec.UUID) })
	if i := slices.IndexFunc(found, func(t stored) bool { return t.on(sr) }); i >= 0 {
		return found[i], nil
	}
	return found[0], nil
}

// templates are the templates by image. A clone in flight carries its template's key and is a template itself: it does not count, nor do
// snapshots and the copies that somebody made of our machines.
func templates(vms records[vmRecord]) map[string][]Ref {
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
