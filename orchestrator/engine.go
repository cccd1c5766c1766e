package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/looplab/fsm"
)

// Engine walks runs through process tables. It has no goroutine, clock or randomness of its own: whoever holds a run calls Tick, and the
// same calls with the same answers of the world and the clock give the same history. Safe for concurrent use on different runs.
type Engine struct {
	processes map[string]*Process
	estate    *Estate
	commit    func(context.Context, Commit) CommitResult
	attempts  func(context.Context, string) ([]Attempt, error)
	console   func(context.Context, Placement) string
	actor     string
	gate      Gate
	guard     Guard
	log       *slog.Logger
}

// EngineConfig is what an Engine needs; all fields but Attempts, ConsoleAddress, Gate and Guard are required.
type EngineConfig struct {
	Processes []*Process
	Estate    *Estate
	// Commit makes one result durable and returns when it is: Journal.Commit, alone or in a group.
	Commit func(context.Context, Commit) CommitResult
	// Attempts reads a machine's journal, oldest first: Operators.Attempts. A way back is held against it, in case that the table was another one
	// when the run came its way; nil trusts that it was this one.
	Attempts func(ctx context.Context, machine string) ([]Attempt, error)
	// ConsoleAddress is the host at which customers reach a placement's console port now, "" when nobody knows; events have it beside the port.
	ConsoleAddress func(context.Context, Placement) string
	Actor          string // names this worker in the journal
	Gate           Gate   // what is held; nil is nothing
	Guard          Guard  // how many may begin; nil is any number
	Log            *slog.Logger
}

// NewEngine checks the tables.
func NewEngine(c EngineConfig) (*Engine, error) {
	e := &Engine{processes: map[string]*Process{}, estate: c.Estate, commit: c.Commit, attempts: c.Attempts, console: c.ConsoleAddress, actor: c.Actor, gate: c.Gate, guard: c.Guard, log: c.Log}
	for _, p := range c.Processes {
		if err := p.Validate(); err != nil {
			return nil, err
		}
		e.processes[p.Name] = p
	}
	return e, nil
}

// Process finds a table by its name.
func (e *Engine) Process(name string) (*Process, bool) {
	p, ok := e.processes[name]
	return p, ok
}

// StateError says that a row was asked to leave a state in which the run is not.
type StateError struct {
	Process, Step   string
	Expected, Found State
}

func (s *StateError) Error() string {
	return fmt.Sprintf("process %s, step %s: expected state %s, found %s", s.Process, s.Step, s.Expected, s.Found)
}

// maxConflicts in a row are decided again at once; after that they count as failures.
const maxConflicts = 10

// Tick does the next thing for a run that the caller holds, and commits it: one row, or one call of a row that waits. held is brought up
// to date. now is the database's clock, as the claim's Run.UpdatedAt is: what it makes due is compared with that one. It is read at the
// beginning and again after the row's function, whose time is thus the journal's for that row and no part of a pause that follows. more is
// true when the run is still held and can go on at once; otherwise its lease has been given back.
// An error means that nothing is known to be committed and the caller must let go: ErrFenced, or the store is away.
func (e *Engine) Tick(ctx context.Context, now func() time.Time, held *Claim) (more bool, err error) {
	process, ok := e.processes[held.Run.Process]
	if !ok {
		return e.park(ctx, now(), held, Permanent, fmt.Sprintf("process %q is unknown to this version", held.Run.Process))
	}
	t := &tick{Engine: e, process: process, now: now(), clock: now, held: held}
	if held.Run.Cancel != "" && held.Run.Successor == "" && process.Guarded && held.Run.Halted() {
		return t.withdraw(ctx)
	}
	if held.Run.Cancel != "" && !process.Cancelable && held.Run.Successor == "" {
		held.Run.Cancel = "" // this process only goes forward
		if held.Run.Status == StatusCanceling {
			held.Run.Status = StatusRunning
		}
	}
	if held.Run.Cancel != "" {
		t.forgetRequest()
	}
	if held.Run.Cancel != "" || held.Run.Undoing {
		return t.unwind(ctx)
	}
	if t.goesBack() {
		return t.rewind(ctx)
	}
	row, ok := process.RowFrom(held.Run.State)
	if !ok || row.Step != held.Run.Step {
		return e.park(ctx, t.now, held, Permanent, t.changed())
	}
	t.row = row
	switch verb := held.Run.Request.Verb; {
	case verb != "" && !t.allowed():
		return t.refuse(ctx)
	case verb == VerbSkip:
		return t.skip(ctx)
	default:
		return t.forward(ctx)
	}
}

