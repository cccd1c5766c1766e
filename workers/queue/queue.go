package queue

import (
	"context"
	"time"
)

// Queue carries orders in and events out. It is safe for concurrent use. Errors carry a kind: Transient when the broker is away or did not
// confirm (the message may be there or not: publish it again), Permanent when no repetition helps.
type Queue interface {
	// Orders gives orders to handle until ctx ends, and then nil. Up to prefetch calls run at once, and no more orders than that are
	// taken from others. A lost connection is made again for as long as it takes. A handler's context outlives ctx for
	// [HandleTimeout] at most, so that what it began is ended in order; Orders returns when all handlers have.
	Orders(ctx context.Context, prefetch int, handle Handler) error

	// PublishEvents sends events in their order and returns nil when all are confirmed. After an error the same events are sent again
	// from the first: a listener sees repetitions, never a gap, within a Key. An event that nobody listens to is published.
	PublishEvents(ctx context.Context, events []Message) error
	// PublishOrder returns nil when the order is safe in the queue; an order that reaches no queue is an error.
	PublishOrder(ctx context.Context, order Message) error

	DeadLetters

	// Healthy is nil when the broker is connected or was not needed yet, else what is wrong and since when.
	Healthy() error
	// Close ends all connections. Orders and publishes that run end with an error.
	Close() error
}

// DeadLetters are the orders that were refused, kept for an operator.
type DeadLetters interface {
	// Dead lists up to limit dead letters, oldest first.
	Dead(ctx context.Context, limit int) ([]DeadLetter, error)
	// RequeueDead sends a dead letter's body to the orders again and then removes it. ErrNotFound (wrapped) when there is none.
	RequeueDead(ctx context.Context, id string) error
	// DropDead removes a dead letter for good. ErrNotFound (wrapped) when there is none.
	DropDead(ctx context.Context, id string) error
}

// HandleTimeout is how long a handler may take for one order. It is far below the 30 minutes after which RabbitMQ gives an order that was
// not acknowledged to another, and below an embedded lease.
const HandleTimeout = 30 * time.Second

// MaxDelay bounds the delay of Requeue for the same reason.
const MaxDelay = 5 * time.Minute

// Handler decides what becomes of one order. Its context ends after HandleTimeout.
type Handler func(ctx context.Context, d Delivery) Verdict

// Delivery is one order as it came; everything in it is foreign.
type Delivery struct {
	Body        []byte
	ContentType string
	Headers     map[string]string // those whose value is text
	Redelivered bool              // it may have been handled before
}

// Message is what is published.
type Message struct {
	ID   string // the CloudEvents id
	Type string // the CloudEvents type; an event's routing key
	// Key orders events: of those with the same key each is confirmed before the next is sent. For an event it is the machine's id.
	// Events with an empty key have no order among themselves.
	Key         string
	ContentType string
	Headers     map[string]string
	Body        []byte
}

// DeadLetter is an order that was refused.
type DeadLetter struct {
	ID          string // ours; names it for requeue and drop
	Reason      string
	At          time.Time // zero when whoever put it there did not say
	Body        []byte
	ContentType string
	Headers     map[string]string
}

// Headers that a dead letter carries on the wire.
const (
	HeaderReason = "x-slipway-reason"
	HeaderDeadID = "x-slipway-dead-id"
	HeaderDeadAt = "x-slipway-dead-at" // RFC 3339
)

// Verdict is what becomes of an order. The zero Verdict is Requeue(0): an order is never lost by forgetting to decide.
type Verdict struct {
	outcome outcome
	delay   time.Duration
	reason  string
}

type outcome int

const (
	outcomeRequeue outcome = iota
	outcomeAck
	outcomeDead
)

// Ack: the order is committed, or was before; the queue forgets it.
func Ack() Verdict { return Verdict{outcome: outcomeAck} }

// Requeue keeps the order for later; it holds its place among the prefetched ones during the delay, so that a worker whose database is away
// takes in nothing more. The delay is cut to MaxDelay.
func Requeue(after time.Duration) Verdict {
	return Verdict{delay: min(max(after, 0), MaxDelay)}
}

// Dead lays the order aside for an operator, with the reason.
func Dead(reason string) Verdict { return Verdict{outcome: outcomeDead, reason: CleanReason(reason)} }

// Acked, Delay and DeadReason read a verdict; they are for backends.

// Acked reports an Ack.
func (v Verdict) Acked() bool { return v.outcome == outcomeAck }

// Delay is a Requeue's.
func (v Verdict) Delay() (time.Duration, bool) { return v.delay, v.outcome == outcomeRequeue }

// DeadReason is a Dead's.
func (v Verdict) DeadReason() (string, bool) { return v.reason, v.outcome == outcomeDead }

func (v Verdict) String() string {
	switch v.outcome {
	case outcomeAck:
		return "ack"
	case outcomeDead:
		return "dead: " + v.reason
	default:
		return "requeue after " + v.delay.String()
	}
}
