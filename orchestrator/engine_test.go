package orchestrator_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

type (
	step    = orchestrator.Step
	outcome = orchestrator.Outcome
	act     = func(context.Context, *step) (outcome, error)
)

// bench is an engine with one run in hand, whose commits are kept.
type bench struct {
	*testing.T
	process *orchestrator.Process
	claim   orchestrator.Claim
	now     time.Time
	commits []orchestrator.Commit
	answer  func(orchestrator.Commit) orchestrator.CommitResult // nil is yes
	gate    gate                                                // nil holds nothing
	guard   orchestrator.Guard                                  // nil lets everything begin
	// attempts reads the journal; nil reads what was committed.
	attempts func(context.Context, string) ([]orchestrator.Attempt, error)
}

func newBench(t *testing.T, cancelable bool, rows ...orchestrator.Row) *bench {
	t.Helper()
	for i := range rows {
		rows[i].From, rows[i].To = orchestrator.State(fmt.Sprintf("s%d", i)), orchestrator.State(fmt.Sprintf("s%d", i+1))
		if rows[i].Step == "" {
			rows[i].Step = fmt.Sprintf("step%d", i)
		}
	}
	b := &bench{T: t, process: &orchestrator.Process{Name: "p", Cancelable: cancelable, Rows: rows}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	run := b.process.NewRun("run-1", "machine-1", orchestrator.Order{Source: "panel", ID: "7"}, b.now)
	run.Holder, run.Fence, run.Status = "w", 1, orchestrator.StatusRunning
	b.claim = orchestrator.Claim{Run: run, Machine: orchestrator.Machine{ID: "machine-1", Tenant: "acme", Name: "web"}}
	return b
}

func (b *bench) commit(_ context.Context, c orchestrator.Commit) orchestrator.CommitResult {
	if b.answer != nil {
		if result := b.answer(c); result.Err != nil || result.Cancel != "" {
			if result.Err == nil {
				b.commits = append(b.commits, c)
			}
			return result
		}
	}
	b.commits = append(b.commits, c)
	return orchestrator.CommitResult{Opened: int64(100 + len(b.commits)), Cancel: c.Run.Cancel, Successor: c.Run.Successor, SuccessorID: c.Run.SuccessorID}
}

// tick is one Tick, a second later.
func (b *bench) tick() (more bool, err error) {
	b.Helper()
	attempts := b.attempts
	if attempts == nil {
		attempts = b.journal
	}
	engine, err := orchestrator.NewEngine(orchestrator.EngineConfig{
		Processes: []*orchestrator.Process{b.process}, Estate: &orchestrator.Estate{}, Commit: b.commit, Attempts: attempts, Actor: "w", Gate: b.gate, Guard: b.guard, Log: slog.New(slog.DiscardHandler),
		ConsoleAddress: func(_ context.Context, p orchestrator.Placement) string { return p.Console + ".example.net" },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.now = b.now.Add(time.Second)
	return engine.Tick(b.Context(), func() time.Time { return b.now }, &b.claim)
}

// drive ticks until the run is put down.
func (b *bench) drive() {
	b.Helper()
	for range 100 {
		more, err := b.tick()
		if err != nil {
			b.Fatal(err)
		}
		if !more {
			return
		}
	}
	b.Fatal("the run goes round and round")
}

// claimAgain is what a store does for the next worker once a wait is over.
func (b *bench) claimAgain() {
	b.claim.Run.Fence++
	if b.claim.Run.Status != orchestrator.StatusCanceling {
		b.claim.Run.Status = orchestrator.StatusRunning
	}
}

// retry is what a store does for an operator.
func (b *bench) retry() {
	b.claim.Run.Failures, b.claim.Run.Conflicts, b.claim.Run.StepSince, b.claim.Run.WakeAt = 0, 0, b.now, b.now
	b.claimAgain()
}

func (b *bench) last() orchestrator.Commit {
	b.Helper()
	if len(b.commits) == 0 {
		b.Fatal("nothing was committed")
	}
	return b.commits[len(b.commits)-1]
}

func types(c orchestrator.Commit) []string {
	var out []string
	for _, e := range c.Events {
		out = append(out, strings.TrimPrefix(e.Type, "slipway."))
	}
	return out
}

func done(context.Context, *step) (outcome, error) { return orchestrator.Finished("made") }

func failWith(err error) act {
	return func(context.Context, *step) (outcome, error) { return outcome{}, err }
}

func kind(k orchestrator.Kind) error { return orchestrator.Errorf("world", k, "why") }

// TestEventsNameTheConsole: the last events of a run have the console's address beside its port, the others neither.
func TestEventsNameTheConsole(t *testing.T) {
	b := newBench(t, false, orchestrator.Row{Do: done}, orchestrator.Row{Do: done})
	b.process.Tells = orchestrator.EventReconfigured
	b.claim.Machine.Placement = orchestrator.Placement{Console: "xvp", ConsolePort: 20000}
	b.drive()
	const address = `"console_port":20000,"console_address":"xvp.example.net"`
	for _, c := range b.commits {
		for _, e := range c.Events {
			last := e.Type == orchestrator.EventReconfigured || e.Type == orchestrator.EventDone
			if strings.Contains(string(e.Data), address) != last {
				t.Errorf("%s: %s", e.Type, e.Data)
			}
		}
	}
	if got := types(b.last()); !slices.Contains(got, "run.done") || !slices.Contains(got, "machine.reconfigured") {
		t.Errorf("the last commit has %v", got)
	}
}

func TestKindDecides(t *testing.T) {
	for name, test := range map[string]struct {
		err      error
		status   orchestrator.Status
		kind     orchestrator.Kind
		failures int
		clashes  int
		attempt  int
		journal  string // outcome of the attempt that ended
		events   []string
		wakeKey  string
		more     bool
	}{
		"transient":    {err: kind(orchestrator.Transient), status: "waiting", kind: "transient", failures: 1, attempt: 2, journal: "failed", events: []string{"step.failed", "run.waiting"}},
		"unclassified": {err: errors.New("why"), status: "waiting", kind: "transient", failures: 1, attempt: 2, journal: "failed", events: []string{"step.failed", "run.waiting"}},
		"unknown":      {err: kind(orchestrator.Unknown), status: "waiting", kind: "unknown", failures: 1, attempt: 2, journal: "failed", events: []string{"step.failed", "run.waiting"}},
		"timeout":      {err: context.DeadlineExceeded, status: "waiting", kind: "unknown", failures: 1, attempt: 2, journal: "failed", events: []string{"step.failed", "run.waiting"}},
		"away":         {err: kind(orchestrator.Away), status: "waiting", kind: "away", attempt: 1, events: []string{"run.waiting"}},
		"exhausted":    {err: kind(orchestrator.Exhausted), status: "waiting", kind: "exhausted", attempt: 1, events: []string{"run.waiting"}, wakeKey: orchestrator.WakeCapacity},
		"conflict":     {err: kind(orchestrator.Conflict), status: "running", clashes: 1, attempt: 2, journal: "failed", events: []string{"step.failed"}, more: true},
		"permanent":    {err: kind(orchestrator.Permanent), status: "parked", kind: "permanent", attempt: 2, journal: "failed", events: []string{"step.failed", "run.parked"}},
		"canceled":     {err: kind(orchestrator.Canceled), status: "parked", kind: "canceled", attempt: 2, journal: "failed", events: []string{"step.failed", "run.parked"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, true, orchestrator.Row{Do: failWith(test.err)})
			more, err := b.tick()
			if err != nil {
				t.Fatal(err)
			}
			c := b.last()
			if more != test.more || c.Release == test.more {
				t.Errorf("more %t, release %t", more, c.Release)
			}
			if c.Run.Status != test.status || c.Run.Kind != test.kind || c.Run.Failures != test.failures || c.Run.Conflicts != test.clashes || c.Run.Attempt != test.attempt || c.Run.WakeKey != test.wakeKey {
				t.Errorf("run: %+v", c.Run)
			}
			if c.Run.State != "s0" {
				t.Errorf("a failed run leaves its state: %s", c.Run.State)
			}
			if diff := cmp.Diff(test.events, types(c)); diff != "" {
				t.Error(diff)
			}
			switch {
			case test.journal == "" && c.Ended != nil:
				t.Errorf("the attempt was ended: %+v", c.Ended)
			case test.journal != "" && (c.Ended == nil || c.Ended.Outcome != test.journal || !strings.Contains(c.Ended.Message, "why") && name != "timeout"):
				t.Errorf("journal: %+v", c.Ended)
			}
			if test.status == "waiting" && !c.Run.WakeAt.After(b.now) {
				t.Errorf("it wakes at %s", c.Run.WakeAt)
			}
		})
	}
}

func TestBackoffDoublesUntilTheRunParks(t *testing.T) {
	b := newBench(t, true, orchestrator.Row{Do: failWith(kind(orchestrator.Transient)), Policy: orchestrator.Policy{Attempts: 5, Backoff: 2 * time.Second, MaxBackoff: 10 * time.Second}})
	for n, low := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second} {
		b.drive()
		if d := b.last().Run.WakeAt.Sub(b.now); d < low || d > low+low/4 {
			t.Errorf("pause %d is %s, want %s and up to a quarter more", n+1, d, low)
		}
		b.claimAgain()
	}
	b.drive()
	c := b.last()
	if c.Run.Status != orchestrator.StatusParked || !strings.Contains(c.Run.Reason, "failed 5 times; the last time: world: why") {
		t.Fatalf("%s: %q", c.Run.Status, c.Run.Reason)
	}
	b.retry()
	b.drive()
	if c := b.last(); c.Run.Status != orchestrator.StatusWaiting || c.Run.Failures != 1 {
		t.Errorf("after a retry the attempts count anew: %+v", c.Run)
	}
	if c := b.last(); c.Ended.Number != 6 {
		t.Errorf("attempt %d was used before", c.Ended.Number)
	}
}

// What a row's function takes is that row's in the journal, and no part of the pause after it.
func TestTimeOfARowIsItsOwn(t *testing.T) {
	var b *bench
	taking := func(d time.Duration, then act) act {
		return func(ctx context.Context, s *step) (outcome, error) {
			b.now = b.now.Add(d)
			return then(ctx, s)
		}
	}
	second, failures := failWith(kind(orchestrator.Transient)), orchestrator.Policy{Backoff: 2 * time.Second}
	b = newBench(t, true, orchestrator.Row{Do: taking(10*time.Second, done)},
		orchestrator.Row{Do: taking(20*time.Second, func(ctx context.Context, s *step) (outcome, error) { return second(ctx, s) }), Policy: failures})
	if _, err := b.tick(); err != nil {
		t.Fatal(err)
	}
	c := b.last()
	if took := c.Ended.Ended.Sub(c.Ended.Started); took < 10*time.Second {
		t.Errorf("the first row took %s by the journal, want the 10s that it took", took)
	}
	if !c.Opened.Started.Equal(b.now) || !c.Run.StepSince.Equal(b.now) {
		t.Errorf("the second row begins at %s, its budget at %s; it is %s", c.Opened.Started, c.Run.StepSince, b.now)
	}
	b.drive()
	if c := b.last(); c.Run.WakeAt.Sub(b.now) < 2*time.Second || !c.Ended.Ended.Equal(b.now) {
		t.Errorf("it failed at %s, at %s by the journal, and wakes %s later", b.now, c.Ended.Ended, c.Run.WakeAt.Sub(b.now))
	}
	second = func(context.Context, *step) (outcome, error) {
		return orchestrator.WaitFor("", 3*time.Second, "company")
	}
	b.claimAgain()
	b.drive()
	if pause := b.last().Run.WakeAt.Sub(b.now); pause != 3*time.Second {
		t.Errorf("it looks again %s after the look, want 3s", pause)
	}
}

func TestConflictIsTriedAtOnceButNotForEver(t *testing.T) {
	calls := 0
	b := newBench(t, true, orchestrator.Row{Do: func(context.Context, *step) (outcome, error) {
		calls++
		return outcome{}, kind(orchestrator.Conflict)
	}})
	b.drive()
	if calls != 11 {
		t.Errorf("%d calls before the first pause, want ten at once and the one that counts", calls)
	}
	for range 4 {
		b.claimAgain()
		b.drive()
	}
	if b.last().Run.Status != orchestrator.StatusParked || calls != 15 {
		t.Errorf("%s after %d calls", b.last().Run.Status, calls)
	}
}

func TestWaitingForCapacityUsesNothingUp(t *testing.T) {
	var answer error = kind(orchestrator.Exhausted)
	b := newBench(t, true, orchestrator.Row{Do: func(context.Context, *step) (outcome, error) {
		if answer != nil {
			return outcome{}, answer
		}
		return orchestrator.WaitFor("", time.Second, "nearly")
	}})
	b.drive()
	waits := 0
	for range 200 {
		b.now = b.now.Add(time.Hour)
		b.claimAgain()
		b.drive()
		waits += len(b.last().Events)
	}
	if c := b.last(); c.Run.Attempt != 1 || c.Run.Failures != 0 || c.Run.Status != orchestrator.StatusWaiting {
		t.Errorf("%+v", c.Run)
	}
	if waits != 0 {
		t.Errorf("%d events say what the first one has said", waits)
	}
	answer = nil
	b.claimAgain()
	b.drive()
	if c := b.last(); c.Run.Status != orchestrator.StatusWaiting || c.Run.Kind != "" || c.Run.Reason != "nearly" {
		t.Errorf("200 hours in the line were counted against the step, or show still: %s %q %q", c.Run.Status, c.Run.Kind, c.Run.Reason)
	}
}

// A step that looks for its turn more often than the engine does stands in the same line.
func TestWaitForCapacityUsesNoBudgetUp(t *testing.T) {
	b := newBench(t, true, orchestrator.Row{
		Do: func(context.Context, *step) (outcome, error) {
			return orchestrator.WaitFor(orchestrator.WakeCapacity, time.Second, "for its turn to clone")
		},
		Policy: orchestrator.Policy{Budget: 10 * time.Minute},
	})
	for range 20 {
		b.drive()
		b.now = b.now.Add(time.Hour)
		b.claimAgain()
	}
	if c := b.last(); c.Run.Status != orchestrator.StatusWaiting || c.Run.Kind != orchestrator.Exhausted || !c.Run.WakeAt.Before(b.now) {
		t.Errorf("%s %s %q", c.Run.Status, c.Run.Kind, c.Run.Reason)
	}
}

func TestBudgetEndsWaiting(t *testing.T) {
	b := newBench(t, true, orchestrator.Row{
		Do: func(context.Context, *step) (outcome, error) {
			return orchestrator.WaitFor("k", time.Second, "for the boot")
		},
		Policy: orchestrator.Policy{Budget: 10 * time.Minute},
	})
	b.drive()
	if c := b.last(); c.Run.Status != orchestrator.StatusWaiting || c.Run.WakeKey != "k" || c.Run.Reason != "for the boot" || !c.Run.WakeAt.Equal(b.now.Add(time.Second)) {
		t.Fatalf("%+v", c.Run)
	}
	b.now = b.now.Add(11 * time.Minute)
	b.claimAgain()
	b.drive()
	if c := b.last(); c.Run.Status != orchestrator.StatusParked || !strings.Contains(c.Run.Reason, "waited longer than 10m0s: for the boot") {
		t.Errorf("%s %q", c.Run.Status, c.Run.Reason)
	}
}

// Who cannot be reached is waited for as long as the step may take, looked for more rarely as time goes by, and uses up no attempt.
func TestAwayIsWaitedFor(t *testing.T) {
	var failure error = kind(orchestrator.Away)
	b := newBench(t, true, orchestrator.Row{
		Do: func(context.Context, *step) (outcome, error) {
			if failure != nil {
				return outcome{}, failure
			}
			return done(t.Context(), nil)
		},
		Policy: orchestrator.Policy{Attempts: 2, Budget: 10 * time.Minute},
	})
	looks, longest := 0, time.Duration(0)
	for began := b.now; b.now.Sub(began) < 9*time.Minute; looks++ {
		b.drive()
		c := b.last()
		if c.Run.Status != orchestrator.StatusWaiting || c.Run.Kind != orchestrator.Away || c.Run.Failures != 0 || c.Run.Attempt != 1 {
			t.Fatalf("after %s: %+v", b.now.Sub(began), c.Run)
		}
		longest = c.Run.WakeAt.Sub(b.now)
		b.now = c.Run.WakeAt
		b.claimAgain()
	}
	if longest < 15*time.Second || longest > 20*time.Second || looks > 60 {
		t.Errorf("looked %d times, in the end every %s", looks, longest)
	}
	failure = nil
	b.drive()
	if c := b.last(); c.Run.Status != orchestrator.StatusDone {
		t.Errorf("when it answers again: %s %q", c.Run.Status, c.Run.Reason)
	}
	failure = kind(orchestrator.Away)
	b = newBench(t, true, orchestrator.Row{Do: failWith(failure), Policy: orchestrator.Policy{Budget: 10 * time.Minute}})
	b.drive()
	b.now = b.now.Add(11 * time.Minute)
	b.claimAgain()
	b.drive()
	if c := b.last(); c.Run.Status != orchestrator.StatusParked || !strings.Contains(c.Run.Reason, "waited longer than 10m0s") {
		t.Errorf("when it does not: %s %q", c.Run.Status, c.Run.Reason)
	}
}

func TestDeadlineParksWhatFails(t *testing.T) {
	for _, k := range []orchestrator.Kind{orchestrator.Transient, orchestrator.Away, orchestrator.Exhausted, orchestrator.Conflict, orchestrator.Unknown} {
		b := newBench(t, true, orchestrator.Row{Do: failWith(kind(k))})
		b.claim.Run.Deadline = b.now.Add(time.Minute)
		b.now = b.now.Add(time.Hour)
		b.drive()
		if c := b.last(); c.Run.Status != orchestrator.StatusParked || !strings.Contains(c.Run.Reason, "deadline has passed") || !strings.Contains(c.Run.Reason, "why") {
			t.Errorf("%s: %s %q", k, c.Run.Status, c.Run.Reason)
		}
	}
}

func TestDoHasTheRowsTime(t *testing.T) {
	var left time.Duration
	b := newBench(t, true, orchestrator.Row{Policy: orchestrator.Policy{Timeout: 3 * time.Minute}, Do: func(ctx context.Context, _ *step) (outcome, error) {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		return orchestrator.Finished("made")
	}})
	b.drive()
	if left < 2*time.Minute || left > 3*time.Minute {
		t.Errorf("Do has %s", left)
	}
}

func TestRowThatDoesNotApplyIsSkipped(t *testing.T) {
	never := func(context.Context, *step) (outcome, error) {
		t.Error("called")
		return outcome{}, nil
	}
	b := newBench(t, true, orchestrator.Row{Do: done}, orchestrator.Row{
		Do: never, Undo: never,
		When:    func(*step) (bool, string) { return false, "not here" },
		Reserve: func(*step) ([]orchestrator.Change, error) { never(t.Context(), nil); return nil, nil },
	})
	b.drive()
	c := b.last()
	if c.Run.Status != orchestrator.StatusDone || c.Run.State != "s2" || c.Ended.Outcome != orchestrator.OutcomeSkipped || c.Ended.Message != "not here" {
		t.Errorf("%+v, journal %+v", c.Run, c.Ended)
	}
}

func TestOneCommitPerStepAndOnePerHandle(t *testing.T) {
	handles := func(n int) act {
		return func(ctx context.Context, s *step) (outcome, error) {
			for i := range n {
				if err := s.Record(ctx, fmt.Sprint("h", i), "task"); err != nil {
					return outcome{}, err
				}
				if s.Handle(fmt.Sprint("h", i)) != "task" {
					t.Error("the handle cannot be read back")
				}
			}
			return orchestrator.Finished("made")
		}
	}
	b := newBench(t, true, orchestrator.Row{Do: handles(0)}, orchestrator.Row{Do: handles(1)}, orchestrator.Row{Do: handles(2)}, orchestrator.Row{Do: done, When: func(*step) (bool, string) { return false, "" }})
	b.drive()
	if len(b.commits) != 4+3 {
		t.Errorf("%d commits for 4 steps with 3 handles", len(b.commits))
	}
	if c := b.commits[1]; c.Run.Handles["h0"] != "task" || c.Ended != nil || c.Release {
		t.Errorf("a handle's commit: %+v", c)
	}
	if c := b.commits[2]; c.Ended.Handles["h0"] != "task" || len(c.Run.Handles) != 0 {
		t.Errorf("the journal does not keep the handle, or the run does: %+v", c)
	}
}

func TestReservationRidesInTheCommitThatLeadsIn(t *testing.T) {
	entry := orchestrator.DropEntry{Group: "g"}
	b := newBench(t, true, orchestrator.Row{Do: done}, orchestrator.Row{Do: done, Reserve: func(*step) ([]orchestrator.Change, error) { return []orchestrator.Change{entry}, nil }})
	b.drive()
	if len(b.commits) != 2 || !slices.Contains(b.commits[0].Changes, orchestrator.Change(entry)) || len(b.commits[1].Changes) != 0 {
		t.Errorf("%+v", b.commits)
	}
	if o := b.commits[0].Opened; o == nil || o.Step != "step1" || o.Number != 1 || o.Outcome != orchestrator.OutcomeOpen {
		t.Errorf("the attempt is not in the journal before it acts: %+v", o)
	}
}

func TestReservationThatCannotBeMadeIsTheRowsFailure(t *testing.T) {
	b := newBench(t, true, orchestrator.Row{Do: done}, orchestrator.Row{
		Do: func(context.Context, *step) (outcome, error) { t.Error("called"); return outcome{}, nil },
		Reserve: func(*step) ([]orchestrator.Change, error) {
			return nil, orchestrator.Errorf("catalogue", orchestrator.Permanent, "no such image")
		},
	})
	b.drive()
	if c := b.last(); c.Run.Status != orchestrator.StatusParked || !strings.Contains(c.Run.Reason, "no such image") {
		t.Errorf("%s %q", c.Run.Status, c.Run.Reason)
	}
}

func TestDeadWorkersAttemptIsInterrupted(t *testing.T) {
	var saw string
	b := newBench(t, true, orchestrator.Row{Do: done}, orchestrator.Row{
		Do: func(_ context.Context, s *step) (outcome, error) {
			saw = s.Handle("task")
			return orchestrator.Finished("made")
		},
		Reserve: func(*step) ([]orchestrator.Change, error) {
			return []orchestrator.Change{orchestrator.DropEntry{Group: "g"}}, nil
		},
	})
	if _, err := b.tick(); err != nil {
		t.Fatal(err)
	}
	b.claim.Run.Fence, b.claim.Run.Handles = 2, map[string]string{"task": "T"}
	b.drive()
	c := b.commits[1]
	if c.Ended == nil || c.Ended.Outcome != orchestrator.OutcomeInterrupted || c.Opened == nil || c.Opened.Number != 2 || c.Opened.Actor != "w#2" || len(c.Changes) != 1 {
		t.Errorf("%+v", c)
	}
	if saw != "T" {
		t.Errorf("the handle is lost: %q", saw)
	}
	if len(b.commits) != 3 {
		t.Errorf("%d commits", len(b.commits))
	}
}

func TestChangedTableParksTheRun(t *testing.T) {
	for name, change := range map[string]func(*orchestrator.Run){
		"row":     func(r *orchestrator.Run) { r.Step, r.RowHash = "old_step", "0011223344556677" },
		"state":   func(r *orchestrator.Run) { r.State, r.Step = "gone", "old_step" },
		"process": func(r *orchestrator.Run) { r.Process = "old" },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, true, orchestrator.Row{Do: done})
			change(&b.claim.Run)
			b.drive()
			c := b.last()
			want := "no longer in the table of p"
			if name == "process" {
				want = `process "old" is unknown to this version`
			}
			if c.Run.Status != orchestrator.StatusParked || !strings.Contains(c.Run.Reason, want) || c.Run.Kind != orchestrator.Permanent {
				t.Errorf("%s %q", c.Run.Status, c.Run.Reason)
			}
			if name == "process" {
				return
			}
			if !strings.Contains(string(c.Events[0].Data), `"exits":["retry","cancel"]`) {
				t.Errorf("event: %s", c.Events[0].Data)
			}
			if name == "row" { // it can still be canceled: the state's row is known
				b.claim.Run.Cancel = "op"
				b.claimAgain()
				b.drive()
				if c := b.last(); c.Run.Status != orchestrator.StatusCanceled {
					t.Errorf("canceled: %s %q", c.Run.Status, c.Run.Reason)
				}
			}
			if name == "state" { // nobody knows the way back either
				b.claim.Run.Cancel = "op"
				b.claimAgain()
				b.drive()
				if c := b.last(); c.Run.Status != orchestrator.StatusParked || !strings.Contains(c.Run.Reason, "no longer in the table") {
					t.Errorf("canceled: %s %q, due %s", c.Run.Status, c.Run.Reason, c.Run.WakeAt)
				}
			}
		})
	}
}

