package service

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"slipway/internal/api"
	"slipway/orchestrator"
)

func releaseCommand(pool, process string) string {
	return fmt.Sprintf("slipway guard release %s %s --yes --reason WHY", pool, process)
}

// halted is a halt as a line of what is held.
func halted(m api.Maintenance, h orchestrator.Hold, process string, active []orchestrator.RunView) api.Maintenance {
	m.Halts, m.End = process, releaseCommand(h.Subject.Pool(), process)
	for _, run := range active {
		if run.WakeKey == orchestrator.WakeHalt(h.Subject, process) && run.Halted() {
			m.Waiting++
		}
	}
	return m
}

// postRelease ends a halt: what waits for it begins, and counting begins anew.
func (s *Service) postRelease(r *http.Request) (any, error) {
	ctx := r.Context()
	var ask api.Release
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is not a release", Fix: "send {\"subject\": …, \"process\": …}"}}
	}
	holds, err := s.Store.Holds(ctx)
	if err != nil {
		return nil, err
	}
	holds = slices.DeleteFunc(holds, func(h orchestrator.Hold) bool {
		process, halts := h.Halts()
		return !halts || h.Subject.Pool() != strings.TrimPrefix(ask.Subject, "pool:") || ask.Process != "" && process != ask.Process
	})
	switch {
	case len(holds) == 0:
		return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("the guard halts no %s in pool %s", cmp.Or(ask.Process, "process"), ask.Subject), Next: "slipway maintenance list"}
	case len(holds) > 1:
		return nil, orchestrator.FieldErrors{{Field: "process", Problem: "is missing: more than one is halted there", Fix: "name it, as slipway maintenance list does"}}
	}
	halt := holds[0]
	process, _ := halt.Halts()
	answer := api.Acted{Plan: []string{
		"end the " + halt.String(),
		"let begin at once every run that waits for it, uncounted, and count those that come from now on anew",
	}}
	if !ask.Yes {
		return answer, nil
	}
	if strings.TrimSpace(ask.Reason) == "" {
		return nil, missingReason
	}
	let, err := s.Store.EndHalt(ctx, halt.Subject, process, actor(ctx), ask.Reason)
	if err != nil {
		return nil, missing(err, "slipway maintenance list")
	}
	s.gate.Forget()
	s.driver.Nudge()
	answer.Done, answer.Found = true, []string{fmt.Sprintf("%d runs go on", let)}
	return answer, nil
}
