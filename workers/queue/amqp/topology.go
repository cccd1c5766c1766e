package amqp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"

	"github.com/rabbitmq/amqp091-go"

	"slipway/orchestrator"
)

// Names on the broker.
const (
	ExchangeOrders = "slipway.orders"
	ExchangeEvents = "slipway.events"
	ExchangeDead   = "slipway.dead"
	QueueOrders    = "slipway.orders"
	QueueDead      = "slipway.dead"

	// ExchangeAnswers carries what Responders say; the routing key is the queue that a Requester listens at.
	ExchangeAnswers = "slipway.answers"
)

// AgentQueue is where an appliance's agent is asked.
func AgentQueue(agent string) string { return "slipway.agent." + agent }

// part is an exchange or a queue.
type part struct {
	what, name string
	// look closes the channel when there is none (404); declare when there is one that was made otherwise (406). bind is a queue's.
	look, declare, bind func(*amqp091.Channel) error
}

// topology is everything that a Queue needs, in the order in which it can be made.
func topology() []part {
	var parts []part
	for _, exchange := range []string{ExchangeOrders, ExchangeEvents, ExchangeDead} {
		parts = append(parts, part{
			what: "exchange", name: exchange,
			look: func(ch *amqp091.Channel) error {
				return ch.ExchangeDeclarePassive(exchange, amqp091.ExchangeTopic, true, false, false, false, nil)
			},
			declare: func(ch *amqp091.Channel) error {
				return ch.ExchangeDeclare(exchange, amqp091.ExchangeTopic, true, false, false, false, nil)
			},
		})
	}
	args := amqp091.Table{
		amqp091.QueueTypeArg: amqp091.QueueTypeQuorum,
		// RabbitMQ 4 drops a message after 20 deliveries unless told otherwise. An order that waits for our database is
		// delivered again and again, and is never dropped.
		"x-delivery-limit": int64(math.MaxInt32),
	}
	for _, q := range []struct{ name, exchange string }{{QueueOrders, ExchangeOrders}, {QueueDead, ExchangeDead}} {
		parts = append(parts, part{
			what: "queue", name: q.name,
			look: func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclarePassive(q.name, true, false, false, false, args)
				return err
			},
			declare: func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclare(q.name, true, false, false, false, args)
				return err
			},
			bind: func(ch *amqp091.Channel) error { return ch.QueueBind(q.name, "#", q.exchange, false, nil) },
		})
	}
	return parts
}

// declare makes the topology. It is idempotent; a queue or exchange of the same name that was made otherwise is refused by the broker
// (406) and is for an operator to remove.
func declare(ch *amqp091.Channel) error {
	for _, p := range topology() {
		if err := p.declare(ch); err != nil {
			return p.explain(err)
		}
		if p.bind == nil {
			continue
		}
		if err := p.bind(ch); err != nil {
			return fmt.Errorf("bind %s %s: %w", p.what, p.name, err)
		}
	}
	return nil
}

// Ensure makes the topology, once, unless a part of it is there and was made otherwise: then nothing at all is made, and the error is
// Permanent and names each such part, what is different about it, and both values. Any other error is Transient: the broker is away, say.
func (q *Queue) Ensure(ctx context.Context) error {
	const op = "amqp.Ensure"
	limit := q.config.ConnectTimeout + q.config.PublishTimeout // to connect, and then for a broker that is slow
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	l := newLink("slipway ensure", q.config, q.consume.tls, nil)
	defer func() { _ = l.close() }() // nothing is under way on it
	stop := context.AfterFunc(ctx, l.sever)
	defer stop()
	var refused []error
	for _, p := range topology() {
		switch err := p.compare(ctx, l); {
		case isCode(err, amqp091.PreconditionFailed):
			refused = append(refused, err)
		case err != nil:
			return transient(op, err)
		}
	}
	if len(refused) > 0 {
		return orchestrator.E(op, orchestrator.Permanent, errors.Join(refused...))
	}
	ch, err := l.tryChannel(ctx)
	if err != nil {
		return transient(op, err)
	}
	return transient(op, declare(ch))
}

// compare is nil when the part is not there or is as it must be.
func (p part) compare(ctx context.Context, l *link) error {
	ch, err := l.tryChannel(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }() // a refusal has closed it already
	if err := p.look(ch); isCode(err, amqp091.NotFound) {
		return nil
	} else if err != nil {
		return p.explain(err)
	}
	if err := p.declare(ch); err != nil {
		return p.explain(err)
	}
	return nil
}

func isCode(err error, code int) bool {
	var refused *amqp091.Error
	return errors.As(err, &refused) && refused.Code == code
}

// otherwise is a part that is there and was made in another way.
type otherwise struct {
	text string
	said error
}

func (o otherwise) Error() string { return o.text }
func (o otherwise) Unwrap() error { return o.said }

// inequivalent is how RabbitMQ 3.10 to 4 say it:
//
//	PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'slipway.orders' in vhost '/': received the value 'quorum' of type
//	'longstr' but current is the value 'classic' of type 'longstr'
//
// and "received none but current is …", "received 'topic' but current is 'fanout'".
var (
	inequivalent = regexp.MustCompile(`inequivalent arg '([^']*)' for \w+ '[^']*' in vhost '([^']*)': received (.*) but current is (.*)$`)
	typedValue   = regexp.MustCompile(`^the value (.*) of type '\w+'$`)
)

// explain says what is different and what to do; the broker's own words stay reachable.
func (p part) explain(err error) error {
	var refused *amqp091.Error
	if errors.As(err, &refused) && refused.Code == amqp091.PreconditionFailed {
		if m := inequivalent.FindStringSubmatch(refused.Reason); m != nil {
			return otherwise{said: err, text: fmt.Sprintf("%s %s in virtual host %s was declared otherwise: its %s is %s and must be %s; let whoever made "+
				"it remove it once it is empty, or name another virtual host in queue.url",
				p.what, p.name, m[2], m[1], value(m[4]), value(m[3]))}
		}
	}
	return fmt.Errorf("declare %s %s: %w", p.what, p.name, err)
}

func value(said string) string {
	if said == "none" {
		return "not set"
	}
	return typedValue.ReplaceAllString(said, "$1")
}