func TestStateErrorSaysWhatWasExpected(t *testing.T) {
	p := &orchestrator.Process{Name: "p", Cancelable: true, Rows: []orchestrator.Row{{From: "a", Step: "go", To: "b", Do: done}, {From: "b", Step: "on", To: "c", Do: done}}}
	for _, test := range []struct {
		from  orchestrator.State
		event string
		to    orchestrator.State
		want  *orchestrator.StateError
	}{
		{from: "a", event: "go", to: "b"},
		{from: "c", event: "undo on", to: "b"},
		{from: "a", event: "on", want: &orchestrator.StateError{Process: "p", Step: "on", Expected: "b", Found: "a"}},
		{from: "a", event: "undo on", want: &orchestrator.StateError{Process: "p", Step: "undo on", Expected: "c", Found: "a"}},
		{from: "a", event: "nothing", want: &orchestrator.StateError{Process: "p", Step: "nothing", Found: "a"}},
	} {
		to, err := orchestrator.Fire(t.Context(), p, test.from, test.event)
		var state *orchestrator.StateError
		switch {
		case test.want == nil && (err != nil || to != test.to):
			t.Errorf("%s from %s: %s, %v", test.event, test.from, to, err)
		case test.want != nil && (!errors.As(err, &state) || *state != *test.want || to != test.from):
			t.Errorf("%s from %s: %s, %v", test.event, test.from, to, err)
		}
	}
	oneWay := &orchestrator.Process{Name: "p", Rows: p.Rows}
	if _, err := orchestrator.Fire(t.Context(), oneWay, "b", "undo go"); err == nil {
		t.Error("a process without a way back went back")
	}
}

