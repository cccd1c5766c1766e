package service

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/workers/appliance"
	"slipway/workers/firewall/iptables"
)

// planTimeout bounds a plan, and applyTimeout the apply of one; the caller gives up after two minutes.
const (
	planTimeout  = 60 * time.Second
	applyTimeout = 110 * time.Second
)

// reading says how a unit's live files are read for a plan: by which words a line is a machine's, and what of it may be shown.
func reading(unit orchestrator.Unit) (names func(machine string, body json.RawMessage) []string, redact func(string) (string, bool)) {
	switch unit {
	case orchestrator.Firewall:
		return func(machine string, _ json.RawMessage) []string { return []string{iptables.ChainOf(machine)} }, nil
	case orchestrator.Console:
		return func(_ string, body json.RawMessage) []string {
			var e orchestrator.ConsoleEntry
			if len(body) == 0 || json.Unmarshal(body, &e) != nil || e.VM == "" {
				return nil
			}
			return []string{e.VM}
		}, redactConsole
	default:
		return nil, nil
	}
}

var (
	consoleVM    = regexp.MustCompile(`^\s*VM\s+\d{1,5}\s+[0-9a-fA-F-]{36}`)
	consolePlain = regexp.MustCompile(`^\s*(POOL|DOMAIN|HOST)\s`)
	consoleFrame = regexp.MustCompile(`^(\s*|# (Written by slipway|The site's own pools).*)$`)
)

// redactConsole shows of a line of an xvp.conf what cannot be a password. What we did not write may have one anywhere.
func redactConsole(line string) (shown string, secret bool) {
	const redacted = "[redacted]"
	switch {
	case consoleFrame.MatchString(line), consolePlain.MatchString(line):
		return line, false
	case consoleVM.MatchString(line):
		return consoleVM.FindString(line) + " " + redacted, true
	case strings.HasPrefix(strings.TrimSpace(line), "MANAGER"):
		return "  MANAGER " + redacted, true
	default:
		return redacted, true
	}
}

// plans reads all groups at once, or the one that is named.
func (s *Service) plans(ctx context.Context, group string) ([]appliance.Plan, error) {
	var ids []string
	for _, g := range s.Config.Groups {
		if group == "" || g.ID == group {
			ids = append(ids, g.ID)
		}
	}
	if len(ids) == 0 {
		return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no group %q", group), Next: "slipway group"}
	}
	plans, errs := make([]appliance.Plan, len(ids)), make([]error, len(ids))
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() { plans[i], errs[i] = s.controller.Plan(ctx, id) })
	}
	all.Wait()
	return plans, errors.Join(errs...)
}

func (s *Service) getPlan(r *http.Request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), planTimeout)
	defer cancel()
	group := r.URL.Query().Get("group")
	plans, err := s.plans(ctx, group)
	if err != nil {
		return nil, err
	}
	machines, err := s.Store.Machines(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]orchestrator.Machine{}
	for _, m := range machines {
		byID[m.ID] = m
	}
	out := api.Plan{Hash: appliance.HashAll(plans), Empty: true, Groups: []api.GroupPlan{}}
	for _, p := range plans {
		out.Groups = append(out.Groups, groupPlan(p, byID))
		out.Empty = out.Empty && p.Empty()
	}
	if group == "" {
		if out.Pools, err = s.poolFindings(ctx, byID); err != nil {
			return nil, err
		}
		out.Empty = out.Empty && len(out.Pools) == 0
	}
	return out, nil
}

func groupPlan(p appliance.Plan, machines map[string]orchestrator.Machine) api.GroupPlan {
	out := api.GroupPlan{Group: p.Group, Unit: string(p.Unit), Hash: p.Hash, Generation: p.Generation, Applied: p.Applied, Machines: p.Rows,
		SHA256: p.SHA256, Empty: p.Empty(), Problem: p.Problem, LeftOut: p.Bad, Cut: p.Cut, Members: []api.MemberPlan{}}
	for _, m := range p.Members {
		member := api.MemberPlan{Name: m.Name, Generation: m.Generation, Problem: m.Problem, Blocked: m.Blocked, Fault: m.Fault, Notes: m.Notes,
			Added: m.Added, Removed: m.Removed, Changed: m.Altered, Omitted: m.Omitted}
		for _, c := range m.Changes {
			change := api.PlanChange{File: c.File, Machine: c.Machine, Kind: c.Kind, Lines: []string{}}
			if known, ok := machines[c.Machine]; ok {
				change.Name = known.Tenant + "/" + known.Name
			}
			for _, l := range c.Lines {
				change.Lines = append(change.Lines, string(rune(l.Op))+" "+l.Text)
			}
			member.Changes = append(member.Changes, change)
		}
		out.Members = append(out.Members, member)
	}
	return out
}

