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
)

// verbs are what an operator may do to a run; which of them goes is for its table to say.
var verbs = [...]string{orchestrator.VerbRetry, orchestrator.VerbCancel, orchestrator.VerbSkip, orchestrator.VerbForce, orchestrator.VerbRewind, orchestrator.VerbAdopt}

// act carries a verb out: observe, say what was found and what will be done, and do it when the operator said yes.
func (s *Service) act(verb string) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		ctx := r.Context()
		var ask api.Act
		if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
			return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is not an act", Fix: "send {\"yes\": …, \"reason\": …}"}}
		}
		m, err := s.find(r)
		if verb == orchestrator.VerbAdopt && errors.Is(err, orchestrator.ErrNotFound) {
			return s.adoptForgotten(ctx, r.PathValue("what"), ask)
		}
		if err != nil {
			return nil, err
		}
		active, err := s.atRest(ctx, m.ID, verb)
		if err != nil {
			return nil, err
		}
		if active == nil {
			return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("machine %s has no active run: it is %s", m.ID, m.State), Next: "slipway show " + m.ID}
		}
		exits := s.exits(*active)
		if !slices.Contains(exits, verb) {
			return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s does not go: the run is %s in state %s at step %s; what goes: %v", verb, active.Status, active.State, active.Step, exits),
				Next: "slipway explain " + m.ID}
		}
		step, err := s.step(verb, ask, *active)
		if err != nil {
			return nil, err
		}
		answer := api.Acted{Plan: s.plan(verb, step, *active)}
		if verb != orchestrator.VerbCancel {
			answer.Found = s.observe(ctx, m)
		}
		if verb == orchestrator.VerbAdopt {
			if err := s.adoptable(ctx, m, &answer); err != nil {
				return nil, err
			}
		}
		if !ask.Yes {
			return answer, nil
		}
		if step != "" && strings.TrimSpace(ask.Reason) == "" {
			return nil, orchestrator.FieldErrors{{Field: "reason", Problem: "is missing: " + verb + " goes past what the table would do by itself", Fix: "say why with --reason; it goes into the journal"}}
		}
		if active, err = s.atRest(ctx, m.ID, verb); err != nil {
			return nil, err
		}
		if active == nil {
			return nil, &api.Error{Code: api.CodeConflict, Message: "the run has ended meanwhile", Next: "slipway show " + m.ID}
		}
		run, err := s.Store.Intervene(ctx, orchestrator.Intervention{Run: active.ID, Verb: verb, Step: step, Actor: actor(ctx), Reason: ask.Reason, Now: time.Now()})
		if err != nil {
			return nil, err
		}
		s.driver.Nudge()
		view := runOf(orchestrator.RunView{Run: run, Tenant: m.Tenant, Name: m.Name, Pool: m.Placement.Pool})
		answer.Done, answer.Run = true, &view
		return answer, nil
	}
}