func TestActiveRunsHaveExits(t *testing.T) {
	statuses := []orchestrator.Status{"ready", "running", "waiting", "parked", "canceling", "done", "canceled"}
	for _, status := range statuses {
		for _, undoing := range []bool{false, true} {
			for _, cancelable := range []bool{false, true} {
				exits := orchestrator.Exits(orchestrator.Run{Status: status, Undoing: undoing}, &orchestrator.Process{Cancelable: cancelable})
				if (len(exits) == 0) == status.Active() {
					t.Errorf("%s, undoing %t, cancelable %t: %v", status, undoing, cancelable, exits)
				}
				if slices.Contains(exits, "cancel") && (!cancelable || status == "parked" && undoing) {
					t.Errorf("%s, undoing %t, cancelable %t offers a cancel that does nothing", status, undoing, cancelable)
				}
			}
		}
	}
}

func TestCancelWalksBackByTheTable(t *testing.T) {
	var undone []string
	undo := func(_ context.Context, s *step) (outcome, error) {
		undone = append(undone, s.Run.Step)
		return orchestrator.Finished("gone")
	}
	b := newBench(t, true, orchestrator.Row{Do: done, Undo: undo}, orchestrator.Row{Do: done}, orchestrator.Row{Do: failWith(kind(orchestrator.Permanent)), Undo: undo})
	b.drive()
	b.claim.Run.Cancel, b.claim.Run.Status = "1000:op: not wanted", orchestrator.StatusCanceling
	b.commits = nil
	b.drive()
	if diff := cmp.Diff([]string{"step2", "step0"}, undone); diff != "" {
		t.Error(diff)
	}
	var states []string
	for _, c := range b.commits {
		states = append(states, fmt.Sprintf("%s %s", c.Run.State, c.Run.Status))
	}
	if diff := cmp.Diff([]string{"s2 canceling", "s2 canceling", "s1 canceling", "s0 canceled"}, states); diff != "" {
		t.Error(diff)
	}
	c := b.last()
	if diff := cmp.Diff([]string{"run.canceled"}, types(c)); diff != "" {
		t.Error(diff)
	}
	if c.Run.Reason != "1000:op: not wanted" || c.Run.Kind != "" || c.Machine.State != "canceled" {
		t.Errorf("%+v", c.Run)
	}
}

