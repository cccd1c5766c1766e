package amqp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"slipway/orchestrator"
	"slipway/workers/queue"
)

// maxScan bounds how many dead letters one verb looks through.
const maxScan = 10_000

// Dead implements [queue.DeadLetters]. The letters are taken and given back, so two operators looking at once may each see a part.
func (q *Queue) Dead(ctx context.Context, limit int) ([]queue.DeadLetter, error) {
	var letters []queue.DeadLetter
	err := q.scanDead(ctx, limit, func(d amqp091.Delivery) (bool, error) {
		letters = append(letters, deadLetter(d))
		return false, nil
	})
	return letters, transient("amqp.Dead", err)
}

// RequeueDead implements [queue.DeadLetters].
func (q *Queue) RequeueDead(ctx context.Context, id string) error {
	return q.settleDead(ctx, "amqp.RequeueDead", id, func(d amqp091.Delivery) error {
		headers := amqp091.Table{}
		for name, value := range textHeaders(d.Headers) {
			switch name {
			case queue.HeaderReason, queue.HeaderDeadID, queue.HeaderDeadAt:
			default:
				headers[name] = value
			}
		}
		return q.publish.send(ctx, []outgoing{{
			exchange: ExchangeOrders, key: "requeued", mandatory: true,
			publishing: amqp091.Publishing{
				Headers: headers, MessageId: d.MessageId, Type: d.Type, ContentType: d.ContentType,
				DeliveryMode: amqp091.Persistent, Body: d.Body,
			},
		}})
	})
}

// DropDead implements [queue.DeadLetters].
func (q *Queue) DropDead(ctx context.Context, id string) error {
	return q.settleDead(ctx, "amqp.DropDead", id, func(amqp091.Delivery) error { return nil })
}

func (q *Queue) settleDead(ctx context.Context, op, id string, settle func(amqp091.Delivery) error) error {
	found := false
	err := q.scanDead(ctx, maxScan, func(d amqp091.Delivery) (bool, error) {
		if deadLetter(d).ID != id {
			return false, nil
		}
		found = true
		if err := settle(d); err != nil {
			return true, err
		}
		return true, d.Ack(false)
	})
	if err == nil && !found {
		return orchestrator.Errorf(op, orchestrator.Permanent, "dead letter %s: %w", id, orchestrator.ErrNotFound)
	}
	return transient(op, err)
}

// scanDead takes dead letters one by one until visit says stop, limit is reached or there are no more. Closing the channel gives those back
// that were not acknowledged.
func (q *Queue) scanDead(ctx context.Context, limit int, visit func(amqp091.Delivery) (stop bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, q.config.PublishTimeout)
	defer cancel()
	ch, err := q.consume.channel(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }()
	for range min(limit, maxScan) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d, ok, err := ch.Get(QueueDead, false)
		if err != nil {
			return fmt.Errorf("get from %s: %w", QueueDead, err)
		}
		if !ok {
			break
		}
		if stop, err := visit(d); stop || err != nil {
			if err == nil {
				err = ch.Close() // only when it is answered is the acknowledgement before it on the broker
			}
			return err
		}
	}
	return nil
}

func deadLetter(d amqp091.Delivery) queue.DeadLetter {
	headers := textHeaders(d.Headers)
	letter := queue.DeadLetter{
		ID:          headers[queue.HeaderDeadID],
		Reason:      headers[queue.HeaderReason],
		Body:        d.Body,
		ContentType: d.ContentType,
		Headers:     headers,
	}
	if letter.ID == "" { // not put there by us
		sum := sha256.Sum256(d.Body)
		letter.ID = hex.EncodeToString(sum[:8])
	}
	if at, err := time.Parse(time.RFC3339, headers[queue.HeaderDeadAt]); err == nil {
		letter.At = at
	}
	return letter
}