// atRest reads the machine's active run. A waiting run is taken up every few seconds for a moment in which most verbs do not go: that moment
// is waited out.
func (s *Service) atRest(ctx context.Context, machine, verb string) (active *orchestrator.RunView, err error) {
	const looks, pause = 40, 50 * time.Millisecond
	for range looks {
		if _, active, err = s.activeRun(ctx, machine); err != nil || active == nil {
			return nil, err
		}
		if active.Status != orchestrator.StatusRunning || slices.Contains(s.exits(*active), verb) {
			break
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
	return active, nil
}

// step is the one that a verb is about, "" for retry and cancel.
func (s *Service) step(verb string, ask api.Act, v orchestrator.RunView) (string, error) {
	targets := orchestrator.Targets(v.Run, s.Processes[v.Process], verb)
	if verb != orchestrator.VerbRewind {
		return strings.Join(targets[:min(1, len(targets))], ""), nil
	}
	if slices.Contains(targets, ask.Step) {
		return ask.Step, nil
	}
	next := fmt.Sprintf("slipway rewind %s %s", v.Machine, targets[0])
	known := slices.ContainsFunc(s.Processes[v.Process].Rows, func(row orchestrator.Row) bool { return row.Step == ask.Step })
	if !known {
		fields := orchestrator.FieldErrors{{Field: "step", Problem: fmt.Sprintf("%q is no step of %s", ask.Step, v.Process), Fix: "use one of " + strings.Join(targets, ", ")}}
		return "", &api.Error{Code: api.CodeRefused, Message: fields.Error(), Fields: fields, Next: next}
	}
	return "", &api.Error{Code: api.CodeConflict, Next: next,
		Message: fmt.Sprintf("rewind to %s does not go: the run is at step %s, from where it goes to %s", ask.Step, v.Step, strings.Join(targets, ", "))}
}

// plan says what a verb does, in the words of the table.
func (s *Service) plan(verb, step string, v orchestrator.RunView) []string {
	process := s.Processes[v.Process]
	if verb == orchestrator.VerbCancel && v.Halted() {
		return []string{"take the " + v.Process + " back: nothing of it was done"}
	}
	switch verb {
	case orchestrator.VerbRetry:
		if v.Undoing {
			return []string{"go on undoing step " + v.Step}
		}
		return []string{fmt.Sprintf("run step %s again from state %s, adopting what is there", v.Step, v.State)}
	case orchestrator.VerbSkip:
		row, _ := process.RowFrom(v.State)
		return []string{fmt.Sprintf("leave out step %s and go on from state %s; what it has put into a group's desired state stays there", step, row.To)}
	case orchestrator.VerbForce:
		return []string{fmt.Sprintf("run step %s again from state %s and pass the checks that fail; anything else that fails stops the run as before", step, v.State)}
	case orchestrator.VerbRewind:
		return append(undoing(process, v.State, step), fmt.Sprintf("go on from step %s", step))
	case orchestrator.VerbAdopt:
		var plan []string
		if step != v.Step {
			plan = slices.DeleteFunc(undoing(process, v.State, step), func(line string) bool { return line == "undo "+step })
		}
		return append(plan, fmt.Sprintf("go on from step %s, which takes over the VM and gives it the order's shape", step))
	default:
		return append(undoing(process, v.State, ""), "end the run as canceled; its addresses rest for "+s.Estate.QuarantineOrDefault().String())
	}
}

// undoing is the way back from a state, up to and with a step; to the start for "".
func undoing(process *orchestrator.Process, from orchestrator.State, step string) []string {
	var plan []string
	begun := false
	for _, row := range slices.Backward(process.Rows) {
		begun = begun || row.From == from
		if begun && row.Undo != nil {
			plan = append(plan, "undo "+row.Step)
		}
		if begun && row.Step == step {
			break
		}
	}
	return plan
}

// adoptable refuses to adopt where there is nothing: the step would make a VM.
func (s *Service) adoptable(ctx context.Context, m orchestrator.Machine, answer *api.Acted) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	vm, err := s.Xapi.FindMachine(ctx, orchestrator.MachineRef{Pool: m.Placement.Pool, Machine: m.ID, VM: m.VM, LookOnly: true})
	if errors.Is(err, orchestrator.ErrNotFound) {
		return &api.Error{Code: api.CodeConflict, Next: "slipway explain " + m.ID,
			Message: fmt.Sprintf("pool %s has no VM that carries the tag other_config:slipway_machine=%s with its own uuid as slipway_self: there is nothing to adopt", m.Placement.Pool, m.ID)}
	}
	if err != nil {
		return err
	}
	was := "no VM is recorded yet"
	switch m.VM {
	case "":
	case vm.UUID:
		was = "it is the one that is recorded"
	default:
		was = "recorded was " + m.VM
	}
	answer.Found = append(answer.Found, fmt.Sprintf("VM %s carries the machine's tag; %s", vm.UUID, was))
	return nil
}

// getReplay reads a run's journal again: the run that was named, else the active one, else the newest.
func (s *Service) getReplay(r *http.Request) (any, error) {
	ctx := r.Context()
	m, err := s.find(r)
	if err != nil {
		return nil, err
	}
	runs, active, err := s.activeRun(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	if len(runs) == 0 {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("machine %s has no run yet", m.ID), Next: "slipway show " + m.ID}
	}
	run := runs[0] // the newest
	if active != nil {
		run = *active
	}
	for _, named := range runs {
		if named.ID == r.PathValue("what") {
			run = named
		}
	}
	process, ok := s.Processes[run.Process]
	if !ok {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("process %q is unknown to this version", run.Process), Next: "slipway show " + m.ID}
	}
	attempts, err := s.Store.Attempts(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	moves, end := orchestrator.Replay(ctx, run.Run, process, attempts)
	out := api.Replay{Machine: m.ID, Run: run.ID, Process: run.Process, Moves: make([]api.Move, len(moves)), Ends: string(end), Stands: string(run.State), Status: string(run.Status)}
	for i, move := range moves {
		out.Moves[i] = api.Move{Attempt: attemptOf(move.Attempt), Before: string(move.Before), After: string(move.After), Problem: move.Problem}
	}
	return out, nil
}

func attemptOf(a orchestrator.Attempt) api.Attempt {
	return api.Attempt{Run: a.Run, Step: a.Step, Number: a.Number, Undo: a.Undo, Started: a.Started, Ended: a.Ended,
		Outcome: a.Outcome, Kind: string(a.Kind), Message: a.Message, Actor: a.Actor, Handles: a.Handles, Detail: a.Detail}
}