// A handle's commit tells the worker of a cancel, and the store tells nobody again.
func TestCancelHeardWithAHandleIsNotForgotten(t *testing.T) {
	for name, then := range map[string]act{
		"parks": failWith(kind(orchestrator.Permanent)),
		"waits": func(context.Context, *step) (outcome, error) { return orchestrator.WaitFor("", time.Hour, "for long") },
		"fails": failWith(kind(orchestrator.Transient)),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, true, orchestrator.Row{Do: func(ctx context.Context, s *step) (outcome, error) {
				if err := s.Record(ctx, "task", "T"); err != nil {
					return outcome{}, err
				}
				return then(ctx, s)
			}})
			b.answer = func(orchestrator.Commit) orchestrator.CommitResult {
				b.answer = nil
				return orchestrator.CommitResult{Cancel: "1000:op"}
			}
			b.drive()
			if c := b.last(); c.Run.Status != orchestrator.StatusCanceling || c.Run.WakeAt.After(b.now) {
				t.Fatalf("nobody takes it back: %s, due %s", c.Run.Status, c.Run.WakeAt)
			}
			b.claimAgain()
			b.drive()
			if c := b.last(); c.Run.Status != orchestrator.StatusCanceled {
				t.Errorf("%s", c.Run.Status)
			}
		})
	}
}

