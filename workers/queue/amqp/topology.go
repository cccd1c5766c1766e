package amqp

import (
	"fmt"
	"math"

	"github.com/rabbitmq/amqp091-go"
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

// declare makes the topology. It is idempotent; a queue or exchange of the same name that was made otherwise is refused by the broker
// (406) and is for an operator to remove.
func declare(ch *amqp091.Channel) error {
	for _, exchange := range []string{ExchangeOrders, ExchangeEvents, ExchangeDead} {
		if err := ch.ExchangeDeclare(exchange, amqp091.ExchangeTopic, true, false, false, false, nil); err != nil {
			return fmt.Errorf("declare exchange %s: %w", exchange, err)
		}
	}
	for queue, exchange := range map[string]string{QueueOrders: ExchangeOrders, QueueDead: ExchangeDead} {
		args := amqp091.Table{
			amqp091.QueueTypeArg: amqp091.QueueTypeQuorum,
			// RabbitMQ 4 drops a message after 20 deliveries unless told otherwise. An order that waits for our database is
			// delivered again and again, and is never dropped.
			"x-delivery-limit": int64(math.MaxInt32),
		}
		if _, err := ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
			return fmt.Errorf("declare queue %s: %w", queue, err)
		}
		if err := ch.QueueBind(queue, "#", exchange, false, nil); err != nil {
			return fmt.Errorf("bind queue %s: %w", queue, err)
		}
	}
	return nil
}
