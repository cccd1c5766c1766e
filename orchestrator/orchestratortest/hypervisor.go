package orchestratortest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"slipway/orchestrator"
)

var _ orchestrator.Hypervisor = (*World)(nil)

// Inventory implements orchestrator.Hypervisor.
func (w *World) Inventory(_ context.Context, pool string) (orchestrator.Inventory, error) {
	inv, ok := w.inventory[pool]
	if !ok {
		return orchestrator.Inventory{}, orchestrator.Errorf("Inventory", orchestrator.Permanent, "there is no pool %s", pool)
	}
	inv.Residents = map[string][]string{}
	for _, v := range w.vms {
		if v.power == "running" {
			inv.Residents[v.host] = append(inv.Residents[v.host], v.uuid)
		}
	}
	return inv, nil
}

// FindMachine implements orchestrator.Hypervisor.
func (w *World) FindMachine(_ context.Context, ref orchestrator.MachineRef) (orchestrator.VM, error) {
	p, err := w.enter("FindMachine")
	if err != nil {
		return orchestrator.VM{}, err
	}
	found := slices.DeleteFunc(w.of(ref.Machine), func(v *vm) bool { return v.busy == "clone" })
	if v := w.find(ref.VM); v != nil && v.machine == ref.Machine {
		found = slices.DeleteFunc(found, func(o *vm) bool { return o == v })
		found = append([]*vm{v}, found...)
	}
	if len(found) == 0 {
		return orchestrator.VM{}, orchestrator.Errorf("FindMachine", orchestrator.Transient, "no VM of machine %s: %w", ref.Machine, orchestrator.ErrNotFound)
	}
	for _, extra := range found[1:] {
		if extra.power == "halted" && extra.busy == "" {
			w.remove(extra)
		}
	}
	return w.observed(found[0]), w.pass(p, After)
}

// RemoveStrays implements orchestrator.Hypervisor.
func (w *World) RemoveStrays(_ context.Context, _ string, settled map[string]string) (int, error) {
	n := 0
	for _, v := range slices.Clone(w.vms) {
		if kept, known := settled[v.machine]; known && v.uuid != kept && v.power == "halted" && v.busy == "" {
			w.remove(v)
			n++
		}
	}
	return n, nil
}

func (w *World) remove(v *vm) {
	w.protect(v, "removal")
	disks := v.disks
	w.destroy(v)
	for _, d := range disks {
		w.destroyDisk(d)
	}
}

func (w *World) observed(v *vm) orchestrator.VM {
	seen := orchestrator.VM{
		UUID: v.uuid, Name: v.name, Machine: v.machine, Power: v.power, Template: v.template, MemoryMiB: v.memory, VCPUs: v.vcpus,
		GuestLive: v.power == "running" && v.up >= bootRounds || v.power == "running" && w.Instant,
	}
	if v.tagged {
		seen.Run, seen.Attempt = v.run, v.attempt
	}
	if v.power == "running" {
		seen.Host = v.host
	}
	if v.busy == "start" || v.busy == "stop" {
		seen.PowerTask = v.task
	}
	tag := "" // the disks' marks, which this world gives and takes together with the VM's
	if v.tagged {
		tag = v.machine
	}
	for _, id := range v.disks {
		if d := w.findDisk(id); d != nil {
			seen.Disks = append(seen.Disks, orchestrator.Disk{UUID: d.uuid, Bytes: d.gib << 30, Machine: tag})
		}
	}
	vif := orchestrator.VIF{Device: "0", MAC: v.mac, Network: v.network}
	if host, ok := w.leaseOf(v); ok && seen.GuestLive {
		vif.Addresses = append(vif.Addresses, host)
	}
	seen.VIFs = []orchestrator.VIF{vif}
	return seen
}

// PendingClones implements orchestrator.Hypervisor.
func (w *World) PendingClones(context.Context, string) ([]string, error) {
	p, err := w.enter("PendingClones")
	if err != nil {
		return nil, err
	}
	var tasks []string
	for _, ref := range slices.Sorted(maps.Keys(w.tasks)) {
		if t := w.tasks[ref]; t.clones && t.left > 0 {
			tasks = append(tasks, ref)
		}
	}
	return tasks, w.pass(p, After)
}

// derivedMAC is the address of a clone's own VIF before it is shaped: xapi gives every clone a fresh mac_seed, and derives locally administered
// addresses from it.
func derivedMAC(uuid string) string {
	digits := uuid[len(uuid)-10:]
	return fmt.Sprintf("02:%s:%s:%s:%s:%s", digits[0:2], digits[2:4], digits[4:6], digits[6:8], digits[8:10])
}

