package service

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/workers/names/rfc2136"
)

// getNames compares the zones with the machines.
func (s *Service) getNames(r *http.Request) (any, error) {
	machines, err := s.Store.Machines(r.Context())
	if err != nil {
		return nil, err
	}
	all := []api.Name{}
	for _, p := range s.Estate.Pools {
		if p.DNS.Zone == "" {
			continue
		}
		zones := []string{p.DNS.Zone}
		for _, z := range p.DNS.Reverse {
			if !slices.Contains(zones, z.Zone) {
				zones = append(zones, z.Zone)
			}
		}
		for _, zone := range zones {
			all = append(all, s.zoneNames(r.Context(), p.ID, zone, machines)...)
		}
	}
	// A zone of two pools is read for each; the lines are the same but for the pool.
	slices.SortStableFunc(all, func(a, b api.Name) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Machine, b.Machine))
	})
	return slices.CompactFunc(all, func(a, b api.Name) bool {
		return a.Zone == b.Zone && a.Name == b.Name && a.Machine == b.Machine && a.Problem == b.Problem
	}), nil
}

func (s *Service) zoneNames(ctx context.Context, pool, zone string, machines []orchestrator.Machine) []api.Name {
	listed, err := s.names.List(ctx, pool, zone)
	if err != nil {
		return []api.Name{{Pool: pool, Zone: zone, Problem: "not compared: " + err.Error()}}
	}
	return compareNames(pool, zone, listed, machines)
}

// compareNames holds what a zone lists against what the machines have recorded.
func compareNames(pool, zone string, listed []rfc2136.Registered, machines []orchestrator.Machine) []api.Name {
	byID, seen := map[string]orchestrator.Machine{}, map[string]bool{}
	for _, m := range machines {
		byID[m.ID] = m
	}
	var all []api.Name
	for _, l := range listed {
		n := api.Name{Pool: pool, Zone: zone, Name: l.Name, Holds: l.Holds, Machine: l.Machine}
		m, known := byID[l.Machine]
		want := m.DNS.Address.String()
		if l.Name == m.DNS.Pointer {
			want = m.DNS.Name
		}
		switch {
		case !known:
			n.Problem = "carries the mark of a machine that is not here"
		case m.Presence == orchestrator.Absent:
			n.Problem = "its machine is gone"
		case l.Name != m.DNS.Name && l.Name != m.DNS.Pointer:
			n.Problem = fmt.Sprintf("its machine is %q in the DNS", m.DNS.Name)
		case len(l.Holds) != 1 || l.Holds[0] != want:
			n.Problem = "should hold " + want
		}
		seen[l.Name+" "+l.Machine] = true
		all = append(all, n)
	}
	for _, m := range machines {
		if m.DNS.Pool != pool || m.Presence == orchestrator.Absent {
			continue
		}
		for in, name := range map[string]string{m.DNS.Zone: m.DNS.Name, m.DNS.ReverseZone: m.DNS.Pointer} {
			if in == zone && name != "" && !seen[name+" "+m.ID] {
				all = append(all, api.Name{Pool: pool, Zone: zone, Name: name, Machine: m.ID, Problem: "is recorded and not there, or has lost its mark"})
			}
		}
	}
	return all
}
