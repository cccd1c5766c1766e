package xapi

import (
	"context"
	"errors"
	"strconv"
	"time"

	"slipway/orchestrator"
)

// ShapeMachine implements orchestrator.Hypervisor. Each of its parts looks first and changes only what differs. A VM that is not halted
// is only read back: memory, vCPUs and disks of a running one are not ours to change.
func (b *Backend) ShapeMachine(ctx context.Context, spec orchestrator.MachineSpec, vm string) (orchestrator.VM, error) {
	spec.VM = vm
	p, err := b.refPool("ShapeMachine", spec.MachineRef)
	if err != nil {
		return orchestrator.VM{}, err
	}
	if err := checkSpec(spec); err != nil {
		return orchestrator.VM{}, err
	}
	s := &shaping{pool: p, spec: spec}
	if err := s.idle(ctx); err != nil {
		return orchestrator.VM{}, err
	}
	if s.rec.Power == "Halted" {
		for _, part := range []func(context.Context) error{s.tag, s.siblings, s.provision, s.memory, s.vcpus, s.disk, s.network} {
			if err := part(ctx); err != nil {
				return orchestrator.VM{}, err
			}
		}
	}
	return s.readBack(ctx)
}

func checkSpec(spec orchestrator.MachineSpec) error {
	switch {
	case spec.Plan.MemoryMiB <= 0 || spec.Plan.MemoryMiB > 1<<30, spec.Plan.VCPUs <= 0, spec.Plan.DiskGiB <= 0 || spec.Plan.DiskGiB > 1<<30:
		return orchestrator.Errorf("xapi", orchestrator.Permanent, "plan %+v: memory, vCPUs and disk must be positive", spec.Plan)
	}
	return checkMAC(spec.MAC)
}

// shaping is one machine on its way from clone to machine.
type shaping struct {
	*pool
	spec orchestrator.MachineSpec
	ref  Ref
	rec  vmRecord
}

// idleWait is how long a VM may still be busy with what an earlier attempt began; a worker is not worth more.
const idleWait = 10 * time.Second

// idle reads the VM, and waits while something is still going on with it: there is no second act beside one that may be ours.
func (s *shaping) idle(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, idleWait)
	defer cancel()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if err := s.load(ctx); err != nil {
			return err
		}
		task, operation := s.rec.busy()
		if operation == "" {
			return nil
		}
		if !sleep(waiting, pause) {
			return orchestrator.Errorf("xapi.ShapeMachine", orchestrator.Transient, "VM %s is busy with %s (task %s)", s.spec.VM, printable(operation), printable(string(task)))
		}
	}
}

// load reads the VM anew.
func (s *shaping) load(ctx context.Context) error {
	ref, rec, found, err := s.owned(ctx, s.spec.MachineRef)
	if err != nil {
		return err
	}
	if !found {
		return orchestrator.Errorf("xapi.ShapeMachine", orchestrator.Conflict, "VM %s is gone: %w", s.spec.VM, orchestrator.ErrNotFound)
	}
	s.ref, s.rec = ref, rec
	return nil
}

// tag marks the clone as this machine's, with the run and attempt that made it. The machine is written last: a tag is whole or none.
func (s *shaping) tag(ctx context.Context) error {
	t, tagged, _ := s.rec.belongsTo(s.spec.Machine)
	if s.spec.Card != "" {
		if err := s.setOther(ctx, "VM", s.ref, s.rec.OtherConfig, keyCard, s.spec.Card); err != nil {
			return err
		}
	}
	if !tagged {
		for _, kv := range [][2]string{
			{keyRun, t.run}, {keyAttempt, strconv.Itoa(t.attempt)}, {keySelf, s.rec.UUID}, {keyMachine, s.spec.Machine},
		} {
			if err := s.setOther(ctx, "VM", s.ref, s.rec.OtherConfig, kv[0], kv[1]); err != nil {
				return err
			}
		}
	}
	if _, ok := s.rec.OtherConfig[keyImage]; ok { // a machine is no image
		if err := s.client.Call(ctx, "VM.remove_from_other_config", nil, s.ref, keyImage); err != nil {
			return err
		}
	}
	return s.load(ctx)
}

// siblings removes what other attempts left, before one of them is in the way of our MAC.
func (s *shaping) siblings(ctx context.Context) error {
	_, err := s.removeSiblings(ctx, s.spec.Machine, s.rec.UUID)
	return err
}

// setOther writes one key of an other_config whose content was just read.
func (p *pool) setOther(ctx context.Context, class string, ref Ref, have map[string]string, key, value string) error {
	if have[key] == value {
		return nil
	}
	// Adding a key that is there fails, removing one that is not does not.
	if err := p.client.Call(ctx, class+".remove_from_other_config", nil, ref, key); err != nil {
		return err
	}
	return p.client.Call(ctx, class+".add_to_other_config", nil, ref, key, value)
}

