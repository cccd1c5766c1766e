package simulation

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"slipway/orchestrator"
	"slipway/workers/hypervisor"
)

// look is what is looked at after every event: nothing that anybody has may have two owners, in the world and on each appliance.
func (s *simulation) look() {
	for _, v := range s.world.Violations {
		s.violated("duplicated", "%s", v)
	}
	s.world.Violations = nil
	macs, tagged := map[string]string{}, map[string]string{}
	for _, v := range s.world.VMs() {
		if v.Template || !v.Tagged {
			continue
		}
		if other, ok := macs[v.MAC]; ok {
			s.violated("duplicated", "MAC %s is that of VM %s and of VM %s", v.MAC, other, v.UUID)
		}
		if other, ok := tagged[v.Machine]; ok && v.Power == "running" {
			s.violated("duplicated", "VM %s and VM %s of machine %s, and one runs", other, v.UUID, v.Machine)
		}
		macs[v.MAC], tagged[v.Machine] = v.UUID, v.UUID
	}
	for _, a := range s.agents {
		s.lookAtAgent(a)
	}
}

// lookAtAgent checks that no address, MAC or port has two owners on one appliance.
func (s *simulation) lookAtAgent(a *agent) {
	if !a.changed {
		return
	}
	a.changed = false
	owners := map[string]string{}
	for _, machine := range sortedKeys(a.running) {
		for _, thing := range things(a.running[machine]) {
			if other, ok := owners[thing]; ok {
				s.violated("duplicated", "%s: %s is that of machine %s and of machine %s", a.name, thing, other, machine)
			}
			owners[thing] = machine
		}
	}
}

// things are what an entry takes for its machine alone, whichever unit it is for: every field by these names.
func things(body json.RawMessage) []string {
	var e struct {
		MAC, Address, Private, Public string
		Port                          uint16
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return []string{"unreadable"}
	}
	var out []string
	for name, value := range map[string]string{"mac": e.MAC, "address": e.Address, "private": e.Private, "public": e.Public} {
		if value != "" {
			out = append(out, name+" "+value)
		}
	}
	if e.Port != 0 {
		out = append(out, fmt.Sprint("port ", e.Port))
	}
	slices.Sort(out)
	return out
}

// mustBeJournalled checks that an effect that is about to be made has a row in the journal.
func (s *simulation) mustBeJournalled(effect string) {
	if s.current == nil {
		return
	}
	w := s.current.walking
	if w.ordered {
		return
	}
	attempts, err := s.store.Attempts(context.Background(), w.machine)
	if err != nil {
		s.fail("store", "%v", err)
		return
	}
	if !slices.ContainsFunc(attempts, func(a orchestrator.Attempt) bool {
		return a.Run == w.run && a.Step == w.step && a.Number == w.attempt && a.Undo == w.undo
	}) {
		s.violated("journal", "%s of machine %s for step %s, attempt %d of run %s, which is in no journal", effect, w.machine, w.step, w.attempt, w.run)
	}
}

// lookAtMachines compares what the store says of machines with what there is, whenever a commit has changed one.
func (s *simulation) lookAtMachines() {
	machines, err := s.store.Machines(context.Background())
	if err != nil {
		s.fail("store", "%v", err)
		return
	}
	names := map[string]string{}
	for _, m := range machines {
		before := s.machines[m.ID]
		s.machines[m.ID] = m
		if m.Presence != orchestrator.Absent {
			key := m.Tenant + "/" + m.Name
			if other, ok := names[key]; ok {
				s.violated("duplicated", "name %s is that of machine %s and of machine %s", key, other, m.ID)
			}
			names[key] = m.ID
			continue
		}
		if before.Presence != orchestrator.Absent {
			s.mustBeGone(m, before.Placement)
		}
	}
	s.lookAtLedger(machines)
}

// mustBeGone checks a machine at the moment at which it is recorded absent. A clone whose request arrived late, perhaps between the step's look and
// its commit, is a sweep's.
func (s *simulation) mustBeGone(m orchestrator.Machine, p orchestrator.Placement) {
	for _, v := range s.world.VMs() {
		if v.Machine == m.ID && !(v.Late && v.Busy == "clone") {
			s.violated("absent", "machine %s is recorded absent, and VM %s (%s, busy %q) is there", m.ID, v.UUID, v.Power, v.Busy)
		}
	}
	for _, group := range []string{p.DHCP, p.Firewall, p.Console} {
		if carries := s.carriers(group, m.ID); group != "" && carries == 0 {
			continue
		} else if group != "" && carries >= s.membersOf(group) {
			s.violated("absent", "machine %s is recorded absent, and every appliance of %s carries it", m.ID, group)
		}
	}
}

func (s *simulation) carriers(group, machine string) (n int) {
	for _, a := range s.agents {
		if a.group == group && a.running[machine] != nil {
			n++
		}
	}
	return n
}

