// Package amqp is the queue on RabbitMQ (AMQP 0-9-1), 3.10 or newer.
//
// Everything it needs on the broker it declares itself, each time it connects:
//
//	slipway.orders  topic exchange → quorum queue slipway.orders (bound with #: an order arrives whatever its routing key)
//	slipway.events  topic exchange; the routing key is the event's type; listeners bind queues of their own
//	slipway.dead    topic exchange → quorum queue slipway.dead (bound with #)
//
// Two connections, one to consume and one to publish: a broker that is short of memory stops reading from publishers, and
// acknowledgements must not wait behind that. The client library's own recovery is left off, because delivery tags of an old channel mean
// nothing on a new one: here a lost channel ends its deliveries, and the orders come again.
//
// Beside the queue, [Requester] and [Responder] are a question and its answer over the same broker, for agents on appliances:
//
//	default exchange → exclusive queue slipway.agent.NAME (the Responder's, gone when its connection is)
//	slipway.answers  direct exchange → exclusive queue slipway.answers.ID (the Requester's)
package amqp
