package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"slipway/orchestrator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kept is an outbox in memory, with the lease by the bubble's clock.
type kept struct {
	mu     sync.Mutex
	events []orchestrator.Event
	marked map[int64]bool
	holder string
	until  time.Time
	fence  int64

	away   bool
	unmark int // MarkPublished fails so often
}

func (k *kept) add(machine string, n int, typ string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for range n {
		seq := int64(1)
		for _, e := range k.events {
			if e.Machine == machine {
				seq++
			}
		}
		k.events = append(k.events, orchestrator.Event{ID: int64(len(k.events) + 1), Type: typ, Machine: machine, Seq: seq})
	}
}

var errAway = orchestrator.E("store", orchestrator.Transient, orchestrator.ErrStoreAway)

func (k *kept) Unpublished(_ context.Context, limit int) ([]orchestrator.Event, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.away {
		return nil, errAway
	}
	var out []orchestrator.Event
	for _, e := range k.events {
		if !k.marked[e.ID] && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, nil
}

func (k *kept) MarkPublished(_ context.Context, ids []int64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unmark > 0 {
		k.unmark--
		return errAway
	}
	for _, id := range ids {
		k.marked[id] = true
	}
	return nil
}

func (k *kept) AcquireLease(_ context.Context, name, holder string, length time.Duration) (orchestrator.Lease, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.holder != holder && k.holder != "" && time.Now().Before(k.until) {
		return orchestrator.Lease{}, false, nil
	}
	if k.holder != holder {
		k.fence++
	}
	k.holder, k.until = holder, time.Now().Add(length)
	return orchestrator.Lease{Name: name, Holder: holder, Fence: k.fence, Until: k.until}, true, nil
}

func (k *kept) ReleaseLease(_ context.Context, _, holder string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.holder == holder {
		k.holder = ""
	}
	return nil
}

// broker hears events.
type broker struct {
	mu    sync.Mutex
	heard []orchestrator.Event
	by    []string
	slow  time.Duration
	fail  int // so many calls fail, after half of what they were given
	calls int
	inUse int // publishes under way
	clash bool
}

func (b *broker) publish(holder string) func(context.Context, []orchestrator.Event) error {
	return func(ctx context.Context, events []orchestrator.Event) error {
		b.mu.Lock()
		b.calls++
		b.inUse++
		b.clash = b.clash || b.inUse > 1
		fail := b.fail > 0
		b.fail--
		slow := b.slow
		b.mu.Unlock()
		defer func() { b.mu.Lock(); b.inUse--; b.mu.Unlock() }()
		if fail {
			events = events[:len(events)/2]
		}
		for _, e := range events {
			if slow > 0 {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(slow):
				}
			}
			b.mu.Lock()
			b.heard = append(b.heard, e)
			b.by = append(b.by, holder)
			b.mu.Unlock()
		}
		if fail {
			return errors.New("the broker went away")
		}
		return nil
	}
}

// first checks that the first copy of every event came in the order of its machine's seq, and that none is missing.
func (b *broker) first(t *testing.T, k *kept) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	next := map[string]int64{}
	for _, e := range b.heard {
		switch {
		case e.Seq == next[e.Machine]+1:
			next[e.Machine]++
		case e.Seq > next[e.Machine]:
			t.Fatalf("machine %s: %d came after %d", e.Machine, e.Seq, next[e.Machine])
		}
	}
	for _, e := range k.events {
		if next[e.Machine] < e.Seq {
			t.Errorf("machine %s: %d never came", e.Machine, e.Seq)
		}
	}
}

func start(t *testing.T, k *kept, b *broker, holder string, change func(*Config)) (stop func()) {
	c := Config{Store: k, Publish: b.publish(holder), Holder: holder, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p := New(c)
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	return func() { cancel(); <-done }
}

// pass lets the bubble's time go by, and everything in it come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestPublishesAllInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}}, &broker{}
		for n := range 700 {
			k.add(fmt.Sprint("m", n%7), 1, orchestrator.EventStepDone)
		}
		defer start(t, k, b, "a", nil)()
		pass(time.Second)
		b.first(t, k)
		if len(b.heard) != 700 || b.calls != 4 {
			t.Errorf("%d heard in %d calls", len(b.heard), b.calls)
		}
	})
}

// Two publishers: one at a time, and after a change of holder nothing is missing and the first copies are in order.
func TestTwoPublishersAndAChangingLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}}, &broker{slow: 20 * time.Millisecond}
		stop := map[string]func(){}
		for _, holder := range []string{"a", "b", "c"} {
			stop[holder] = start(t, k, b, holder, nil)
			defer func() { stop[holder]() }()
		}
		for n := range 40 {
			for m := range 5 {
				k.add(fmt.Sprint("m", m), 1, orchestrator.EventStepDone)
			}
			if n == 10 || n == 20 { // the holder stops in the middle of a batch
				k.mu.Lock()
				holder := k.holder
				k.mu.Unlock()
				stop[holder]()
				stop[holder] = func() {}
			}
			pass(100 * time.Millisecond)
		}
		pass(20 * time.Second)
		b.first(t, k)
		if b.clash {
			t.Error("two published at once")
		}
		slices.Sort(b.by)
		if n := len(slices.Compact(b.by)); n != 3 {
			t.Errorf("%d of 3 published", n)
		}
	})
}

