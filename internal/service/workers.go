package service

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// silent is how long a worker may say nothing before it counts as gone.
const silent = 15 * time.Second

func (s *Service) getWorkers(r *http.Request) (any, error) { return s.workers(r) }

func (s *Service) workers(r *http.Request) ([]api.Worker, error) {
	known, err := s.Store.Workers(r.Context())
	if err != nil {
		return nil, err
	}
	now := newest(known)
	out := make([]api.Worker, 0, len(known))
	for _, w := range known {
		out = append(out, api.Worker{
			Worker: w.Holder, Version: w.Version, Started: w.Started, Seen: w.Seen, Here: w.Holder == s.holder, Gone: now.Sub(w.Seen) > silent,
			Held: w.Held, Drained: w.Drained, DrainedBy: w.DrainedBy, DrainReason: w.DrainReason, Idle: w.Idle,
		})
	}
	return out, nil
}

// newest is the newest word of anybody, by the database's clock.
func newest(workers []orchestrator.Worker) (at time.Time) {
	for _, w := range workers {
		if w.Seen.After(at) {
			at = w.Seen
		}
	}
	return at
}

// untaken says why nobody takes a run that could be taken now, "" when somebody may.
func untaken(workers []orchestrator.Worker, run orchestrator.Run) string {
	now := newest(workers)
	var there, serving []orchestrator.Worker
	for _, w := range workers {
		if now.Sub(w.Seen) > silent {
			continue
		}
		there = append(there, w)
		if w.Drained.IsZero() {
			serving = append(serving, w)
		}
	}
	place := orchestrator.Place(run.Process, run.State, run.Step, run.Undoing)
	switch {
	case len(there) == 0:
		return "nobody takes the run: no worker is there; start slipway serve"
	case len(serving) == 0:
		first := there[0]
		why := fmt.Sprintf("nobody takes the run: every worker is drained (%s by %s", first.Holder, first.DrainedBy)
		if first.DrainReason != "" {
			why += ": " + first.DrainReason
		}
		return why + "); slipway workers, slipway undrain WORKER --yes"
	case !slices.ContainsFunc(serving, func(w orchestrator.Worker) bool { return len(w.Knows) == 0 || slices.Contains(w.Knows, place) }):
		return fmt.Sprintf("nobody takes the run: no worker that works knows %s in state %s, step %s; it waits for one of another version (slipway workers)", run.Process, run.State, run.Step)
	}
	return ""
}

// postDrain tells a worker by the database, so that any worker's socket will do.
func (s *Service) postDrain(r *http.Request) (any, error) {
	var ask api.Drain
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is not a drain", Fix: "send {\"worker\": …, \"on\": …}"}}
	}
	workers, err := s.workers(r)
	if err != nil {
		return nil, err
	}
	chosen, err := s.choose(workers, ask.Worker)
	if err != nil {
		return nil, err
	}
	answer := api.Drained{Worker: chosen.Worker}
	if ask.On {
		answer.Plan = append(answer.Plan,
			fmt.Sprintf("%s takes no order and no run, applies to no appliance and publishes nothing; the %d runs that it has in hand reach their next commit and are left to others", chosen.Worker, chosen.Held),
			"it stays so until slipway undrain, or until its process ends")
		if others := serving(workers, chosen.Worker); others == 0 {
			answer.Plan = append(answer.Plan, "no other worker is there: orders stay in the queue and runs stand still meanwhile")
		}
	} else {
		answer.Plan = append(answer.Plan, chosen.Worker+" works again")
	}
	if !ask.Yes {
		return answer, nil
	}
	if ask.On && strings.TrimSpace(ask.Reason) == "" {
		return nil, missingReason
	}
	if err := missing(s.Store.Drain(r.Context(), chosen.Worker, ask.On, actor(r.Context()), ask.Reason), "slipway workers"); err != nil {
		return nil, err
	}
	select {
	case s.beats <- struct{}{}:
	default:
	}
	answer.Done = true
	return answer, nil
}

var missingReason = orchestrator.FieldErrors{{Field: "reason", Problem: "is missing", Fix: "say why with --reason; others will read it"}}

// serving counts the workers that take runs, without one.
func serving(workers []api.Worker, without string) (n int) {
	for _, w := range workers {
		if w.Worker != without && !w.Gone && w.Drained.IsZero() {
			n++
		}
	}
	return n
}

// choose finds the worker that an operator names.
func (s *Service) choose(workers []api.Worker, what string) (api.Worker, error) {
	var found []api.Worker
	var names []string
	for _, w := range workers {
		if what == "" && w.Here || what != "" && strings.HasPrefix(w.Worker, what) {
			found, names = append(found, w), append(names, w.Worker)
		}
	}
	switch len(found) {
	case 0:
		return api.Worker{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no worker %q", what), Next: "slipway workers"}
	case 1:
		return found[0], nil
	}
	return api.Worker{}, orchestrator.FieldErrors{{Field: "worker", Problem: "is " + strings.Join(names, " or "), Fix: "write more of its name"}}
}
