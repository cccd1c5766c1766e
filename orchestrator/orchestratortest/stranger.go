package orchestratortest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"slipway/orchestrator"
)

var _ orchestrator.Importer = (*World)(nil)

// AddStranger puts a VM of somebody else's into a pool: it runs, with an address that it has from elsewhere. Nobody may ever stop or destroy
// it, whoever's tag it carries.
func (w *World) AddStranger(pool, name, mac string, address netip.Addr) (uuid string) {
	inv := w.inventory[pool]
	d := &disk{uuid: w.id(), pool: pool, gib: 8}
	w.disks = append(w.disks, d)
	v := &vm{
		uuid: w.id(), name: name, power: "running", host: inv.Hosts[0].UUID, memory: 1024, vcpus: 1, mac: mac, network: "network-" + pool[len("pool-"):],
		own: address, stranger: true, disks: []string{d.uuid}, up: 1000, guest: guest{jobs: map[string]*job{}, identity: "its own", hostKey: "its own"},
	}
	w.vms = append(w.vms, v)
	return v.uuid
}

// protect notes that somebody lays hands on a stranger.
func (w *World) protect(v *vm, what string) {
	if v.stranger {
		w.violate("%s of a stranger's VM", what)
	}
}

// FindStranger implements orchestrator.Importer.
func (w *World) FindStranger(_ context.Context, pool, uuid string) (orchestrator.Stranger, error) {
	p, err := w.enter("FindStranger")
	if err != nil {
		return orchestrator.Stranger{}, err
	}
	v := w.find(uuid)
	if v == nil {
		return orchestrator.Stranger{}, orchestrator.Errorf("FindStranger", orchestrator.Transient, "VM %s: %w", uuid, orchestrator.ErrNotFound)
	}
	s := orchestrator.Stranger{VM: w.observed(v), Busy: v.busy}
	for i := range s.Disks {
		s.Disks[i].SR = w.inventory[pool].SRs[0].UUID
	}
	if v.tagged {
		s.Tag = v.machine
	}
	return s, w.pass(p, After)
}

// ClaimMachine implements orchestrator.Importer. Its parts are the tag and the disks' marks, which are one in this world.
func (w *World) ClaimMachine(_ context.Context, ref orchestrator.MachineRef, run string, attempt int) (orchestrator.VM, error) {
	p, err := w.enter("ClaimMachine")
	if err != nil {
		return orchestrator.VM{}, err
	}
	v := w.find(ref.VM)
	switch {
	case v == nil:
		return orchestrator.VM{}, orchestrator.Errorf("ClaimMachine", orchestrator.Transient, "VM %s: %w", ref.VM, orchestrator.ErrNotFound)
	case v.tagged && v.machine != ref.Machine:
		return orchestrator.VM{}, orchestrator.Errorf("ClaimMachine", orchestrator.Permanent, "VM %s is machine %s's", ref.VM, v.machine)
	case !v.tagged:
		v.tagged, v.machine, v.run, v.attempt = true, ref.Machine, run, attempt
	}
	if err := w.pass(p, During); err != nil {
		return orchestrator.VM{}, err
	}
	return w.observed(v), w.pass(p, After)
}

// ReleaseMachine implements orchestrator.Importer.
func (w *World) ReleaseMachine(_ context.Context, ref orchestrator.MachineRef) error {
	p, err := w.enter("ReleaseMachine")
	if err != nil {
		return err
	}
	if v := w.find(ref.VM); v != nil && v.machine == ref.Machine {
		v.tagged, v.machine, v.run, v.attempt = false, "", "", 0
	}
	if err := w.pass(p, During); err != nil {
		return err
	}
	return w.pass(p, After)
}

// The stranger that an import of this site is about.
var (
	strangerMAC     = "02:16:3e:00:00:02"
	strangerPrivate = netip.MustParseAddr("10.0.0.11")
	strangerPublic  = netip.MustParseAddr("198.51.100.12")
)

// AddStranger puts one into pool-a and reserves what it has, as a scan does.
func (s *Site) AddStranger() {
	s.Helper()
	s.stranger = s.World.AddStranger("pool-a", "old-web", strangerMAC, strangerPrivate)
	var found []orchestrator.Sighting
	for value, sighting := range map[string]orchestrator.Sighting{
		strangerMAC:              {Kind: orchestrator.SightedMAC},
		strangerPrivate.String(): {Kind: orchestrator.SightedAddress, Role: "private"},
		strangerPublic.String():  {Kind: orchestrator.SightedAddress, Role: "public"},
	} {
		sighting.Scope, sighting.Value, sighting.Source, sighting.Object = "pool-a", value, "pool pool-a", "VM "+s.stranger
		found = append(found, sighting)
	}
	_, err := s.Store.Reserve(s.ctx(), "pool pool-a", found, false, "1000:op", "first day")
	s.must(err)
}

// importing is the order about the stranger, and the machine that it becomes.
func (s *Site) importing(o orchestrator.Order) (orchestrator.Order, orchestrator.Machine) {
	o = s.order(o)
	o.Type, o.Image, o.SSHKeys, o.Pool = orchestrator.OrderImport, "", nil, "pool-a"
	o.Import = orchestrator.Import{VM: s.stranger, MAC: strangerMAC, Private: strangerPrivate, Public: strangerPublic}
	m := s.planned(o)
	m.Import, m.State, m.HostKey, m.HostKeySecret = o.Import, "import_requested", "", nil
	return o, m
}

// removed checks that the imported machine has gone as any other.
func (s *Site) removed() {
	s.Helper()
	s.Replays()
	if m := s.Machine(); m.Presence != orchestrator.Absent || m.State != "removed" || s.World.find(s.stranger) != nil {
		s.Errorf("the machine is %s in %s, its VM is there: %t", m.Presence, m.State, s.World.find(s.stranger) != nil)
	}
}

// foreign is what the ledger keeps as somebody else's.
func (s *Site) foreign() []string {
	s.Helper()
	values, err := s.Store.Foreign(s.ctx())
	s.must(err)
	var lines []string
	for _, v := range values {
		lines = append(lines, fmt.Sprintf("foreign %s %s", v.Kind, v.Value))
	}
	slices.Sort(lines)
	return lines
}