// A publish that hangs ends before the lease does: the next holder may begin then.
func TestHangingPublishEndsWithinTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}}, &broker{}
		k.add("m", 1, orchestrator.EventStepDone)
		var held time.Duration
		defer start(t, k, b, "a", func(c *Config) {
			c.Publish = func(ctx context.Context, _ []orchestrator.Event) error {
				began := time.Now()
				<-ctx.Done()
				if held == 0 {
					held = time.Since(began)
				}
				return ctx.Err()
			}
		})()
		pass(time.Minute)
		if held <= 0 || held >= 15*time.Second {
			t.Errorf("published for %s under a lease of 15s", held)
		}
	})
}

// What failed is sent again from its first event, later and later; what was confirmed is not.
// A whole batch takes longer than a holder may publish under one lease: smaller ones get through.
func TestSlowBrokerIsGivenLessAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}}, &broker{slow: 100 * time.Millisecond}
		k.add("m1", 2*batch, "slipway.step.done")
		stop := start(t, k, b, "w1", nil)
		pass(5 * time.Minute)
		stop()
		if n := len(k.marked); n != 2*batch {
			t.Errorf("%d of %d events are published", n, 2*batch)
		}
		b.first(t, k)
	})
}

func TestFailureRetriesFromTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}}, &broker{fail: 3}
		k.add("m", 4, orchestrator.EventStepDone)
		defer start(t, k, b, "a", nil)()
		pass(time.Minute)
		var seqs []int64
		for _, e := range b.heard {
			seqs = append(seqs, e.Seq)
		}
		if want := []int64{1, 2, 1, 2, 1, 2, 1, 2, 3, 4}; !slices.Equal(seqs, want) {
			t.Errorf("heard %v, want %v", seqs, want)
		}
	})
}

func TestBrokerAwayIsNotAskedAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}}, &broker{fail: 1 << 30}
		k.add("m", 4, orchestrator.EventStepDone)
		defer start(t, k, b, "a", nil)()
		pass(10 * time.Minute)
		if b.calls > 40 {
			t.Errorf("%d tries in 10 minutes", b.calls)
		}
		b.mu.Lock()
		b.fail = 0
		b.mu.Unlock()
		pass(30 * time.Second)
		b.first(t, k)
	})
}

// Published and not marked is published again: a listener sees a repetition, never a gap.
func TestUnmarkedIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}, unmark: 1}, &broker{}
		k.add("m", 2, orchestrator.EventStepDone)
		defer start(t, k, b, "a", nil)()
		pass(time.Minute)
		b.first(t, k)
		if len(b.heard) != 4 {
			t.Errorf("heard %d", len(b.heard))
		}
	})
}

func TestStoreAwayAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}, away: true}, &broker{}
		k.add("m", 2, orchestrator.EventStepDone)
		defer start(t, k, b, "a", nil)()
		pass(time.Minute)
		k.mu.Lock()
		k.away = false
		k.mu.Unlock()
		pass(time.Minute)
		b.first(t, k)
	})
}

// The hook hears of each parked run once its event is out, and of nothing else.
func TestParkedHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}}, &broker{fail: 1}
		k.add("m1", 1, orchestrator.EventStepDone)
		k.add("m2", 1, orchestrator.EventParked)
		k.add("m3", 1, orchestrator.EventParked)
		k.add("m4", 1, orchestrator.EventHalted)
		var parked []string
		defer start(t, k, b, "a", func(c *Config) {
			c.Parked = func(e orchestrator.Event) {
				if !slices.ContainsFunc(b.heard, func(out orchestrator.Event) bool { return out.ID == e.ID }) {
					t.Error("it heard before the event was out")
				}
				parked = append(parked, e.Machine)
			}
		})()
		pass(time.Minute)
		if !slices.Equal(parked, []string{"m2", "m3", "m4"}) {
			t.Errorf("it heard of %v", parked)
		}
	})
}

// A worker that dies when an event is out and not marked leaves the notice to the next one.
func TestParkedHookHearsAtLeastOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}, unmark: 1}, &broker{}
		k.add("m", 1, orchestrator.EventParked)
		heard := 0
		p := New(Config{
			Store: k, Publish: b.publish("a"), Parked: func(orchestrator.Event) { heard++ }, Holder: "a", Log: slog.New(slog.DiscardHandler),
		})
		if _, err := p.Once(t.Context()); err == nil || heard != 1 {
			t.Errorf("heard %d, %v", heard, err)
		}
	})
}

func TestNudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := &kept{marked: map[int64]bool{}}, &broker{}
		p := New(Config{Store: k, Publish: b.publish("a"), Holder: "a", Log: slog.New(slog.DiscardHandler), Poll: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Run(ctx) }()
		pass(time.Second)
		k.add("m", 1, orchestrator.EventStepDone)
		p.Nudge()
		synctest.Wait()
		if len(b.heard) != 1 {
			t.Error("it waited for its poll")
		}
		cancel()
		<-done
		if k.holder != "" {
			t.Error("the lease was not given back")
		}
	})
}