// StartClone implements orchestrator.Hypervisor. Like xapi it shows the clone, as a template, when the task ends.
func (w *World) StartClone(ctx context.Context, spec orchestrator.MachineSpec) (string, error) {
	p, err := w.enter("StartClone")
	if err != nil {
		w.lost(err, func() { _, _ = w.StartClone(ctx, spec) })
		return "", err
	}
	for _, v := range w.vms {
		if v.busy == "clone" {
			return "", orchestrator.Errorf("StartClone", orchestrator.Exhausted, "another clone of the template is in flight")
		}
	}
	if _, ok := w.inventory[spec.Pool].Templates[spec.Image]; !ok {
		return "", orchestrator.Errorf("StartClone", orchestrator.Permanent, "pool %s has no template for %s", spec.Pool, spec.Image)
	}
	id := w.id()
	v := &vm{
		uuid: id, name: fmt.Sprintf("slipway %s %d", spec.Run, spec.Attempt), machine: spec.Machine, template: true, late: w.arriving, power: "halted", busy: "clone",
		mac: derivedMAC(id), guest: guest{jobs: map[string]*job{}, hostKey: templateKey},
	}
	w.vms = append(w.vms, v)
	ref := w.begin(func() {
		d := &disk{uuid: w.id(), pool: spec.Pool, gib: 4}
		w.disks = append(w.disks, d)
		v.disks, v.busy = []string{d.uuid}, ""
		w.Effects["clone"]++
	})
	w.tasks[ref].clones = true
	return ref, w.pass(p, After)
}

// ShapeMachine implements orchestrator.Hypervisor. Its parts are the tag with the provision, and the shape.
func (w *World) ShapeMachine(_ context.Context, spec orchestrator.MachineSpec, uuid string) (orchestrator.VM, error) {
	p, err := w.enter("ShapeMachine")
	if err != nil {
		return orchestrator.VM{}, err
	}
	v := w.find(uuid)
	switch {
	case v == nil:
		return orchestrator.VM{}, orchestrator.Errorf("ShapeMachine", orchestrator.Conflict, "VM %s is gone", uuid)
	case v.busy != "":
		return orchestrator.VM{}, orchestrator.Errorf("ShapeMachine", orchestrator.Transient, "VM %s is busy with %s", uuid, v.busy)
	}
	v.tagged, v.template, v.run, v.attempt = true, false, spec.Run, spec.Attempt
	if err := w.pass(p, During); err != nil {
		return orchestrator.VM{}, err
	}
	if w.find(uuid) == nil {
		return orchestrator.VM{}, orchestrator.Errorf("ShapeMachine", orchestrator.Conflict, "VM %s has gone meanwhile", uuid)
	}
	for _, other := range w.vms {
		if other != v && other.mac == spec.MAC {
			w.violate("MAC %s on two VMs", spec.MAC)
		}
	}
	v.memory, v.vcpus, v.mac, v.network = spec.Plan.MemoryMiB, spec.Plan.VCPUs, spec.MAC, spec.Network
	v.address = spec.Address
	for _, id := range v.disks {
		w.findDisk(id).gib = spec.Plan.DiskGiB
	}
	return w.observed(v), w.pass(p, After)
}

// StartMachine implements orchestrator.Hypervisor.
func (w *World) StartMachine(ctx context.Context, ref orchestrator.MachineRef, host string) (string, error) {
	p, err := w.enter("StartMachine")
	if err != nil {
		w.lost(err, func() { _, _ = w.StartMachine(ctx, ref, host) })
		return "", err
	}
	v := w.find(ref.VM)
	switch {
	case v == nil:
		return "", orchestrator.Errorf("StartMachine", orchestrator.Transient, "VM %s: %w", ref.VM, orchestrator.ErrNotFound)
	case v.busy != "":
		return "", orchestrator.Errorf("StartMachine", orchestrator.Transient, "VM %s is busy with %s", ref.VM, v.busy)
	case v.power == "running":
		return "", nil
	}
	room := w.room(ref.Pool, host, v.memory)
	if room == "" {
		return "", orchestrator.Errorf("StartMachine", orchestrator.Exhausted, "host %q has no room for %d MiB", host, v.memory)
	}
	v.busy, v.host = "start", room
	v.task = w.begin(func() {
		v.busy, v.power, v.up = "", "running", 0
		w.Effects["start"]++
	})
	return v.task, w.pass(p, After)
}

// room is the host if the memory fits there; of no host in particular the first that has room.
func (w *World) room(pool, host string, memory int64) string {
	for _, h := range w.inventory[pool].Hosts {
		used := int64(0)
		for _, v := range w.vms {
			if v.host == h.UUID && (v.power == "running" || v.busy == "start") {
				used += v.memory
			}
		}
		if (host == "" || host == h.UUID) && h.MemoryMiB-used >= memory {
			return h.UUID
		}
	}
	return ""
}

// FillHost takes a host's memory away from slipway's machines.
func (w *World) FillHost(pool, host string) {
	inv := w.inventory[pool]
	inv.Hosts = slices.Clone(inv.Hosts)
	for i := range inv.Hosts {
		if inv.Hosts[i].UUID == host {
			inv.Hosts[i].MemoryMiB = 0
		}
	}
	w.inventory[pool] = inv
}

