package amqp_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/workers/queue"
	"slipway/workers/queue/amqp"
	"slipway/workers/queue/queuetest"
)

func TestMain(m *testing.M) { testserver.Main(m) }

func TestSuite(t *testing.T) {
	queuetest.Run(t, func(tb testing.TB) queuetest.Harness {
		url := testserver.RabbitMQ(tb)
		return queuetest.Harness{
			Open:   func(tb testing.TB) queue.Queue { return open(tb, url) },
			Listen: func(tb testing.TB) func(context.Context) (queue.Message, error) { return listen(tb, url) },
		}
	})
}

func open(tb testing.TB, url string) *amqp.Queue {
	tb.Helper()
	q, err := amqp.New(amqp.Config{
		URL:        orchestrator.NewSecret(url),
		Log:        slog.New(slog.NewTextHandler(tb.Output(), nil)),
		BackoffMin: 20 * time.Millisecond, BackoffMax: 300 * time.Millisecond,
		PublishTimeout: 10 * time.Second,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return q
}

// opened is closed after whatever the test begins with it.
func opened(t *testing.T, url string) *amqp.Queue {
	t.Helper()
	q := open(t, url)
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return q
}

// channel is a plain client's, with the topology there.
func channel(tb testing.TB, url string) *amqp091.Channel {
	tb.Helper()
	q := open(tb, url)
	if err := q.PublishEvents(tb.Context(), []queue.Message{{ID: "0", Type: "test.topology"}}); err != nil {
		tb.Fatal(err)
	}
	if err := q.Close(); err != nil {
		tb.Fatal(err)
	}
	return plain(tb, url)
}

// plain is channel on a broker that may be empty.
func plain(tb testing.TB, url string) *amqp091.Channel {
	tb.Helper()
	conn, err := amqp091.Dial(url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() }) // it may be lost by then
	ch, err := conn.Channel()
	if err != nil {
		tb.Fatal(err)
	}
	return ch
}

// bind makes a durable queue of a panel that hears all events.
func bind(tb testing.TB, ch *amqp091.Channel) string {
	tb.Helper()
	const name = "panel"
	if _, err := ch.QueueDeclare(name, true, false, false, false, amqp091.Table{amqp091.QueueTypeArg: amqp091.QueueTypeQuorum}); err != nil {
		tb.Fatal(err)
	}
	if err := ch.QueueBind(name, "slipway.#", amqp.ExchangeEvents, false, nil); err != nil {
		tb.Fatal(err)
	}
	return name
}

func listen(tb testing.TB, url string) func(context.Context) (queue.Message, error) {
	tb.Helper()
	ch := channel(tb, url)
	deliveries, err := ch.Consume(bind(tb, ch), "", true, false, false, false, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return func(ctx context.Context) (queue.Message, error) {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return queue.Message{}, fmt.Errorf("the listener's channel was lost")
			}
			return queue.Message{ID: d.MessageId, Type: d.RoutingKey, ContentType: d.ContentType, Body: d.Body}, nil
		case <-ctx.Done():
			return queue.Message{}, context.Cause(ctx)
		}
	}
}

func order(id string) queue.Message {
	return queue.Message{ID: id, Type: "slipway.order.install", ContentType: "application/cloudevents+json", Body: []byte(id)}
}

func TestAnOrderThatReachesNoQueueIsAnError(t *testing.T) {
	url := testserver.RabbitMQ(t)
	ch := channel(t, url)
	q := opened(t, url)
	if err := q.PublishOrder(t.Context(), order("1")); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueUnbind(amqp.QueueOrders, "#", amqp.ExchangeOrders, nil); err != nil {
		t.Fatal(err)
	}
	err := q.PublishOrder(t.Context(), order("2"))
	if err == nil || !strings.Contains(err.Error(), "reaches no queue") || orchestrator.KindOf(err) != orchestrator.Transient {
		t.Fatalf("unroutable: %v", err)
	}
	// The next attempt finds the topology mended.
	if err := q.PublishOrder(t.Context(), order("2")); err != nil {
		t.Error(err)
	}
}

func TestAnExchangeThatIsGoneIsAnErrorAndComesBack(t *testing.T) {
	url := testserver.RabbitMQ(t)
	ch := channel(t, url)
	q := opened(t, url)
	events := []queue.Message{{ID: "1", Type: "slipway.run.done", Key: "m"}, {ID: "2", Type: "slipway.run.done", Key: "n"}}
	if err := q.PublishEvents(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDelete(amqp.ExchangeEvents, false, false); err != nil {
		t.Fatal(err)
	}
	if err := q.PublishEvents(t.Context(), events); orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("no exchange: %v", err)
	}
	if err := q.PublishEvents(t.Context(), events); err != nil {
		t.Error(err)
	}
}

