package service

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/internal/scan"
	"slipway/orchestrator"
)

// sourceScan is what was read of one source.
type sourceScan struct {
	source  string
	found   scan.Found
	problem error
	notes   []string
}

func (s *Service) postPoolScan(r *http.Request) (any, error) {
	pool := r.PathValue("pool")
	if _, ok := s.Estate.PoolByID(pool); !ok {
		return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no pool %q", pool), Next: "slipway pool"}
	}
	return s.scan(r, func(ctx context.Context) []sourceScan {
		strangers, err := s.Xapi.Strangers(ctx, pool)
		return []sourceScan{{source: scan.PoolSource(pool), found: scan.Pool(s.Estate, pool, strangers), problem: err}}
	})
}

// postApplianceScan scans the members of a group, or the one of GROUP/MEMBER.
func (s *Service) postApplianceScan(r *http.Request) (any, error) {
	name, err := url.PathUnescape(r.PathValue("name"))
	if err != nil {
		return nil, orchestrator.FieldErrors{{Field: "name", Problem: "cannot be read", Fix: "give a group, or GROUP/MEMBER"}}
	}
	group, member, one := strings.Cut(name, "/")
	i := slices.IndexFunc(s.Config.Groups, func(g config.Group) bool { return g.ID == group })
	if i < 0 || one && !slices.ContainsFunc(s.Config.Groups[i].Members, func(m config.Member) bool { return m.Name == member }) {
		return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no group or member %q", name), Next: "slipway group"}
	}
	return s.scan(r, func(ctx context.Context) (scans []sourceScan) {
		surveys, err := s.controller.Survey(ctx, group)
		if err != nil {
			return []sourceScan{{source: name, problem: err}}
		}
		for _, m := range surveys {
			if one && m.Name != member {
				continue
			}
			source := sourceScan{source: scan.MemberSource(group, m.Name), found: scan.Appliance(s.Estate, group, m.Name, m.Survey), problem: m.Err, notes: m.Survey.Notes}
			if m.Survey.Omitted > 0 {
				source.notes = append(source.notes, fmt.Sprintf("%d things more are there than a scan takes in: it is not whole", m.Survey.Omitted))
			}
			scans = append(scans, source)
		}
		return scans
	})
}

// scan reads, and reserves what is new when the operator said so. A source that cannot be read is part of the answer; nothing of it changes.
func (s *Service) scan(r *http.Request, read func(context.Context) []sourceScan) (any, error) {
	ctx := r.Context()
	var ask api.Scan
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is not a scan", Fix: `send {"yes": …, "reason": …}`}}
	}
	machines, err := s.Store.Machines(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, m := range machines {
		names[m.ID] = m.Tenant + "/" + m.Name
	}
	answer := api.Scanned{Done: ask.Yes}
	for _, one := range read(ctx) {
		out := api.ScannedSource{Source: one.source, Found: []api.Sighted{}, Elsewhere: one.found.Elsewhere, Notes: one.notes}
		if one.problem != nil {
			out.Problem = one.problem.Error()
			answer.Sources = append(answer.Sources, out)
			continue
		}
		scanned, err := s.Store.Reserve(ctx, one.source, one.found.Sightings, !ask.Yes, actor(ctx), ask.Reason)
		if err != nil {
			return nil, err
		}
		for _, v := range scanned.Verdicts {
			out.Found = append(out.Found, verdictOf(v, names))
		}
		for _, gone := range scanned.Gone {
			out.Gone = append(out.Gone, sightedOf(gone))
		}
		answer.Sources = append(answer.Sources, out)
	}
	if ask.Yes {
		s.log.Info("strangers reserved by an operator", "actor", actor(ctx), "sources", len(answer.Sources), "conflicts", answer.Conflicts(), "reason", ask.Reason)
	}
	return answer, nil
}

func sightedOf(s orchestrator.Sighting) api.Sighted {
	return api.Sighted{Kind: s.Kind, Scope: s.Scope, Value: s.Value, Role: s.Role, Source: s.Source, Object: s.Object, Name: s.Name, Place: s.Place, Peer: s.Peer}
}

func verdictOf(v orchestrator.Verdict, names map[string]string) api.Sighted {
	out := sightedOf(v.Sighting)
	out.Source, out.State, out.Machine, out.Holder = "", v.State, v.Machine, names[v.Machine]
	if v.State == orchestrator.SightingConflict {
		out.Next = "slipway explain " + v.Machine
	}
	return out
}

func (s *Service) getForeign(r *http.Request) (any, error) {
	values, err := s.Store.Foreign(r.Context())
	if err != nil {
		return nil, err
	}
	sightings, err := s.Store.Sightings(r.Context())
	if err != nil {
		return nil, err
	}
	type key struct{ kind, scope, value string }
	keyOf := func(kind, scope, value string) key {
		if kind != orchestrator.SightedPort {
			scope = "" // an address and a MAC are one whatever pool they were met in
		}
		return key{kind, scope, value}
	}
	seen := map[key][]api.Sighted{}
	for _, s := range sightings {
		k := keyOf(s.Kind, s.Scope, s.Value)
		seen[k] = append(seen[k], sightedOf(s))
	}
	out := make([]api.Foreign, len(values))
	for i, v := range values {
		out[i] = api.Foreign{Kind: v.Kind, Scope: v.Scope, Value: v.Value, Note: v.Note, Seen: seen[keyOf(v.Kind, v.Scope, v.Value)]}
	}
	return out, nil
}

func (s *Service) deleteForeign(r *http.Request) (any, error) {
	var ask api.FreeForeign
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is not a reservation", Fix: "see slipway foreign"}}
	}
	return struct{}{}, missing(s.Store.Free(r.Context(), ask.Kind, ask.Scope, ask.Value, actor(r.Context()), ask.Reason), "slipway foreign")
}
