package orchestrator_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"slipway/orchestrator"
)

// journal is what the commits so far have made of the machine's attempts, as a store keeps them.
func (b *bench) journal(context.Context, string) ([]orchestrator.Attempt, error) {
	var lines []orchestrator.Attempt
	for i, c := range b.commits {
		if c.Ended != nil {
			at := slices.IndexFunc(lines, func(a orchestrator.Attempt) bool { return a.ID != 0 && a.ID == c.Ended.ID })
			if at < 0 {
				lines = append(lines, *c.Ended)
			} else {
				lines[at] = *c.Ended
			}
		}
		if c.Opened != nil {
			a := *c.Opened
			a.ID = int64(101 + i)
			lines = append(lines, a)
		}
	}
	return lines, nil
}

// table is a process of rows written "from step to", whose calls are noted.
func table(calls *[]string, rows ...string) *orchestrator.Process {
	p := &orchestrator.Process{Name: "p", Cancelable: true}
	for _, row := range rows {
		word := strings.Fields(row)
		call := func(what string) act {
			return func(context.Context, *step) (outcome, error) {
				*calls = append(*calls, what)
				return orchestrator.Finished("")
			}
		}
		p.Rows = append(p.Rows, orchestrator.Row{From: orchestrator.State(word[0]), Step: word[1], To: orchestrator.State(word[2]), Do: call(word[1]), Undo: call("undo " + word[1])})
	}
	return p
}