func TestAConsumerSurvivesTheLossOfItsQueue(t *testing.T) {
	url := testserver.RabbitMQ(t)
	ch := channel(t, url)
	q := opened(t, url)
	got := consume(t, q, 2)
	if err := q.PublishOrder(t.Context(), order("1")); err != nil {
		t.Fatal(err)
	}
	got.until(t, 1)
	if _, err := ch.QueueDelete(amqp.QueueOrders, false, false, false); err != nil {
		t.Fatal(err)
	}
	conn, err := amqp091.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	poll(t, "the queue is there again, with its consumer", func() bool {
		ch, err := conn.Channel() // a look at a queue that is not there closes it
		if err != nil {
			t.Fatal(err)
		}
		defer ch.Close()
		state, err := ch.QueueDeclarePassive(amqp.QueueOrders, true, false, false, false, nil)
		return err == nil && state.Consumers == 1
	})
	if err := q.PublishOrder(t.Context(), order("2")); err != nil {
		t.Fatal(err)
	}
	got.until(t, 2)
}

func TestARefusedOrderStaysUntilItsDeadLetterIsSafe(t *testing.T) {
	url := testserver.RabbitMQ(t)
	ch := channel(t, url)
	q := opened(t, url)
	if err := q.PublishOrder(t.Context(), order("bad")); err != nil { // its channel is open now, and declares nothing again before it fails
		t.Fatal(err)
	}
	var handled, letters atomic.Int32
	watch := open(t, url)
	defer watch.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- q.Orders(ctx, 1, func(ctx context.Context, d queue.Delivery) queue.Verdict {
			if handled.Add(1) == 1 {
				// The consumer's channel mended the binding; it is gone again when the dead letter is sent.
				if err := ch.QueueUnbind(amqp.QueueDead, "#", amqp.ExchangeDead, nil); err != nil {
					t.Error(err)
				}
				return queue.Dead("bad")
			}
			found, err := watch.Dead(ctx, 10)
			if err != nil {
				t.Error(err)
			}
			letters.Store(int32(len(found)))
			return queue.Dead("bad")
		})
	}()
	poll(t, "the order again", func() bool { return handled.Load() >= 2 })
	if n := letters.Load(); n != 0 {
		t.Errorf("%d dead letters though the first could not be published", n)
	}
	poll(t, "its dead letter", func() bool {
		found, err := watch.Dead(t.Context(), 10)
		return err == nil && len(found) == 1 && string(found[0].Body) == "bad"
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// seen counts how often each order was handled.
type seen struct {
	mu    sync.Mutex
	times map[string]int
}

func consume(t *testing.T, q queue.Queue, prefetch int) *seen {
	t.Helper()
	s := &seen{times: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- q.Orders(ctx, prefetch, func(_ context.Context, d queue.Delivery) queue.Verdict {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.times[string(d.Body)]++
			return queue.Ack()
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Orders: %v", err)
		}
	})
	return s
}

func (s *seen) until(t *testing.T, different int) {
	t.Helper()
	poll(t, fmt.Sprintf("%d different orders", different), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.times) >= different
	})
}

