package service

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/workers/names/rfc2136"
)

func TestNamesAreCompared(t *testing.T) {
	const zone, reverse = "vm.example.net", "100.51.198.in-addr.arpa"
	machine := func(id string, presence orchestrator.Presence) orchestrator.Machine {
		return orchestrator.Machine{ID: id, Presence: presence, DNS: orchestrator.NameRecord{Pool: "pool-a", Zone: zone, Name: id + "." + zone,
			Address: netip.MustParseAddr("198.51.100.10"), ReverseZone: reverse, Pointer: "10." + reverse}}
	}
	moved := machine("moved", orchestrator.Present)
	moved.DNS.Name = "elsewhere." + zone
	machines := []orchestrator.Machine{
		machine("good", orchestrator.Present), machine("gone", orchestrator.Absent), machine("lost", orchestrator.Present), machine("odd", orchestrator.Present), moved,
		{ID: "never", Presence: orchestrator.Present},
	}
	entry := func(id string, holds ...string) rfc2136.Registered {
		return rfc2136.Registered{Zone: zone, Name: id + "." + zone, Machine: id, Holds: holds}
	}
	got := compareNames("pool-a", zone, []rfc2136.Registered{
		entry("good", "198.51.100.10"), entry("gone", "198.51.100.10"), entry("odd", "203.0.113.1"), entry("stranger", "203.0.113.2"), entry("moved", "198.51.100.10"), entry("never", "203.0.113.3"),
	}, machines)
	slices.SortFunc(got, func(a, b api.Name) int { return cmp.Compare(a.Name, b.Name) })
	problems := map[string]string{}
	for _, n := range got {
		problems[n.Name] = n.Problem
	}
	if diff := gocmp.Diff(map[string]string{
		"good." + zone:      "",
		"gone." + zone:      "its machine is gone",
		"lost." + zone:      "is recorded and not there, or has lost its mark",
		"odd." + zone:       "should hold 198.51.100.10",
		"stranger." + zone:  "carries the mark of a machine that is not here",
		"moved." + zone:     `its machine is "elsewhere.vm.example.net" in the DNS`,
		"elsewhere." + zone: "is recorded and not there, or has lost its mark",
		"never." + zone:     `its machine is "" in the DNS`,
	}, problems); diff != "" {
		t.Error(diff)
	}
	pointers := compareNames("pool-a", reverse, []rfc2136.Registered{{Zone: reverse, Name: "10." + reverse, Machine: "good", Holds: []string{"good." + zone}}}, machines[:1])
	if len(pointers) != 1 || pointers[0].Problem != "" {
		t.Errorf("%+v", pointers)
	}
}