// tick is one call of Tick.
type tick struct {
	*Engine
	process *Process
	row     Row
	now     time.Time // when it was begun, or when the row's function came back
	clock   func() time.Time
	held    *Claim
}

func (t *tick) forward(ctx context.Context) (bool, error) {
	if halted, err := t.isHalted(ctx); halted || err != nil {
		return false, err
	}
	if again, err := t.begin(ctx); !again || err != nil {
		return again, err
	}
	s := t.step()
	if t.row.When != nil {
		if applies, why := t.row.When(s); !applies {
			return t.advance(ctx, s, Outcome{Summary: why}, OutcomeSkipped)
		}
	}
	if held, err := t.isHeld(ctx, s); held || err != nil {
		return false, err
	}
	if t.row.Reserve != nil {
		if _, err := t.row.Reserve(s); err != nil {
			return t.fail(ctx, s, err) // nothing was reserved; this is why
		}
	}
	outcome, err := t.call(ctx, t.row.Do, s)
	switch {
	case err != nil:
		return t.fail(ctx, s, err)
	case outcome.Wait != nil:
		return t.wait(ctx, s, outcome)
	default:
		outcome.Summary = s.forced(outcome.Summary)
		return t.advance(ctx, s, outcome, OutcomeDone)
	}
}

// begin makes sure that the attempt is in the journal before anything acts. The first attempt of a run is covered by its order; every
// other one was opened by the commit that led here, except after an operator's retry and after another worker's death.
func (t *tick) begin(ctx context.Context) (bool, error) {
	run, open := &t.held.Run, t.held.Open
	first := run.State == t.process.Start() && run.Attempt == 1 && !run.Undoing
	interrupted := open != nil && run.WakeAt.IsZero() && open.Actor != t.opener(run)
	if open == nil && first || open != nil && !interrupted {
		return true, nil
	}
	c := t.newCommit()
	if open != nil {
		c.Ended = t.end(OutcomeInterrupted, "", "the worker "+open.Actor+" went away", nil)
	}
	if open != nil {
		c.Run.Attempt++
	}
	t.open(&c, t.held.Machine)
	more, err := t.save(ctx, c)
	if refused(ctx, err) {
		return t.giveUp(ctx, t.step(), KindOf(err), printable(err.Error()))
	}
	return more, err
}

// opener names the holder and its fence, so that an attempt shows which lease it was made under.
func (t *tick) opener(run *Run) string { return fmt.Sprintf("%s#%d", t.actor, run.Fence) }

func (t *tick) step() *Step {
	machine := t.held.Machine
	run := t.held.Run
	run.Handles = maps.Clone(run.Handles)
	if run.Handles == nil {
		run.Handles = map[string]string{}
	}
	s := &Step{
		Run: run, Machine: &machine, Estate: t.estate, Now: t.now,
		Log: t.log.With("run", run.ID, "machine", machine.ID, "step", t.row.Step, "attempt", run.Attempt),
	}
	s.Pool, _ = t.estate.PoolByID(machine.Placement.Pool)
	s.record = func(ctx context.Context, name, value string) error {
		c := t.newCommit()
		c.Run.Handles = maps.Clone(s.Run.Handles)
		c.Run.Handles[name] = value
		t.takeMachine(&c, s)
		if _, err := t.save(ctx, c); err != nil {
			return err
		}
		s.Run.Handles[name] = value
		return nil
	}
	return s
}