func TestProcessWithoutWayBackGoesOnWhenCanceled(t *testing.T) {
	b := newBench(t, false, orchestrator.Row{Do: done}, orchestrator.Row{Do: done})
	b.claim.Run.Cancel, b.claim.Run.Status = "1000:op", orchestrator.StatusCanceling
	if _, err := b.tick(); err != nil {
		t.Fatal(err)
	}
	if c := b.last(); c.Run.Status != orchestrator.StatusRunning || c.Run.State != "s1" {
		t.Errorf("%s in %s", c.Run.Status, c.Run.State)
	}
}

func TestLostLeaseStopsTheTick(t *testing.T) {
	for _, lost := range []error{orchestrator.E("store", orchestrator.Conflict, orchestrator.ErrFenced), orchestrator.E("store", orchestrator.Transient, orchestrator.ErrStoreAway)} {
		commits := 0
		b := newBench(t, true, orchestrator.Row{Do: done})
		b.answer = func(orchestrator.Commit) orchestrator.CommitResult {
			commits++
			return orchestrator.CommitResult{Err: lost}
		}
		if more, err := b.tick(); more || !errors.Is(err, errors.Unwrap(lost)) || commits != 1 {
			t.Errorf("more %t, %v, %d commits", more, err, commits)
		}
	}
}

