package orchestrator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Process is a table: the rows in the order in which they are walked. Its states belong to it alone.
type Process struct {
	Name string
	Rows []Row
	// Cancelable processes unwind by their journal when somebody cancels them; the others only go forward.
	Cancelable bool
	// Tells is the type of the event that a run tells at its end, beside EventDone: what the machine has become. "" is none.
	Tells string
	// Returns processes are about what was somebody's before: one that takes over begins when every row is undone, and not when the row at
	// hand is, for what is there in between is not its to remove.
	Returns bool
	// Guarded processes take a finished machine from its customer: a Guard bounds how many of their runs begin.
	Guarded bool
}

// Row leads from one state to the next.
type Row struct {
	From State
	Step string
	To   State

	// When decides whether the row applies to this machine; nil is always. A false one is journalled with its reason, and the state advances.
	When func(*Step) (applies bool, why string)
	// Reserve returns what must be in the store before Do may act. It rides in the commit that leads into the row. nil is nothing.
	Reserve func(*Step) ([]Change, error)
	// Do makes the row's effect exist: look, ensure, record. It is run again after a Wait, a failure or a crash, with the handles it recorded.
	Do func(context.Context, *Step) (Outcome, error)
	// Undo removes the effect, whatever part of it exists; nil when there is nothing to remove.
	Undo func(context.Context, *Step) (Outcome, error)

	Policy Policy
	Marks  Marks
	// Uses is what Do and Undo act on: while somebody holds that, the run waits in front of the row.
	Uses Uses
}

// Policy bounds a row. Zero values take the defaults.
type Policy struct {
	Timeout    time.Duration // of one call of Do or Undo; default 1 min
	Budget     time.Duration // of the whole step, waits included; default 30 min. Waiting for capacity does not count
	Attempts   int           // failures in a row before the run parks; default 5
	Backoff    time.Duration // before the second attempt, doubled each time; default 2 s
	MaxBackoff time.Duration // default 2 min
}

// WithDefaults fills in what is not set.
func (p Policy) WithDefaults() Policy {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&p.Timeout, time.Minute)
	def(&p.Budget, 30*time.Minute)
	def(&p.Backoff, 2*time.Second)
	def(&p.MaxBackoff, 2*time.Minute)
	if p.Attempts == 0 {
		p.Attempts = 5
	}
	return p
}

// Outcome is what a Do or Undo reached without an error: done, or waiting.
type Outcome struct {
	// Wait, when set, means not yet: the run is put down and nobody holds it until it is woken.
	Wait *Wait
	// Summary is one line for the journal.
	Summary string
	// Detail is kept in the journal for later questions.
	Detail json.RawMessage
	// Changes are committed with the outcome.
	Changes []Change
	// Decide is committed with the outcome, alone on the ledger; see Commit.
	Decide func(*Ledger) (Placement, json.RawMessage, error)
}

// Wait says what for.
type Wait struct {
	Reason string        // for people: "waiting for the clone"
	Key    string        // what wakes it early; "" for nothing
	Poll   time.Duration // look again after this at the latest; default 5 s
}

// Finished is a done Outcome.
func Finished(format string, args ...any) (Outcome, error) {
	return Outcome{Summary: fmt.Sprintf(format, args...)}, nil
}

// WaitFor is an Outcome that waits.
func WaitFor(key string, poll time.Duration, format string, args ...any) (Outcome, error) {
	return Outcome{Wait: &Wait{Key: key, Poll: poll, Reason: fmt.Sprintf(format, args...)}}, nil
}

// Step is what a row's functions get: the run as it stands, the machine to look at and change, and the way to record a handle.
// It is valid during the call only.
type Step struct {
	Run     Run
	Machine *Machine // changes are committed with the outcome
	Pool    Pool     // of the machine's placement; zero before place
	Estate  *Estate
	Now     time.Time
	Log     *slog.Logger

	record func(ctx context.Context, name, value string) error
	passed []string // checks that failed and were forced
}

// Handle returns a reference recorded by this step, "" when there is none.
func (s *Step) Handle(name string) string { return s.Run.Handles[name] }

