package amqp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rabbitmq/amqp091-go"

	"slipway/orchestrator"
)

// Answerer carries out one request, whose body has at most MaxBody bytes, as its answer may have; ctx ends when the Responder must stop.
type Answerer func(ctx context.Context, m Request) (answer []byte)

const (
	// respondAtOnce bounds the requests that are carried out at the same time.
	respondAtOnce = 4
	// sentAhead bounds what the broker sends before we have acknowledged: requests that wait for their turn, and pings. With the longest
	// message that the broker takes it bounds our memory, and MaxBody does not: AMQP has no way to refuse a message before all of it is
	// here. RabbitMQ takes 128 MiB (16 MiB from 4.0) unless max_message_size says otherwise.
	sentAhead = 4 * respondAtOnce
	// answerLimit is how long an answer waits for a broker that is away. Whoever asked has given up by then.
	answerLimit = time.Minute
)

// Responder answers what arrives at a queue of its own. The queue is exclusive: the broker refuses it to a second one of the same name, and
// removes it, with all that is in it, when our connection ends. So a request waits for nobody who is away.
type Responder struct {
	config  Config
	queue   string
	consume *link
	publish *publisher

	mu     sync.Mutex
	inHand map[string]bool // ids
	idle   chan struct{}   // not nil when no more are taken up; closed when none is in hand
	slots  chan struct{}
}

// NewResponder checks the configuration (kind Permanent); it does not connect, which Run does. Close it.
func NewResponder(config Config, queue string) (*Responder, error) {
	tlsConfig, err := config.check()
	if err != nil {
		return nil, orchestrator.E("amqp.NewResponder", orchestrator.Permanent, err)
	}
	config = config.withDefaults()
	r := &Responder{config: config, queue: queue, inHand: map[string]bool{}, slots: make(chan struct{}, respondAtOnce)}
	r.consume = newLink(queue+" listens", config, tlsConfig, r.declare)
	r.publish = newPublisher(newLink(queue+" answers", config, tlsConfig, nil))
	return r, nil
}

// Close ends both connections.
func (r *Responder) Close() error { return errors.Join(r.consume.close(), r.publish.link.close()) }

func (r *Responder) declare(ch *amqp091.Channel) error {
	_, err := ch.QueueDeclare(r.queue, false, false, true, false, nil)
	var refused *amqp091.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.Code == amqp091.ResourceLocked:
		return fmt.Errorf("queue %s belongs to another connection: a second agent has this name, or the broker has not given up an earlier "+
			"connection of ours yet: %w", r.queue, err)
	case errors.As(err, &refused) && refused.Code == amqp091.AccessRefused:
		return fmt.Errorf("declare queue %s: the account may not; it needs configure and read on it, and write on %s: %w", r.queue, ExchangeAnswers, err)
	}
	return fmt.Errorf("declare queue %s: %w", r.queue, err)
}

// Run answers until ctx ends, and connects again whenever the broker was away. Then nothing more is taken, and what is in hand has grace to
// end by itself before its context does. It returns when every answer has been given.
func (r *Responder) Run(ctx context.Context, grace time.Duration, answer Answerer) error {
	const op = "amqp.Respond"
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer endWork()
	listening, endListening := context.WithCancel(context.WithoutCancel(ctx)) // on until nothing is in hand, for pings are told so
	defer endListening()
	var hands sync.WaitGroup
	hands.Go(func() {
		select {
		case <-ctx.Done():
		case <-listening.Done():
			return
		}
		timer := time.AfterFunc(grace, endWork)
		defer timer.Stop()
		<-r.stop()
		endListening()
	})
	for listening.Err() == nil {
		ch, err := r.consume.channel(listening)
		if err == nil {
			err = r.session(listening, ch, func(d amqp091.Delivery) { hands.Go(func() { r.serve(work, d, answer) }) })
		}
		if err == nil || listening.Err() != nil {
			continue
		}
		if r.consume.isClosed() {
			endWork()
			endListening()
			hands.Wait()
			return transient(op, errClosed)
		}
		r.consume.note(err)
		wait(listening, r.config.BackoffMin)
	}
	hands.Wait()
	return nil
}

