package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"slipway/internal/config"
	"slipway/orchestrator"
)

// fit refuses a configuration without which machines that are stored would be beyond reach: their pool, network or appliances are gone from
// it. It only reads. A refusal is FieldErrors: all of it at once.
func fit(ctx context.Context, cfg *config.Config, s orchestrator.Operators) error {
	machines, err := s.Machines(ctx)
	if err != nil {
		return err
	}
	groups := map[string]string{} // id to unit
	for _, g := range cfg.Groups {
		groups[g.ID] = g.Unit
	}
	estate := cfg.Estate(nil)
	m := misfits{}
	for _, machine := range machines {
		place := machine.Placement
		if machine.Presence == orchestrator.Absent || place.Pool == "" {
			continue
		}
		pool, ok := estate.PoolByID(place.Pool)
		if !ok {
			m.note("pools", "no longer has "+place.Pool+", where there are", "put the pool back, or uninstall what is in it first", machine)
			continue // what the pool had is gone with it
		}
		for _, a := range []struct {
			key     string
			prefix  netip.Prefix
			address netip.Addr
		}{{"private", pool.Private.Prefix, place.Private}, {"public", pool.Public.Prefix, place.Public}} {
			if a.address.IsValid() && !a.prefix.Contains(a.address) {
				is := "is " + a.prefix.String()
				if !a.prefix.IsValid() {
					is = "is not there"
				}
				m.note("pools."+pool.ID+"."+a.key+".prefix", is+", and outside of it are the addresses of",
					"put the network back that they are in, or uninstall them first; `ranges` alone say what new machines get", machine)
			}
		}
		for _, g := range []struct {
			id   string
			unit orchestrator.Unit
		}{{place.DHCP, orchestrator.DHCP}, {place.Firewall, orchestrator.Firewall}, {place.Console, orchestrator.Console}} {
			switch unit, ok := groups[g.id]; {
			case g.id == "":
			case !ok:
				m.note("groups", "no longer has "+g.id+", which serves", "put the group back: they stay with it until they are uninstalled", machine)
			case unit != string(g.unit):
				m.note("groups."+g.id+".unit", "is "+unit+", and the group is the "+string(g.unit)+" of", "put the unit back, and give the new group another id", machine)
			}
		}
	}
	return m.refusal()
}

// misfits gathers machines under what is wrong for them.
type misfits map[orchestrator.FieldError][]string

func (m misfits) note(field, problem, fix string, machine orchestrator.Machine) {
	key := orchestrator.FieldError{Field: field, Problem: problem, Fix: fix}
	m[key] = append(m[key], machine.Tenant+"/"+machine.Name)
}

func (m misfits) refusal() error {
	const shown = 3
	var refused orchestrator.FieldErrors
	for key, names := range m {
		count := fmt.Sprintf(" %d machines: ", len(names))
		if len(names) == 1 {
			count = " "
		}
		slices.Sort(names)
		if key.Problem += count + strings.Join(names[:min(shown, len(names))], ", "); len(names) > shown {
			key.Problem += " …"
		}
		refused = append(refused, key)
	}
	slices.SortFunc(refused, func(a, b orchestrator.FieldError) int {
		return strings.Compare(a.Field+"\x00"+a.Problem, b.Field+"\x00"+b.Problem)
	})
	if len(refused) == 0 {
		return nil // and not a FieldErrors that is nil
	}
	return refused
}

// knows refuses a version that does not have the table of a run that is under way: it would park what a newer worker goes on with.
func knows(ctx context.Context, processes map[string]*orchestrator.Process, s orchestrator.Operators) error {
	stats, err := s.Stats(ctx)
	if err != nil {
		return err
	}
	var unknown []error
	for _, name := range slices.Sorted(maps.Keys(stats.Runs)) {
		if _, ok := processes[name]; ok {
			continue
		}
		n := 0
		for status, runs := range stats.Runs[name] {
			if status != orchestrator.StatusDone && status != orchestrator.StatusCanceled {
				n += runs
			}
		}
		if n > 0 {
			unknown = append(unknown, fmt.Errorf("%d runs of process %q are under way, which this slipway does not know: run the version that began them, or let them end there first", n, name))
		}
	}
	return errors.Join(unknown...)
}
