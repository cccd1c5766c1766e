package amqp

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rabbitmq/amqp091-go"

	"slipway/orchestrator"
)

// MaxBody is the longest request or answer, in bytes; what is longer is thrown away once it has arrived. It is the most that RabbitMQ 4 takes
// unless told otherwise (3.10: 128 MiB).
const MaxBody = 16 << 20

// answersAhead bounds the answers that the broker sends before we have looked at them; as with sentAhead, the memory that they take is
// bounded by it and by what the broker takes.
const answersAhead = 16

// The types of messages between a Requester and a Responder. A ping asks whether the request of its id is still in hand; gone says that it
// is not. Nothing is said while it is.
const (
	typeRequest = "slipway.request"
	typePing    = "slipway.ping"
	typeAnswer  = "slipway.answer"
	typeGone    = "slipway.gone"
)

// Request is a question.
type Request struct {
	// ID is of this exchange. Who knows it may answer it, so make it of chance: a uuid.
	ID      string
	Headers map[string]string
	Body    []byte
}

// Requester asks Responders, each by the name of its queue. It may be used by several goroutines at once. Close it.
type Requester struct {
	config  Config
	listen  *link
	publish *publisher
	turn    chan struct{} // holds one token: whoever has it may begin to listen
	current *hearing      // owned by whoever has the token
	hearing sync.WaitGroup
}

// hearing is a queue of answers for as long as its channel lives.
type hearing struct {
	queue   string
	lost    chan struct{} // closed when nothing comes any more
	mu      sync.Mutex
	waiting map[string]chan amqp091.Delivery
}

// NewRequester checks the configuration (kind Permanent); it does not connect, which the first use does.
func NewRequester(config Config) (*Requester, error) {
	tlsConfig, err := config.check()
	if err != nil {
		return nil, orchestrator.E("amqp.NewRequester", orchestrator.Permanent, err)
	}
	config = config.withDefaults()
	config.PublishTimeout = config.ConnectTimeout // somebody waits, and asks again
	r := &Requester{
		config:  config,
		listen:  newLink("slipway answers", config, tlsConfig, declareAnswers),
		publish: newPublisher(newLink("slipway requests", config, tlsConfig, nil)),
		turn:    make(chan struct{}, 1),
	}
	r.turn <- struct{}{}
	return r, nil
}

// Close ends both connections; who still waits for an answer gets an error.
func (r *Requester) Close() error {
	err := errors.Join(r.listen.close(), r.publish.link.close())
	r.hearing.Wait()
	return err
}

func declareAnswers(ch *amqp091.Channel) error {
	if err := ch.ExchangeDeclare(ExchangeAnswers, amqp091.ExchangeDirect, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declare exchange %s: %w", ExchangeAnswers, err)
	}
	return nil
}

// Ask sends a request to a Responder's queue and waits for its answer until ctx ends, by when the broker has thrown the request away if
// nobody has taken it. Kinds: Transient means that nobody has got it, and at once when nobody has the queue; Permanent that it is too
// long; Unknown that somebody may have, and that no answer will come.
func (r *Requester) Ask(ctx context.Context, to string, m Request) (answer []byte, err error) {
	const op = "amqp.Ask"
	if len(m.Body) > MaxBody {
		return nil, orchestrator.Errorf(op, orchestrator.Permanent, "the request has %d bytes, and %d are the most that a broker takes", len(m.Body), MaxBody)
	}
	h, err := r.hear(ctx)
	if err != nil {
		return nil, orchestrator.E(op, orchestrator.Transient, err)
	}
	answers := h.await(m.ID)
	defer h.forget(m.ID)
	if err := r.send(ctx, h, to, typeRequest, m); err != nil {
		var before unsent
		switch {
		case errors.Is(err, errNoQueue):
			return nil, orchestrator.Errorf(op, orchestrator.Transient, "nobody listens at %s: it is not connected to the broker", to)
		case errors.As(err, &before):
			return nil, orchestrator.E(op, orchestrator.Transient, err)
		}
		return nil, orchestrator.E(op, orchestrator.Unknown, err)
	}
	answer, err = r.await(ctx, h, to, m.ID, answers)
	return answer, orchestrator.E(op, orchestrator.Unknown, err)
}

