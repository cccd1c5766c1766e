package driver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipway/orchestrator"
)

func TestDrivesToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := process(nothing, nothing, nothing)
		w.add(p, 200)
		d := start(t, w, p, nil)
		defer d.finish()
		pass(time.Second)
		if n := w.count(orchestrator.StatusDone); n != 200 || d.Held() != 0 {
			t.Errorf("%d of 200 done, %d held", n, d.Held())
		}
	})
}

// No more runs than slots are ever in hand.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		p := process(func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			return orchestrator.Finished("done")
		})
		w := newWorld()
		w.add(p, 300)
		d := start(t, w, p, func(c *Config) { c.Slots = 40 })
		defer d.finish()
		pass(20 * time.Second)
		if n := w.count(orchestrator.StatusDone); n != 300 || most.Load() != 40 {
			t.Errorf("%d done, %d at once", n, most.Load())
		}
	})
}

// A nudge makes the driver look before its poll.
func TestNudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := process(nothing)
		d := start(t, w, p, func(c *Config) { c.Poll = time.Hour })
		defer d.finish()
		pass(time.Second)
		w.add(p, 1)
		d.Nudge()
		synctest.Wait()
		if n := w.count(orchestrator.StatusDone); n != 1 {
			t.Error("it waited for its poll")
		}
	})
}

// A step that takes several leases keeps its run.
func TestLeaseIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		p := process(func(ctx context.Context, _ *orchestrator.Step) (orchestrator.Outcome, error) {
			calls++
			select {
			case <-ctx.Done():
				return orchestrator.Outcome{}, ctx.Err()
			case <-time.After(10 * time.Minute):
				return orchestrator.Finished("done")
			}
		})
		w := newWorld()
		w.add(p, 1)
		d := start(t, w, p, nil)
		defer d.finish()
		pass(11 * time.Minute)
		if w.count(orchestrator.StatusDone) != 1 || calls != 1 {
			t.Errorf("done %d, %d calls", w.count(orchestrator.StatusDone), calls)
		}
		if least := int(10 * time.Minute / d.Lease); w.renewals < least {
			t.Errorf("%d renewals", w.renewals)
		}
	})
}

// A holder that cannot renew stops acting at half its lease, not later: another may begin when it ends.
func TestStopsActingAtHalfTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var acted time.Duration
		var cause error
		p := process(func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
			began := time.Now()
			<-ctx.Done()
			if cause == nil {
				acted, cause = time.Since(began), context.Cause(ctx)
			}
			return orchestrator.Outcome{}, ctx.Err()
		})
		w := newWorld()
		w.deaf = true
		w.add(p, 1)
		d := start(t, w, p, func(c *Config) { c.Lease = time.Minute })
		defer d.finish()
		pass(31 * time.Second)
		if acted != 30*time.Second || !errors.Is(cause, errLeaseOld) {
			t.Errorf("acted for %s, then %v", acted, cause)
		}
	})
}

// The half is counted from the last renewal that succeeded.
func TestHalfTheLeaseAfterTheLastRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var acted time.Duration
		p := process(func(ctx context.Context, _ *orchestrator.Step) (orchestrator.Outcome, error) {
			began := time.Now()
			<-ctx.Done()
			if acted == 0 {
				acted = time.Since(began)
			}
			return orchestrator.Outcome{}, ctx.Err()
		})
		w := newWorld()
		w.add(p, 1)
		d := start(t, w, p, func(c *Config) { c.Lease = time.Minute })
		defer d.finish()
		pass(5*time.Minute + time.Second)
		w.set(func(w *world) { w.deaf = true })
		pass(time.Minute)
		if least, most := 5*time.Minute, 5*time.Minute+30*time.Second; acted < least || acted > most {
			t.Errorf("acted for %s", acted)
		}
	})
}

// Steps are told the database's clock, whatever this machine's says: what they wait for is compared with that one.
func TestTimeIsTheDatabases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
			var told []time.Time
			look := func(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
				told = append(told, s.Now)
				time.Sleep(time.Minute)
				return orchestrator.Finished("done")
			}
			w := newWorld()
			w.ahead = ahead
			p := process(look, look)
			w.add(p, 1)
			began := time.Now()
			d := start(t, w, p, nil)
			pass(3 * time.Minute)
			d.finish()
			if want := []time.Time{began.Add(ahead), began.Add(ahead + time.Minute)}; !slices.EqualFunc(told, want, time.Time.Equal) {
				t.Errorf("%s ahead: told %v, want %v", ahead, told, want)
			}
		}
	})
}

