package orchestrator

import (
	"encoding/json"
	"time"
)

// State is a word of a process table. Status is how a run is doing, in any state of any table.
type (
	State  string
	Status string
)

const (
	StatusReady     Status = "ready"     // may be taken by a worker
	StatusRunning   Status = "running"   // a worker holds it
	StatusWaiting   Status = "waiting"   // for a task, a boot, a generation, a job, capacity or its next attempt
	StatusParked    Status = "parked"    // stopped in its state; an operator decides
	StatusCanceling Status = "canceling" // unwinding by its journal
	StatusDone      Status = "done"
	StatusCanceled  Status = "canceled"
)

// Active reports whether the run is its machine's active one.
func (s Status) Active() bool { return s != StatusDone && s != StatusCanceled }

// Run is one walk of a machine through a process.
type Run struct {
	ID      string
	Machine string
	Process string
	State   State
	Status  Status

	// Step is the row being walked: the one that leaves State, or on the way back the one being undone. RowHash is the hash of
	// (process, from, step, to) when the run got there: a run goes on where a row has the same from and step, and its journal says when the row
	// is another one since.
	Step    string
	RowHash string
	Undoing bool

	Attempt   int       // of this step, never used twice: from 1 for each step, and after a rewind from there on through all steps
	Rewound   int       // the highest attempt of any step when the run was last rewound; 0 when it never was
	Failures  int       // of this step since its last success or an operator's word; the policy counts these
	Conflicts int       // in a row
	StepSince time.Time // when this step was first tried, or last lacked capacity; the policy's budget counts from here
	// Handles are the external references of this step (a task, a job), committed before anything waits for them.
	Handles map[string]string

	// Reason says why it waits or is parked, for people. Kind is the last failure's.
	Reason  string
	Kind    Kind
	WakeAt  time.Time // when a waiting run is looked at again at the latest
	WakeKey string    // what wakes it earlier

	Deadline time.Time // the order's; zero is none
	Order    OrderKey
	// Cancel asks the run to unwind; who asked and why. Successor is the process that follows at once instead of an unwinding
	// ("uninstall"), with the run id it will have.
	Cancel      string
	Successor   string
	SuccessorID string
	// Request is what an operator asked for and the engine has not carried out yet.
	Request Request
	// Alteration is what the order changes of a finished machine; zero for a run that makes or removes one. It is written with the run and
	// never changed.
	Alteration Alteration

	// Lease. Fence rises with every claim.
	Holder     string
	Fence      int64
	LeaseUntil time.Time

	// Begun is when a Guard let the run begin; zero when none was asked. The store's own.
	Begun time.Time

	CreatedAt, UpdatedAt time.Time
}

// OrderKey names an order.
type OrderKey struct{ Source, ID string }

// Outcomes of an attempt.
const (
	OutcomeOpen        = "open"        // started and not ended: a worker is at it, or died
	OutcomeDone        = "done"        // the row's effect is there
	OutcomeSkipped     = "skipped"     // the row's When was false, or an operator skipped it
	OutcomeFailed      = "failed"      // with kind and message
	OutcomeInterrupted = "interrupted" // its worker lost the lease or died; another attempt goes on with its handles
	OutcomeUndone      = "undone"      // an undo's effect is there
	OutcomeCanceled    = "canceled"    // ended by a cancel
)

// Attempt is a line of the journal.
type Attempt struct {
	ID      int64
	Run     string
	Machine string
	Step    string
	From    State
	To      State
	Number  int
	Undo    bool
	Started time.Time
	Ended   time.Time // zero while open
	Outcome string
	Kind    Kind
	Message string
	Detail  json.RawMessage // what a step wants to be looked up later, e.g. placement decisions
	Actor   string          // the worker, or "uid:name" for an operator's act
	Handles map[string]string
}
