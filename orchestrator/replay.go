package orchestrator

import (
	"context"
	"fmt"
)

// Move is one line of a journal, read again: what it did to the run's state.
type Move struct {
	Attempt
	Before, After State
	// Problem says why the line cannot have happened in this table; the state stays.
	Problem string
}

// Replay walks a run's journal from the start of its table: an attempt that is done or skipped fires its row's event, one that is undone
// fires the way back, all else leaves the state. The last After is where the journal says that the run stands; attempts of other runs are
// left out.
func Replay(ctx context.Context, run Run, process *Process, attempts []Attempt) (moves []Move, end State) {
	state := process.Start()
	for _, a := range attempts {
		if a.Run != run.ID {
			continue
		}
		m := Move{Attempt: a, Before: state}
		var err error
		switch {
		case a.Outcome == OutcomeDone, a.Outcome == OutcomeSkipped:
			state, err = fire(ctx, process, state, a.Step)
		case a.Outcome == OutcomeUndone && state == a.To:
			state, err = fire(ctx, process, state, undoEvent(Row{Step: a.Step}))
		case a.Outcome == OutcomeUndone && state != a.From: // the row that was being walked is undone where the run stands
			err = fmt.Errorf("undo of %s in state %s", a.Step, state)
		}
		if err != nil {
			m.Problem = err.Error()
		}
		m.After = state
		moves = append(moves, m)
	}
	return moves, state
}
