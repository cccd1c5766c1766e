package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipway/orchestrator"
)

// A step that panics parks its own run, says why without what may be a secret, and leaves the worker and its other runs at work.
func TestPanicParksItsRunAlone(t *testing.T) {
	const secret = "hunter2-in-a-panic"
	for name, tc := range map[string]struct {
		step  step
		tells string
	}{
		"runtime error": {func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			var none []int
			return orchestrator.Finished("%d", none[len(none)])
		}, "index out of range"},
		"a value": {func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) { panic(secret) }, "panicked with a string"},
		"after a handle": {func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
			if err := s.Record(ctx, "task", "task-1"); err != nil {
				return orchestrator.Outcome{}, err
			}
			panic(secret)
		}, "panicked with a string"},
		"a decision": {func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			return orchestrator.Outcome{Decide: func(*orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) { panic(secret) }}, nil
		}, "the decision panicked with a string"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				w := newWorld()
				p := process(nothing, func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
					if s.Run.ID == "run-001" {
						return tc.step(ctx, s)
					}
					return nothing(ctx, s)
				}, nothing)
				w.add(p, 3)
				d := start(t, w, p, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
				defer d.finish()
				pass(time.Second)
				if n := w.count(orchestrator.StatusDone); n != 2 || d.Held() != 0 {
					t.Errorf("%d of the others are done, %d held", n, d.Held())
				}
				w.mu.Lock()
				run := *w.runs["run-001"]
				w.mu.Unlock()
				if run.Status != orchestrator.StatusParked || run.Kind != orchestrator.Permanent || !strings.Contains(run.Reason, tc.tells) || run.Holder != "" {
					t.Errorf("the run is %s, %s, held by %q: %s", run.Status, run.Kind, run.Holder, run.Reason)
				}
				if name == "after a handle" && run.Handles["task"] != "task-1" {
					t.Errorf("handles %v", run.Handles)
				}
				if strings.Contains(run.Reason, secret) || strings.Contains(log.String(), secret) {
					t.Error("what it panicked with is told")
				}
				if name != "a decision" && !strings.Contains(log.String(), "panic_test.go") { // the engine's own log has that one's
					t.Errorf("no stack in the log: %s", log.String())
				}
			})
		})
	}
}

// While the store is away a panicking run is given back, and parks when it is there again.
func TestPanicWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := process(func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			w.set(func(w *world) { w.away = true })
			panic("?")
		})
		w.add(p, 1)
		d := start(t, w, p, nil)
		defer d.finish()
		pass(time.Second)
		if w.count(orchestrator.StatusParked) != 0 || d.Held() != 0 {
			t.Fatalf("parked in a store that is away, or held: %d", d.Held())
		}
		calls := 0
		p.Rows[0].Do = func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) { calls++; panic("?") }
		w.set(func(w *world) { w.away = false })
		pass(2 * time.Minute)
		if w.count(orchestrator.StatusParked) != 1 || calls != 1 {
			t.Errorf("%d parked after %d more calls", w.count(orchestrator.StatusParked), calls)
		}
	})
}
