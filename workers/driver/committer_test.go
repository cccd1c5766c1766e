package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipway/orchestrator"
)

// journalFunc is a Journal.
type journalFunc func(context.Context, []orchestrator.Commit) []orchestrator.CommitResult

func (f journalFunc) Commit(ctx context.Context, c []orchestrator.Commit) []orchestrator.CommitResult {
	return f(ctx, c)
}

// Those who wait while a commit is under way share the next one, each hears of its own result, and nobody before the journal has answered.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var groups []int
		release := make(chan struct{})
		c := NewCommitter(journalFunc(func(_ context.Context, commits []orchestrator.Commit) []orchestrator.CommitResult {
			groups = append(groups, len(commits))
			<-release
			results := make([]orchestrator.CommitResult, len(commits))
			for i, one := range commits {
				results[i].Successor = one.Run.ID
				if one.Run.ID == "run-7" {
					results[i].Err = errLost
				}
			}
			return results
		}))
		ctx, stop := context.WithCancel(t.Context())
		var running, asking sync.WaitGroup
		running.Go(func() { c.Run(ctx) })
		defer running.Wait()
		defer stop()

		var told atomic.Int64
		ask := func(n int) {
			asking.Go(func() {
				id := fmt.Sprint("run-", n)
				result := c.Commit(t.Context(), orchestrator.Commit{Run: orchestrator.Run{ID: id}})
				told.Add(1)
				if result.Successor != id || (result.Err != nil) != (n == 7) {
					t.Errorf("%s heard %q, %v", id, result.Successor, result.Err)
				}
			})
		}
		ask(0)
		synctest.Wait()
		for n := range 63 {
			ask(n + 1)
		}
		synctest.Wait()
		if told.Load() != 0 {
			t.Errorf("%d were told before their commit", told.Load())
		}
		release <- struct{}{}
		synctest.Wait()
		if told.Load() != 1 {
			t.Errorf("%d were told after the first commit", told.Load())
		}
		release <- struct{}{}
		asking.Wait()
		if len(groups) != 2 || groups[0] != 1 || groups[1] != 63 {
			t.Errorf("groups of %v", groups)
		}
	})
}

func TestGroupIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var groups []int
		c := NewCommitter(journalFunc(func(_ context.Context, commits []orchestrator.Commit) []orchestrator.CommitResult {
			groups = append(groups, len(commits))
			time.Sleep(time.Second)
			return make([]orchestrator.CommitResult, len(commits))
		}))
		ctx, stop := context.WithCancel(t.Context())
		var running, asking sync.WaitGroup
		running.Go(func() { c.Run(ctx) })
		defer running.Wait()
		defer stop()
		for range 1 + 2*maxGroup {
			asking.Go(func() { c.Commit(t.Context(), orchestrator.Commit{}) })
		}
		asking.Wait()
		for _, n := range groups {
			if n > maxGroup {
				t.Errorf("groups of %v", groups)
			}
		}
	})
}

// A commit that was handed over is waited for although its caller is told to stop, and the committer finishes it although it stops itself.
func TestHandedOverIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		committed := false
		c := NewCommitter(journalFunc(func(ctx context.Context, commits []orchestrator.Commit) []orchestrator.CommitResult {
			time.Sleep(time.Second)
			committed = ctx.Err() == nil
			return make([]orchestrator.CommitResult, len(commits))
		}))
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { c.Run(ctx) })
		asker, interrupt := context.WithCancel(t.Context())
		answer := make(chan orchestrator.CommitResult, 1)
		go func() { answer <- c.Commit(asker, orchestrator.Commit{}) }()
		pass(time.Millisecond)
		interrupt()
		stop()
		if r := <-answer; r.Err != nil || !committed {
			t.Errorf("error %v, committed %v", r.Err, committed)
		}
		running.Wait()
		if r := c.Commit(t.Context(), orchestrator.Commit{}); !errors.Is(r.Err, orchestrator.ErrStoreAway) {
			t.Errorf("after the stop: %v", r.Err)
		}
	})
}

// Below a quarter of a commit per step with 64 runs in flight; exactly one, and one per handle, with a single one.
func TestCommitsPerStep(t *testing.T) {
	const steps, handles = 10, 3
	rows := make([]step, steps)
	for i := range rows {
		rows[i] = nothing
		if i < handles {
			rows[i] = func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
				if err := s.Record(ctx, "task", "OpaqueRef:1"); err != nil {
					return orchestrator.Outcome{}, err
				}
				return orchestrator.Finished("done")
			}
		}
	}
	for _, runs := range []int{1, 64} {
		t.Run(fmt.Sprint(runs), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.slow = 5 * time.Millisecond
				p := process(rows...)
				w.add(p, runs)
				d := start(t, w, p, nil)
				defer d.finish()
				pass(time.Minute)
				if n := w.count(orchestrator.StatusDone); n != runs {
					t.Fatalf("%d of %d done", n, runs)
				}
				if want := runs * (steps + handles); w.commits != want {
					t.Errorf("%d results for %d steps with %d handles, want %d", w.commits, runs*steps, runs*handles, want)
				}
				if runs == 1 && w.calls != steps+handles {
					t.Errorf("%d commits for %d steps and %d handles", w.calls, steps, handles)
				}
				if runs > 1 && w.calls*4 >= runs*steps {
					t.Errorf("%d commits for %d steps", w.calls, runs*steps)
				}
			})
		})
	}
}
