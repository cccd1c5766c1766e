// Package queuetest is what every [queue.Queue] must do.
package queuetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	"slipway/workers/queue"
)

// Harness is one empty queue.
type Harness struct {
	// Open makes a client, as each worker has one. The suite closes it. An order that a client which was closed did not answer comes
	// again within seconds.
	Open func(tb testing.TB) queue.Queue
	// Listen hears events from now on; next waits for one.
	Listen func(tb testing.TB) (next func(ctx context.Context) (queue.Message, error))
}

// patience is for facts that are expected at once.
const patience = 20 * time.Second

// Run lets the suite judge a backend. New makes an empty queue for each test.
func Run(t *testing.T, create func(tb testing.TB) Harness) {
	tests := map[string]func(*bundle){
		"an acknowledged order is gone":                      acknowledged,
		"an order arrives as it was published":               intact,
		"an order whose worker died comes again":             redelivered,
		"an order comes again after its delay":               requeued,
		"an order that rests keeps its worker from more":     resting,
		"no worker takes more than its prefetch":             prefetch,
		"a prefetch of nothing is refused":                   prefetchOfNothing,
		"a refused order is a dead letter":                   dead,
		"a dead letter is sent again":                        deadRequeued,
		"a dead letter is dropped":                           deadDropped,
		"a dead letter that is not there is not found":       deadUnknown,
		"events of a machine keep their order":               events,
		"an event that nobody hears is no error":             unheard,
		"a shutdown lets handlers end and gives the rest up": shutdown,
		"a closed queue publishes nothing":                   closed,
		"a publish whose time is over is an error":           expired,
		"a second client finds everything as the first":      again,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
			t.Cleanup(cancel)
			test(&bundle{T: t, Harness: create(t), ctx: ctx})
		})
	}
}

type bundle struct {
	*testing.T
	Harness
	ctx context.Context
}

func (b *bundle) open() queue.Queue {
	b.Helper()
	q := b.Open(b)
	b.Cleanup(func() {
		if err := q.Close(); err != nil {
			b.Errorf("close: %v", err)
		}
	})
	return q
}

func order(id string) queue.Message {
	return queue.Message{
		ID: id, Type: "slipway.order.install", ContentType: "application/cloudevents+json",
		Headers: map[string]string{"x-panel": "one"}, Body: []byte(`{"id":"` + id + `"}`),
	}
}

func (b *bundle) publish(q queue.Queue, ids ...string) {
	b.Helper()
	for _, id := range ids {
		if err := q.PublishOrder(b.ctx, order(id)); err != nil {
			b.Fatalf("publish order %s: %v", id, err)
		}
	}
}

// worker consumes until stop, and remembers.
type worker struct {
	b    *bundle
	stop func() // and wait

	mu               sync.Mutex
	seen             []string
	redelivered      map[string]bool
	running, highest int
}

func (b *bundle) work(q queue.Queue, prefetch int, handle func(ctx context.Context, body string, nth int) queue.Verdict) *worker {
	ctx, cancel := context.WithCancel(b.ctx)
	w := &worker{b: b, redelivered: map[string]bool{}}
	ended := make(chan error, 1)
	go func() {
		ended <- q.Orders(ctx, prefetch, func(ctx context.Context, d queue.Delivery) queue.Verdict {
			body := string(d.Body)
			w.mu.Lock()
			w.seen = append(w.seen, body)
			w.redelivered[body] = d.Redelivered
			nth := len(w.seen)
			w.running++
			w.highest = max(w.highest, w.running)
			w.mu.Unlock()
			defer func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.running--
			}()
			return handle(ctx, body, nth)
		})
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			b.Error("Orders did not end")
		}
	})
	b.Cleanup(w.stop)
	return w
}

func (w *worker) saw() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// until waits for a fact.
func (b *bundle) until(what string, fact func() bool) {
	b.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-deadline:
			b.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

func ackAll(context.Context, string, int) queue.Verdict { return queue.Ack() }

func acknowledged(b *bundle) {
	q := b.open()
	var want []string
	for i := range 20 {
		id := strconv.Itoa(i)
		want = append(want, string(order(id).Body))
		b.publish(q, id)
	}
	first := b.work(q, 4, ackAll)
	b.until("20 orders", func() bool { return len(first.saw()) >= 20 })
	first.stop()
	got := first.saw()
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		b.Errorf("orders, -want +got:\n%s", diff)
	}
	second := b.work(b.open(), 1, ackAll)
	b.publish(q, "last")
	b.until("the last order", func() bool { return len(second.saw()) > 0 })
	if got := second.saw()[0]; got != string(order("last").Body) {
		b.Errorf("an acknowledged order came again: %s", got)
	}
}

