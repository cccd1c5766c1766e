package orchestrator

import (
	"context"
	"strings"
	"time"
)

// EventHalted tells that more runs of a process were begun in a pool than the guard lets through: further ones wait for an operator's word.
// It comes once for each halt, under the order that met it.
const EventHalted = "slipway.guard.halted"

// haltPrefix begins the kind of a hold that a Guard put there; the process follows.
const haltPrefix = "halt of "

// HaltOf is the kind of hold that keeps a process' runs from beginning.
func HaltOf(process string) HoldKind { return HoldKind(haltPrefix + process) }

// Halts is the process whose runs the hold keeps from beginning; ok is false for a hold of another kind.
func (h Hold) Halts() (process string, ok bool) { return strings.CutPrefix(string(h.Kind), haltPrefix) }

const wakeHalt = "halt:"

// WakeHalt is the wake key of the runs that a halt keeps from beginning.
func WakeHalt(s Subject, process string) string { return wakeHalt + process + ":" + string(s) }

// haltPoll is how soon a halted run looks by itself whether the halt is still there; the operator's word wakes it.
const haltPoll = 10 * time.Minute

// Beginning is a run that asks whether it may begin.
type Beginning struct {
	Run     Run
	Tenant  string
	Subject Subject // what is counted apart: the pool
	// Limit is how many runs of the process may begin there within Window, by the database's clock.
	Limit  int
	Window time.Duration
}

// Guards counts the runs that begin to take something away, for all workers together.
type Guards interface {
	// Begin lets a run begin and counts it, once however often it asks; or it answers with the halt that is in force, put there by this call
	// when it is the first that would be too many. That one is recorded, and tells the event that tell makes. ErrFenced when the run is not in
	// its holder's hands any more.
	Begin(ctx context.Context, b Beginning, tell func(Hold) Event) (halt Hold, halted bool, err error)
	// EndHalt lets go on what waits for a halt, without counting it, and begins to count anew; it returns how many runs that are. ErrNotFound
	// when there is no such halt. Recorded.
	EndHalt(ctx context.Context, s Subject, process, actor, reason string) (let int, err error)
}

// Guard bounds how many runs may begin that take a finished machine from its customer. Safe for concurrent use.
type Guard interface {
	// Begin is asked before the first step of such a run, by the worker that holds it. A halt that it answers with keeps the run where it is.
	Begin(ctx context.Context, run Run, m Machine) (halt Hold, halted bool, err error)
}

// isGuarded reports that the run is still to be let begin. A machine that was never finished is nobody's loss, and one that is no longer
// finished has been begun with by the run that this one takes over from.
func (t *tick) isGuarded() bool {
	run, m := t.held.Run, t.held.Machine
	return t.guard != nil && t.process.Guarded && run.State == t.process.Start() && !run.Undoing && run.Begun.IsZero() &&
		(m.State == StateReady || m.State == StateSuspended)
}

// isHalted puts down a run that may not begin now.
func (t *tick) isHalted(ctx context.Context) (bool, error) {
	if !t.isGuarded() {
		return false, nil
	}
	halt, halted, err := t.guard.Begin(ctx, t.held.Run, t.held.Machine)
	if err != nil {
		return false, err
	}
	if !halted {
		t.held.Run.Begun = t.now // as the store has it: the guard is not asked again
		return false, nil
	}
	s, c := t.step(), t.newCommit()
	c.Run.Kind, c.Run.StepSince = "", t.now // as for every hold
	t.putDown(&c, s, t.now.Add(haltPoll), WakeHalt(halt.Subject, t.process.Name), "waits for the "+halt.String())
	_, err = t.settle(ctx, s, c)
	return true, err
}

// Halted reports that a run waits for an operator's word before it begins: nothing of it was done, so that it can be withdrawn.
func (r Run) Halted() bool {
	return strings.HasPrefix(r.WakeKey, wakeHalt) && r.Begun.IsZero() && !r.Undoing && r.Status.Active()
}

// withdraw ends a run that was canceled before it was let begin. Its machine stays as it is.
func (t *tick) withdraw(ctx context.Context) (bool, error) {
	c := t.newCommit()
	c.end(StatusCanceled, t.held.Run.Cancel)
	c.Events = append(c.Events, t.event(EventCanceled, &c.Run, &t.held.Machine, EventData{Message: t.held.Run.Cancel}))
	return t.save(ctx, c)
}
