package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"slipway/internal/testnet"
)

// event is what a panel reads of one.
type event struct {
	Type    string `json:"type"`
	ID      string `json:"id"`
	Subject string `json:"subject"`
	Seq     int    `json:"seq"`
	Data    struct {
		Source  string   `json:"order_source"`
		Order   string   `json:"order_id"`
		Machine string   `json:"machine"`
		State   string   `json:"state"`
		Age     string   `json:"administrator_password_age"`
		Fields  []string `json:"fields"`
		Errors  []struct{ Field, Problem, Fix string }
	} `json:"data"`
	raw string
}

// listener is a panel with a durable queue of its own, which comes back when the broker does.
type listener struct {
	url string

	mu     sync.Mutex
	events []event // in the order they were heard
}

// listen hears all events from now on, until the test ends. The broker must know slipway's exchanges.
func listen(t *testing.T, url string) *listener {
	t.Helper()
	l := &listener{url: url}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		first := ready
		for ctx.Err() == nil {
			if err := l.hear(ctx, func() {
				if first != nil {
					close(first)
					first = nil
				}
			}); err == nil {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond): // the broker is away
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("the listener does not get to the broker")
	}
	return l
}

// hear consumes until the connection ends; nil is the end of ctx.
func (l *listener) hear(ctx context.Context, bound func()) error {
	ch, hangUp, err := dial(l.url)
	if err != nil {
		return err
	}
	defer hangUp()
	const queue = "test.panel"
	if _, err := ch.QueueDeclare(queue, true, false, false, false, amqp091.Table{amqp091.QueueTypeArg: amqp091.QueueTypeQuorum}); err != nil {
		return err
	}
	if err := ch.QueueBind(queue, "slipway.#", "slipway.events", false, nil); err != nil {
		return err
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	bound()
	for {
		select {
		case <-ctx.Done():
			return nil
		case d, ok := <-deliveries:
			if !ok {
				return errors.New("the broker went away")
			}
			var e event
			if err := json.Unmarshal(d.Body, &e); err != nil {
				return err
			}
			e.raw = string(d.Body)
			l.mu.Lock()
			l.events = append(l.events, e)
			l.mu.Unlock()
			if err := d.Ack(false); err != nil {
				return err
			}
		}
	}
}

// heard is a copy of what was heard.
func (l *listener) heard() []event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]event(nil), l.events...)
}

// count is how many different events of a type were heard.
func (l *listener) count(typ string) int {
	seen := map[string]bool{}
	for _, e := range l.heard() {
		if e.Type == typ {
			seen[e.ID] = true
		}
	}
	return len(seen)
}

// await waits for an event about an order.
func (l *listener) await(t *testing.T, typ, order string) (found event) {
	t.Helper()
	testnet.Until(t, 20*time.Second, typ+" of "+order, func() bool {
		for _, e := range l.heard() {
			if e.Type == typ && e.Data.Order == order {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// repeats is how many copies of events were heard beyond the first.
func (l *listener) repeats() int {
	all, different := l.heard(), map[string]bool{}
	for _, e := range all {
		different[e.ID] = true
	}
	return len(all) - len(different)
}

// inOrder expects that the first copies of each machine's events came in the order of seq, from 1 on and without a gap.
func (l *listener) inOrder(t *testing.T) {
	t.Helper()
	highest, first := map[string]int{}, map[string]string{}
	for _, e := range l.heard() {
		if e.Subject == "" {
			continue
		}
		switch {
		case e.Seq == highest[e.Subject]+1:
			highest[e.Subject] = e.Seq
		case e.Seq > highest[e.Subject]:
			t.Errorf("machine %s: event %d (%s) came after event %d", e.Subject, e.Seq, e.Type, highest[e.Subject])
			highest[e.Subject] = e.Seq
		}
		if e.Type == "slipway.run.accepted" {
			if other := first[e.Data.Order]; other != "" && other != e.Subject {
				t.Errorf("order %s has machines %s and %s", e.Data.Order, other, e.Subject)
			}
			first[e.Data.Order] = e.Subject
		}
	}
}

// publish sends orders as a panel does: confirmed and mandatory, and once more when they are returned because the worker, which has just
// been started, has not yet bound its queue.
func publish(t *testing.T, url string, bodies ...[]byte) {
	t.Helper()
	ch := channel(t, url)
	returned := ch.NotifyReturn(make(chan amqp091.Return, 1))
	for _, body := range bodies {
		testnet.Until(t, 20*time.Second, "an order to be routed", func() bool {
			err := publishOne(t.Context(), ch, returned, body)
			if err != nil && !errors.Is(err, errUnroutable) {
				t.Fatalf("the broker did not take an order: %v", err)
			}
			return err == nil
		})
	}
}

var errUnroutable = errors.New("the order came back: nobody has a queue for it")

// publishOne is nil when the broker has confirmed the order.
func publishOne(ctx context.Context, ch *amqp091.Channel, returned <-chan amqp091.Return, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	confirmation, err := sendOrder(ch, body)
	if err != nil {
		return err
	}
	if ok, err := confirmation.WaitContext(ctx); err != nil || !ok {
		return errors.Join(errors.New("not confirmed"), err)
	}
	select {
	case <-returned: // it comes before the confirmation
		return errUnroutable
	default:
		return nil
	}
}
