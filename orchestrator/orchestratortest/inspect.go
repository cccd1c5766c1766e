package orchestratortest

import (
	"encoding/json"
	"maps"
	"slices"
)

// SeenVM is a VM as somebody sees it who looks at the pool past all ports.
type SeenVM struct {
	UUID, Name, Machine string
	Tagged, Template    bool
	Late                bool // whoever asked for the clone had given up before the request arrived
	Power, Busy, MAC    string
	Disks               []string
	Jobs                int // that were started in its guest
}

// VMs are all that there are, the oldest first.
func (w *World) VMs() []SeenVM {
	seen := make([]SeenVM, len(w.vms))
	for i, v := range w.vms {
		seen[i] = SeenVM{
			UUID: v.uuid, Name: v.name, Machine: v.machine, Tagged: v.tagged, Template: v.template, Late: v.late, Power: v.power, Busy: v.busy, MAC: v.mac,
			Disks: v.disks, Jobs: len(v.guest.jobs),
		}
	}
	return seen
}

// StrayDisks belong to no VM.
func (w *World) StrayDisks() []string {
	var stray []string
	for _, d := range w.disks {
		if !slices.ContainsFunc(w.vms, func(v *vm) bool { return slices.Contains(v.disks, d.uuid) }) {
			stray = append(stray, d.uuid)
		}
	}
	return stray
}

// Carry makes a group's appliances carry these entries, by machine.
func (w *World) Carry(group string, entries map[string]json.RawMessage) { w.live[group] = entries }

// FailClones makes every clone that is under way end badly and leave nothing, as on a storage that becomes full; it tells how many.
func (w *World) FailClones(why error) (failed int) {
	for _, ref := range slices.Sorted(maps.Keys(w.tasks)) {
		if t := w.tasks[ref]; t.clones && t.left > 0 {
			t.err, t.end, t.left = why, func() {}, 0
			failed++
		}
	}
	w.vms = slices.DeleteFunc(w.vms, func(v *vm) bool { return v.busy == "clone" })
	return failed
}

// LoseJobs ends the jobs that run in guests without an exit code, as a restart of theirs does; it tells how many.
func (w *World) LoseJobs() (lost int) {
	for _, v := range w.vms {
		for _, j := range v.guest.jobs {
			if v.power == "running" && j.left > 0 && !j.lost {
				j.lost = true
				lost++
			}
		}
	}
	return lost
}
