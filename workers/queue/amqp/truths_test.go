package amqp_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/workers/queue"
	"slipway/workers/queue/amqp"
)

// through puts a proxy before a broker's address.
func through(t *testing.T, address string) (*testserver.Proxy, string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p := testserver.NewProxy(t, u.Host)
	u.Host = p.Address
	return p, u.String()
}

// closing is a queue whose connections may be broken when it is closed.
func closing(t *testing.T, config amqp.Config) *amqp.Queue {
	t.Helper()
	config.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	config.BackoffMin, config.BackoffMax = 20*time.Millisecond, 300*time.Millisecond
	q, err := amqp.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

// A worker that holds an order longer than the broker allows (30 minutes, here three seconds) loses its channel with 406. The order is given to
// another worker, it is taken once, and the first goes on on a new channel.
func TestConsumerTimeout(t *testing.T) {
	broker := testserver.SharedRabbitMQ(t)
	broker.Set(t, "consumer_timeout", 3000)
	broker.Set(t, "channel_tick_interval", 100)
	address := broker.URL(t)
	first := opened(t, address)
	var held, taken atomic.Int32
	again := make(chan struct{})
	started := work(t, first, func(ctx context.Context, d queue.Delivery) queue.Verdict {
		if string(d.Body) == "slow" && held.Add(1) == 1 {
			select {
			case <-again: // the broker has given it to the other one
			case <-ctx.Done():
				t.Error("the order was given to nobody else")
			}
		}
		if string(d.Body) == "after" {
			taken.Add(1)
		}
		return queue.Ack()
	})
	publishOne(t, first, "slow")
	poll(t, "the first worker to hold it", func() bool { return held.Load() == 1 })
	second := opened(t, address)
	var redelivered, twice atomic.Int32
	stop := work(t, second, func(_ context.Context, d queue.Delivery) queue.Verdict {
		if string(d.Body) == "slow" {
			if d.Redelivered {
				redelivered.Add(1)
			}
			if twice.Add(1) == 1 {
				close(again)
			}
		}
		return queue.Ack()
	})
	poll(t, "the broker to give it to the second", func() bool { return redelivered.Load() == 1 })
	stop()
	publishOne(t, second, "after")
	poll(t, "the first worker to take orders again", func() bool { return taken.Load() == 1 })
	started()
	if err := first.Healthy(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if held.Load() != 1 || twice.Load() != 1 {
		t.Errorf("the order was handled %d and %d times", held.Load(), twice.Load())
	}
	if left := messages(t, address, amqp.QueueOrders); left != 0 {
		t.Errorf("%d orders are left", left)
	}
}

// What a worker may do with an order before it answers is far less than the broker's half hour.
func TestNothingIsHeldForLong(t *testing.T) {
	const allowed = 30 * time.Minute
	if held := queue.HandleTimeout + queue.MaxDelay; 4*held > allowed {
		t.Errorf("an order may be held for %s, and the broker allows %s", held, allowed)
	}
}

// work handles orders until the function that it returns is called, or the test ends.
func work(t *testing.T, q queue.Queue, handle queue.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Orders(ctx, 1, handle) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Orders: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func publishOne(t *testing.T, q queue.Queue, id string) {
	t.Helper()
	if err := q.PublishOrder(t.Context(), order(id)); err != nil {
		t.Fatal(err)
	}
}

// messages is how many are in a queue and given to nobody.
func messages(t *testing.T, address, name string) int {
	t.Helper()
	ch := plain(t, address)
	state, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return state.Messages
}

// What is on the broker under our names and was made otherwise is named, with both values, and nothing at all is made beside it.
func TestDeclaredOtherwise(t *testing.T) {
	quorum := amqp091.Table{amqp091.QueueTypeArg: amqp091.QueueTypeQuorum}
	for name, tt := range map[string]struct {
		make func(*amqp091.Channel) error
		want []string
	}{
		"a classic queue": {
			func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclare(amqp.QueueDead, true, false, false, false, nil)
				return err
			},
			[]string{"queue slipway.dead", "its x-queue-type is not set and must be 'quorum'"},
		},
		"another limit": {
			func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclare(amqp.QueueOrders, true, false, false, false, amqp091.Table{amqp091.QueueTypeArg: amqp091.QueueTypeQuorum, "x-delivery-limit": 20})
				return err
			},
			[]string{"queue slipway.orders", "its x-delivery-limit is '20' and", "must be '2147483647'"},
		},
		"no limit": {
			func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclare(amqp.QueueOrders, true, false, false, false, quorum)
				return err
			},
			[]string{"queue slipway.orders", "its x-delivery-limit is not set and", "must be '2147483647'"},
		},
		"an exchange of another type": {
			func(ch *amqp091.Channel) error {
				return ch.ExchangeDeclare(amqp.ExchangeEvents, amqp091.ExchangeFanout, true, false, false, false, nil)
			},
			[]string{"exchange slipway.events", "its type is 'fanout'", "must be 'topic'"},
		},
		"two of them": {
			func(ch *amqp091.Channel) error {
				if _, err := ch.QueueDeclare(amqp.QueueDead, true, false, false, false, nil); err != nil {
					return err
				}
				return ch.ExchangeDeclare(amqp.ExchangeDead, amqp091.ExchangeDirect, true, false, false, false, nil)
			},
			[]string{"queue slipway.dead", "exchange slipway.dead", "its type is 'direct'"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			address := testserver.RabbitMQ(t)
			conn, err := amqp091.Dial(address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ch, err := conn.Channel()
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.make(ch); err != nil {
				t.Fatal(err)
			}
			before := onBroker(t, conn)
			q := opened(t, address)
			err = q.Ensure(t.Context())
			if orchestrator.KindOf(err) != orchestrator.Permanent {
				t.Fatalf("answered %v", err)
			}
			for _, word := range append(tt.want, "was declared otherwise") {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q is not in: %v", word, err)
				}
			}
			if after := onBroker(t, conn); after != before {
				t.Errorf("there was %q, now there is %q", before, after)
			}
		})
	}
	t.Run("as it must be", func(t *testing.T) {
		q := opened(t, testserver.RabbitMQ(t))
		for range 2 {
			if err := q.Ensure(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		publishOne(t, q, "1")
	})
	t.Run("nobody there", func(t *testing.T) {
		p, address := through(t, testserver.RabbitMQ(t))
		p.Silence(testserver.BothWays)
		q := closing(t, amqp.Config{URL: orchestrator.NewSecret(address), ConnectTimeout: 200 * time.Millisecond})
		if err := q.Ensure(t.Context()); orchestrator.KindOf(err) != orchestrator.Transient {
			t.Errorf("answered %v", err)
		}
	})
}

// onBroker lists what is there of our names.
func onBroker(t *testing.T, conn *amqp091.Connection) string {
	t.Helper()
	var there []string
	look := func(name string, passive func(*amqp091.Channel) error) {
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		defer ch.Close()
		if passive(ch) == nil {
			there = append(there, name)
		}
	}
	for _, name := range []string{amqp.ExchangeOrders, amqp.ExchangeEvents, amqp.ExchangeDead} {
		look("exchange "+name, func(ch *amqp091.Channel) error {
			return ch.ExchangeDeclarePassive(name, amqp091.ExchangeTopic, true, false, false, false, nil)
		})
	}
	for _, name := range []string{amqp.QueueOrders, amqp.QueueDead} {
		look("queue "+name, func(ch *amqp091.Channel) error {
			_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
			return err
		})
	}
	return strings.Join(there, ", ")
}

// A queue that somebody makes otherwise while a worker runs: the worker says so, and goes on when it is put right.
func TestDeclaredOtherwiseWhileWorking(t *testing.T) {
	address := testserver.RabbitMQ(t)
	ch := channel(t, address)
	q := opened(t, address)
	got := consume(t, q, 1)
	publishOne(t, q, "before")
	got.until(t, 1)
	if _, err := ch.QueueDelete(amqp.QueueDead, false, false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(amqp.QueueDead, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDelete(amqp.QueueOrders, false, false, false); err != nil { // so that the consumer looks
		t.Fatal(err)
	}
	poll(t, "the worker to say what is wrong", func() bool {
		err := q.Healthy()
		return err != nil && strings.Contains(err.Error(), "queue slipway.dead in virtual host") && strings.Contains(err.Error(), "must be 'quorum'")
	})
	if _, err := ch.QueueDelete(amqp.QueueDead, false, false, false); err != nil {
		t.Fatal(err)
	}
	poll(t, "the worker to go on", func() bool { return q.Healthy() == nil })
	publishOne(t, q, "after")
	got.until(t, 2)
}

// A broker that is short of memory takes no messages, and says so to connections that publish. Orders are taken on; what is published waits
// and says why, without a connection more; and everything flows afterwards.
func TestMemoryAlarm(t *testing.T) {
	broker := testserver.SharedRabbitMQ(t)
	direct := broker.URL(t)
	p, address := through(t, direct)
	next := listen(t, direct)
	plain := channel(t, direct)
	q := closing(t, amqp.Config{URL: orchestrator.NewSecret(address), PublishTimeout: 3 * time.Second})
	if err := q.PublishEvents(t.Context(), []queue.Message{{ID: "0", Type: "slipway.step.done", Key: "m"}}); err != nil {
		t.Fatal(err)
	}
	const orders = 5
	for i := range orders {
		if err := plain.Publish(amqp.ExchangeOrders, "order", false, false, amqp091.Publishing{Body: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	poll(t, "the orders to be there", func() bool { return messages(t, direct, amqp.QueueOrders) == orders })

	made := p.Connections()
	broker.Memory(t, 1)
	event := 0
	publish := func(ctx context.Context) error { // as the outbox does: the same until it is confirmed
		// Two at once: the broker takes the first, blocks the connection, and leaves the second in it.
		err := q.PublishEvents(ctx, []queue.Message{
			{ID: fmt.Sprint(event + 1), Type: "slipway.step.done", Key: "m"}, {ID: "beside", Type: "slipway.step.done", Key: "another"},
		})
		if err == nil {
			event++
		}
		return err
	}
	poll(t, "the broker to refuse events", func() bool { return publish(t.Context()) != nil })
	poll(t, "health to say so", func() bool {
		err := q.Healthy()
		return err != nil && strings.Contains(err.Error(), "the broker takes no messages since") && strings.Contains(err.Error(), "memory")
	})
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := publish(ctx)
		if cancel(); err == nil || !strings.Contains(err.Error(), "memory") || orchestrator.KindOf(err) != orchestrator.Transient {
			t.Errorf("while there is no memory: %v", err)
		}
	}
	if n := p.Connections() - made; n > 1 { // one, when the machine is so busy that the broker was late before its alarm
		t.Errorf("%d more connections were made to a broker that is short of memory", n)
	}
	consume(t, q, 2).until(t, orders)

	broker.Memory(t, testserver.EnoughMemory)
	poll(t, "health to be well again", func() bool { return q.Healthy() == nil })
	for range 3 {
		poll(t, "the events to leave", func() bool { return publish(t.Context()) == nil })
	}
	// Repetitions may come, a gap may not; and what was tried while the broker was blocked is not all in the connection, to come at once.
	copies := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for highest := 0; highest < event; {
		m, err := next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if copies[m.ID]++; m.ID == "beside" {
			continue
		}
		var n int
		if _, err := fmt.Sscan(m.ID, &n); err != nil || n > highest+1 {
			t.Fatalf("event %q comes after %d (%v)", m.ID, highest, err)
		}
		highest = max(highest, n)
	}
	delete(copies, "beside")
	for id, n := range copies {
		if n > 3 {
			t.Errorf("event %s was heard %d times", id, n)
		}
	}
}

// The broker has the events and its confirmations never arrive: the publish ends with its time, and comes again on another connection.
func TestConfirmsThatNeverCome(t *testing.T) {
	direct := testserver.RabbitMQ(t)
	p, address := through(t, direct)
	next := listen(t, direct)
	q := closing(t, amqp.Config{URL: orchestrator.NewSecret(address), PublishTimeout: 3 * time.Second})
	publish := func(id string) error {
		return q.PublishEvents(t.Context(), []queue.Message{{ID: id, Type: "slipway.step.done", Key: "m"}})
	}
	if err := publish("1"); err != nil {
		t.Fatal(err)
	}
	p.Silence(testserver.ToClient)
	begin := time.Now()
	if err := publish("2"); err == nil || !strings.Contains(err.Error(), "no confirmation within 3s") || orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("without a confirmation: %v", err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it was waited %s for a confirmation", took)
	}
	p.Mend()
	poll(t, "the same event to be confirmed", func() bool { return publish("2") == nil })
	heard := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for heard["2"] < 2 { // the copy that was not confirmed and the one that was
		m, err := next(ctx)
		if err != nil {
			t.Fatalf("heard %v: %v", heard, err)
		}
		heard[m.ID]++
	}
	if heard["1"] != 1 {
		t.Errorf("heard %v", heard)
	}
}

// A connection that goes silent with both ends open, as one does whose firewall has forgotten it, is found by heartbeats, and the consumer
// goes on on another.
func TestHalfOpenConnection(t *testing.T) {
	direct := testserver.RabbitMQ(t)
	p, address := through(t, direct)
	q := closing(t, amqp.Config{URL: orchestrator.NewSecret(address), Heartbeat: time.Second})
	got := consume(t, q, 1)
	publishOne(t, q, "before")
	got.until(t, 1)
	made := p.Connections()
	p.Silence(testserver.BothWays)
	p.Mend() // for those to come
	poll(t, "another connection", func() bool { return p.Connections() > made })
	other := opened(t, direct)
	publishOne(t, other, "after")
	got.until(t, 2)
}
