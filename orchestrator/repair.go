package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Request is what an operator asked of a run that was put down. The store keeps it, the engine carries it out: no verb writes a state.
//
//   - skip: the row is left out, the state advances as if its When had been false;
//   - force: the row is walked again, and checks that fail are journalled and passed; whatever else fails, fails;
//   - rewind: the way back as after a cancel, up to and with Step, and from there forward again;
//   - adopt: a rewind that leaves what Step had made, so that Step takes over what carries the machine's tag.
//
// It is spent when its row has been walked, when the run parks on its way forward, or when somebody cancels.
type Request struct {
	Verb string `json:"verb"`
	Step string `json:"step"`
	By   string `json:"by"` // "uid:name: reason", or "uid:name" when none was given
}

func (r Request) String() string {
	if r.goesBack() {
		return fmt.Sprintf("%s to %s by %s", r.Verb, r.Step, r.By)
	}
	return fmt.Sprintf("%s by %s", r.Verb, r.By)
}

func (r Request) goesBack() bool { return r.Verb == VerbRewind || r.Verb == VerbAdopt }

// Marks say what an operator may do at a row beyond retry and cancel.
type Marks struct {
	// Skip rows may be left out: no later row needs what they bring about, and it may come later by itself or by hand. Never a row whose Do
	// learns something that a later row reads.
	Skip bool
	// Check rows look at what others made, through Step.Check: force lets such a look fail.
	Check bool
	// Adopt is on the one row that takes over what carries the machine's tag.
	Adopt bool
	// UndoneWith names an earlier row whose undo takes this row's effect away too, for a row that has no undo of its own: a run that has
	// begun this row is rewound to that one or further, or not at all.
	UndoneWith string
}

func (m Marks) validate(row Row, earlier map[string]bool) error {
	switch {
	case m.UndoneWith != "" && row.Undo != nil:
		return errors.New("has an undo of its own and another row's")
	case m.UndoneWith != "" && !earlier[m.UndoneWith]:
		return fmt.Errorf("is undone with %s, which is no earlier row", m.UndoneWith)
	case m.Skip && (m.Adopt || m.Check || m.UndoneWith != ""):
		return errors.New("makes or checks something and may be skipped")
	}
	return nil
}

// Check is how a row marked so judges: a failure comes back as it is, or has been forced, and is only told in the journal. What the worker's
// own end makes fail is never passed.
func (s *Step) Check(ctx context.Context, failure error) error {
	if failure == nil || s.Run.Request.Verb != VerbForce || s.Run.Request.Step != s.Run.Step || ctx.Err() != nil {
		return failure
	}
	s.passed = append(s.passed, printable(failure.Error()))
	return nil
}

// forced is the summary of a row: what was passed, where something was.
func (s *Step) forced(summary string) string {
	if len(s.passed) == 0 {
		return summary
	}
	return fmt.Sprintf("%s past: %s", s.Run.Request, strings.Join(s.passed, "; "))
}

// GoesOn tells an undo that the run goes forward again from here: its row is the one that a rewind leads to.
func (s *Step) GoesOn() bool {
	return s.Run.Undoing && s.Run.Request.goesBack() && s.Run.Request.Step == s.Run.Step
}

// nextStep is the first attempt of the step that follows.
func (r Run) nextStep() int {
	if r.Rewound == 0 {
		return 1
	}
	return r.Attempt + 1
}

// Exits lists the verbs that a run accepts as it stands; never empty for an active run.
func Exits(run Run, process *Process) []string {
	rewinds := run.Undoing && run.Request.goesBack()
	switch {
	case !run.Status.Active():
		return nil
	case run.Status == StatusParked && process.Cancelable && (!run.Undoing || rewinds), run.Status == StatusWaiting && process.Cancelable:
		return append([]string{VerbRetry, VerbCancel}, repairs(run, process)...)
	case run.Halted() && run.Cancel == "" && run.Status == StatusWaiting:
		return []string{VerbRetry, VerbCancel}
	case run.Status == StatusParked, run.Status == StatusWaiting:
		return append([]string{VerbRetry}, repairs(run, process)...)
	case run.Status == StatusCanceling:
		return []string{VerbRetry}
	case process.Cancelable:
		return []string{VerbCancel}
	default:
		return []string{"wait"}
	}
}

// repairs are the verbs that the marks of a put-down run's row allow.
func repairs(run Run, process *Process) []string {
	var verbs []string
	for _, verb := range []string{VerbSkip, VerbForce, VerbRewind, VerbAdopt} {
		if len(Targets(run, process, verb)) > 0 {
			verbs = append(verbs, verb)
		}
	}
	return verbs
}

