package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/workers/hypervisor"
)

// mend is one thing that a repair does for one or more findings.
type mend struct {
	plan string // what it will do, as a sentence's end: "destroy …"
	do   func(ctx context.Context) (did string, err error)
}

// mends are the safe repairs of an audit, each of which looks again at what it touches: an apply under the group's lease and only onto what was
// seen, a sweep under the rules of every sweep, a disk by its tag.
func (s *Service) mends(a api.Audit, site auditSite, actor, reason string) []mend {
	var all []mend
	safe := func(place string, kinds ...string) (n int) {
		for _, f := range a.Findings {
			if f.Safe && f.Place == place && (len(kinds) == 0 || slices.Contains(kinds, f.Kind)) {
				n++
			}
		}
		return n
	}
	for _, g := range site.groups {
		n := 0
		for _, m := range g.plan.Members {
			n += safe(g.id+"/"+m.Name, api.FindingLeak, api.FindingDrift, api.FindingMissing)
		}
		if n > 0 {
			all = append(all, s.mendGroup(g))
		}
	}
	for _, p := range site.pools {
		vms, disks := 0, map[string][]string{}
		for _, f := range a.Findings {
			if !f.Safe || f.Place != "pool "+p.id {
				continue
			}
			if disk, ok := strings.CutPrefix(f.Object, "disk "); ok {
				disks[f.Machine] = append(disks[f.Machine], disk)
			} else if f.Kind == api.FindingLeak {
				vms++
			}
		}
		if vms > 0 {
			all = append(all, mend{fmt.Sprintf("destroy %d halted VMs of pool %s that came too late", vms, p.id), func(ctx context.Context) (string, error) {
				n, err := hypervisor.Sweep(ctx, s.Store, s.Xapi, p.id)
				return fmt.Sprintf("destroyed %d VMs of pool %s", n, p.id), err
			}})
		}
		for machine, uuids := range disks {
			all = append(all, s.mendDisks(p.id, machine, uuids))
		}
	}
	for _, from := range site.strangers {
		if safe(from.source, api.FindingStranger) > 0 {
			all = append(all, mend{"reserve as foreign what strangers have at " + from.source, func(ctx context.Context) (string, error) {
				var found []orchestrator.Sighting
				for _, v := range from.scanned.Verdicts {
					found = append(found, v.Sighting)
				}
				_, err := s.Store.Reserve(ctx, from.source, found, false, actor, reason)
				return "reserved as foreign what strangers have at " + from.source, err
			}})
		}
	}
	return all
}

func (s *Service) mendGroup(g auditedGroup) mend {
	return mend{planLine(g.plan), func(ctx context.Context) (string, error) {
		_, members, err := s.controller.ApplyPlan(ctx, g.id, g.plan.Hash)
		for _, m := range members {
			if m.Problem != "" {
				err = errors.Join(err, fmt.Errorf("member %s: %s", m.Name, m.Problem))
			}
		}
		return fmt.Sprintf("applied generation %d of group %s", g.plan.Generation, g.id), err
	}}
}

// mendDisks destroys disks that carry the tag of a machine that is recorded absent and that hang at no VM.
func (s *Service) mendDisks(pool, machine string, uuids []string) mend {
	return mend{fmt.Sprintf("destroy disks %s of pool %s, whose machine %s is gone", strings.Join(uuids, ", "), pool, machine), func(ctx context.Context) (string, error) {
		m, err := s.Store.Machine(ctx, machine)
		if err != nil {
			return "", err
		}
		if m.Presence != orchestrator.Absent {
			return "", fmt.Errorf("machine %s is %s by now", machine, m.Presence)
		}
		return fmt.Sprintf("destroyed %d disks of machine %s", len(uuids), machine), s.Xapi.DestroyMachine(ctx, orchestrator.MachineRef{Pool: pool, Machine: machine}, uuids)
	}}
}

// postRepair does what is safe of an audit that it makes itself: nobody repairs what somebody saw an hour ago.
func (s *Service) postRepair(r *http.Request) (any, error) {
	ctx := r.Context()
	var ask api.Repair
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is not a repair", Fix: `send {"yes": …, "reason": …}`}}
	}
	if ask.Yes && strings.TrimSpace(ask.Reason) == "" {
		return nil, orchestrator.FieldErrors{{Field: "reason", Problem: "is missing", Fix: "say why with --reason; it goes into the record"}}
	}
	a, site, err := s.audit(ctx)
	if err != nil {
		return nil, err
	}
	mends := s.mends(a, site, actor(ctx), ask.Reason)
	answer := api.Repaired{Plan: []string{}, Audit: a}
	for _, m := range mends {
		answer.Plan = append(answer.Plan, m.plan)
	}
	if !ask.Yes || len(mends) == 0 {
		return answer, nil
	}
	if err := s.Store.RecordAct(ctx, actor(ctx), "audit-repair", strings.Join(answer.Plan, "; "), ask.Reason); err != nil {
		return nil, err
	}
	s.log.Info("audit repaired by an operator", "actor", actor(ctx), "plan", answer.Plan, "reason", ask.Reason)
	for _, m := range mends {
		did, err := m.do(ctx)
		if err != nil {
			answer.Failed = append(answer.Failed, m.plan+": "+err.Error())
			continue
		}
		answer.Did = append(answer.Did, did)
	}
	answer.Done = true
	return answer, nil
}