// StopMachine implements orchestrator.Hypervisor.
func (w *World) StopMachine(ctx context.Context, ref orchestrator.MachineRef, hard bool) (string, error) {
	p, err := w.enter("StopMachine")
	if err != nil {
		w.lost(err, func() { _, _ = w.StopMachine(ctx, ref, hard) })
		return "", err
	}
	v := w.find(ref.VM)
	switch {
	case v == nil || v.power == "halted" && v.busy == "":
		return "", nil
	case v.busy != "":
		return "", orchestrator.Errorf("StopMachine", orchestrator.Transient, "VM %s is busy with %s", ref.VM, v.busy)
	case !hard && !w.observed(v).GuestLive:
		return "", orchestrator.Errorf("StopMachine", orchestrator.Permanent, "VM %s has no guest tools", ref.VM)
	}
	w.protect(v, "stop")
	v.busy = "stop"
	v.task = w.begin(func() {
		v.busy, v.power, v.host = "", "halted", ""
		for _, j := range v.guest.jobs {
			j.lost = j.lost || j.left > 0
		}
		w.Effects["stop"]++
	})
	return v.task, w.pass(p, After)
}

// DestroyMachine implements orchestrator.Hypervisor. Its parts are the VM and the disks. It finds nothing that it is not told of.
func (w *World) DestroyMachine(_ context.Context, ref orchestrator.MachineRef, disks []string) error {
	p, err := w.enter("DestroyMachine")
	if err != nil {
		return err
	}
	if v := w.find(ref.VM); v != nil {
		switch {
		case v.machine != ref.Machine:
			w.violate("machine %s destroys the VM of machine %s", ref.Machine, v.machine)
			return orchestrator.Errorf("DestroyMachine", orchestrator.Permanent, "VM %s is another machine's", ref.VM)
		case v.busy != "":
			return orchestrator.Errorf("DestroyMachine", orchestrator.Transient, "VM %s is busy with %s", ref.VM, v.busy)
		case v.power != "halted":
			return orchestrator.Errorf("DestroyMachine", orchestrator.Conflict, "VM %s is %s: stop it first", ref.VM, v.power)
		}
		w.protect(v, "destruction")
		w.destroy(v)
		w.Effects["destroy"]++
	}
	if err := w.pass(p, During); err != nil {
		return err
	}
	for _, d := range disks {
		w.destroyDisk(d)
	}
	return w.pass(p, After)
}

// NameMachine implements orchestrator.Hypervisor.
func (w *World) NameMachine(_ context.Context, ref orchestrator.MachineRef, name string) error {
	p, err := w.enter("NameMachine")
	if err != nil {
		return err
	}
	v := w.find(ref.VM)
	if v == nil {
		return orchestrator.Errorf("NameMachine", orchestrator.Transient, "VM %s: %w", ref.VM, orchestrator.ErrNotFound)
	}
	v.name = name
	return w.pass(p, After)
}

// ObserveTask implements orchestrator.Hypervisor.
func (w *World) ObserveTask(_ context.Context, _, ref string) (orchestrator.Task, error) {
	p, err := w.enter("ObserveTask")
	if err != nil {
		return orchestrator.Task{}, err
	}
	t, ok := w.tasks[ref]
	seen := orchestrator.Task{State: orchestrator.TaskSucceeded}
	switch {
	case !ok:
		seen.State = orchestrator.TaskGone
	case t.left > 0:
		seen.State = orchestrator.TaskPending
	case t.err != nil:
		seen.State, seen.Err = orchestrator.TaskFailed, t.err
	}
	return seen, w.pass(p, After)
}

// ForgetTask implements orchestrator.Hypervisor.
func (w *World) ForgetTask(_ context.Context, _, ref string) error {
	p, err := w.enter("ForgetTask")
	if err != nil {
		return err
	}
	if t := w.tasks[ref]; t != nil && t.left > 0 {
		return orchestrator.Errorf("ForgetTask", orchestrator.Transient, "task %s is under way", ref)
	}
	delete(w.tasks, ref)
	return w.pass(p, After)
}

// FailTasks makes every task that is under way end badly, without its effect. A failed clone leaves nothing.
func (w *World) FailTasks(why error) {
	for _, ref := range slices.Sorted(maps.Keys(w.tasks)) {
		if t := w.tasks[ref]; t.left > 0 {
			t.err, t.end, t.left = why, func() {}, 0
		}
	}
	for _, v := range slices.Clone(w.vms) {
		if v.busy == "clone" {
			w.destroy(v)
		}
		v.busy = ""
	}
}

// LoseTasks makes the pool forget its tasks, as a restart of its toolstack does; what was under way goes on by itself.
func (w *World) LoseTasks() {
	for _, ref := range slices.Sorted(maps.Keys(w.tasks)) {
		if t := w.tasks[ref]; t.left > 0 {
			w.tasks["lost "+strings.TrimPrefix(ref, "OpaqueRef:")] = t
		}
		delete(w.tasks, ref)
	}
}

// ReplaceMachine is somebody's work outside: the machine's VM, if there is one, becomes another with the same tag, halted.
func (w *World) ReplaceMachine(machine string) {
	for _, v := range w.of(machine) {
		v.uuid, v.power, v.up, v.guest.jobs = w.id(), "halted", 0, map[string]*job{}
	}
}