// TestTableOfAnotherVersion begins runs in one table and goes on in another.
func TestTableOfAnotherVersion(t *testing.T) {
	was := []string{"s0 a s1", "s1 b s2", "s2 c s3", "s3 d s4"}
	for name, test := range map[string]struct {
		ticks  int // in the table as it was; a run at c after two
		cancel int // asked after so many of them; 0 is never, below 0 is in the other table
		rewind string
		is     []string
		calls  string // in the other table
		status orchestrator.Status
		reason string // a part of it
	}{
		"a row before was put in":             {ticks: 2, is: []string{"s0 a s1", "s1 n sn", "sn b s2", "s2 c s3", "s3 d s4"}, calls: "c d", status: "done"},
		"a row before is gone":                {ticks: 2, is: []string{"s0 a s2", "s2 c s3", "s3 d s4"}, calls: "c d", status: "done"},
		"a row after was put in":              {ticks: 2, is: []string{"s0 a s1", "s1 b s2", "s2 c s3", "s3 n sn", "sn d s4"}, calls: "c n d", status: "done"},
		"its row leads elsewhere":             {ticks: 2, is: []string{"s0 a s1", "s1 b s2", "s2 c sx", "sx n s3", "s3 d s4"}, calls: "c n d", status: "done"},
		"another step leaves its state":       {ticks: 2, is: []string{"s0 a s1", "s1 b s2", "s2 n sn", "sn c s3"}, status: "parked", reason: "step n leaves that state now; retry it on a version that has it, or cancel it"},
		"its step leaves another state":       {ticks: 2, is: []string{"s0 a s1", "s1 b sx", "sx c s3"}, status: "parked", reason: "that step leaves state sx now; retry"},
		"its step is gone":                    {ticks: 2, is: []string{"s0 a s1", "s1 b s2", "s2 d s3"}, status: "parked", reason: "step d leaves that state now; retry it on a version that has it"},
		"state and step are gone":             {ticks: 2, is: []string{"s0 a s1", "s1 b s4"}, status: "parked", reason: "the table has neither; retry it on a version that has it"},
		"back, unchanged":                     {ticks: 2, cancel: -1, is: was, calls: "undo c,undo b,undo a", status: "canceled"},
		"back over a row put in":              {ticks: 2, cancel: -1, is: []string{"s0 a s1", "s1 n sn", "sn b s2", "s2 c s3"}, calls: "undo c,undo b,undo n,undo a", status: "canceled"},
		"back, done row gone":                 {ticks: 2, cancel: -1, is: []string{"s0 a s2", "s2 c s3"}, status: "parked", reason: "has begun b, which"},
		"back, done rows gone":                {ticks: 3, cancel: -1, is: []string{"s0 x s3", "s3 d s4"}, status: "parked", reason: "has begun a, b, c, which"},
		"back, done row stands later":         {ticks: 3, cancel: -1, is: []string{"s0 a s1", "s1 c s3", "s3 d s4", "s4 b s5"}, status: "parked", reason: "has begun b, which"},
		"back, own row stands later":          {ticks: 2, cancel: -1, is: []string{"s0 a s1", "s1 b s2", "s2 n sn", "sn c s3"}, calls: "undo c,undo b,undo a", status: "canceled"},
		"back, own row gone":                  {ticks: 2, cancel: -1, is: []string{"s0 a s1", "s1 b s2", "s2 d s3"}, status: "parked", reason: "step c from state s2 is no longer in the table"},
		"back, nothing was begun":             {ticks: 0, cancel: -1, is: []string{"s0 x s1", "s1 b s2"}, calls: "undo x", status: "canceled"},
		"back, own state gone":                {ticks: 2, cancel: -1, is: []string{"s0 a s1", "s1 b sx", "sx c s3"}, calls: "undo c", status: "parked", reason: "state s2 is no longer in the table"},
		"on the way back, a row to come gone": {ticks: 4, cancel: 2, is: []string{"s0 x s1", "s1 b s2"}, calls: "undo b", status: "parked", reason: "has begun a, which"},
		"on the way back, its row gone":       {ticks: 4, cancel: 2, is: []string{"s0 a s1", "s1 c s2"}, status: "parked", reason: "step b, which is to be undone, is no longer"},
		"rewound past a row that is gone":     {ticks: 3, rewind: "a", is: []string{"s0 a s1", "s1 c s3", "s3 d s4"}, status: "parked", reason: "has begun b, which"},
		"rewound short of a row that is gone": {ticks: 3, rewind: "c", is: []string{"s0 a s1", "s1 c s3", "s3 d s4"}, calls: "undo d,undo c,c d", status: "done"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, true, orchestrator.Row{Do: done})
			var calls []string
			b.process = table(&calls, was...)
			run := b.process.NewRun("run-1", "machine-1", orchestrator.Order{Source: "panel", ID: "7"}, b.now)
			run.Holder, run.Fence, run.Status = "w", 1, orchestrator.StatusRunning
			b.claim.Run = run
			for n := range test.ticks {
				if n == test.cancel && n > 0 {
					b.claim.Run.Cancel = "op"
				}
				if _, err := b.tick(); err != nil {
					t.Fatal(err)
				}
			}
			calls = nil
			b.process = table(&calls, test.is...)
			if test.cancel < 0 {
				b.claim.Run.Cancel = "op"
			}
			if test.rewind != "" {
				b.claim.Run.Request, b.claim.Run.Rewound = orchestrator.Request{Verb: orchestrator.VerbRewind, Step: test.rewind, By: "op"}, 1
			}
			b.drive()
			c := b.last()
			if got := strings.Join(calls, " "); got != strings.ReplaceAll(test.calls, ",", " ") || c.Run.Status != test.status || !strings.Contains(c.Run.Reason, test.reason) {
				t.Errorf("calls %q, %s %q", got, c.Run.Status, c.Run.Reason)
			}
			if c.Run.Status != orchestrator.StatusParked {
				return
			}
			lines, _ := b.journal(t.Context(), "")
			if last := lines[len(lines)-1]; last.Outcome != orchestrator.OutcomeFailed || last.Message != c.Run.Reason {
				t.Errorf("journal %+v", last)
			}
			if test.rewind != "" {
				return
			}
			at := c.Run
			b.process = table(&calls, was...) // an operator lets the version go on that has it
			b.retry()
			b.drive()
			want := orchestrator.StatusDone
			if test.cancel != 0 {
				want = orchestrator.StatusCanceled
			}
			if c := b.last(); c.Run.Status != want {
				t.Errorf("from %s/%s on the version before: %s %q", at.State, at.Step, c.Run.Status, c.Run.Reason)
			}
		})
	}
}

func TestRowOfAnotherVersionIsInTheJournal(t *testing.T) {
	var calls []string
	b := newBench(t, true, orchestrator.Row{Do: done}, orchestrator.Row{Do: done})
	b.process = table(&calls, "s0 step0 sx", "sx n s1")
	b.drive()
	if c := b.commits[0]; c.Ended.Message != "by another version's row, to sx" || c.Run.State != "sx" {
		t.Errorf("%s: %+v", c.Run.State, c.Ended)
	}
	if c := b.commits[1]; c.Ended.Message != "" {
		t.Errorf("its own row: %+v", c.Ended)
	}
}

// A journal that cannot be read is no empty one.
func TestNothingIsUndoneWithoutTheJournal(t *testing.T) {
	b := newBench(t, true, orchestrator.Row{Do: done}, orchestrator.Row{Do: done})
	b.claim.Run.Cancel = "op"
	b.attempts = func(context.Context, string) ([]orchestrator.Attempt, error) {
		return nil, fmt.Errorf("the database is away: %w", orchestrator.ErrStoreAway)
	}
	if _, err := b.tick(); !errors.Is(err, orchestrator.ErrStoreAway) || len(b.commits) != 0 {
		t.Errorf("%v, %+v", err, b.commits)
	}
}
