package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/orchestrator/uninstall"
)

// settleTimeout bounds the wait for an apply that is under way where maintenance begins.
const settleTimeout = 75 * time.Second

func (s *Service) getMaintenance(r *http.Request) (any, error) {
	holds, err := s.Store.Holds(r.Context())
	if err != nil {
		return nil, err
	}
	out := make([]api.Maintenance, 0, len(holds))
	var active []orchestrator.RunView
	if len(holds) > 0 {
		active, err = s.Store.Runs(r.Context(), orchestrator.RunFilter{
			Status: []orchestrator.Status{orchestrator.StatusRunning, orchestrator.StatusWaiting, orchestrator.StatusCanceling}, Limit: 100_000,
		})
		if err != nil {
			return nil, err
		}
	}
	for _, h := range holds {
		m := api.Maintenance{Subject: string(h.Subject), Actor: h.Actor, Reason: h.Reason, Since: h.Since, Until: h.Until}
		if process, halts := h.Halts(); halts {
			out = append(out, halted(m, h, process, active))
			continue
		}
		for _, run := range active {
			s.count(&m, h.Subject, run)
		}
		out = append(out, m)
	}
	return out, nil
}

// count says what one run has to do with a subject in maintenance.
func (s *Service) count(m *api.Maintenance, subject orchestrator.Subject, run orchestrator.RunView) {
	if run.WakeKey == orchestrator.WakeHold(subject) {
		m.Waiting++
	}
	if subject.Pool() == "" || run.Pool != subject.Pool() {
		return
	}
	if run.Holder != "" && s.usesPool(run) {
		m.InHand++
	} else if run.Handles[uninstall.HandleClone] != "" || run.Handles[uninstall.HandleStart] != "" {
		m.Tasks++
	}
}

func (s *Service) usesPool(run orchestrator.RunView) bool {
	process, ok := s.Processes[run.Process]
	if !ok {
		return true
	}
	return slices.ContainsFunc(process.Rows, func(row orchestrator.Row) bool { return row.Step == run.Step && row.Uses&orchestrator.UsesPool != 0 })
}

func (s *Service) postMaintenance(r *http.Request) (any, error) {
	ctx := r.Context()
	var ask api.SetMaintenance
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is not a maintenance", Fix: "send {\"subject\": …, \"on\": …}"}}
	}
	subject, err := s.subject(ask.Subject)
	if err != nil {
		return nil, err
	}
	if !ask.On {
		answer := api.Acted{Plan: []string{"end the maintenance of " + subject.Words() + ": what waits for it goes on, and members that were left out catch up"}}
		if !ask.Yes {
			return answer, nil
		}
		err := s.Store.LiftHold(ctx, subject, orchestrator.HoldMaintenance, actor(ctx), ask.Reason)
		if errors.Is(err, orchestrator.ErrNotFound) {
			return nil, &api.Error{Code: api.CodeNotFound, Message: subject.Words() + " is not in maintenance", Next: "slipway maintenance list"}
		}
		if err != nil {
			return nil, err
		}
		s.gate.Forget()
		s.driver.Nudge()
		answer.Done = true
		return answer, nil
	}
	if !ask.Until.IsZero() && !ask.Until.After(time.Now()) {
		return nil, orchestrator.FieldErrors{{Field: "until", Problem: "is past", Fix: "name a time to come, such as 2h"}}
	}
	answer := api.Acted{}
	if answer.Plan, err = s.planMaintenance(ctx, subject, ask.Until); err != nil {
		return nil, err
	}
	if !ask.Yes {
		return answer, nil
	}
	if strings.TrimSpace(ask.Reason) == "" {
		return nil, missingReason
	}
	hold := orchestrator.Hold{Subject: subject, Kind: orchestrator.HoldMaintenance, Actor: actor(ctx), Reason: ask.Reason, Until: ask.Until}
	if err := s.Store.PutHold(ctx, hold); err != nil {
		return nil, err
	}
	s.gate.Forget()
	answer.Done = true
	if group := groupOf(subject); group != "" {
		if err := s.settle(ctx, group); err != nil {
			answer.Found = append(answer.Found, "an apply that began before may still be under way: "+err.Error())
		} else {
			answer.Found = append(answer.Found, "nothing is applied there any more")
		}
	}
	return answer, nil
}

