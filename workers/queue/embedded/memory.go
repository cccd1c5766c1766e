package embedded

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"slipway/orchestrator"
	"slipway/workers/queue"
)

// maxEvents bounds what a Memory log keeps for listeners that are slow.
const maxEvents = 100_000

// Memory is a [Log] that ends with its process. The zero value is empty and ready.
type Memory struct {
	mu     sync.Mutex
	last   int64 // the newest order, token or dead letter
	orders []memoryOrder
	dead   []queue.DeadLetter
	events []queue.Message
	gone   int64 // events that were forgotten
}

type memoryOrder struct {
	id, token int64
	message   queue.Message
	until     time.Time // held, or resting, until then
	given     bool
}

var _ Log = (*Memory)(nil)

// AppendOrder implements [Log].
func (m *Memory) AppendOrder(ctx context.Context, order queue.Message) error {
	return m.do(ctx, "embedded.AppendOrder", func() error {
		m.last++
		m.orders = append(m.orders, memoryOrder{id: m.last, message: copyOf(order)})
		return nil
	})
}

// LeaseOrders implements [Log].
func (m *Memory) LeaseOrders(ctx context.Context, limit int, length time.Duration) (leased []Leased, err error) {
	err = m.do(ctx, "embedded.LeaseOrders", func() error {
		now := time.Now()
		for i := range m.orders {
			o := &m.orders[i]
			if len(leased) == limit {
				break
			}
			if now.Before(o.until) {
				continue
			}
			m.last++
			o.token, o.until = m.last, now.Add(length)
			leased = append(leased, Leased{Lease: Lease{Order: o.id, Token: o.token}, Message: copyOf(o.message), Redelivered: o.given})
			o.given = true
		}
		return nil
	})
	return leased, err
}

// AckOrder implements [Log].
func (m *Memory) AckOrder(ctx context.Context, lease Lease) error {
	const op = "embedded.AckOrder"
	return m.do(ctx, op, func() error {
		i, err := m.held(op, lease)
		if err == nil {
			m.orders = slices.Delete(m.orders, i, i+1)
		}
		return err
	})
}

// ReturnOrder implements [Log].
func (m *Memory) ReturnOrder(ctx context.Context, lease Lease, after time.Duration) error {
	const op = "embedded.ReturnOrder"
	return m.do(ctx, op, func() error {
		i, err := m.held(op, lease)
		if err == nil {
			m.orders[i].token, m.orders[i].until = 0, time.Now().Add(after)
		}
		return err
	})
}

// BuryOrder implements [Log].
func (m *Memory) BuryOrder(ctx context.Context, lease Lease, reason string) error {
	const op = "embedded.BuryOrder"
	return m.do(ctx, op, func() error {
		i, err := m.held(op, lease)
		if err != nil {
			return err
		}
		o := m.orders[i]
		m.orders = slices.Delete(m.orders, i, i+1)
		m.last++
		m.dead = append(m.dead, queue.DeadLetter{
			ID: strconv.FormatInt(m.last, 10), Reason: reason, At: time.Now(),
			Body: o.message.Body, ContentType: o.message.ContentType, Headers: o.message.Headers,
		})
		return nil
	})
}

func (m *Memory) held(op string, lease Lease) (int, error) {
	for i, o := range m.orders {
		if o.id == lease.Order && o.token == lease.Token {
			return i, nil
		}
	}
	return 0, orchestrator.Errorf(op, orchestrator.Conflict, "order %d: %w", lease.Order, orchestrator.ErrFenced)
}

// AppendEvents implements [Log].
func (m *Memory) AppendEvents(ctx context.Context, events []queue.Message) error {
	return m.do(ctx, "embedded.AppendEvents", func() error {
		for _, e := range events {
			m.events = append(m.events, copyOf(e))
		}
		if over := len(m.events) - maxEvents; over > 0 {
			m.events = slices.Delete(m.events, 0, over)
			m.gone += int64(over)
		}
		return nil
	})
}

// EventsAfter implements [Log].
func (m *Memory) EventsAfter(ctx context.Context, cursor int64, limit int) (events []queue.Message, next int64, err error) {
	err = m.do(ctx, "embedded.EventsAfter", func() error {
		from := min(max(cursor-m.gone, 0), int64(len(m.events)))
		to := min(from+int64(limit), int64(len(m.events)))
		for _, e := range m.events[from:to] {
			events = append(events, copyOf(e))
		}
		next = max(cursor, m.gone+to)
		return nil
	})
	return events, next, err
}

// Dead implements [queue.DeadLetters].
func (m *Memory) Dead(ctx context.Context, limit int) (letters []queue.DeadLetter, err error) {
	err = m.do(ctx, "embedded.Dead", func() error {
		letters = slices.Clone(m.dead[:min(limit, len(m.dead))])
		return nil
	})
	return letters, err
}

// RequeueDead implements [queue.DeadLetters].
func (m *Memory) RequeueDead(ctx context.Context, id string) error {
	const op = "embedded.RequeueDead"
	return m.do(ctx, op, func() error {
		letter, err := m.takeDead(op, id)
		if err == nil {
			m.last++
			m.orders = append(m.orders, memoryOrder{id: m.last, message: queue.Message{
				ContentType: letter.ContentType, Headers: letter.Headers, Body: letter.Body,
			}})
		}
		return err
	})
}

// DropDead implements [queue.DeadLetters].
func (m *Memory) DropDead(ctx context.Context, id string) error {
	const op = "embedded.DropDead"
	return m.do(ctx, op, func() error {
		_, err := m.takeDead(op, id)
		return err
	})
}

func (m *Memory) takeDead(op, id string) (queue.DeadLetter, error) {
	i := slices.IndexFunc(m.dead, func(d queue.DeadLetter) bool { return d.ID == id })
	if i < 0 {
		return queue.DeadLetter{}, orchestrator.Errorf(op, orchestrator.Permanent, "dead letter %s: %w", id, orchestrator.ErrNotFound)
	}
	letter := m.dead[i]
	m.dead = slices.Delete(m.dead, i, i+1)
	return letter, nil
}

// do runs one transaction.
func (m *Memory) do(ctx context.Context, op string, change func() error) error {
	if ctx.Err() != nil {
		return orchestrator.E(op, orchestrator.Canceled, context.Cause(ctx))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return change()
}

func copyOf(m queue.Message) queue.Message {
	m.Body = slices.Clone(m.Body)
	headers := map[string]string{}
	for name, value := range m.Headers {
		headers[name] = value
	}
	m.Headers = headers
	return m
}