func (s *simulation) membersOf(group string) (n int) {
	for _, a := range s.agents {
		if a.group == group {
			n++
		}
	}
	return n
}

// lookAtLedger checks that what is promised is what machines have, each thing once.
func (s *simulation) lookAtLedger(machines []orchestrator.Machine) {
	ledger, err := s.store.Ledger(context.Background())
	if err != nil {
		s.fail("store", "%v", err)
		return
	}
	addresses, err := s.store.Addresses(context.Background())
	if err != nil {
		s.fail("store", "%v", err)
		return
	}
	memory, bytes, held := map[string]int64{}, map[string]int64{}, map[string]string{}
	for _, m := range machines {
		p := m.Placement
		if p.IsZero() {
			continue
		}
		memory[p.Host] += m.Plan.MemoryMiB
		bytes[p.SR] += m.Plan.DiskGiB << 30
		held[p.Private.String()] = m.ID
		if p.Public.IsValid() {
			held[p.Public.String()] = m.ID
		}
		if !ledger.MACs[p.MAC] || !ledger.Ports[p.Console][p.ConsolePort] {
			s.violated("ledger", "machine %s has MAC %s and port %d, and the ledger has them free", m.ID, p.MAC, p.ConsolePort)
		}
	}
	for _, id := range sortedKeys(ledger.Pools) {
		for _, h := range ledger.Pools[id].Hosts {
			if h.ReservedMiB != memory[h.UUID] || h.ReservedMiB > h.MemoryMiB {
				s.violated("ledger", "host %s: %d MiB of %d are promised, machines have %d", h.UUID, h.ReservedMiB, h.MemoryMiB, memory[h.UUID])
			}
		}
		for _, r := range ledger.Pools[id].SRs {
			if r.ReservedBytes != bytes[r.UUID] || r.ReservedBytes > r.Bytes {
				s.violated("ledger", "storage %s: %d bytes of %d are promised, machines have %d", r.UUID, r.ReservedBytes, r.Bytes, bytes[r.UUID])
			}
		}
	}
	for _, a := range addresses {
		switch owner := held[a.Address.String()]; a.State {
		case orchestrator.AddressReserved, orchestrator.AddressBound:
			if owner != a.Machine {
				s.violated("ledger", "address %s is held for machine %q, and machine %q has it", a.Address, a.Machine, owner)
			}
			delete(held, a.Address.String())
		default:
			if owner != "" {
				s.violated("ledger", "address %s is %s, and machine %s has it", a.Address, a.State, owner)
			}
		}
	}
	for _, address := range sortedKeys(held) {
		s.violated("ledger", "machine %s has address %s, of which the store knows nothing", held[address], address)
	}
	for _, pool := range s.estate.Pools {
		s.balance(ledger, pool.ID+" private", pool.Private, addresses)
		if pool.Strategy == orchestrator.NAT {
			s.balance(ledger, pool.ID+" public", pool.Public, addresses)
		}
	}
}

// balance checks that total = free + promised + held + resting + foreign.
func (s *simulation) balance(ledger *orchestrator.Ledger, what string, net orchestrator.Subnet, addresses []orchestrator.AddressRecord) {
	total, taken := (&orchestrator.Ledger{}).Free(net), 0
	for _, a := range addresses {
		if net.Gives(a.Address) {
			taken++
		}
	}
	if free := ledger.Free(net); free+taken != total {
		s.violated("ledger", "%s: %d addresses, of which %d are free and %d are not", what, total, free, taken)
	}
}

// sweep is the last look for what came too late: a hypervisor has no fences, and a request may arrive when nobody waits for it any more.
func (s *simulation) sweep() {
	for _, pool := range s.estate.Pools {
		n, err := hypervisor.Sweep(context.Background(), s.store, s.world, pool.ID)
		s.result.Late += n
		if n > 0 || err != nil {
			s.trace("the last sweep of %s removes %d strays: %v", pool.ID, n, err)
		}
	}
}

// judge looks at the end: every run has ended, everything that is there belongs to a machine, and every machine that is there has
// everything once.
func (s *simulation) judge() {
	if len(s.result.Problems) > 0 {
		return
	}
	for _, r := range s.runs() {
		s.violated("stuck", "run %s of %s stands in %s at %s, %s: %s", r.ID, r.Process, r.State, r.Step, r.Status, r.Reason)
	}
	for _, d := range s.deliveries {
		if !d.known {
			s.violated("stuck", "the panel has heard nothing of %s", d.id())
		}
	}
	if s.unpublished() {
		s.violated("stuck", "there are events that nobody publishes")
	}
	if n := s.world.Pending(); n > 0 {
		s.violated("stuck", "%d tasks are under way", n)
	}
	s.judgeWorld()
	s.judgeAppliances()
	s.judgeEvents()
	s.lookAtMachines()
	s.count()
}

