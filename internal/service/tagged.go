package service

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/workers/intake/message"
)

// poolFindings compares what carries our tag in the pools with the machines. A machine whose run is under way is left out: it is not
// where it will be. A pool that does not answer is a finding itself.
func (s *Service) poolFindings(ctx context.Context, machines map[string]orchestrator.Machine) ([]api.PoolFinding, error) {
	active, err := s.Store.Runs(ctx, orchestrator.RunFilter{Limit: 1 << 20, Status: []orchestrator.Status{orchestrator.StatusReady, orchestrator.StatusRunning,
		orchestrator.StatusWaiting, orchestrator.StatusParked, orchestrator.StatusCanceling}})
	if err != nil {
		return nil, err
	}
	busy := map[string]bool{}
	for _, run := range active {
		busy[run.Machine] = true
	}
	found := make([][]api.PoolFinding, len(s.Estate.Pools))
	var all sync.WaitGroup
	for i, p := range s.Estate.Pools {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			tagged, err := s.readTagged(ctx, p.ID)
			if err != nil {
				found[i] = []api.PoolFinding{{Pool: p.ID, Problem: err.Error()}}
				return
			}
			found[i] = tagged.compare(p.ID, machines, busy)
		})
	}
	all.Wait()
	return slices.Concat(found...), nil
}

// tagged is what of a pool carries our tag.
type tagged struct {
	vms       []taggedVM
	disks     []taggedDisk // that no VM has
	snapshots []snapshot
}

type taggedVM struct {
	uuid, machine string
	name, power   string // power in lower case
	template      bool
	clone         bool // never shaped: its name alone says whose it is
	memoryMiB     int64
	vcpus         int64
	macs          []string // in the order of the devices
	others        []string // disks that do not carry the machine's tag
	host          string   // that it runs on; "" when it does not
}

type taggedDisk struct{ uuid, machine string }

// snapshot is of a machine's VM, or of its disk alone: somebody has made it, and it has a copy of the tag.
type snapshot struct {
	uuid, machine string
	disk          bool
}

func (s *Service) readTagged(ctx context.Context, pool string) (tagged, error) {
	client, ok := s.Xapi.Client(pool)
	if !ok {
		return tagged{}, fmt.Errorf("pool %s is not configured", pool)
	}
	var vms map[string]struct {
		UUID     string            `json:"uuid"`
		Name     string            `json:"name_label"`
		Power    string            `json:"power_state"`
		Template bool              `json:"is_a_template"`
		Snapshot bool              `json:"is_a_snapshot"`
		Other    map[string]string `json:"other_config"`
		VIFs     []string          `json:"VIFs"`
		VBDs     []string          `json:"VBDs"`
		Memory   int64             `json:"memory_static_max"`
		VCPUs    int64             `json:"VCPUs_max"`
		Host     string            `json:"resident_on"`
	}
	var hosts map[string]struct {
		UUID string `json:"uuid"`
	}
	var vifs map[string]struct {
		MAC    string `json:"MAC"`
		Device string `json:"device"`
	}
	var vdis map[string]struct {
		UUID     string            `json:"uuid"`
		Snapshot bool              `json:"is_a_snapshot"`
		VBDs     []string          `json:"VBDs"`
		Other    map[string]string `json:"other_config"`
	}
	var vbds map[string]struct {
		Type string `json:"type"`
		VDI  string `json:"VDI"`
	}
	for _, class := range []struct {
		name string
		into any
	}{{"VM", &vms}, {"VIF", &vifs}, {"VBD", &vbds}, {"VDI", &vdis}, {"host", &hosts}} {
		if err := client.Call(ctx, class.name+".get_all_records", class.into); err != nil {
			return tagged{}, err
		}
	}
	// A tag beside another object's uuid was copied along with a clone or an export: it is not ours.
	own := func(uuid string, other map[string]string) string {
		if self, ok := other["slipway_self"]; ok && self != uuid {
			return ""
		}
		return other["slipway_machine"]
	}
	var out tagged
	for _, vm := range vms {
		machine, clone := own(vm.UUID, vm.Other), false
		if m := cloneName.FindStringSubmatch(vm.Name); machine == "" && m != nil {
			machine, clone = m[1], true
		}
		if of := vm.Other["slipway_machine"]; vm.Snapshot && of != "" {
			out.snapshots = append(out.snapshots, snapshot{uuid: vm.UUID, machine: of})
		}
		if vm.Snapshot || machine == "" {
			continue
		}
		slices.SortFunc(vm.VIFs, func(a, b string) int { return cmp.Compare(vifs[a].Device, vifs[b].Device) })
		t := taggedVM{uuid: vm.UUID, machine: machine, name: vm.Name, power: strings.ToLower(vm.Power), template: vm.Template, clone: clone, memoryMiB: vm.Memory >> 20, vcpus: vm.VCPUs,
			host: hosts[vm.Host].UUID}
		for _, ref := range vm.VIFs {
			t.macs = append(t.macs, strings.ToLower(vifs[ref].MAC))
		}
		for _, ref := range vm.VBDs {
			if vdi, ok := vdis[vbds[ref].VDI]; ok && vbds[ref].Type == "Disk" && own(vdi.UUID, vdi.Other) != machine {
				t.others = append(t.others, vdi.UUID)
			}
		}
		slices.Sort(t.others)
		out.vms = append(out.vms, t)
	}
	for _, vdi := range vdis {
		if machine := own(vdi.UUID, vdi.Other); machine != "" && !vdi.Snapshot && len(vdi.VBDs) == 0 {
			out.disks = append(out.disks, taggedDisk{vdi.UUID, machine})
		}
		if of := vdi.Other["slipway_machine"]; vdi.Snapshot && of != "" && len(vdi.VBDs) == 0 { // that of a VM's snapshot goes with it
			out.snapshots = append(out.snapshots, snapshot{vdi.UUID, of, true})
		}
	}
	slices.SortFunc(out.vms, func(a, b taggedVM) int { return cmp.Compare(a.uuid, b.uuid) })
	slices.SortFunc(out.disks, func(a, b taggedDisk) int { return cmp.Compare(a.uuid, b.uuid) })
	slices.SortFunc(out.snapshots, func(a, b snapshot) int { return cmp.Compare(a.uuid, b.uuid) })
	return out, nil
}