func TestRefusedCommitIsTheStepsFailure(t *testing.T) {
	b := newBench(t, true, orchestrator.Row{Do: done})
	b.answer = func(c orchestrator.Commit) orchestrator.CommitResult {
		if c.Run.Status == orchestrator.StatusDone {
			return orchestrator.CommitResult{Err: orchestrator.Errorf("place", orchestrator.Exhausted, "no room")}
		}
		return orchestrator.CommitResult{}
	}
	b.drive()
	if c := b.last(); c.Run.Status != orchestrator.StatusWaiting || c.Run.Kind != orchestrator.Exhausted || c.Run.State != "s0" || !strings.Contains(c.Run.Reason, "no room") {
		t.Errorf("%+v", c.Run)
	}
	soon := b.last().Run.WakeAt.Sub(b.now)
	b.claimAgain()
	b.drive()
	if later := b.last().Run.WakeAt.Sub(b.now); soon > 3*time.Second || later < 30*time.Second {
		t.Errorf("who joins the line looks again after %s, and then after %s", soon, later)
	}
}

// What the step learned is what the constraint refuses: the failure must not carry it along, or it is refused as well, for ever.
func TestRefusedMachineDoesNotStopTheFailureFromBeingRecorded(t *testing.T) {
	b := newBench(t, true, orchestrator.Row{Do: func(_ context.Context, s *step) (outcome, error) {
		s.Machine.Identity = "a twin's"
		return orchestrator.Finished("made")
	}})
	b.answer = func(c orchestrator.Commit) orchestrator.CommitResult {
		if c.Machine != nil && c.Machine.Identity != "" {
			return orchestrator.CommitResult{Err: orchestrator.Errorf("store", orchestrator.Conflict, "another machine has this machine-id")}
		}
		return orchestrator.CommitResult{}
	}
	for b.claim.Run.Status != orchestrator.StatusParked {
		b.drive()
		if len(b.commits) > 50 {
			t.Fatal("it is tried for ever")
		}
		b.claim.Run.Fence++
	}
	if c := b.last(); !strings.Contains(c.Run.Reason, "another machine has this machine-id") {
		t.Errorf("%q", c.Run.Reason)
	}
}