// session takes requests on one channel until it is lost (an error) or ctx ends (nil).
func (r *Responder) session(ctx context.Context, ch *amqp091.Channel, take func(amqp091.Delivery)) error {
	if err := ch.Qos(sentAhead, 0, false); err != nil {
		_ = ch.Close()
		return fmt.Errorf("set the prefetch: %w", err)
	}
	lost := ch.NotifyClose(make(chan *amqp091.Error, 1))
	consumer := "slipway-" + uuid.NewString()
	deliveries, err := ch.Consume(r.queue, consumer, false, true, false, false, nil)
	if err != nil {
		_ = ch.Close()
		return fmt.Errorf("consume %s: %w", r.queue, err)
	}
	r.config.Log.Info("listening", slog.String("queue", r.queue))
	for {
		select {
		case <-ctx.Done():
			_ = ch.Close()
			return nil
		case d, open := <-deliveries:
			if !open {
				_ = ch.Close()
				select {
				case reason := <-lost:
					if reason != nil {
						return fmt.Errorf("the channel was lost: %w", reason)
					}
				default:
				}
				return fmt.Errorf("the broker ended our consumer of %s", r.queue)
			}
			switch {
			case len(d.Body) > MaxBody: // no Requester's; nobody is told
				r.config.Log.Warn("a request was thrown away: it is too long", slog.String("queue", r.queue), slog.Int("bytes", len(d.Body)), slog.Int("most", MaxBody))
				r.acknowledge(d)
			case r.takeUp(d):
				take(d)
			default:
				r.acknowledge(d)
			}
		}
	}
}

// serve answers one message. It is acknowledged afterwards: when only the channel is lost meanwhile it comes again, and is answered again.
func (r *Responder) serve(ctx context.Context, d amqp091.Delivery, answer Answerer) {
	defer r.acknowledge(d)
	if !r.has(d.CorrelationId) { // a ping for what is not in hand, or a request that comes too late
		r.say(ctx, d, typeGone, nil)
		return
	}
	defer r.putDown(d.CorrelationId)
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return
	}
	body := answer(ctx, Request{ID: d.CorrelationId, Headers: textHeaders(d.Headers), Body: d.Body})
	r.say(ctx, d, typeAnswer, body)
}

// say publishes an answer. Nobody may be listening any more, which is no fault.
func (r *Responder) say(ctx context.Context, d amqp091.Delivery, kind string, body []byte) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), answerLimit, fmt.Errorf("not sent within %s", answerLimit))
	defer cancel()
	for {
		err := r.publish.send(ctx, []outgoing{{exchange: ExchangeAnswers, key: d.ReplyTo, publishing: amqp091.Publishing{
			Type: kind, MessageId: d.MessageId, CorrelationId: d.CorrelationId, DeliveryMode: amqp091.Transient, Timestamp: time.Now(), Body: body,
		}}})
		if err == nil {
			return
		}
		if ctx.Err() != nil || r.publish.link.isClosed() {
			r.config.Log.Warn("an answer could not be sent", slog.String("queue", r.queue), slog.Any("error", err))
			return
		}
		wait(ctx, r.config.BackoffMin)
	}
}

func (r *Responder) acknowledge(d amqp091.Delivery) {
	if err := d.Ack(false); err != nil {
		r.config.Log.Debug("a request may come again: its acknowledgement was lost", slog.String("queue", r.queue), slog.Any("error", err))
	}
}

// has reports whether a request is in hand.
func (r *Responder) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inHand[id]
}

// takeUp is false when nothing is to be said: the request is in hand already, and its answer will come.
func (r *Responder) takeUp(d amqp091.Delivery) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inHand[d.CorrelationId] {
		return false
	}
	if d.Type == typeRequest && r.idle == nil {
		r.inHand[d.CorrelationId] = true
	}
	return true
}

func (r *Responder) putDown(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.inHand, id)
	if r.idle != nil && len(r.inHand) == 0 {
		close(r.idle)
	}
}

// stop takes no more requests up; what it returns is closed when none is in hand.
func (r *Responder) stop() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idle = make(chan struct{})
	if len(r.inHand) == 0 {
		close(r.idle)
	}
	return r.idle
}