// call runs a row's function under its timeout.
func (t *tick) call(ctx context.Context, do func(context.Context, *Step) (Outcome, error), s *Step) (Outcome, error) {
	timeout := t.row.Policy.WithDefaults().Timeout
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("step %s took longer than %s: %w", t.row.Step, timeout, context.DeadlineExceeded))
	defer cancel()
	outcome, err := do(ctx, s)
	t.now = t.clock()
	outcome.Summary = printable(outcome.Summary) // guests and appliances have their words in it
	if outcome.Wait != nil {
		wait := *outcome.Wait
		wait.Reason = printable(wait.Reason)
		outcome.Wait = &wait
	}
	return outcome, err
}

// advance commits a row that is done or skipped, and opens the next one.
func (t *tick) advance(ctx context.Context, s *Step, outcome Outcome, how string) (bool, error) {
	state, err := fire(ctx, t.process, t.held.Run.State, t.row.Step)
	if err != nil {
		return t.fail(ctx, s, E("engine", Permanent, err))
	}
	c := t.newCommit()
	c.Changes, c.Decide = outcome.Changes, guarded(s, outcome.Decide)
	c.Ended = t.end(how, "", t.moved(outcome.Summary), outcome.Detail)
	machine := *s.Machine
	machine.State = string(state)
	c.Run.State, c.Run.Handles, c.Run.Request = state, nil, Request{}
	c.Run.Failures, c.Run.Conflicts = 0, 0
	c.Events = append(c.Events, t.event(EventStepDone, &c.Run, &machine, EventData{Step: t.row.Step, Outcome: how, Message: outcome.Summary, Attempt: t.held.Run.Attempt}))
	next, more := t.process.RowFrom(state)
	if !more {
		c.end(StatusDone, "")
		address := t.consoleAddress(ctx, machine.Placement)
		if t.process.Tells != "" {
			c.Events = append(c.Events, t.event(t.process.Tells, &c.Run, &machine, EventData{Message: outcome.Summary, ConsoleAddress: address}))
		}
		c.Events = append(c.Events, t.event(EventDone, &c.Run, &machine, EventData{ConsoleAddress: address}))
		c.Machine = &machine
		return t.settle(ctx, s, c)
	}
	c.Run.Step, c.Run.RowHash, c.Run.Attempt, c.Run.StepSince = next.Step, t.process.Hash(next), c.Run.nextStep(), t.now
	c.Machine = &machine
	ahead := &tick{Engine: t.Engine, process: t.process, row: next, now: t.now, held: &Claim{Run: c.Run, Machine: machine}}
	ahead.open(&c, machine)
	return t.settle(ctx, s, c)
}

// end makes a commit the run's last one: nothing of what it waited for or failed at is true any more.
func (c *Commit) end(status Status, reason string) {
	c.Run.Status, c.Run.Step, c.Run.RowHash, c.Run.Reason, c.Run.Kind, c.Run.WakeKey, c.Release = status, "", "", reason, "", "", true
}

// settle commits an outcome whose effect exists. A refusal by the store is the step's own failure: the ledger had no room, or a
// constraint was broken. What the step learned about the machine may be what was refused and goes no further: the next attempt looks again.
func (t *tick) settle(ctx context.Context, s *Step, c Commit) (bool, error) {
	more, err := t.save(ctx, c)
	if !refused(ctx, err) {
		return more, err
	}
	*s.Machine = t.held.Machine
	return t.fail(ctx, s, err)
}

// refused reports that the store did not take a commit for what is in it: the lease is ours, the store is there, and we are not stopping.
func refused(ctx context.Context, err error) bool {
	return err != nil && !errors.Is(err, ErrFenced) && !errors.Is(err, ErrStoreAway) && ctx.Err() == nil
}

