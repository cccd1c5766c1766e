package driver

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipway/orchestrator"
)

// Workers of two versions share a store: each goes on with what it knows, neither parks what the other knows, and what neither knows any
// more is parked once nobody has come for it.
func TestTwoVersionsSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		calls := map[string]int{}
		noted := func(name string) step {
			return func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
				w.set(func(*world) { calls[name]++ })
				return orchestrator.Finished("done")
			}
		}
		// of renames the second step and counts calls by version.
		of := func(version, second string) *orchestrator.Process {
			p := process(noted(version+" 0"), noted(version+" "+second), noted(version+" 2"))
			p.Rows[1].Step = second
			return p
		}
		was, is := of("old", "make"), of("new", "build")
		at := func(p *orchestrator.Process, row int) {
			w.add(p, 1)
			w.set(func(w *world) {
				for _, run := range w.runs {
					if run.State == p.Start() && run.Attempt == 1 {
						run.State, run.Step, run.RowHash, run.Attempt = p.Rows[row].From, p.Rows[row].Step, p.Hash(p.Rows[row]), 2
					}
				}
			})
		}
		young := start(t, w, is, func(c *Config) { c.Holder = "new" })
		pass(time.Second)
		at(was, 2) // same row: whoever comes
		at(was, 1) // the old one's
		pass(time.Hour)
		// Nobody has said that the old row is known, and the new worker has been there for long: parked, with the reason.
		if n := w.count(orchestrator.StatusParked); n != 1 || calls["new 2"] != 1 || calls["new build"] != 0 {
			t.Errorf("%d parked, %v", n, calls)
		}
		w.mu.Lock()
		if reason := w.runs["run-001"].Reason; !strings.Contains(reason, "step build leaves that state now") {
			t.Errorf("reason %q", reason)
		}
		w.mu.Unlock()

		old := start(t, w, was, func(c *Config) { c.Holder = "old" })
		defer old.finish()
		pass(time.Second)
		w.set(func(w *world) { w.slow = 20 * time.Minute }) // what is under way keeps what follows overdue
		at(was, 1)
		at(is, 1)
		pass(24 * time.Hour)
		if n := w.count(orchestrator.StatusParked); n != 1 || w.count(orchestrator.StatusDone) != 3 || calls["old make"] != 1 || calls["new build"] != 1 {
			t.Errorf("%d parked, %d done, %v", n, w.count(orchestrator.StatusDone), calls)
		}
		young.finish()
		pass(time.Second)
		at(is, 1) // the new worker has not been forgotten: it is being replaced
		pass(time.Hour)
		if n := w.count(orchestrator.StatusParked); n != 1 {
			t.Errorf("%d parked while the new version is known", n)
		}
	})
}

// A worker asks for strangers only when it has seen the store for long enough that the others could say what they know: neither at its start nor
// after the store was away.
func TestStrangersAreAskedForLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		d := start(t, w, process(nothing), nil)
		defer d.finish()
		asks := func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.stranger
		}
		pass(orchestrator.StrangerAfter - time.Second)
		if asks() {
			t.Error("at once")
		}
		pass(2 * time.Second)
		if !asks() {
			t.Error("never")
		}
		w.set(func(w *world) { w.away = true })
		pass(time.Minute)
		w.set(func(w *world) { w.away = false })
		pass(time.Minute)
		if asks() {
			t.Error("as soon as the store is back")
		}
		pass(orchestrator.StrangerAfter)
		if !asks() {
			t.Error("never again")
		}
	})
}
