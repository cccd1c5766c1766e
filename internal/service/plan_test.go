package service

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/api"
	"slipway/orchestrator"
)

func TestRedactConsole(t *testing.T) {
	const vm = "  VM 21001 11111111-2222-3333-4444-000000000001"
	for line, want := range map[string]string{
		vm + " ed1a6fce37775acd":           vm + " [redacted]",
		`  MANAGER "xvp" 2a0e3d7a60a60b32`: "  MANAGER [redacted]",
		"  MANAGER":                        "  MANAGER [redacted]",
		`POOL "slipway p1"`:                `POOL "slipway p1"`,
		"  HOST 10.0.0.1 xen1":             "  HOST 10.0.0.1 xen1",
		"":                                 "",
		"# Written by slipway, as a whole with every change: what is edited here is lost.": "# Written by slipway, as a whole with every change: what is edited here is lost.",
		"# the password is hunter2":      "[redacted]",
		"  VM 21001 ed1a6fce37775acd":    "[redacted]",
		"ed1a6fce37775acd":               "[redacted]",
		"  OTHERHOST ed1a6fce37775acd":   "[redacted]",
		"  VM 999999 " + vm[11:] + " ab": "[redacted]",
	} {
		if got, secret := redactConsole(line); got != want || secret != (got != line) && line != "  MANAGER" {
			t.Errorf("%q is shown as %q (secret: %t), want %q", line, got, secret, want)
		}
	}
}

func TestPoolFindings(t *testing.T) {
	machine := func(presence orchestrator.Presence, pool string) orchestrator.Machine {
		return orchestrator.Machine{VM: "vm", Presence: presence, Plan: orchestrator.Plan{VCPUs: 2, MemoryMiB: 1024},
			Placement: orchestrator.Placement{Pool: pool, MAC: "02:16:3e:00:00:01"}}
	}
	good := taggedVM{uuid: "vm", machine: "m", memoryMiB: 1024, vcpus: 2, macs: []string{"02:16:3e:00:00:01"}}
	with := func(change func(*taggedVM)) tagged {
		vm := good
		change(&vm)
		return tagged{vms: []taggedVM{vm}}
	}
	finding := func(kind, object, problem string) []api.PoolFinding {
		return []api.PoolFinding{{Pool: "a", Machine: "m", Object: object, Problem: problem, Kind: kind}}
	}
	for name, tc := range map[string]struct {
		there   tagged
		machine *orchestrator.Machine
		busy    bool
		want    []api.PoolFinding
	}{
		"as it should be": {tagged{vms: []taggedVM{good}}, new(machine(orchestrator.Present, "a")), false, nil},
		"nobody's":        {tagged{vms: []taggedVM{good}}, nil, false, finding("newer", "VM vm", "carries the tag of a machine that the database does not know")},
		"under way":       {tagged{vms: []taggedVM{good}}, nil, true, nil},
		"gone":            {tagged{vms: []taggedVM{good}}, new(machine(orchestrator.Absent, "a")), false, finding("leak", "VM vm", "is there, and its machine is gone by the database")},
		"another pool":    {tagged{vms: []taggedVM{good}}, new(machine(orchestrator.Present, "b")), false, finding("drift", "VM vm", `is in this pool, and its machine is placed in "b"`)},
		"missing":         {tagged{}, new(machine(orchestrator.Present, "a")), false, finding("missing", "VM vm", "should be there and is not")},
		"never made":      {tagged{}, new(machine(orchestrator.Planned, "a")), false, nil},
		"twice":           {tagged{vms: []taggedVM{good, {uuid: "vm2", machine: "m"}}}, new(machine(orchestrator.Present, "a")), false, finding("leak", "VM vm2", "is a second VM of its machine, beside vm")},
		"another VM":      {with(func(v *taggedVM) { v.uuid = "other" }), new(machine(orchestrator.Present, "a")), false, finding("drift", "VM other", "is not the VM vm that the database has")},
		"memory":          {with(func(v *taggedVM) { v.memoryMiB = 512 }), new(machine(orchestrator.Present, "a")), false, finding("drift", "VM vm", "has 512 MiB and 2 vCPUs; its plan has 1024 and 2")},
		"a second interface": {with(func(v *taggedVM) { v.macs = append(v.macs, "x") }), new(machine(orchestrator.Present, "a")), false,
			finding("drift", "VM vm", "has interfaces [02:16:3e:00:00:01 x]; it should have 02:16:3e:00:00:01 alone")},
		"somebody's disk": {with(func(v *taggedVM) { v.others = []string{"d"} }), new(machine(orchestrator.Present, "a")), false,
			finding("drift", "VM vm", "has disk d, which is not the machine's: it stays when the machine is removed")},
		"a snapshot": {tagged{vms: []taggedVM{good}, snapshots: []snapshot{{uuid: "s", machine: "m"}}}, new(machine(orchestrator.Present, "a")), false, nil},
		"a snapshot of what is gone": {tagged{snapshots: []snapshot{{uuid: "s", machine: "m"}, {"d", "m", true}}}, new(machine(orchestrator.Absent, "a")), false,
			append(finding("leak", "snapshot s", "was made of a machine that is gone, and has its data"), finding("leak", "disk snapshot d", "was made of a machine that is gone, and has its data")...)},
		"a disk": {tagged{disks: []taggedDisk{{"d", "m"}}}, nil, false, finding("newer", "disk d", "hangs at no VM; its machine is not known to the database")},
	} {
		t.Run(name, func(t *testing.T) {
			machines := map[string]orchestrator.Machine{}
			if tc.machine != nil {
				machines["m"] = *tc.machine
			}
			got := tc.there.compare("a", machines, map[string]bool{"m": tc.busy})
			for i := range got {
				if got[i].Repair == "" {
					t.Errorf("no command for %+v", got[i])
				}
				got[i].Repair = ""
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