// open adds the journal line and the reservation of the tick's row to a commit.
func (t *tick) open(c *Commit, machine Machine) {
	c.Run.WakeAt, c.Run.WakeKey, c.Run.Reason, c.Run.Kind = time.Time{}, "", "", ""
	c.Opened = &Attempt{
		Run: c.Run.ID, Machine: machine.ID, Step: t.row.Step, From: t.row.From, To: t.row.To, Number: c.Run.Attempt, Undo: c.Run.Undoing,
		Started: t.now, Outcome: OutcomeOpen, Actor: t.opener(&c.Run),
	}
	if t.row.Reserve == nil || c.Run.Undoing {
		return
	}
	s := t.step()
	s.Machine = &machine
	if t.row.When != nil {
		if applies, _ := t.row.When(s); !applies {
			return
		}
	}
	changes, err := t.row.Reserve(s)
	if err != nil {
		s.Log.Warn("nothing is reserved", "error", err) // the row fails with this before its Do
		return
	}
	c.Changes = append(c.Changes, changes...)
}

func (t *tick) wait(ctx context.Context, s *Step, outcome Outcome) (bool, error) {
	policy := t.row.Policy.WithDefaults()
	inLine := outcome.Wait.Key == WakeCapacity // which does not count, whoever says it
	if over := t.now.Sub(t.held.Run.StepSince) - policy.Budget; over > 0 && !inLine {
		return t.giveUp(ctx, s, Transient, fmt.Sprintf("waited longer than %s: %s", policy.Budget, outcome.Wait.Reason))
	}
	c := t.newCommit()
	c.Changes = outcome.Changes
	c.Run.Handles, c.Run.Kind = s.Run.Handles, ""
	if inLine {
		c.Run.Kind, c.Run.StepSince = Exhausted, t.now
	}
	t.takeMachine(&c, s)
	poll := outcome.Wait.Poll
	if poll == 0 {
		poll = 5 * time.Second
	}
	t.putDown(&c, s, t.now.Add(poll), outcome.Wait.Key, outcome.Wait.Reason)
	return t.settle(ctx, s, c)
}

// putDown makes a commit give the run back until it is woken.
func (t *tick) putDown(c *Commit, s *Step, at time.Time, key, reason string) {
	if t.turns(c) {
		return
	}
	changed := c.Run.Reason != reason
	c.Run.Status, c.Run.WakeAt, c.Run.WakeKey, c.Run.Reason, c.Release = StatusWaiting, at, key, reason, true
	if c.Run.Undoing && !c.Run.Request.goesBack() {
		c.Run.Status = StatusCanceling
	}
	if changed {
		c.Events = append(c.Events, t.event(EventWaiting, &c.Run, s.Machine, EventData{Step: t.row.Step, Message: reason, Kind: c.Run.Kind}))
	}
}

// turns puts a run down for its way back when somebody has asked for that since its tick began: with a recorded handle the store has told
// this worker, and tells nobody again.
func (t *tick) turns(c *Commit) bool {
	if c.Run.Cancel == "" || c.Run.Undoing && !c.Run.Request.goesBack() || !t.process.Cancelable && c.Run.Successor == "" {
		return false
	}
	c.Run.Status, c.Run.WakeAt, c.Run.WakeKey, c.Release = StatusCanceling, t.now, "", true
	return true
}