// Record commits a reference to something outside (a task, a job) before anything waits for it, and what the step has set on the machine by
// then: one commit. An empty value forgets it, without a commit of its own.
func (s *Step) Record(ctx context.Context, name, value string) error {
	if value == "" {
		delete(s.Run.Handles, name)
		return nil
	}
	return s.record(ctx, name, value)
}

// Ref names the machine for the hypervisor.
func (s *Step) Ref() MachineRef {
	return MachineRef{Pool: s.Machine.Placement.Pool, Machine: s.Machine.ID, VM: s.Machine.VM}
}

// Start is the state a run begins in, End the one it ends in.
func (p *Process) Start() State { return p.Rows[0].From }
func (p *Process) End() State   { return p.Rows[len(p.Rows)-1].To }

// RowFrom is the row that leaves a state; ok is false for the end state and for a state that the table does not have.
func (p *Process) RowFrom(s State) (Row, bool) {
	for _, row := range p.Rows {
		if row.From == s {
			return row, true
		}
	}
	return Row{}, false
}

// RowTo is the row that leads to a state.
func (p *Process) RowTo(s State) (Row, bool) {
	for _, row := range p.Rows {
		if row.To == s {
			return row, true
		}
	}
	return Row{}, false
}

// Hash names a row of this process as stored runs remember it: (process, from, step, to).
func (p *Process) Hash(row Row) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{p.Name, string(row.From), row.Step, string(row.To)}, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// NewRun is a run at the beginning of the process.
func (p *Process) NewRun(id, machine string, order Order, now time.Time) Run {
	row := p.Rows[0]
	return Run{
		ID: id, Machine: machine, Process: p.Name, State: row.From, Status: StatusReady, Step: row.Step, RowHash: p.Hash(row),
		Attempt: 1, StepSince: now, Deadline: order.Deadline, Order: OrderKey{Source: order.Source, ID: order.ID}, CreatedAt: now, UpdatedAt: now,
	}
}

// Validate checks that the table is one chain without loops, so that a mistake is found when the program starts.
func (p *Process) Validate() error {
	if len(p.Rows) == 0 {
		return fmt.Errorf("process %s has no rows", p.Name)
	}
	states, steps := map[State]bool{p.Start(): true}, map[string]bool{}
	for i, row := range p.Rows {
		switch {
		case row.Do == nil:
			return fmt.Errorf("process %s: row %s does nothing", p.Name, row.Step)
		case i > 0 && row.From != p.Rows[i-1].To:
			return fmt.Errorf("process %s: row %s starts from %s, but the row before leads to %s", p.Name, row.Step, row.From, p.Rows[i-1].To)
		case states[row.To]:
			return fmt.Errorf("process %s: state %s is reached twice", p.Name, row.To)
		case steps[row.Step]:
			return fmt.Errorf("process %s: step %s is there twice", p.Name, row.Step)
		}
		if err := row.Marks.validate(row, steps); err != nil {
			return fmt.Errorf("process %s: row %s %w", p.Name, row.Step, err)
		}
		states[row.To], steps[row.Step] = true, true
	}
	return nil
}

// Mermaid draws the process as a state diagram.
func (p *Process) Mermaid() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n")
	fmt.Fprintf(&b, "    [*] --> %s\n", p.Start())
	for _, row := range p.Rows {
		label := row.Step
		if row.When != nil || row.Marks.Skip {
			label += " (or skipped)"
		}
		fmt.Fprintf(&b, "    %s --> %s: %s\n", row.From, row.To, label)
		if p.Cancelable && row.To != p.End() { // a run at the end is done: there is no way back
			if row.Undo != nil {
				fmt.Fprintf(&b, "    %s --> %s: undo %s\n", row.To, row.From, row.Step)
			} else {
				fmt.Fprintf(&b, "    %s --> %s: back over %s\n", row.To, row.From, row.Step)
			}
		}
	}
	fmt.Fprintf(&b, "    %s --> [*]\n", p.End())
	return b.String()
}