func intact(b *bundle) {
	q := b.open()
	want := order("whole")
	want.Body = []byte("{\"n\":\"ü\\u0000\"}\n\x00\xff")
	if err := q.PublishOrder(b.ctx, want); err != nil {
		b.Fatal(err)
	}
	got := make(chan queue.Delivery, 1)
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	err := q.Orders(ctx, 1, func(_ context.Context, d queue.Delivery) queue.Verdict {
		got <- d
		cancel()
		return queue.Ack()
	})
	if err != nil {
		b.Fatal(err)
	}
	d := <-got
	if diff := cmp.Diff(queue.Delivery{Body: want.Body, ContentType: want.ContentType, Headers: want.Headers}, d); diff != "" {
		b.Errorf("delivery, -want +got:\n%s", diff)
	}
}

func redelivered(b *bundle) {
	dying := b.Open(b)
	b.publish(dying, "1")
	release := make(chan struct{})
	first := b.work(dying, 1, func(context.Context, string, int) queue.Verdict {
		<-release
		return queue.Ack() // too late: it is somebody else's by now
	})
	b.until("the first delivery", func() bool { return len(first.saw()) == 1 })
	if err := dying.Close(); err != nil {
		b.Fatal(err)
	}
	second := b.work(b.open(), 1, ackAll)
	b.until("the second delivery", func() bool { return len(second.saw()) == 1 })
	if second.mu.Lock(); !second.redelivered[string(order("1").Body)] {
		b.Error("the repetition is not marked as one")
	}
	second.mu.Unlock()
	close(release)
	first.stop()
}

func requeued(b *bundle) {
	q := b.open()
	b.publish(q, "1")
	const delay = 60 * time.Millisecond
	var mu sync.Mutex
	var at []time.Time
	w := b.work(q, 1, func(_ context.Context, _ string, nth int) queue.Verdict {
		mu.Lock()
		defer mu.Unlock()
		at = append(at, time.Now())
		switch nth {
		case 1:
			return queue.Requeue(delay)
		case 2:
			return queue.Verdict{} // nothing decided
		default:
			return queue.Ack()
		}
	})
	b.until("three deliveries", func() bool { return len(w.saw()) == 3 })
	w.stop()
	if rest := at[1].Sub(at[0]); rest < delay {
		b.Errorf("it came again after %v, before its delay of %v", rest, delay)
	}
}

func resting(b *bundle) {
	q := b.open()
	b.publish(q, "1")
	first := b.work(q, 1, func(context.Context, string, int) queue.Verdict { return queue.Requeue(queue.MaxDelay) })
	b.until("the first order", func() bool { return len(first.saw()) == 1 })
	// Enough of them that a worker which takes more gets some.
	const others = 50
	second := b.work(b.open(), 1, ackAll)
	for i := range others {
		b.publish(q, strconv.Itoa(2+i))
	}
	b.until("the others at another worker", func() bool { return len(second.saw()) == others })
	if got := first.saw(); len(got) != 1 {
		b.Errorf("a worker whose order rests took another one: %v", got)
	}
}

func prefetch(b *bundle) {
	q := b.open()
	gate := make(chan struct{})
	first := b.work(q, 3, func(context.Context, string, int) queue.Verdict { <-gate; return queue.Ack() })
	for i := range 10 {
		b.publish(q, strconv.Itoa(i))
	}
	b.until("three orders in hand", func() bool { return len(first.saw()) == 3 })
	second := b.work(b.open(), 10, ackAll)
	b.until("the other seven at another worker", func() bool { return len(second.saw()) == 7 })
	if got := first.saw(); len(got) != 3 {
		b.Errorf("a prefetch of 3 took %d", len(got))
	}
	close(gate)
	second.stop()
	for i := range 10 {
		b.publish(q, "more"+strconv.Itoa(i))
	}
	b.until("all at the first", func() bool { return len(first.saw()) == 13 })
	first.stop()
	if first.highest != 3 {
		b.Errorf("%d handlers at once, prefetch 3", first.highest)
	}
}