func (s *simulation) judgeWorld() {
	seen := map[string]int{}
	for _, v := range s.world.VMs() {
		m, ok := s.machines[v.Machine]
		switch {
		case !ok || m.Presence == orchestrator.Absent:
			s.violated("leaked", "VM %s (%q, %s) of machine %s, which is %s", v.UUID, v.Name, v.Power, v.Machine, m.Presence)
		case m.VM != v.UUID:
			s.violated("leaked", "VM %s of machine %s, which knows VM %q", v.UUID, v.Machine, m.VM)
		case m.State == "production_ready" && (v.Power != "running" || v.Name != m.Name || v.MAC != m.Placement.MAC):
			s.violated("wrong", "VM %s of machine %s, which is ready: %s, named %q, MAC %s", v.UUID, v.Machine, v.Power, v.Name, v.MAC)
		}
		if seen[v.Machine]++; seen[v.Machine] > 1 {
			s.violated("duplicated", "VM %s is a second one of machine %s", v.UUID, v.Machine)
		}
	}
	for _, id := range sortedKeys(s.machines) {
		if m := s.machines[id]; m.VM != "" && seen[id] == 0 {
			s.violated("wrong", "machine %s knows VM %s, which is not there", id, m.VM)
		}
	}
	for _, d := range s.world.StrayDisks() {
		s.violated("leaked", "disk %s belongs to no VM", d)
	}
}

func (s *simulation) judgeAppliances() {
	for _, a := range s.agents {
		g, entries, err := s.store.Entries(context.Background(), a.group)
		if err != nil {
			s.fail("store", "%v", err)
			return
		}
		if a.journal != nil || a.live.generation < g.Generation && g.Generation > 0 {
			s.violated("stuck", "%s is at generation %d of %d, a swap is interrupted: %t", a.name, a.live.generation, g.Generation, a.journal != nil)
		}
		want := contents{}
		for _, e := range entries {
			if m := s.machines[e.Machine]; m.Presence == orchestrator.Absent {
				s.violated("leaked", "group %s has an entry of machine %s, which is absent", a.group, e.Machine)
			}
			if !e.Removed && e.Bad == "" {
				want[e.Machine] = e.Body
			}
		}
		for _, machine := range sortedKeys(a.running) {
			if want[machine] == nil {
				s.violated("leaked", "%s carries machine %s, which its group does not have", a.name, machine)
			} else if string(want[machine]) != string(a.running[machine]) {
				s.violated("wrong", "%s carries %s of machine %s, which should be %s", a.name, a.running[machine], machine, want[machine])
			}
			delete(want, machine)
		}
		for _, machine := range sortedKeys(want) {
			s.violated("wrong", "%s does not carry machine %s", a.name, machine)
		}
	}
}

// judgeEvents checks that the panel has heard of everything that was committed, in its order.
func (s *simulation) judgeEvents() {
	for _, id := range sortedKeys(s.saved) {
		var heard []orchestrator.Event
		for _, e := range s.panel.heard[id] {
			switch e.Type {
			case orchestrator.EventAccepted, orchestrator.EventConflict, orchestrator.EventRefused:
			default:
				heard = append(heard, e)
			}
		}
		if !slices.EqualFunc(heard, s.saved[id], func(a, b orchestrator.Event) bool { return a.Type == b.Type && string(a.Data) == string(b.Data) }) {
			s.violated("events", "the panel has heard %d events of machine %s, %d were committed, or in another order", len(heard), id, len(s.saved[id]))
		}
	}
}

// count writes the end into the history.
func (s *simulation) count() {
	runs, err := s.store.Runs(context.Background(), orchestrator.RunFilter{})
	if err != nil {
		s.fail("store", "%v", err)
		return
	}
	slices.SortFunc(runs, func(a, b orchestrator.RunView) int { return compare(a.ID, b.ID) })
	for _, r := range runs {
		s.result.Runs[r.Status]++
		s.trace("end: run %s of %s %s %s, attempt %d, fence %d", r.ID, r.Machine, r.State, r.Status, r.Attempt, r.Fence)
	}
	for _, id := range sortedKeys(s.machines) {
		attempts, err := s.store.Attempts(context.Background(), id)
		if err != nil {
			s.fail("store", "%v", err)
			return
		}
		for _, a := range attempts {
			s.trace("end: %d run %s %s #%d undo %t %d-%d %s %s %q by %s %v", a.ID, a.Run, a.Step, a.Number, a.Undo, a.Started.UnixMicro(), a.Ended.UnixMicro(), a.Outcome, a.Kind, a.Message, a.Actor, a.Handles)
		}
		s.trace("end: machine %+v", s.machines[id].Placement)
	}
	for _, line := range s.world.Describe() {
		s.trace("end: %s", line)
	}
}