// Targets are the steps that a verb may name for a run on its way forward, the nearest first; none when the table does not allow it where
// the run stands. For skip and force it is the step where the run stands.
func Targets(run Run, process *Process, verb string) []string {
	at := slices.IndexFunc(process.Rows, func(row Row) bool { return row.From == run.State })
	if at < 0 || run.Undoing || run.Cancel != "" || !run.Status.Active() {
		return nil
	}
	row := process.Rows[at]
	if row.Step != run.Step {
		return nil // the table has changed since
	}
	switch {
	case verb == VerbSkip && row.Marks.Skip, verb == VerbForce && row.Marks.Check:
		return []string{row.Step}
	case (verb == VerbRewind || verb == VerbAdopt) && process.Cancelable:
		return behind(process.Rows[:at+1], verb == VerbAdopt)
	}
	return nil
}

// behind are the rows that a run which has begun the last of these may go back to. A row that is undone with another one only is passed
// together with that one; an adoption leaves that one's effect, so that it does not pass.
func behind(begun []Row, adopt bool) []string {
	var steps []string
	through := ""
	for _, row := range slices.Backward(begun) {
		if through == "" {
			through = row.Marks.UndoneWith
		}
		if through == row.Step && !adopt {
			through = ""
		}
		if through == "" && (!adopt || row.Marks.Adopt) {
			steps = append(steps, row.Step)
		}
	}
	return steps
}

// forgetRequest lets a cancel take the place of whatever an operator had asked for.
func (t *tick) forgetRequest() {
	if run := &t.held.Run; run.Request != (Request{}) {
		run.Request = Request{}
		if run.Undoing {
			run.Status = StatusCanceling
		}
	}
}

// goesBack reports whether the run has been asked to turn. To adopt where the run stands is to walk that row again, with its handles.
func (t *tick) goesBack() bool {
	run := t.held.Run
	return run.Request.goesBack() && (run.Request.Verb == VerbRewind || run.Request.Step != run.Step)
}

// backwards is the status of a run on its way back.
func (t *tick) backwards() Status {
	if t.held.Run.Request.goesBack() {
		return StatusRunning
	}
	return StatusCanceling
}

// keeps reports whether the row's effect is left for its own Do to adopt.
func (t *tick) keeps() bool {
	return t.held.Run.Request.Verb == VerbAdopt && t.held.Run.Request.Step == t.row.Step
}

// refuse parks a run whose request the table does not allow: it has changed since the operator asked.
func (t *tick) refuse(ctx context.Context) (bool, error) {
	r := t.held.Run.Request
	allowed := strings.Join(Targets(t.held.Run, t.process, r.Verb), ", ")
	if allowed == "" {
		allowed = "nothing"
	}
	return t.park(ctx, t.now, t.held, Permanent, fmt.Sprintf("%s is refused at step %s; from here it may name %s", r, t.held.Run.Step, allowed))
}

func (t *tick) allowed() bool {
	run := t.held.Run
	return slices.Contains(Targets(run, t.process, run.Request.Verb), run.Request.Step)
}

// skip advances past a row that is marked so. Its attempt is in the journal before, as any other's.
func (t *tick) skip(ctx context.Context) (bool, error) {
	if again, err := t.begin(ctx); !again || err != nil {
		return again, err
	}
	return t.advance(ctx, t.step(), Outcome{Summary: t.held.Run.Request.String()}, OutcomeSkipped)
}

// rewind turns the run; unwind does the rest.
func (t *tick) rewind(ctx context.Context) (bool, error) {
	if !t.allowed() {
		return t.refuse(ctx)
	}
	return t.turn(ctx)
}

// onward commits the last undone row of a rewind and opens the way forward.
func (t *tick) onward(ctx context.Context, s *Step, c Commit) (bool, error) {
	row, ok := t.process.RowFrom(c.Run.State)
	if !ok || row.Step != t.row.Step {
		return t.fail(ctx, s, Errorf("engine", Permanent, "state %s is not the one that step %s leaves", c.Run.State, t.row.Step))
	}
	c.Events = append(c.Events, t.event(EventRewound, &c.Run, c.Machine, EventData{Step: row.Step, Message: c.Run.Request.String()}))
	c.Run.Undoing, c.Run.Request = false, Request{}
	c.Run.Step, c.Run.RowHash, c.Run.Attempt, c.Run.StepSince = row.Step, t.process.Hash(row), c.Run.nextStep(), t.now
	ahead := &tick{Engine: t.Engine, process: t.process, row: row, now: t.now, held: &Claim{Run: c.Run, Machine: *c.Machine}}
	ahead.open(&c, *c.Machine)
	return t.settle(ctx, s, c)
}