// settle returns when no worker applies by what it read before.
func (s *Service) settle(ctx context.Context, group string) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return s.controller.Settle(ctx, group)
}

// groupOf is the group of a subject that is one, or a member of one.
func groupOf(subject orchestrator.Subject) string {
	if group := subject.Group(); group != "" {
		return group
	}
	if member, ok := strings.CutPrefix(string(subject), "member:"); ok {
		group, _, _ := strings.Cut(member, "/")
		return group
	}
	return ""
}

// subject finds what an operator names: a pool, a group, or GROUP/MEMBER; "pool:ID" and "group:ID" where a name is both.
func (s *Service) subject(what string) (orchestrator.Subject, error) {
	var found []orchestrator.Subject
	for _, p := range s.Config.Pools {
		found = append(found, orchestrator.PoolSubject(p.ID))
	}
	for _, g := range s.Config.Groups {
		found = append(found, orchestrator.GroupSubject(g.ID))
		for _, m := range g.Members {
			found = append(found, orchestrator.MemberSubject(g.ID, m.Name))
		}
	}
	found = slices.DeleteFunc(found, func(s orchestrator.Subject) bool {
		_, name, _ := strings.Cut(string(s), ":")
		return string(s) != what && name != what
	})
	switch len(found) {
	case 0:
		return "", &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no pool, group or GROUP/MEMBER %q in the configuration", what), Next: "slipway pool; slipway group"}
	case 1:
		return found[0], nil
	}
	return "", orchestrator.FieldErrors{{Field: "subject", Problem: fmt.Sprintf("is both %s and %s", found[0].Words(), found[1].Words()), Fix: fmt.Sprintf("write %s or %s", found[0], found[1])}}
}

// planMaintenance says what a maintenance holds.
func (s *Service) planMaintenance(ctx context.Context, subject orchestrator.Subject, until time.Time) ([]string, error) {
	end := "until slipway maintenance off"
	if !until.IsZero() {
		end += ", or " + until.UTC().Format("2006-01-02 15:04 UTC")
	}
	if pool := subject.Pool(); pool != "" {
		return []string{
			"place no machine in pool " + pool + ", and change no VM in it: runs wait in front of such steps " + end,
			"a call that is under way, a task of the pool's or a job in a guest is not interrupted: slipway maintenance list counts them",
		}, nil
	}
	if group := subject.Group(); group != "" {
		return []string{
			"apply nothing to any member of group " + group + ": runs wait in front of its steps " + end,
			"new machines get another group of their pool's where there is one, and wait here otherwise",
		}, nil
	}
	group := groupOf(subject)
	known, _, err := s.Store.Entries(ctx, group)
	if err != nil {
		return nil, missing(err, "slipway group")
	}
	members, err := s.Store.Members(ctx, group)
	if err != nil {
		return nil, err
	}
	for i, m := range members {
		if orchestrator.MemberSubject(m.Group, m.Name) == subject {
			members[i].Held = "planned"
		}
	}
	plan := []string{"apply nothing to " + subject.Words() + " " + end + "; then it catches up before it counts"}
	reduced, standing := known.Without(members)
	switch {
	case standing == 0:
		plan = append(plan, "no other member of the group is left: runs wait in front of its steps, as in a maintenance of the whole group")
	case reduced.MinApplied < known.MinApplied:
		plan = append(plan, fmt.Sprintf("meanwhile %d of %d members are enough (min_applied says %d); what takes over from it by itself has everything, and it has nothing new until it is back", reduced.MinApplied, len(members), known.MinApplied))
	}
	return plan, nil
}
