package amqp

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rabbitmq/amqp091-go"

	"slipway/orchestrator"
	"slipway/workers/queue"
)

const (
	buryTimeout = 10 * time.Second
	// deadRetry is how long an order rests whose dead letter could not be published.
	deadRetry = 5 * time.Second
)

// Orders implements [queue.Queue].
func (q *Queue) Orders(ctx context.Context, prefetch int, handle queue.Handler) error {
	const op = "amqp.Orders"
	if prefetch < 1 || prefetch > 65535 { // an unsigned short on the wire, and 0 would be no bound
		return orchestrator.Errorf(op, orchestrator.Permanent, "prefetch %d is out of range: use 1 to 65535", prefetch)
	}
	for ctx.Err() == nil {
		ch, err := q.consume.channel(ctx)
		if err == nil {
			err = q.session(ctx, ch, prefetch, handle)
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if q.consume.isClosed() {
			return transient(op, errClosed)
		}
		q.consume.note(err)
		// A broker that takes a connection and then ends it at once is not asked in a tight loop.
		wait(ctx, q.config.BackoffMin)
	}
	return nil
}

// session consumes on one channel until it is lost (an error) or ctx ends (nil), and returns when every handler has.
func (q *Queue) session(ctx context.Context, ch *amqp091.Channel, prefetch int, handle queue.Handler) error {
	defer func() { _ = ch.Close() }() // what was not answered is then given out again
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return fmt.Errorf("set the prefetch: %w", err)
	}
	lost := ch.NotifyClose(make(chan *amqp091.Error, 1))
	consumer := "slipway-" + uuid.NewString()
	deliveries, err := ch.Consume(QueueOrders, consumer, false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume %s: %w", QueueOrders, err)
	}

	var handlers sync.WaitGroup
	defer handlers.Wait()
	// A delay ends with the session: its order comes again anyway.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			// Nothing more is taken; what the broker sent ahead goes back when the channel closes, after the handlers have
			// answered theirs.
			_ = ch.Cancel(consumer, true)
			return nil
		case d, open := <-deliveries:
			if !open {
				select {
				case reason := <-lost:
					if reason != nil {
						return fmt.Errorf("the channel was lost: %w", reason)
					}
				default:
				}
				return fmt.Errorf("the broker ended our consumer of %s", QueueOrders)
			}
			handlers.Go(func() { q.serve(ctx, d, handle) })
		}
	}
}

// serve lets the handler decide about one order and does it. An answer that does not arrive means that the order comes again.
func (q *Queue) serve(ctx context.Context, d amqp091.Delivery, handle queue.Handler) {
	verdict := q.judge(ctx, d, handle)
	if reason, dead := verdict.DeadReason(); dead {
		if err := q.bury(ctx, d, reason); err != nil {
			q.config.Log.Warn("a refused order stays in the queue: its dead letter could not be published",
				slog.String("id", d.MessageId), slog.Any("error", err))
			verdict = queue.Requeue(deadRetry)
		}
	}
	var err error
	if delay, again := verdict.Delay(); again {
		wait(ctx, delay)
		err = d.Nack(false, true)
	} else {
		err = d.Ack(false)
	}
	if err != nil {
		q.config.Log.Debug("an order will come again: the answer about it was lost", slog.String("id", d.MessageId), slog.Any("error", err))
	}
}

func (q *Queue) judge(ctx context.Context, d amqp091.Delivery, handle queue.Handler) queue.Verdict {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queue.HandleTimeout)
	defer cancel()
	return handle(ctx, queue.Delivery{
		Body:        d.Body,
		ContentType: d.ContentType,
		Headers:     textHeaders(d.Headers),
		Redelivered: d.Redelivered,
	})
}

// bury publishes the dead letter. It is confirmed before the order is acknowledged: between the two it exists twice, never not at all.
func (q *Queue) bury(ctx context.Context, d amqp091.Delivery, reason string) error {
	headers := amqp091.Table{
		queue.HeaderReason: reason,
		queue.HeaderDeadID: uuid.NewString(),
		queue.HeaderDeadAt: time.Now().UTC().Format(time.RFC3339),
	}
	for name, value := range textHeaders(d.Headers) {
		if _, ours := headers[name]; !ours {
			headers[name] = value
		}
	}
	// A shutdown does not cut between the two.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), buryTimeout)
	defer cancel()
	return q.publish.send(ctx, []outgoing{{
		exchange: ExchangeDead, key: "order", mandatory: true,
		publishing: amqp091.Publishing{
			Headers: headers, MessageId: d.MessageId, Type: d.Type, ContentType: d.ContentType,
			DeliveryMode: amqp091.Persistent, Body: d.Body,
		},
	}})
}

func textHeaders(table amqp091.Table) map[string]string {
	headers := map[string]string{}
	for name, value := range table {
		if text, ok := value.(string); ok {
			headers[name] = text
		}
	}
	return headers
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