// fail decides by the error's kind alone.
func (t *tick) fail(ctx context.Context, s *Step, failure error) (bool, error) {
	if !refused(ctx, failure) {
		return false, failure // nothing can be recorded: the lease is not ours, the store is away, or we are stopping
	}
	kind, message := KindOf(failure), printable(failure.Error())
	policy := t.row.Policy.WithDefaults()
	run := &t.held.Run
	if !run.Deadline.IsZero() && t.now.After(run.Deadline) && !run.Undoing {
		return t.giveUp(ctx, s, kind, "the order's deadline has passed; the last failure was: "+message)
	}
	if kind == Permanent || kind == Canceled {
		return t.giveUp(ctx, s, kind, message)
	}

	c := t.newCommit()
	c.Run.Handles = s.Run.Handles
	t.takeMachine(&c, s)
	if kind == Exhausted {
		failures := 1 // whoever joins the line looks again soon: the room may have come between the look and this commit, which wakes nobody
		if run.Kind == kind {
			failures = 5
		}
		c.Run.Kind = kind
		c.Run.StepSince = t.now // the budget is for getting on, not for standing in line
		t.putDown(&c, s, t.now.Add(backoff(policy, failures, run.ID)), WakeCapacity, message)
		return t.saveFailure(ctx, s, c)
	}
	if kind == Away {
		waited := t.now.Sub(run.StepSince)
		if waited > policy.Budget {
			return t.giveUp(ctx, s, kind, fmt.Sprintf("waited longer than %s: %s", policy.Budget, message))
		}
		c.Run.Kind = kind
		t.putDown(&c, s, t.now.Add(awayPause(policy, waited, run.ID)), "", message)
		return t.saveFailure(ctx, s, c)
	}
	if kind == Conflict && run.Conflicts < maxConflicts {
		c.Run.Conflicts++
	} else {
		c.Run.Failures++
	}
	if c.Run.Failures >= policy.Attempts {
		return t.giveUp(ctx, s, kind, fmt.Sprintf("failed %d times; the last time: %s", c.Run.Failures, message))
	}
	c.Ended = t.end(OutcomeFailed, kind, message, nil)
	c.Events = append(c.Events, t.event(EventStepFailed, &c.Run, s.Machine, EventData{Step: t.row.Step, Outcome: OutcomeFailed, Kind: kind, Message: message, Attempt: run.Attempt}))
	c.Run.Attempt++
	t.open(&c, *s.Machine)
	if kind == Conflict && c.Run.Conflicts > run.Conflicts {
		return t.saveFailure(ctx, s, c)
	}
	c.Run.Kind = kind
	t.putDown(&c, s, t.now.Add(backoff(policy, c.Run.Failures, run.ID)), "", message)
	return t.saveFailure(ctx, s, c)
}

// saveFailure commits a failure; when the store refuses even that, for the reservation or for what the step learned, the run parks without.
func (t *tick) saveFailure(ctx context.Context, s *Step, c Commit) (bool, error) {
	more, err := t.save(ctx, c)
	if !refused(ctx, err) {
		return more, err
	}
	*s.Machine = t.held.Machine
	return t.giveUp(ctx, s, KindOf(err), printable(err.Error()))
}

// takeMachine adds what the step learned about the machine.
func (t *tick) takeMachine(c *Commit, s *Step) {
	if !reflect.DeepEqual(t.held.Machine, *s.Machine) {
		machine := *s.Machine
		c.Machine = &machine
	}
}

// giveUp parks the run in its state.
func (t *tick) giveUp(ctx context.Context, s *Step, kind Kind, message string) (bool, error) {
	c := t.newCommit()
	c.Run.Handles = s.Run.Handles
	t.takeMachine(&c, s)
	c.Ended = t.end(OutcomeFailed, kind, message, nil)
	c.Run.Attempt++
	c.Events = append(c.Events, t.event(EventStepFailed, &c.Run, s.Machine, EventData{Step: t.row.Step, Outcome: OutcomeFailed, Kind: kind, Message: message, Attempt: t.held.Run.Attempt}))
	if !t.turns(&c) {
		t.parkIn(&c, s.Machine, kind, message)
	}
	return t.save(ctx, c)
}