// provision makes the clone a VM. xapi takes the template flag away first and cleans nothing up when it fails, and a second provision of
// the remains is refused: they are removed, and the machine is cloned anew.
func (s *shaping) provision(ctx context.Context) error {
	disks, err := s.disks(ctx, s.rec)
	if err != nil {
		return err
	}
	if !s.rec.Template {
		_, xml := s.rec.OtherConfig[keyDisks]
		_, script := s.rec.OtherConfig[keyPostInstall]
		if !xml && !script && len(disks) > 0 {
			return nil
		}
		return s.startOver(ctx, orchestrator.Conflict, "an earlier provision failed half-way")
	}
	// Our templates bring their disks; the recipe for new ones that an OS template carries would add to them.
	if _, ok := s.rec.OtherConfig[keyDisks]; ok && len(disks) > 0 {
		if err := s.client.Call(ctx, "VM.remove_from_other_config", nil, s.ref, keyDisks); err != nil {
			return err
		}
	}
	err = s.finish(ctx, "VM.provision", s.ref)
	if err == nil {
		return s.load(ctx)
	}
	var answered *Error
	if !errors.As(err, &answered) || s.load(ctx) != nil || s.rec.Template {
		return err // nobody knows, or nothing was begun: look again
	}
	kind := orchestrator.KindOf(err)
	if kind != orchestrator.Exhausted && kind != orchestrator.Permanent {
		kind = orchestrator.Conflict
	}
	return s.startOver(ctx, kind, err.Error())
}

// startOver removes the half-made VM.
func (s *shaping) startOver(ctx context.Context, kind orchestrator.Kind, why string) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	if err := s.remove(ctx, s.ref, s.rec, s.spec.Machine); err != nil {
		return err
	}
	return orchestrator.Errorf("xapi.ShapeMachine", kind, "VM %s was removed, clone anew: %s", s.spec.VM, why)
}

// memory gives the VM its memory, all four limits equal: without a licence for ballooning nothing else is accepted, and what was sold is
// not taken back.
func (s *shaping) memory(ctx context.Context) error {
	want := s.spec.Plan.MemoryMiB * mib
	if s.rec.StaticMin == want && s.rec.StaticMax == want && s.rec.DynamicMin == want && s.rec.DynamicMax == want {
		return nil
	}
	return s.client.Call(ctx, "VM.set_memory_limits", nil, s.ref, want, want, want, want)
}

// vcpus keeps 0 < at startup ≤ max true at every moment.
func (s *shaping) vcpus(ctx context.Context) error {
	want := int64(s.spec.Plan.VCPUs)
	order := []string{"VM.set_VCPUs_max", "VM.set_VCPUs_at_startup"}
	if want < s.rec.VCPUsStart {
		order[0], order[1] = order[1], order[0]
	}
	have := map[string]int64{"VM.set_VCPUs_max": s.rec.VCPUsMax, "VM.set_VCPUs_at_startup": s.rec.VCPUsStart}
	for _, method := range order {
		if have[method] == want {
			continue
		}
		if err := s.client.Call(ctx, method, nil, s.ref, want); err != nil {
			return err
		}
	}
	return nil
}

// disk tags the disks and grows the first to the plan's size; xapi cannot shrink one, so a larger one stays as it is.
func (s *shaping) disk(ctx context.Context) error {
	disks, err := s.disks(ctx, s.rec)
	if err != nil {
		return err
	}
	if len(disks) == 0 {
		return orchestrator.Errorf("xapi.ShapeMachine", orchestrator.Permanent, "VM %s has no disk: its template lost it, or somebody took it away", s.spec.VM)
	}
	for _, d := range disks {
		if err := s.tagDisk(ctx, d, s.spec.Machine); err != nil {
			return err
		}
	}
	if want := s.spec.Plan.DiskGiB << 30; disks[0].rec.Size < want {
		return s.finish(ctx, "VDI.resize", disks[0].ref, want)
	}
	return nil
}

// tagDisk marks a disk as the machine's, so that it can be told from others' when its VM is gone. One that is another machine's stays that.
func (p *pool) tagDisk(ctx context.Context, d disk, machine string) error {
	if other := d.rec.owner(); other != machine && other != "" {
		return orchestrator.Errorf("xapi", orchestrator.Permanent, "disk %s carries the tag of machine %s: it is not touched", d.rec.UUID, printable(other))
	}
	for _, kv := range [][2]string{{keySelf, d.rec.UUID}, {keyMachine, machine}} {
		if err := p.setOther(ctx, "VDI", d.ref, d.rec.OtherConfig, kv[0], kv[1]); err != nil {
			return err
		}
	}
	return nil
}

// readBack proves the shape by what xapi now says.
func (s *shaping) readBack(ctx context.Context) (orchestrator.VM, error) {
	if err := s.load(ctx); err != nil {
		return orchestrator.VM{}, err
	}
	vm, err := s.observe(ctx, s.rec)
	if err != nil {
		return orchestrator.VM{}, err
	}
	kind := orchestrator.Transient
	if s.rec.Power != "Halted" {
		kind = orchestrator.Permanent
	}
	differs := func(what string, got, want any) (orchestrator.VM, error) {
		return orchestrator.VM{}, orchestrator.Errorf("xapi.ShapeMachine", kind, "VM %s (%s) has %s %v, wanted %v", vm.UUID, vm.Power, what, got, want)
	}
	switch plan := s.spec.Plan; {
	case vm.Machine != s.spec.Machine || vm.Template:
		return differs("tag and template flag", vm.Machine+" "+strconv.FormatBool(vm.Template), s.spec.Machine+" false")
	case vm.MemoryMiB != plan.MemoryMiB:
		return differs("memory (MiB)", vm.MemoryMiB, plan.MemoryMiB)
	case vm.VCPUs != plan.VCPUs:
		return differs("vCPUs", vm.VCPUs, plan.VCPUs)
	case len(vm.Disks) == 0 || vm.Disks[0].Bytes < plan.DiskGiB<<30:
		return differs("disks", vm.Disks, plan.DiskGiB)
	case len(vm.VIFs) != 1 || vm.VIFs[0].MAC != s.spec.MAC:
		return differs("interfaces", vm.VIFs, s.spec.MAC)
	}
	return vm, nil
}
