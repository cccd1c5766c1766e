package service

import (
	"fmt"
	"log/slog"

	"slipway/internal/config"
	"slipway/workers/appliance"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/carrier"
	"slipway/workers/queue/amqp"
)

// carriers open the ways to the appliances. Those over the broker share its connections. Close them.
type carriers struct {
	cfg       *config.Config
	log       *slog.Logger
	requester *amqp.Requester // nil until a member is reached over the broker
}

func (c *carriers) open(m config.Member) (appliance.Carrier, error) {
	switch {
	case m.Local != nil:
		return c.local(m.Local)
	case m.Queue != nil:
		return c.queue(m.Queue)
	}
	key, err := m.SSH.Key.Read()
	if err != nil {
		return nil, fmt.Errorf("ssh.key: %w", err)
	}
	return carrier.NewSSH(carrier.SSHConfig{Address: m.SSH.Address, User: m.SSH.User, Key: key, HostKey: m.SSH.HostKey})
}

func (c *carriers) local(l *config.LocalAgent) (appliance.Carrier, error) {
	cfg, err := agent.LoadConfig(l.Config)
	if err != nil {
		return nil, err
	}
	a, err := agent.New(cfg, Registry(), c.log)
	if err != nil {
		return nil, err
	}
	return carrier.Local{Agent: a}, nil
}

func (c *carriers) queue(q *config.QueueAgent) (appliance.Carrier, error) {
	key, err := q.Key.Read()
	if err != nil {
		return nil, fmt.Errorf("queue.key: %w", err)
	}
	if c.requester == nil {
		address, err := withPassword(c.cfg.Queue.URL, c.cfg.Queue.Password)
		if err != nil {
			return nil, err
		}
		if c.requester, err = amqp.NewRequester(amqp.Config{URL: address, CAFile: c.cfg.Queue.CAFile, Log: c.log}); err != nil {
			return nil, err
		}
	}
	return carrier.NewQueue(carrier.QueueConfig{Broker: c.requester, Agent: q.Agent, Key: key})
}

// Close lets go of the broker.
func (c *carriers) Close() error {
	if c.requester == nil {
		return nil
	}
	return c.requester.Close()
}