// Abandon parks a run whose tick panicked with value: kind Permanent, for no repetition helps before somebody has read the stack, which is
// the caller's to log. Of the value only a runtime error is told as it is; another may have a secret in it and is told by its type.
// What the tick had recorded stays; an error means the same as from Tick.
func (e *Engine) Abandon(ctx context.Context, now time.Time, held *Claim, value any) error {
	message := "the step panicked with " + Panic(value) + "; the worker's log has the stack"
	process, ok := e.processes[held.Run.Process]
	if !ok {
		_, err := e.park(ctx, now, held, Permanent, message)
		return err
	}
	t := &tick{Engine: e, process: process, now: now, held: held}
	if held.Run.Undoing {
		t.row, ok = t.rowNamed(held.Run.Step)
	} else {
		t.row, ok = process.RowFrom(held.Run.State)
	}
	if !ok {
		_, err := e.park(ctx, now, held, Permanent, message)
		return err
	}
	_, err := t.giveUp(ctx, t.step(), Permanent, message)
	return err
}

// guarded makes a decision that panics refuse its own commit: it runs in the store's transaction, where whoever ticks cannot recover it.
func guarded(s *Step, decide func(*Ledger) (Placement, json.RawMessage, error)) func(*Ledger) (Placement, json.RawMessage, error) {
	if decide == nil {
		return nil
	}
	return func(l *Ledger) (p Placement, detail json.RawMessage, err error) {
		defer func() {
			if value := recover(); value != nil {
				s.Log.Error("a decision panicked", "panic", Panic(value), "stack", string(debug.Stack()))
				err = Errorf(s.Run.Step, Permanent, "the decision panicked with %s; the worker's log has the stack", Panic(value))
			}
		}()
		return decide(l)
	}
}

// Panic says what something panicked with, without what may be a secret.
func Panic(value any) string {
	if err, ok := value.(runtime.Error); ok {
		return printable(err.Error())
	}
	return fmt.Sprintf("a %T", value)
}

// park stops a run that its table cannot lead on, in no direction: a cancel does not turn it round either.
func (e *Engine) park(ctx context.Context, now time.Time, held *Claim, kind Kind, message string) (bool, error) {
	process, ok := e.processes[held.Run.Process]
	if !ok {
		process = &Process{Name: held.Run.Process}
	}
	t := &tick{Engine: e, process: process, now: now, held: held}
	c := t.newCommit()
	if held.Open != nil {
		c.Ended = t.end(OutcomeFailed, kind, message, nil)
		c.Run.Attempt++
	}
	t.parkIn(&c, &held.Machine, kind, message)
	return t.save(ctx, c)
}

func (t *tick) parkIn(c *Commit, machine *Machine, kind Kind, message string) {
	c.Run.Status, c.Run.Kind, c.Run.Reason, c.Release = StatusParked, kind, message, true
	c.Run.WakeAt, c.Run.WakeKey = time.Time{}, ""
	if !c.Run.Undoing {
		c.Run.Request = Request{}
	}
	c.Events = append(c.Events, t.event(EventParked, &c.Run, machine, EventData{Step: c.Run.Step, Kind: kind, Message: message, Exits: Exits(c.Run, t.process)}))
}

func (t *tick) newCommit() Commit {
	run := t.held.Run
	run.Handles = maps.Clone(run.Handles)
	run.UpdatedAt, run.WakeAt = t.now, time.Time{}
	if run.Status != StatusCanceling {
		run.Status = StatusRunning
	}
	return Commit{Run: run}
}

// end closes the held attempt, or writes the first attempt whole.
func (t *tick) end(outcome string, kind Kind, message string, detail []byte) *Attempt {
	run := t.held.Run
	a := Attempt{Run: run.ID, Machine: run.Machine, Step: t.row.Step, From: t.row.From, To: t.row.To, Number: run.Attempt, Undo: run.Undoing,
		Started: run.StepSince, Actor: t.opener(&run)}
	if t.held.Open != nil {
		a = *t.held.Open
	}
	a.Ended, a.Outcome, a.Kind, a.Message, a.Detail, a.Handles = t.now, outcome, kind, message, detail, maps.Clone(run.Handles)
	return &a
}

