package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Rows change between versions, and workers of two versions may share a store. A run goes on where a row with its state and step is, wherever
// that row leads by now. Where it is not, a worker that does not know the row leaves the run to those who may (Ask.Knows), and parks it once there is
// none. A way back is the table's too: it is held against the run's journal, so that what another version's row made is not passed over.

// Knows lists the places at which this engine can take a run up: each row, and on the way back each step. An Ask and a Worker carry it.
func (e *Engine) Knows() []string {
	var keys []string
	for _, p := range e.processes {
		for _, row := range p.Rows {
			keys = append(keys, Place(p.Name, row.From, row.Step, false), Place(p.Name, row.From, row.Step, true))
		}
	}
	slices.Sort(keys)
	return keys
}

// Place names where a run stands: "process/state/step", or "process//step" on the way back, which finds its row by the step alone.
func Place(process string, state State, step string, undoing bool) string {
	if undoing {
		state = ""
	}
	return process + "/" + string(state) + "/" + step
}

// changed says why no row leads the run on, and what an operator can do about that.
func (t *tick) changed() string {
	run := t.held.Run
	what, verbs := "the table has neither", "retry it on a version that has it"
	named, exists := t.rowNamed(run.Step)
	if exists {
		what = fmt.Sprintf("that step leaves state %s now", named.From)
	}
	if row, ok := t.process.RowFrom(run.State); ok {
		what = fmt.Sprintf("step %s leaves that state now", row.Step)
	}
	if exists && t.process.Cancelable {
		verbs += ", or cancel it"
	}
	return fmt.Sprintf("step %s from state %s is no longer in the table of %s: %s; %s", run.Step, run.State, t.process.Name, what, verbs)
}

// moved is what the journal says of a step whose row has changed since the run got there.
func (t *tick) moved(summary string) string {
	if t.held.Run.RowHash == t.process.Hash(t.row) {
		return summary
	}
	return strings.TrimPrefix(fmt.Sprintf("%s; by another version's row, to %s", summary, t.row.To), "; ")
}

// begun are the steps that the run has begun and not undone since, in the order in which it did. One that was only skipped has made nothing.
func (t *tick) begun(ctx context.Context) ([]string, error) {
	if t.attempts == nil {
		return nil, nil
	}
	attempts, err := t.attempts(ctx, t.held.Run.Machine)
	if err != nil {
		return nil, err
	}
	var steps []string
	for _, a := range attempts {
		at := slices.Index(steps, a.Step)
		switch {
		case a.Run != t.held.Run.ID:
		case a.Outcome == OutcomeUndone && at >= 0:
			steps = slices.Delete(steps, at, at+1)
		case a.Undo || at >= 0:
		case slices.Contains(acted[:], a.Outcome):
			steps = append(steps, a.Step)
		}
	}
	return steps, nil
}

var acted = [...]string{OutcomeOpen, OutcomeDone, OutcomeFailed, OutcomeInterrupted, OutcomeCanceled}

// astray says what a way back over these rows, the first of the table's, would leave behind; "" when it is all passed.
func (t *tick) astray(begun []string, back []Row) string {
	run := t.held.Run
	if run.Successor != "" && !t.process.Returns {
		return "" // it goes no further than the row at hand
	}
	if target := slices.Index(begun, run.Request.Step); target >= 0 && run.Request.goesBack() {
		begun = begun[target:]
	}
	var left []string
	for _, step := range begun {
		if !slices.ContainsFunc(back, func(row Row) bool { return row.Step == step }) {
			left = append(left, step)
		}
	}
	if len(left) == 0 {
		return ""
	}
	return fmt.Sprintf("this run has begun %s, which the table of %s does not undo on the way back from state %s; retry it on a version that does",
		strings.Join(left, ", "), t.process.Name, run.State)
}

// through are the rows up to and with a step's.
func (p *Process) through(step string) []Row {
	return p.Rows[:1+slices.IndexFunc(p.Rows, func(row Row) bool { return row.Step == step })]
}
