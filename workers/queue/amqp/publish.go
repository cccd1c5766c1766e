package amqp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"slipway/workers/queue"
)

// maxWave bounds what is sent without waiting, and with it the buffer for what comes back.
const maxWave = 256

// publisher sends with confirmations on one channel, one caller at a time: the order in which calls are answered is the order on the wire.
type publisher struct {
	link *link
	turn chan struct{} // holds one token

	// Owned by whoever has the token.
	ch       *amqp091.Channel
	returned chan amqp091.Return
}

func newPublisher(l *link) *publisher {
	p := &publisher{link: l, turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

// outgoing is a message with where it goes.
type outgoing struct {
	exchange, key string
	mandatory     bool // reaching no queue is a failure
	publishing    amqp091.Publishing
}

// PublishEvents implements [queue.Queue].
func (q *Queue) PublishEvents(ctx context.Context, events []queue.Message) error {
	for _, wave := range queue.Waves(events, maxWave) {
		batch := make([]outgoing, len(wave))
		for i, m := range wave {
			batch[i] = outgoing{exchange: ExchangeEvents, key: m.Type, publishing: publishing(m)}
		}
		if err := q.publish.send(ctx, batch); err != nil {
			return transient("amqp.PublishEvents", err)
		}
	}
	return nil
}

// PublishOrder implements [queue.Queue].
func (q *Queue) PublishOrder(ctx context.Context, order queue.Message) error {
	err := q.publish.send(ctx, []outgoing{{exchange: ExchangeOrders, key: order.Type, mandatory: true, publishing: publishing(order)}})
	return transient("amqp.PublishOrder", err)
}

func publishing(m queue.Message) amqp091.Publishing {
	p := amqp091.Publishing{
		MessageId:    m.ID,
		Type:         m.Type,
		ContentType:  m.ContentType,
		DeliveryMode: amqp091.Persistent,
		Timestamp:    time.Now(),
		Body:         m.Body,
	}
	for name, value := range m.Headers {
		if p.Headers == nil {
			p.Headers = amqp091.Table{}
		}
		p.Headers[name] = value
	}
	return p
}

// errNoQueue is a mandatory message that came back: nobody has got it.
var errNoQueue = errors.New("it reaches no queue")

// unsent is a failure before anything was written.
type unsent struct{ error }

func (u unsent) Unwrap() error { return u.error }

// send publishes a batch of at most maxWave and waits until the broker has taken every message in. An error that is neither unsent nor
// errNoQueue leaves open what has arrived.
func (p *publisher) send(ctx context.Context, batch []outgoing) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.link.config.PublishTimeout,
		fmt.Errorf("no confirmation within %s", p.link.config.PublishTimeout))
	defer cancel()
	select {
	case <-p.turn:
		defer func() { p.turn <- struct{}{} }()
	case <-ctx.Done():
		return unsent{context.Cause(ctx)}
	}
	if ctx.Err() != nil { // both were there: chance chose
		return unsent{context.Cause(ctx)}
	}
	if err := p.ready(ctx); err != nil {
		return unsent{err}
	}
	// A broker that reads no more does not end a write by itself, and a write does not know our context.
	var written atomic.Bool
	held := func() bool { return written.Load() && p.link.blockade() != nil }
	stop := context.AfterFunc(ctx, func() {
		if !held() {
			p.link.sever()
		}
	})
	defer stop()
	err := p.exchange(ctx, batch, &written)
	if err == nil || held() {
		// A blocked connection is kept, with what lies in it: the broker would not notice that it is gone, and every other one that we
		// made would cost it memory until it reads again.
		return err
	}
	// Confirmations that are still to come must not be taken for those of the next batch; and a new channel finds the topology whole
	// again when somebody took a part of it away.
	_ = p.ch.Close()
	p.ch = nil
	return err
}

// ready waits for a channel on a connection from which the broker takes messages.
func (p *publisher) ready(ctx context.Context) error {
	for {
		if err := p.open(ctx); err != nil {
			return err
		}
		b := p.link.blockade()
		if b == nil {
			return nil
		}
		select {
		case <-b.over:
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", b, context.Cause(ctx))
		}
	}
}

func (p *publisher) open(ctx context.Context) error {
	if p.ch != nil && !p.ch.IsClosed() {
		return nil
	}
	ch, err := p.link.channel(ctx)
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		_ = ch.Close()
		return fmt.Errorf("ask for confirmations: %w", err)
	}
	p.ch, p.returned = ch, ch.NotifyReturn(make(chan amqp091.Return, maxWave))
	return nil
}

// exchange says in written when nothing more is to be written.
func (p *publisher) exchange(ctx context.Context, batch []outgoing, written *atomic.Bool) error {
	confirmations := make([]*amqp091.DeferredConfirmation, 0, len(batch))
	for _, m := range batch {
		c, err := p.ch.PublishWithDeferredConfirmWithContext(ctx, m.exchange, m.key, m.mandatory, false, m.publishing)
		if err != nil {
			return fmt.Errorf("publish %s to %s: %w", m.publishing.MessageId, m.exchange, err)
		}
		confirmations = append(confirmations, c)
	}
	written.Store(true)
	for i, c := range confirmations {
		acked, err := c.WaitContext(ctx)
		switch m := batch[i]; {
		case err != nil:
			why := context.Cause(ctx)
			if b := p.link.blockade(); b != nil {
				why = fmt.Errorf("%w (%w)", b, why)
			}
			return fmt.Errorf("publish %s to %s: %w", m.publishing.MessageId, m.exchange, why)
		case !acked: // also when the channel was lost
			return fmt.Errorf("publish %s to %s: the broker did not take it", m.publishing.MessageId, m.exchange)
		}
	}
	// A message that no queue takes is returned first and then acknowledged all the same; both come on this channel, in this order.
	var refused error
	for {
		select {
		case r, open := <-p.returned:
			if !open {
				return refused
			}
			if !slices.ContainsFunc(batch, func(m outgoing) bool { return m.publishing.MessageId == r.MessageId }) {
				continue // of a batch that was given up while the broker was blocked
			}
			refused = errors.Join(refused, fmt.Errorf("publish %s to %s: %w (%s)", r.MessageId, r.Exchange, errNoQueue, r.ReplyText))
		default:
			return refused
		}
	}
}
