package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"

	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/store/queuelog"
	"slipway/workers/intake/message"
	"slipway/workers/queue"
	"slipway/workers/queue/amqp"
	"slipway/workers/queue/embedded"
)

// openQueue chooses the backend; it connects on first use.
func openQueue(cfg *config.Config, store orchestrator.Store, log *slog.Logger) (queue.Queue, error) {
	if cfg.Queue.Kind == "embedded" {
		kept, ok := queuelog.For(store)
		if !ok {
			return nil, errors.New("the database keeps no queue: use queue.kind amqp")
		}
		return embedded.New(embedded.Config{Log: kept, Logger: log}), nil
	}
	return newBroker(cfg, log)
}

func newBroker(cfg *config.Config, log *slog.Logger) (*amqp.Queue, error) {
	address, err := withPassword(cfg.Queue.URL, cfg.Queue.Password)
	if err != nil {
		return nil, err
	}
	return amqp.New(amqp.Config{URL: address, CAFile: cfg.Queue.CAFile, Log: log})
}

// openBroker makes the queues, or finds them. What was declared otherwise is an error, and was left as it is; a broker that is away is none.
func openBroker(ctx context.Context, cfg *config.Config, log *slog.Logger) (*amqp.Queue, error) {
	q, err := newBroker(cfg, log)
	if err != nil {
		return nil, err
	}
	if err := q.Ensure(ctx); orchestrator.KindOf(err) == orchestrator.Permanent {
		return nil, errors.Join(err, q.Close())
	} else if err != nil {
		log.Warn("the broker is away: orders and events wait for it", "error", err)
	}
	return q, nil
}

// withPassword puts a secret into a URL.
func withPassword(raw string, source config.Secret) (orchestrator.Secret, error) {
	if source.IsZero() {
		return orchestrator.NewSecret(raw), nil
	}
	password, err := source.Read()
	if err != nil {
		return orchestrator.Secret{}, fmt.Errorf("password: %w", err)
	}
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		return orchestrator.Secret{}, fmt.Errorf("the URL names no user for the password")
	}
	u.User = url.UserPassword(u.User.Username(), password.Reveal())
	return orchestrator.NewSecret(u.String()), nil
}

// DatabaseURL is the database as store.Open takes it.
func DatabaseURL(cfg *config.Config) (string, error) {
	dsn, err := withPassword(cfg.Database, cfg.DatabasePassword)
	if err != nil {
		return "", fmt.Errorf("database_%w", err)
	}
	return dsn.Reveal(), nil
}

// eventSource names this installation in the events it publishes.
const eventSource = "slipway"

// publish turns outbox events into messages, in their order.
func (s *Service) publish(ctx context.Context, events []orchestrator.Event) error {
	messages := make([]queue.Message, len(events))
	for i, e := range events {
		m, err := message.EncodeEvent(eventSource, e)
		if err != nil {
			return fmt.Errorf("event %d of machine %s: %w", e.Seq, e.Machine, err)
		}
		messages[i] = m
	}
	return s.Queue.PublishEvents(ctx, messages)
}