// postApplyPlan finds the groups that a hash stands for, and applies to them as they are.
func (s *Service) postApplyPlan(r *http.Request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), applyTimeout)
	defer cancel()
	var ask api.ApplyPlan
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is not an apply", Fix: `send {"hash": …, "yes": …, "reason": …}`}}
	}
	if sum, err := hex.DecodeString(ask.Hash); err != nil || len(sum) != 32 {
		return nil, orchestrator.FieldErrors{{Field: "plan", Problem: "is not the hash of a plan", Fix: "give all 64 characters that slipway plan printed"}}
	}
	plans, err := s.plans(ctx, "")
	if err != nil {
		return nil, err
	}
	scope := plans
	if appliance.HashAll(plans) != ask.Hash {
		i := slices.IndexFunc(plans, func(p appliance.Plan) bool { return p.Hash == ask.Hash })
		if i < 0 {
			return nil, planChanged(plans)
		}
		scope = plans[i : i+1]
	}
	answer := api.AppliedPlan{Plan: []string{}}
	for _, p := range scope {
		if why := p.Blocked(); why != "" {
			return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("nothing was applied: group %s: %s", p.Group, why), Next: "slipway plan --group " + p.Group}
		}
		answer.Plan = append(answer.Plan, planLine(p))
	}
	if !ask.Yes {
		return answer, nil
	}
	if err := s.Store.RecordAct(ctx, actor(ctx), "apply-plan", ask.Hash, ask.Reason); err != nil {
		return nil, err
	}
	s.log.Info("plan applied by an operator", "actor", actor(ctx), "hash", ask.Hash, "reason", ask.Reason)
	for _, p := range scope {
		if p.Empty() && p.Applied >= p.Generation {
			continue
		}
		now, members, err := s.controller.ApplyPlan(ctx, p.Group, p.Hash)
		if err != nil {
			return nil, notApplied(err, now, answer.Groups)
		}
		group := api.AppliedGroup{Group: p.Group, Generation: now.Generation}
		for _, m := range members {
			group.Members = append(group.Members, api.Member{Name: m.Name, Applied: m.Applied, Dirty: m.Dirty, Halted: m.Halted, Problem: m.Problem, Seen: m.SeenAt})
		}
		answer.Groups = append(answer.Groups, group)
	}
	answer.Done = true
	return answer, nil
}

// planLine says what an apply of a group does.
func planLine(p appliance.Plan) string {
	if p.Empty() {
		return fmt.Sprintf("leave group %s at generation %d: nothing would change", p.Group, p.Generation)
	}
	var changed, away []string
	for _, m := range p.Members {
		switch {
		case m.Problem != "":
			away = append(away, m.Name)
		case m.Differs():
			changed = append(changed, m.Name)
		}
	}
	line := fmt.Sprintf("apply generation %d of group %s; it changes %s", p.Generation, p.Group, cmp.Or(strings.Join(changed, ", "), "nothing"))
	if len(away) > 0 {
		line += "; without " + strings.Join(away, ", ") + ", which could not be read"
	}
	return line
}

// planChanged tells the hashes of now.
func planChanged(plans []appliance.Plan) error {
	message := "nothing was applied: no plan has this hash now, something has changed since it was shown; all groups together have " + appliance.HashAll(plans)
	for _, p := range plans {
		if !p.Empty() && len(plans) > 1 {
			message += fmt.Sprintf(", group %s has %s", p.Group, p.Hash)
		}
	}
	return &api.Error{Code: api.CodeConflict, Message: message, Next: "slipway plan"}
}

// notApplied says what stopped an apply, and which groups had been applied to before.
func notApplied(err error, now appliance.Plan, before []api.AppliedGroup) error {
	message := err.Error()
	if errors.Is(err, appliance.ErrPlanChanged) && now.Hash != "" {
		message += "; the group's plan had " + now.Hash + " when it was looked at last"
	}
	for _, g := range before {
		message += fmt.Sprintf("; group %s was applied before", g.Group)
	}
	if errors.Is(err, appliance.ErrPlanChanged) || errors.Is(err, appliance.ErrPlanBlocked) || errors.Is(err, appliance.ErrPlanBusy) {
		return &api.Error{Code: api.CodeConflict, Message: message, Next: "slipway plan"}
	}
	return fmt.Errorf("%w%s", err, strings.TrimPrefix(message, err.Error()))
}
