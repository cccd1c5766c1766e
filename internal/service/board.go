package service

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/orchestrator/install"
)

// guestSteps are those whose journal tells how far a guest has come.
var guestSteps = []string{install.StepStart, install.StepAwait, install.StepInstall}

// postWatch answers how runs stand now. It changes nothing; it is a POST because the names of many runs make no address.
func (s *Service) postWatch(r *http.Request) (any, error) {
	ctx := r.Context()
	var ask api.Watch
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is no question for a board", Fix: "see internal/api.Watch"}}
	}
	if max(len(ask.What), len(ask.Machines), len(ask.Runs)) > api.MaxWatched {
		return nil, orchestrator.FieldErrors{{Field: "what", Problem: "names too many machines", Fix: fmt.Sprintf("name at most %d, or watch a pool", api.MaxWatched)}}
	}
	f := orchestrator.WatchFilter{Active: ask.Active, Pool: ask.Pool, Machines: ask.Machines, Runs: ask.Runs, Steps: guestSteps, Limit: api.MaxWatched + 1}
	if _, ok := s.Estate.PoolByID(ask.Pool); ask.Pool != "" && !ok {
		return nil, fmt.Errorf("pool %q: %w", ask.Pool, orchestrator.ErrNotFound)
	}
	for _, what := range ask.What {
		m, err := s.named(ctx, what)
		if err != nil {
			return nil, err
		}
		f.Machines = append(f.Machines, m.ID)
	}
	runs, err := s.Store.Watched(ctx, f)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	kinds, err := s.past.of(ctx, s.Store, now)
	if err != nil {
		return nil, err
	}
	board := api.Board{Now: now, Runs: []api.Watched{}, Omitted: len(runs) > api.MaxWatched}
	for _, v := range runs[:min(len(runs), api.MaxWatched)] {
		board.Runs = append(board.Runs, s.watched(v, kinds[kindOfRun{v.Process, v.Image, v.Pool}], now))
	}
	return board, nil
}

func (s *Service) watched(v orchestrator.WatchedRun, t *taken, now time.Time) api.Watched {
	w := api.Watched{Run: runOf(v.RunView), Image: v.Image, Guest: stages(v)}
	if v.Status.Active() {
		w.Since = v.StepSince
	}
	process, ok := s.Processes[v.Process]
	if !ok {
		return w
	}
	w.Steps = len(process.Rows)
	if v.State == process.End() {
		w.Done = w.Steps
	}
	for i, row := range process.Rows {
		if row.From == v.State {
			w.Done = i
		}
	}
	forward := v.Status == orchestrator.StatusReady || v.Status == orchestrator.StatusRunning || v.Status == orchestrator.StatusWaiting
	if !forward || v.Undoing || v.Cancel != "" || v.Kind == orchestrator.Exhausted { // who stands in line knows no end
		return w
	}
	if estimate, of, slow, known := left(process, v.Run, t, now); known {
		seconds := estimate.Seconds()
		w.Left, w.Of, w.Slow = &seconds, of, slow
	}
	return w
}

// stages reads from the journal how far the guest of an install has come. What was before a rewind is not of this guest.
func stages(v orchestrator.WatchedRun) []api.Stage {
	if v.Process != install.Name {
		return nil
	}
	at := map[string]time.Time{}
	for _, line := range v.Lines {
		if line.Undo || line.Number <= v.Rewound {
			continue
		}
		done := line.Outcome == orchestrator.OutcomeDone
		switch line.Step {
		case install.StepStart:
			if done {
				at[api.StageBooting] = line.Ended
			}
		case install.StepAwait:
			if seen, ok := install.Addressed(line.Handles, line.Detail); ok {
				at[api.StageAddressed] = seen
			}
			if done {
				at[api.StageReachable] = line.Ended
			}
		case install.StepInstall:
			if _, begun := at[api.StageInstalling]; !begun {
				at[api.StageInstalling] = line.Started
			}
			if done {
				at[api.StageInstalled] = line.Ended
			}
		}
	}
	if seen, ok := install.Addressed(v.Handles, nil); ok && v.Step == install.StepAwait {
		at[api.StageAddressed] = seen
	}
	var out []api.Stage
	for _, stage := range []string{api.StageBooting, api.StageAddressed, api.StageReachable, api.StageInstalling, api.StageInstalled} {
		if t, ok := at[stage]; ok {
			out = append(out, api.Stage{Stage: stage, At: t})
		}
	}
	return out
}
