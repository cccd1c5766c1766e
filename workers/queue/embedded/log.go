package embedded

import (
	"context"
	"time"

	"slipway/workers/queue"
)

// Log is what the embedded queue is kept in. Each method is one transaction, and all are safe for concurrent use, also by several
// processes when the log is. Times are measured by the log's own clock. Errors carry a kind.
type Log interface {
	// AppendOrder adds an order at the end.
	AppendOrder(ctx context.Context, order queue.Message) error
	// LeaseOrders hands out up to limit orders that nobody holds and whose delay is over, oldest first, for the given length; after
	// that they are handed out again. Each lease has a new token.
	LeaseOrders(ctx context.Context, limit int, length time.Duration) ([]Leased, error)
	// AckOrder removes a leased order.
	AckOrder(ctx context.Context, lease Lease) error
	// ReturnOrder ends a lease early; the order is handed out again after the delay.
	ReturnOrder(ctx context.Context, lease Lease, after time.Duration) error
	// BuryOrder makes a leased order a dead letter.
	BuryOrder(ctx context.Context, lease Lease, reason string) error

	// AppendEvents adds events at the end of what listeners read, all or none.
	AppendEvents(ctx context.Context, events []queue.Message) error
	// EventsAfter returns up to limit events that were appended after the cursor, and the cursor of the last one; the cursor 0 is the
	// beginning. A log may forget old events.
	EventsAfter(ctx context.Context, cursor int64, limit int) (events []queue.Message, next int64, err error)

	queue.DeadLetters
}

// Lease names a leased order. The verbs on a lease that ran out and was given to somebody else fail with ErrFenced (wrapped).
type Lease struct {
	Order int64
	Token int64
}

// Leased is an order in our hands.
type Leased struct {
	Lease
	Message     queue.Message
	Redelivered bool
}
