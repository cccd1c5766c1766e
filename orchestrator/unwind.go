package orchestrator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// unwind takes a canceled run back, or one that is rewound: first the row that was being walked, whatever part of its effect exists, then one row after the other
// towards the start, or to the step that a rewind names. When another process takes over, only that first row is undone, so that no task of ours is still under way; the
// successor finds by itself what else there is.
func (t *tick) unwind(ctx context.Context) (bool, error) {
	run := &t.held.Run
	if !run.Undoing {
		return t.turn(ctx)
	}
	row, ok := t.rowNamed(run.Step)
	if !ok {
		return t.park(ctx, t.now, t.held, Permanent, fmt.Sprintf("step %s, which is to be undone, is no longer in the table of %s", run.Step, t.process.Name))
	}
	t.row = row
	if again, err := t.begin(ctx); !again || err != nil {
		return again, err
	}
	s := t.step()
	if t.keeps() {
		return t.back(ctx, s, Outcome{Summary: "what is there is adopted"})
	}
	skip := row.Undo == nil
	if row.When != nil && !skip {
		applies, _ := row.When(s)
		skip = !applies
	}
	if skip {
		return t.back(ctx, s, Outcome{Summary: "nothing to undo"})
	}
	if held, err := t.isHeld(ctx, s); held || err != nil {
		return false, err
	}
	outcome, err := t.call(ctx, row.Undo, s)
	switch {
	case err != nil:
		return t.fail(ctx, s, err)
	case outcome.Wait != nil:
		return t.wait(ctx, s, outcome)
	default:
		return t.back(ctx, s, outcome)
	}
}

// turn ends the attempt that was open and starts the way back.
func (t *tick) turn(ctx context.Context) (bool, error) {
	begun, err := t.begun(ctx)
	if err != nil {
		return false, err
	}
	row, ok := t.rowNamed(t.held.Run.Step)
	if !ok && !slices.Contains(begun, t.held.Run.Step) {
		row, ok = t.process.RowFrom(t.held.Run.State) // what takes its place: nothing was made of either
	}
	if !ok {
		return t.park(ctx, t.now, t.held, Permanent, t.changed())
	}
	if why := t.astray(begun, t.process.through(row.Step)); why != "" {
		return t.park(ctx, t.now, t.held, Permanent, why)
	}
	t.row = row
	c := t.newCommit()
	if t.held.Open != nil {
		why := t.held.Run.Cancel
		if why == "" {
			why = t.held.Run.Request.String()
		}
		c.Ended = t.end(OutcomeCanceled, Canceled, why, nil)
	}
	c.Run.Step, c.Run.RowHash = row.Step, t.process.Hash(row) // another than the run's when the table has changed since
	c.Run.Attempt = max(c.Run.Attempt, c.Run.Rewound) + 1
	c.Run.Undoing, c.Run.Status, c.Run.Failures, c.Run.Conflicts, c.Run.StepSince = true, t.backwards(), 0, 0, t.now
	t.open(&c, t.held.Machine)
	return t.save(ctx, c)
}

// back commits an undone row and opens the undo of the one before it.
func (t *tick) back(ctx context.Context, s *Step, outcome Outcome) (bool, error) {
	run := t.held.Run
	state := run.State
	if state == t.row.To {
		var err error
		if state, err = fire(ctx, t.process, state, undoEvent(t.row)); err != nil {
			return t.fail(ctx, s, E("engine", Permanent, err))
		}
	}
	before, more := t.process.RowTo(state)
	if run.Successor != "" && (!t.process.Returns || !more) {
		return t.handOver(ctx, s, outcome, state)
	}
	onward := run.Request.goesBack() && run.Request.Step == t.row.Step
	if !onward {
		if why, err := t.loses(ctx, state, before, more); err != nil {
			return false, err
		} else if why != "" {
			return t.giveUp(ctx, s, Permanent, why)
		}
	}
	c := t.newCommit()
	c.Changes = outcome.Changes
	c.Ended = t.end(OutcomeUndone, "", outcome.Summary, outcome.Detail)
	machine := *s.Machine
	machine.State = string(state)
	c.Machine = &machine
	c.Run.State, c.Run.Handles, c.Run.Failures, c.Run.Conflicts = state, nil, 0, 0
	c.Run.Status = t.backwards()
	if onward {
		return t.onward(ctx, s, c)
	}
	if !more {
		machine.State = cmp.Or(run.Alteration.State, string(StatusCanceled))
		c.end(StatusCanceled, run.Cancel)
		c.Events = append(c.Events, t.event(EventCanceled, &c.Run, &machine, EventData{Message: run.Cancel}))
		return t.settle(ctx, s, c)
	}
	c.Run.Step, c.Run.RowHash, c.Run.Attempt, c.Run.StepSince = before.Step, t.process.Hash(before), c.Run.nextStep(), t.now
	ahead := &tick{Engine: t.Engine, process: t.process, row: before, now: t.now, held: &Claim{Run: c.Run, Machine: machine}}
	ahead.open(&c, machine)
	return t.settle(ctx, s, c)
}

// loses says why the way back cannot go on from a state, by the row that leads there or, when no row does, by ending; "" when it can.
func (t *tick) loses(ctx context.Context, state State, before Row, more bool) (string, error) {
	if !more && state != t.process.Start() {
		return fmt.Sprintf("state %s is no longer in the table of %s, so that nobody knows the way back from it; retry it on a version that has it", state, t.process.Name), nil
	}
	begun, err := t.begun(ctx)
	if err != nil {
		return "", err
	}
	begun = slices.DeleteFunc(begun, func(step string) bool { return step == t.row.Step })
	var back []Row
	if more {
		back = t.process.through(before.Step)
	}
	return t.astray(begun, back), nil
}

// handOver ends the run in favour of the process that asked for it, in one commit.
func (t *tick) handOver(ctx context.Context, s *Step, outcome Outcome, state State) (bool, error) {
	run := t.held.Run
	successor, ok := t.processes[run.Successor]
	if !ok {
		return t.park(ctx, t.now, t.held, Permanent, fmt.Sprintf("process %q, which is to take over, is unknown to this version", run.Successor))
	}
	c := t.newCommit()
	c.Changes = outcome.Changes
	c.Ended = t.end(OutcomeUndone, "", outcome.Summary, outcome.Detail)
	c.Run.State = state
	c.end(StatusCanceled, run.Cancel)
	next := successor.NewRun(run.SuccessorID, run.Machine, Order{}, t.now)
	c.Next = &next // the store fills in its order
	machine := *s.Machine
	machine.State = string(next.State)
	c.Machine = &machine
	c.Events = append(c.Events, t.event(EventCanceled, &c.Run, &machine, EventData{Message: run.Cancel}))
	return t.settle(ctx, s, c)
}

// UnlessTakenOver is an Undo for what is changed of a finished machine. A process that takes over removes whatever it finds: it does not wait
// for appliances to carry the former rules for a moment, and what was shut is not opened before it goes. An Undo whose row may have a task
// under way waits for that itself.
func UnlessTakenOver(undo func(context.Context, *Step) (Outcome, error)) func(context.Context, *Step) (Outcome, error) {
	return func(ctx context.Context, s *Step) (Outcome, error) {
		if s.Run.Successor != "" {
			return Finished("left to %s, which takes over", s.Run.Successor)
		}
		return undo(ctx, s)
	}
}

func (t *tick) rowNamed(step string) (Row, bool) {
	for _, row := range t.process.Rows {
		if row.Step == step {
			return row, true
		}
	}
	return Row{}, false
}