func prefetchOfNothing(b *bundle) {
	err := b.open().Orders(b.ctx, 0, func(context.Context, queue.Delivery) queue.Verdict { return queue.Ack() })
	if orchestrator.KindOf(err) != orchestrator.Permanent {
		b.Errorf("got %v", err)
	}
}

// bury makes dead letters with these ids and returns them as they are listed.
func (b *bundle) bury(q queue.Queue, ids ...string) []queue.DeadLetter {
	b.Helper()
	b.publish(q, ids...)
	w := b.work(q, 1, func(_ context.Context, body string, _ int) queue.Verdict {
		return queue.Dead("name: is wrong in " + body + "; mend it")
	})
	var letters []queue.DeadLetter
	b.until("dead letters", func() bool {
		var err error
		if letters, err = q.Dead(b.ctx, 100); err != nil {
			b.Fatal(err)
		}
		return len(letters) == len(ids)
	})
	w.stop()
	return letters
}

func dead(b *bundle) {
	q := b.open()
	letters := b.bury(q, "1", "2")
	for i, letter := range letters {
		want := order(strconv.Itoa(i + 1))
		if string(letter.Body) != string(want.Body) || letter.ContentType != want.ContentType || letter.Headers["x-panel"] != "one" ||
			letter.Reason != "name: is wrong in "+string(want.Body)+"; mend it" || letter.At.IsZero() || letter.ID == "" {
			b.Errorf("dead letter %d: %+v", i, letter)
		}
	}
	if letters[0].ID == letters[1].ID {
		b.Error("two dead letters share an id")
	}
	if few, err := q.Dead(b.ctx, 1); err != nil || len(few) != 1 {
		b.Errorf("a list of at most one has %d, %v", len(few), err)
	}
	// It is out of the orders, and looking at it did not change it.
	w := b.work(q, 1, ackAll)
	b.publish(q, "last")
	b.until("the last order", func() bool { return len(w.saw()) > 0 })
	if got := w.saw()[0]; got != string(order("last").Body) {
		b.Errorf("a refused order came again: %s", got)
	}
	after, err := q.Dead(b.ctx, 100)
	if err != nil {
		b.Fatal(err)
	}
	b.sameLetters(letters, after)
}

func (b *bundle) sameLetters(want, got []queue.DeadLetter) {
	b.Helper()
	ids := func(letters []queue.DeadLetter) []string {
		ids := []string{}
		for _, l := range letters {
			ids = append(ids, l.ID)
		}
		slices.Sort(ids) // a broker may give them back in another order
		return ids
	}
	if diff := cmp.Diff(ids(want), ids(got)); diff != "" {
		b.Errorf("dead letters, -want +got:\n%s", diff)
	}
}

func deadRequeued(b *bundle) {
	q := b.open()
	letters := b.bury(q, "1", "2", "3")
	if err := q.RequeueDead(b.ctx, letters[1].ID); err != nil {
		b.Fatal(err)
	}
	left, err := q.Dead(b.ctx, 100)
	if err != nil {
		b.Fatal(err)
	}
	b.sameLetters([]queue.DeadLetter{letters[0], letters[2]}, left)
	w := b.work(q, 1, ackAll)
	b.until("the order again", func() bool { return len(w.saw()) > 0 })
	if got := w.saw()[0]; got != string(letters[1].Body) {
		b.Errorf("another order came: %s", got)
	}
}

func deadDropped(b *bundle) {
	q := b.open()
	letters := b.bury(q, "1", "2", "3")
	if err := q.DropDead(b.ctx, letters[1].ID); err != nil {
		b.Fatal(err)
	}
	left, err := q.Dead(b.ctx, 100)
	if err != nil {
		b.Fatal(err)
	}
	b.sameLetters([]queue.DeadLetter{letters[0], letters[2]}, left)
}