func poll(t *testing.T, what string, fact func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// publishUntilTaken repeats what failed, as the outbox does.
func publishUntilTaken(t *testing.T, q queue.Queue, m queue.Message) (err error) {
	for range 10 {
		if err = q.PublishOrder(t.Context(), m); err == nil {
			return nil
		}
	}
	return err
}

func TestNothingIsLostWhenTheBrokerDies(t *testing.T) {
	broker := testserver.NewRabbitMQ(t)
	url := broker.URL(t)
	panel := bind(t, channel(t, url))
	// RabbitMQ 3.10 writes the register of its quorum queues twice a second: one that is younger does not survive a kill -9. An orderly
	// restart writes it.
	broker.Restart(t)
	q := opened(t, url)
	got := consume(t, q, 8)

	const orders, machines, each = 300, 20, 15
	var work sync.WaitGroup
	halfway := make(chan struct{})
	work.Go(func() {
		for i := range orders {
			if i == orders/2 {
				close(halfway)
			}
			if err := publishUntilTaken(t, q, order(strconv.Itoa(i))); err != nil {
				t.Errorf("order %d: %v", i, err)
			}
		}
	})
	work.Go(func() {
		for seq := 1; seq <= each; seq++ {
			var batch []queue.Message
			for m := range machines {
				batch = append(batch, queue.Message{
					ID: fmt.Sprintf("%d-%d", m, seq), Type: "slipway.step.done", Key: strconv.Itoa(m), Body: fmt.Appendf(nil, "%d %d", m, seq),
				})
			}
			for attempt := 0; ; attempt++ { // from the first again, as the outbox does
				err := q.PublishEvents(t.Context(), batch)
				if err == nil {
					break
				}
				if attempt == 20 {
					t.Errorf("events: %v", err)
					return
				}
			}
			if seq == each/2 {
				<-halfway
			}
		}
	})
	<-halfway
	broker.Kill9(t)
	poll(t, "the loss is visible", func() bool { return q.Healthy() != nil })
	broker.Start(t)
	work.Wait()
	got.until(t, orders)
	poll(t, "healthy again", func() bool { return q.Healthy() == nil })

	ch := plain(t, url)
	// Repetitions may come, a gap may not: of each machine every seq is heard, first heard in order.
	highest := map[int]int{}
	for {
		d, ok, err := ch.Get(panel, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		var m, seq int
		if _, err := fmt.Sscan(string(d.Body), &m, &seq); err != nil {
			t.Fatal(err)
		}
		if seq > highest[m]+1 {
			t.Errorf("machine %d: %d heard after %d", m, seq, highest[m])
		}
		highest[m] = max(highest[m], seq)
	}
	for m := range machines {
		if highest[m] != each {
			t.Errorf("machine %d: events up to %d of %d", m, highest[m], each)
		}
	}
	if letters, err := q.Dead(t.Context(), 10); err != nil || len(letters) != 0 {
		t.Errorf("dead letters after a broker's death: %v, %v", letters, err)
	}
}

func TestAnOrderlyRestartIsWaitedFor(t *testing.T) {
	broker := testserver.NewRabbitMQ(t)
	address := broker.URL(t)
	credentials, _, _ := strings.Cut(strings.TrimPrefix(address, "amqp://"), "@")
	_, password, _ := strings.Cut(credentials, ":")
	q := opened(t, address)
	got := consume(t, q, 1)
	if err := q.PublishOrder(t.Context(), order("before")); err != nil {
		t.Fatal(err)
	}
	got.until(t, 1)
	broker.Stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := q.PublishOrder(ctx, order("away")); err == nil {
		t.Error("published to a broker that is stopped")
	} else if strings.Contains(err.Error(), password) {
		t.Errorf("the password is in the error: %v", err)
	}
	broker.Start(t)
	if err := publishUntilTaken(t, q, order("after")); err != nil {
		t.Error(err)
	}
	got.until(t, 2)
}

func TestTLSIsVerified(t *testing.T) {
	broker := testserver.SharedRabbitMQ(t)
	url := broker.TLSURL(t)
	publish := func(url, ca string) error {
		q, err := amqp.New(amqp.Config{
			URL: orchestrator.NewSecret(url), CAFile: ca, PublishTimeout: 3 * time.Second,
			BackoffMin: time.Second,
		})
		if err != nil {
			return err
		}
		defer q.Close()
		return q.PublishOrder(t.Context(), order("1"))
	}
	if err := publish(url, broker.CAFile()); err != nil {
		t.Errorf("with the right CA: %v", err)
	}
	if err := publish(url, ""); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("with the system's CAs: %v", err)
	}
	if err := publish(strings.Replace(url, "127.0.0.1", "localhost", 1), broker.CAFile()); err == nil || !strings.Contains(err.Error(), "localhost") {
		t.Errorf("under another name: %v", err)
	}
}

func TestConfigIsRefusedWithoutShowingThePassword(t *testing.T) {
	for name, config := range map[string]amqp.Config{
		"no scheme":     {URL: orchestrator.NewSecret("slipway:hunter2@broker/")},
		"http":          {URL: orchestrator.NewSecret("http://slipway:hunter2@broker/")},
		"bad escape":    {URL: orchestrator.NewSecret("amqp://slipway:hunter2%zz@broker/")},
		"CA but no TLS": {URL: orchestrator.NewSecret("amqp://slipway:hunter2@broker/"), CAFile: "/etc/ssl/ca.pem"},
		"no CA file":    {URL: orchestrator.NewSecret("amqps://slipway:hunter2@broker/"), CAFile: "/nonexistent/ca.pem"},
		"empty":         {},
	} {
		_, err := amqp.New(config)
		if orchestrator.KindOf(err) != orchestrator.Permanent {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the password is in the error: %v", name, err)
		}
	}
}

func TestRedact(t *testing.T) {
	for address, want := range map[string]string{
		"amqps://slipway:hunter2@broker:5671/prod?keyfile=/k": "amqps://slipway@broker:5671/prod",
		"amqp://broker":               "amqp://broker",
		"slipway:hunter2":             "[unreadable address]",
		"amqp://u:hunter2%zz@broker/": "[unreadable address]",
	} {
		if got := amqp.Redact(orchestrator.NewSecret(address)); got != want {
			t.Errorf("%s is shown as %s, want %s", address, got, want)
		}
	}
}