func (t *tick) event(typ string, run *Run, machine *Machine, data EventData) Event {
	data.Run, data.Machine, data.Process, data.State, data.Status = run.ID, machine.ID, run.Process, run.State, run.Status
	data.Tenant, data.Name = machine.Tenant, machine.Name
	data.Source, data.OrderID = run.Order.Source, run.Order.ID
	if typ == EventDone || typ == t.process.Tells {
		p := machine.Placement
		if p.Private.IsValid() {
			data.Private = p.Private.String()
		}
		if p.Public.IsValid() {
			data.Public = p.Public.String()
		}
		data.ConsolePort, data.HostKey = p.ConsolePort, machine.HostKey
		if machine.Presence == Present {
			data.AdministratorAge, data.ConsoleAge = machine.AdministratorAge, machine.ConsoleAge
		}
	}
	return NewEvent(typ, t.now, data)
}

func (t *tick) consoleAddress(ctx context.Context, p Placement) string {
	if t.console == nil || p.ConsolePort == 0 {
		return ""
	}
	return t.console(ctx, p)
}

// save commits and brings held up to date. more is false when the lease was given back.
func (t *tick) save(ctx context.Context, c Commit) (bool, error) {
	result := t.commit(ctx, c)
	if result.Err != nil {
		return false, result.Err
	}
	t.held.Run = c.Run
	t.held.Run.Cancel, t.held.Run.Successor, t.held.Run.SuccessorID = result.Cancel, result.Successor, result.SuccessorID
	if c.Machine != nil {
		t.held.Machine = *c.Machine
	}
	if slices.ContainsFunc(c.Changes, func(change Change) bool { _, released := change.(ReleasePlacement); return released }) {
		t.held.Machine.Placement = Placement{}
	}
	if !result.Placement.IsZero() {
		t.held.Machine.Placement = result.Placement
	}
	if c.Ended != nil {
		t.held.Open = nil
	}
	if c.Opened != nil {
		open := *c.Opened
		open.ID = result.Opened
		t.held.Open = &open
	}
	t.log.Info("committed", "run", c.Run.ID, "machine", c.Run.Machine, "state", c.Run.State, "status", c.Run.Status, "step", c.Run.Step, "attempt", c.Run.Attempt, "reason", c.Run.Reason)
	return !c.Release, nil
}

// fire is the one way a state changes: an event of a looplab/fsm built from the table.
func fire(ctx context.Context, p *Process, from State, event string) (State, error) {
	var events fsm.Events
	for _, row := range p.Rows {
		events = append(events, fsm.EventDesc{Name: row.Step, Src: []string{string(row.From)}, Dst: string(row.To)})
		if p.Cancelable {
			events = append(events, fsm.EventDesc{Name: undoEvent(row), Src: []string{string(row.To)}, Dst: string(row.From)})
		}
	}
	machine := fsm.NewFSM(string(from), events, nil)
	if err := machine.Event(ctx, event); err != nil {
		expected := State("")
		for _, row := range p.Rows {
			switch event {
			case row.Step:
				expected = row.From
			case undoEvent(row):
				expected = row.To
			}
		}
		return from, &StateError{Process: p.Name, Step: event, Expected: expected, Found: from}
	}
	return State(machine.Current()), nil
}

func undoEvent(row Row) string { return "undo " + row.Step }

// backoff doubles with each failure up to the bound, and is spread by up to a quarter: by the run's id, since the engine has no dice.
func backoff(p Policy, failures int, run string) time.Duration {
	d := p.Backoff
	for range failures - 1 {
		if d *= 2; d >= p.MaxBackoff {
			d = p.MaxBackoff
			break
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(run)) // never fails
	return d + time.Duration(h.Sum32()%256)*d/1024
}

// longestAway is how long at most a run looks away from somebody who does not answer: so much later it goes on at the latest.
const longestAway = 15 * time.Second

// awayPause grows with what the step has taken already: a quarter of it.
func awayPause(p Policy, waited time.Duration, run string) time.Duration {
	p.Backoff = min(max(p.Backoff, waited/4), longestAway)
	return backoff(p, 1, run)
}

// printable is foreign text as it goes into a row: one bounded line.
func printable(s string) string { return OneLine(s, 2000) }