func TestRefusedReservationParksTheRun(t *testing.T) {
	for name, do := range map[string]act{
		"failure": failWith(kind(orchestrator.Transient)),
		"wait": func(context.Context, *step) (outcome, error) {
			return outcome{Wait: &orchestrator.Wait{}, Changes: []orchestrator.Change{orchestrator.DropEntry{}}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, true, orchestrator.Row{
				Do:      do,
				Reserve: func(*step) ([]orchestrator.Change, error) { return []orchestrator.Change{orchestrator.PutEntry{}}, nil },
			})
			b.answer = func(c orchestrator.Commit) orchestrator.CommitResult {
				if len(c.Changes) > 0 {
					return orchestrator.CommitResult{Err: orchestrator.Errorf("store", orchestrator.Conflict, "the group is not configured")}
				}
				return orchestrator.CommitResult{}
			}
			for range 2 { // and again after a retry, when the attempt itself cannot be opened
				b.drive()
				if c := b.last(); c.Run.Status != orchestrator.StatusParked || !strings.Contains(c.Run.Reason, "the group is not configured") {
					t.Fatalf("%s %q", c.Run.Status, c.Run.Reason)
				}
				b.retry()
			}
		})
	}
}

func TestForeignWordsInAnOutcomeAreOneBoundedLine(t *testing.T) {
	const foreign = "stage \x00\x1b]0;owned\a\nnext"
	b := newBench(t, true, orchestrator.Row{Do: func(context.Context, *step) (outcome, error) { return orchestrator.WaitFor("", 0, "%s", foreign) }})
	b.drive()
	if reason := b.last().Run.Reason; strings.ContainsAny(reason, "\x00\x1b\a\n") {
		t.Errorf("waits: %q", reason)
	}
	b = newBench(t, true, orchestrator.Row{Do: func(context.Context, *step) (outcome, error) { return orchestrator.Finished("%s", foreign) }})
	b.drive()
	if message := b.last().Ended.Message; strings.ContainsAny(message, "\x00\x1b\a\n") {
		t.Errorf("done: %q", message)
	}
}

func TestTablesAreChecked(t *testing.T) {
	row := func(from, step, to orchestrator.State) orchestrator.Row {
		return orchestrator.Row{From: from, Step: string(step), To: to, Do: done}
	}
	for name, rows := range map[string][]orchestrator.Row{
		"empty":      nil,
		"no do":      {{From: "a", Step: "x", To: "b"}},
		"gap":        {row("a", "x", "b"), row("c", "y", "d")},
		"loop":       {row("a", "x", "b"), row("b", "y", "a")},
		"step twice": {row("a", "x", "b"), row("b", "x", "c")},
	} {
		if _, err := orchestrator.NewEngine(orchestrator.EngineConfig{Processes: []*orchestrator.Process{{Name: "p", Rows: rows}}, Log: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestForeignTextIsOneBoundedLine(t *testing.T) {
	b := newBench(t, true, orchestrator.Row{Do: failWith(errors.New("bell\a\nline\u2028" + strings.Repeat("é", 5000) + "\xff"))})
	b.drive()
	message := b.last().Ended.Message
	if strings.ContainsAny(message, "\a\n\u2028") || len(message) > 2010 || !strings.HasPrefix(message, "bell line ") {
		t.Errorf("%d bytes: %.40q", len(message), message)
	}
}