// await pings while it waits, for the other side may die with the request, and its queue with it: then nothing is ever said.
func (r *Requester) await(ctx context.Context, h *hearing, to, id string, answers <-chan amqp091.Delivery) ([]byte, error) {
	ping := time.NewTicker(r.config.Keepalive)
	defer ping.Stop()
	returned := 0
	for {
		select {
		case d := <-answers:
			return settle(d, to)
		case <-h.lost:
			select {
			case d := <-answers: // it came just before
				return settle(d, to)
			default:
				return nil, errors.New("the connection to the broker was lost before the answer came")
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("no answer from %s: %w", to, context.Cause(ctx))
		case <-ping.C:
		}
		pingCtx, cancel := context.WithTimeout(ctx, r.config.Keepalive)
		err := r.send(pingCtx, h, to, typePing, Request{ID: id})
		cancel()
		switch {
		case err == nil:
			returned = 0
		case errors.Is(err, errNoQueue):
			// Once is not enough: it may have answered and left, or be on its way back.
			if returned++; returned == 2 {
				return nil, fmt.Errorf("%s has left the broker without an answer", to)
			}
		}
	}
}

func settle(d amqp091.Delivery, to string) ([]byte, error) {
	if d.Type == typeGone {
		return nil, fmt.Errorf("%s does not have the request any more: it was restarted, or stops", to)
	}
	if len(d.Body) > MaxBody {
		return nil, fmt.Errorf("%s answered with %d bytes, and %d are the most that are taken", to, len(d.Body), MaxBody)
	}
	return d.Body, nil
}

// send publishes to a Responder. What is not taken while somebody waits for it is thrown away, so that it is never carried out later.
func (r *Requester) send(ctx context.Context, h *hearing, to, kind string, m Request) error {
	p := amqp091.Publishing{
		Type: kind, MessageId: m.ID, CorrelationId: m.ID, ReplyTo: h.queue, DeliveryMode: amqp091.Transient, Timestamp: time.Now(), Body: m.Body,
	}
	if deadline, ok := ctx.Deadline(); ok {
		p.Expiration = strconv.FormatInt(max(1, time.Until(deadline).Milliseconds()), 10)
	}
	for name, value := range m.Headers {
		if p.Headers == nil {
			p.Headers = amqp091.Table{}
		}
		p.Headers[name] = value
	}
	return r.publish.send(ctx, []outgoing{{key: to, mandatory: true, publishing: p}})
}

// hear gives the queue of answers, a new one when the last was lost.
func (r *Requester) hear(ctx context.Context) (*hearing, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.config.ConnectTimeout, fmt.Errorf("no broker within %s", r.config.ConnectTimeout))
	defer cancel()
	select {
	case <-r.turn:
		defer func() { r.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if h := r.current; h != nil {
		select {
		case <-h.lost:
		default:
			return h, nil
		}
	}
	ch, err := r.listen.channel(ctx)
	if err != nil {
		return nil, err
	}
	h := &hearing{queue: ExchangeAnswers + "." + uuid.NewString(), lost: make(chan struct{}), waiting: map[string]chan amqp091.Delivery{}}
	deliveries, err := h.begin(ch)
	if err != nil {
		_ = ch.Close()
		return nil, fmt.Errorf("listen at %s: %w", h.queue, err)
	}
	r.hearing.Go(func() {
		defer func() { _ = ch.Close() }() // also when the broker took the queue away alone
		h.run(deliveries)
	})
	r.current = h
	return h, nil
}

func (h *hearing) begin(ch *amqp091.Channel) (<-chan amqp091.Delivery, error) {
	if _, err := ch.QueueDeclare(h.queue, false, true, true, false, nil); err != nil {
		return nil, err
	}
	if err := ch.QueueBind(h.queue, h.queue, ExchangeAnswers, false, nil); err != nil {
		return nil, err
	}
	if err := ch.Qos(answersAhead, 0, false); err != nil {
		return nil, err
	}
	return ch.Consume(h.queue, "", false, true, false, false, nil)
}

// run hands answers to who waits for them; those that nobody waits for any more are dropped.
func (h *hearing) run(deliveries <-chan amqp091.Delivery) {
	defer close(h.lost)
	for d := range deliveries {
		_ = d.Ack(false) // when it does not arrive the queue is gone too
		if d.Type != typeAnswer && d.Type != typeGone {
			continue
		}
		h.mu.Lock()
		answers := h.waiting[d.CorrelationId]
		delete(h.waiting, d.CorrelationId)
		h.mu.Unlock()
		if answers != nil {
			answers <- d // it has room for the one
		}
	}
}

func (h *hearing) await(id string) <-chan amqp091.Delivery {
	answers := make(chan amqp091.Delivery, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting[id] = answers
	return answers
}

func (h *hearing) forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiting, id)
}