// cloneName is the name of a clone that has no tag yet: machine, run and attempt.
var cloneName = regexp.MustCompile(`^slipway-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-.+-[0-9]+$`)

// compare is pure: what is there, what should be, a finding for each difference.
func (t tagged) compare(pool string, machines map[string]orchestrator.Machine, busy map[string]bool) []api.PoolFinding {
	var found []api.PoolFinding
	say := func(f api.PoolFinding, format string, args ...any) {
		f.Pool, f.Problem = pool, fmt.Sprintf(format, args...)
		found = append(found, f)
	}
	there := map[string]bool{} // the VMs of this pool
	for _, vm := range t.vms {
		there[vm.uuid] = true
	}
	seen := map[string]string{} // machine to the first VM of it
	for _, vm := range t.vms {
		m, known := machines[vm.machine]
		first, twice := seen[vm.machine]
		// A sweep removes what is halted, of a machine that we made and whose own VM is there or gone for good.
		stray := api.PoolFinding{Machine: vm.machine, Object: "VM " + vm.uuid, Kind: api.FindingLeak, Repair: "xe vm-shutdown uuid=" + vm.uuid + " && " + auditRepair}
		if vm.power == "halted" {
			stray.Repair, stray.Safe = auditRepair, m.Import.IsZero() && (m.Presence == orchestrator.Absent || there[m.VM])
		}
		if !stray.Safe && vm.power == "halted" {
			stray.Repair = "xe vm-param-list uuid=" + vm.uuid + " # and, when nobody needs it: xe vm-uninstall uuid=" + vm.uuid
		}
		drift := api.PoolFinding{Machine: vm.machine, Object: "VM " + vm.uuid, Kind: api.FindingDrift, Repair: "slipway explain " + vm.machine}
		switch {
		case busy[vm.machine]:
		case !known && vm.clone:
			say(api.PoolFinding{Machine: vm.machine, Object: "VM " + vm.uuid, Kind: api.FindingNewer, Repair: "xe vm-uninstall uuid=" + vm.uuid},
				"is a clone that was never finished, of a machine that the database does not know")
		case !known:
			say(api.PoolFinding{Machine: vm.machine, Object: "VM " + vm.uuid, Kind: api.FindingNewer, Repair: "slipway adopt " + vm.machine},
				"carries the tag of a machine that the database does not know")
		case m.Presence == orchestrator.Absent:
			say(stray, "is there, and its machine is gone by the database")
		case m.Placement.Pool != pool:
			say(drift, "is in this pool, and its machine is placed in %q", m.Placement.Pool)
		case twice && vm.uuid == m.VM: // the other one is the stray
			stray.Object, stray.Safe = "VM "+first, false
			stray.Repair = "xe vm-param-list uuid=" + first
			say(stray, "is a second VM of its machine, beside %s", vm.uuid)
		case twice:
			say(stray, "is a second VM of its machine, beside %s", first)
		default:
			vm.differ(m, drift, say)
		}
		if !twice {
			seen[vm.machine] = vm.uuid
		}
	}
	for _, d := range t.disks {
		m, known := machines[d.machine]
		if busy[d.machine] {
			continue
		}
		f := api.PoolFinding{Machine: d.machine, Object: "disk " + d.uuid, Kind: api.FindingLeak, Repair: "xe vdi-destroy uuid=" + d.uuid}
		switch {
		case !known:
			f.Kind = api.FindingNewer
			say(f, "hangs at no VM; its machine is not known to the database")
		default:
			if m.Presence == orchestrator.Absent && m.Import.IsZero() {
				f.Repair, f.Safe = auditRepair, true
			}
			say(f, "hangs at no VM; its machine is %s", m.Presence)
		}
	}
	for _, s := range t.snapshots {
		if m, known := machines[s.machine]; !known || m.Presence != orchestrator.Absent || busy[s.machine] {
			continue
		}
		f := api.PoolFinding{Machine: s.machine, Object: "snapshot " + s.uuid, Kind: api.FindingLeak, Repair: "xe snapshot-uninstall uuid=" + s.uuid + " # when nobody needs it"}
		if s.disk {
			f.Object, f.Repair = "disk snapshot "+s.uuid, "xe vdi-destroy uuid="+s.uuid+" # when nobody needs it"
		}
		say(f, "was made of a machine that is gone, and has its data")
	}
	for _, id := range slices.Sorted(maps.Keys(machines)) {
		if m := machines[id]; m.Presence == orchestrator.Present && m.Placement.Pool == pool && !busy[id] && seen[id] == "" {
			say(api.PoolFinding{Machine: id, Object: "VM " + m.VM, Kind: api.FindingMissing, Repair: uninstallOrder(m)}, "should be there and is not")
		}
	}
	return found
}