// A lease that another has taken interrupts the step, and is not given back in the other's name.
func TestLostLeaseInterrupts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cause error
		p := process(func(ctx context.Context, _ *orchestrator.Step) (orchestrator.Outcome, error) {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return orchestrator.Outcome{}, ctx.Err()
		})
		w := newWorld()
		w.add(p, 1)
		d := start(t, w, p, func(c *Config) { c.Lease = time.Minute })
		defer d.finish()
		pass(time.Second)
		w.set(func(w *world) {
			w.runs["run-000"].Holder, w.runs["run-000"].LeaseUntil = "another", time.Now().Add(time.Hour)
			w.runs["run-000"].Fence++
		})
		pass(d.Lease / 6)
		if !errors.Is(cause, orchestrator.ErrFenced) || d.Held() != 0 || len(w.released) != 0 {
			t.Errorf("cause %v, %d held, released %v", cause, d.Held(), w.released)
		}
	})
}

// The first stop takes nothing new and lets what is in hand reach the point where it is put down; the second interrupts.
func TestTwoStepStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := process(func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
			length := 5 * time.Second
			if s.Run.ID == "run-001" {
				length = time.Hour
			}
			select {
			case <-ctx.Done():
				return orchestrator.Outcome{}, ctx.Err()
			case <-time.After(length):
				return orchestrator.Finished("done")
			}
		}, nothing)
		w := newWorld()
		w.add(p, 2)
		d := start(t, w, p, nil)
		defer d.finish()
		pass(time.Second)
		close(d.stop)
		synctest.Wait()
		w.add(p, 1)
		d.Nudge()
		pass(9 * time.Second)
		select {
		case <-d.ended:
			t.Fatal("it ended with a run in hand")
		default:
		}
		w.mu.Lock()
		first, second, third := w.runs["run-000"].Status, w.runs["run-001"].Holder, w.runs["run-002"].Holder
		w.mu.Unlock()
		if first != orchestrator.StatusDone || second != "worker" || third != "" {
			t.Errorf("first %s, second held by %q, third held by %q", first, second, third)
		}
		d.interrupt()
		synctest.Wait()
		select {
		case <-d.ended:
		default:
			t.Fatal("it did not end")
		}
		if !slices.Equal(w.released, []string{"run-001"}) || w.runs["run-001"].State != "s0" {
			t.Errorf("released %v, state %s", w.released, w.runs["run-001"].State)
		}
	})
}

// A database that goes away in the middle loses nothing: its runs go on when it is back.
func TestStoreAwayAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := process(nothing, func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			time.Sleep(2 * time.Second)
			return orchestrator.Finished("done")
		}, nothing)
		w.add(p, 20)
		d := start(t, w, p, func(c *Config) { c.Lease = time.Minute })
		defer d.finish()
		pass(time.Second)
		w.set(func(w *world) { w.away, w.claims = true, 0 })
		pass(5 * time.Minute)
		if d.Held() != 0 || w.count(orchestrator.StatusDone) != 0 {
			t.Errorf("%d held, %d done without a database", d.Held(), w.count(orchestrator.StatusDone))
		}
		if most := int(5*time.Minute/d.Poll) + 30; w.claims > most {
			t.Errorf("a database that is away was asked %d times in 5 minutes", w.claims)
		}
		w.set(func(w *world) { w.away = false })
		pass(10 * time.Second)
		if n := w.count(orchestrator.StatusDone); n != 20 {
			t.Errorf("%d of 20 done", n)
		}
	})
}

// A waiting run holds nobody and is driven on when it is due.
func TestWaitingHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var mu sync.Mutex
		seen := map[string]int{}
		p := process(func(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
			mu.Lock()
			defer mu.Unlock()
			if seen[s.Run.ID]++; seen[s.Run.ID] == 1 {
				return orchestrator.WaitFor("", time.Minute, "a boot")
			}
			return orchestrator.Finished("done")
		})
		w.add(p, 500)
		d := start(t, w, p, func(c *Config) { c.Slots = 4 })
		defer d.finish()
		pass(30 * time.Second)
		if d.Held() != 0 || w.count(orchestrator.StatusWaiting) != 500 {
			t.Errorf("%d held, %d waiting", d.Held(), w.count(orchestrator.StatusWaiting))
		}
		pass(time.Minute)
		if n := w.count(orchestrator.StatusDone); n != 500 {
			t.Errorf("%d done", n)
		}
	})
}
