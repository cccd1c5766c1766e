package amqp

import (
	"errors"

	"slipway/orchestrator"
	"slipway/workers/queue"
)

// Queue is RabbitMQ as a [queue.Queue].
type Queue struct {
	config  Config
	consume *link
	publish *publisher
}

var _ queue.Queue = (*Queue)(nil)

// New checks the configuration (kind Permanent); it does not connect, which the first use does. Close it.
func New(config Config) (*Queue, error) {
	tlsConfig, err := config.check()
	if err != nil {
		return nil, orchestrator.E("amqp.New", orchestrator.Permanent, err)
	}
	config = config.withDefaults()
	return &Queue{
		config:  config,
		consume: newLink("slipway consume", config, tlsConfig, declare),
		publish: newPublisher(newLink("slipway publish", config, tlsConfig, declare)),
	}, nil
}

// Healthy joins both connections' state.
func (q *Queue) Healthy() error { return errors.Join(q.consume.healthy(), q.publish.link.healthy()) }

// Close closes both connections.
func (q *Queue) Close() error { return errors.Join(q.consume.close(), q.publish.link.close()) }
