package driver

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipway/orchestrator"
)

// A drained driver takes nothing new and puts down what it has in hand after the commit that is under way, not at the end of the run; on
// duty again, it goes on where it was.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		slow := func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			calls.Add(1)
			time.Sleep(time.Minute)
			return orchestrator.Finished("done")
		}
		w := newWorld()
		p := process(slow, slow, slow)
		w.add(p, 1)
		d := start(t, w, p, nil)
		defer d.finish()
		pass(time.Second)
		d.Drain(true)
		w.add(p, 5)
		d.Nudge()
		pass(30 * time.Second)
		if d.Held() != 1 || calls.Load() != 1 {
			t.Fatalf("%d in hand, %d calls", d.Held(), calls.Load())
		}
		pass(time.Minute)
		if d.Held() != 0 || calls.Load() != 1 || len(w.released) != 1 {
			t.Errorf("%d in hand, %d calls, released %v", d.Held(), calls.Load(), w.released)
		}
		w.mu.Lock()
		if run := w.runs["run-000"]; run.State != "s1" || run.Holder != "" {
			t.Errorf("%+v", run)
		}
		w.mu.Unlock()
		d.Drain(false)
		pass(time.Hour)
		if n := w.count(orchestrator.StatusDone); n != 6 {
			t.Errorf("%d of 6 done", n)
		}
	})
}

type holds []orchestrator.Hold

func (h *holds) Holds(context.Context) ([]orchestrator.Hold, error) { return *h, nil }

// The gate asks the store once a second at the most, and at once after it was told to forget.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := orchestrator.PoolSubject("a")
		var h holds
		g := &Gate{Store: &h}
		held := func() bool {
			_, ok, err := g.Held(t.Context(), []orchestrator.Subject{orchestrator.GroupSubject("x"), pool})
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		if held() {
			t.Error("held by nobody")
		}
		h = holds{{Subject: pool, Kind: orchestrator.HoldMaintenance}, {Subject: pool, Kind: orchestrator.HaltOf("uninstall")}}
		if held() {
			t.Error("asked again at once")
		}
		pass(time.Second)
		if !held() {
			t.Error("not held a second later")
		}
		h = nil
		g.Forget()
		if held() {
			t.Error("not forgotten")
		}
	})
}