func deadUnknown(b *bundle) {
	q := b.open()
	letters := b.bury(q, "1")
	for name, verb := range map[string]func(context.Context, string) error{"requeue": q.RequeueDead, "drop": q.DropDead} {
		if err := verb(b.ctx, "no-such-letter"); !errors.Is(err, orchestrator.ErrNotFound) {
			b.Errorf("%s: %v", name, err)
		}
	}
	left, err := q.Dead(b.ctx, 100)
	if err != nil {
		b.Fatal(err)
	}
	b.sameLetters(letters, left)
}

func event(machine string, seq int) queue.Message {
	return queue.Message{
		ID: machine + "-" + strconv.Itoa(seq), Type: "slipway.step.done", Key: machine, ContentType: "application/cloudevents+json",
		Body: fmt.Appendf(nil, `{"subject":%q,"seq":%d}`, machine, seq),
	}
}

func events(b *bundle) {
	q := b.open()
	next := b.Listen(b)
	const machines, each = 5, 60
	var all []queue.Message
	want := map[string][]string{}
	for seq := range each {
		for m := range machines {
			e := event("machine"+strconv.Itoa(m), seq)
			all = append(all, e)
			want[e.Type+" "+e.Key] = append(want[e.Type+" "+e.Key], string(e.Body))
		}
	}
	for batch := range slices.Chunk(all, 77) {
		if err := q.PublishEvents(b.ctx, batch); err != nil {
			b.Fatal(err)
		}
	}
	got := map[string][]string{}
	for range all {
		e, err := next(b.ctx)
		if err != nil {
			b.Fatal(err)
		}
		var machine string
		var seq int
		if _, err := fmt.Sscanf(string(e.Body), `{"subject":%q,"seq":%d}`, &machine, &seq); err != nil {
			b.Fatalf("%s: %v", e.Body, err)
		}
		got[e.Type+" "+machine] = append(got[e.Type+" "+machine], string(e.Body))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		b.Errorf("events by machine, -want +got:\n%s", diff)
	}
}

func unheard(b *bundle) {
	if err := b.open().PublishEvents(b.ctx, []queue.Message{event("machine", 1)}); err != nil {
		b.Error(err)
	}
}

func shutdown(b *bundle) {
	q := b.open()
	b.publish(q, "1")
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	var after error
	err := q.Orders(ctx, 1, func(ctx context.Context, _ queue.Delivery) queue.Verdict {
		b.publish(q, "2") // waits behind the one in hand
		cancel()
		after = ctx.Err()
		return queue.Ack()
	})
	if err != nil {
		b.Errorf("an orderly end is an error: %v", err)
	}
	if after != nil {
		b.Errorf("the handler's context ended with the shutdown: %v", after)
	}
	w := b.work(b.open(), 1, ackAll)
	b.until("the order that was given up", func() bool { return len(w.saw()) > 0 })
	if got := w.saw()[0]; got != string(order("2").Body) {
		b.Errorf("the acknowledgement during the shutdown was lost: %s came again", got)
	}
}

func closed(b *bundle) {
	q := b.Open(b)
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
	if err := q.PublishOrder(b.ctx, order("1")); err == nil {
		b.Error("an order was published")
	}
	if err := q.PublishEvents(b.ctx, []queue.Message{event("machine", 1)}); err == nil {
		b.Error("an event was published")
	}
	if err := q.Healthy(); err == nil {
		b.Error("a closed queue is healthy")
	}
}

func expired(b *bundle) {
	q := b.open()
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	if err := q.PublishOrder(ctx, order("1")); orchestrator.KindOf(err) != orchestrator.Canceled {
		b.Errorf("order: %v", err)
	}
	if err := q.PublishEvents(ctx, []queue.Message{event("machine", 1)}); orchestrator.KindOf(err) != orchestrator.Canceled {
		b.Errorf("event: %v", err)
	}
}

func again(b *bundle) {
	first := b.open()
	b.publish(first, "1")
	if err := first.PublishEvents(b.ctx, []queue.Message{event("machine", 1)}); err != nil {
		b.Fatal(err)
	}
	second := b.open()
	b.publish(second, "2")
	w := b.work(second, 1, ackAll)
	b.until("both orders", func() bool { return len(w.saw()) == 2 })
	for i, q := range []queue.Queue{first, second} {
		if err := q.Healthy(); err != nil {
			b.Errorf("client %d: %v", i, err)
		}
	}
}