// differ compares a VM with its machine.
func (vm taggedVM) differ(m orchestrator.Machine, drift api.PoolFinding, say func(api.PoolFinding, string, ...any)) {
	if m.VM != "" && m.VM != vm.uuid {
		say(drift, "is not the VM %s that the database has", m.VM)
	}
	if vm.template {
		say(drift, "is a template still")
	}
	if len(vm.macs) != 1 || vm.macs[0] != m.Placement.MAC {
		f := drift
		f.Repair = "xe vif-list vm-uuid=" + vm.uuid + " params=uuid,device,MAC # and make it one with " + m.Placement.MAC
		say(f, "has interfaces %v; it should have %s alone", vm.macs, m.Placement.MAC)
	}
	for _, disk := range vm.others {
		f := drift
		f.Repair = "xe vbd-list vdi-uuid=" + disk + " # and, when it should not be there: xe vbd-unplug and xe vbd-destroy of that VBD"
		say(f, "has disk %s, which is not the machine's: it stays when the machine is removed", disk)
	}
	if vm.host != "" && vm.host != m.Placement.Host {
		f := drift
		f.Repair = "slipway pool # it is moved when the pool is read the next time, within a minute or two"
		say(f, "runs on host %s; its memory is counted on host %s", vm.host, orElse(m.Placement.Host, "none"))
	}
	if vm.memoryMiB != int64(m.Plan.MemoryMiB) || vm.vcpus != int64(m.Plan.VCPUs) {
		f := drift
		f.Repair = fmt.Sprintf("xe vm-memory-set uuid=%[1]s memory=%[2]dMiB && xe vm-param-set uuid=%[1]s VCPUs-max=%[3]d VCPUs-at-startup=%[3]d # while it is shut down",
			vm.uuid, m.Plan.MemoryMiB, m.Plan.VCPUs)
		say(f, "has %d MiB and %d vCPUs; its plan has %d and %d", vm.memoryMiB, vm.vcpus, m.Plan.MemoryMiB, m.Plan.VCPUs)
	}
}

// auditRepair is the command that puts right what is safe.
const auditRepair = "slipway audit --repair --yes --reason WHY"

// uninstallOrder is the command that takes away what is left of a machine; said twice, it is one order.
func uninstallOrder(m orchestrator.Machine) string {
	encoded, err := message.EncodeOrder(orchestrator.Order{Source: "slipway-audit", ID: "gone-" + m.ID, Type: orchestrator.OrderUninstall, Tenant: m.Tenant, Machine: m.ID})
	if err != nil {
		return "slipway explain " + m.ID
	}
	return fmt.Sprintf("echo '%s' | slipway order -", encoded.Body)
}
