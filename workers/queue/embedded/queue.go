// Package embedded is the queue without a broker: orders, events and dead letters live in a [Log], which is the process's memory or the
// store. A demo and a small site need no more.
package embedded

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"slipway/orchestrator"
	"slipway/workers/queue"
)

// Config says where the queue is kept.
type Config struct {
	Log    Log           // required
	Logger *slog.Logger  // nil discards
	Poll   time.Duration // how often the log is asked for orders that another process put there; 0 is 500 ms
	// Lease is how long an order is ours without a verdict; 0 is two minutes. It is longer than [queue.HandleTimeout].
	Lease time.Duration
}

const answerTimeout = 10 * time.Second // one verdict's transaction

// Queue is a Log as a [queue.Queue].
type Queue struct {
	config Config
	nudge  chan struct{} // an order was put in by this process
	closed chan struct{}
	once   sync.Once

	mu     sync.Mutex
	failed error
	since  time.Time
}

var (
	_         queue.Queue = (*Queue)(nil)
	errClosed             = errors.New("the queue is closed")
)

// New makes a queue on a log. Close it.
func New(config Config) *Queue {
	if config.Poll <= 0 {
		config.Poll = 500 * time.Millisecond
	}
	if config.Lease <= 0 {
		config.Lease = 2 * time.Minute
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Queue{config: config, nudge: make(chan struct{}, 1), closed: make(chan struct{})}
}

// Orders implements [queue.Queue].
func (q *Queue) Orders(ctx context.Context, prefetch int, handle queue.Handler) error {
	const op = "embedded.Orders"
	if prefetch < 1 {
		return orchestrator.Errorf(op, orchestrator.Permanent, "prefetch %d is out of range: use 1 or more", prefetch)
	}
	var handlers sync.WaitGroup
	defer handlers.Wait()
	free := make(chan struct{}, prefetch) // one token per order that we may hold
	for range prefetch {
		free <- struct{}{}
	}
	tick := time.NewTicker(q.config.Poll)
	defer tick.Stop()
	for {
		if ctx.Err() != nil {
			return nil
		}
		taken := take(free)
		leased, err := q.lease(ctx, taken)
		if ctx.Err() == nil { // else the error says that we end, not that the log is away
			q.note(err)
		}
		for range taken - len(leased) {
			free <- struct{}{}
		}
		for _, l := range leased {
			handlers.Go(func() {
				wait(ctx, q.serve(ctx, l, handle))
				free <- struct{}{}
				q.wake()
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-q.closed:
			return orchestrator.E(op, orchestrator.Transient, errClosed)
		case <-q.nudge:
		case <-tick.C:
		}
	}
}

// take takes all tokens that are there.
func take(free chan struct{}) int {
	n := 0
	for {
		select {
		case <-free:
			n++
		default:
			return n
		}
	}
}

func (q *Queue) lease(ctx context.Context, limit int) ([]Leased, error) {
	if limit == 0 {
		return nil, nil
	}
	return q.config.Log.LeaseOrders(ctx, limit, q.config.Lease)
}

// serve lets the handler decide about one order and does it. The order's place stays taken for the time that it returns.
func (q *Queue) serve(ctx context.Context, l Leased, handle queue.Handler) time.Duration {
	verdict := q.judge(ctx, l, handle)
	delay, again := verdict.Delay()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	var err error
	if reason, dead := verdict.DeadReason(); dead {
		err = q.config.Log.BuryOrder(ctx, l.Lease, reason)
	} else if again {
		err = q.config.Log.ReturnOrder(ctx, l.Lease, delay)
	} else {
		err = q.config.Log.AckOrder(ctx, l.Lease)
	}
	if err != nil {
		q.config.Logger.Debug("an order will come again: the answer about it was not kept",
			slog.String("id", l.Message.ID), slog.Any("error", err))
	}
	return delay
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

func (q *Queue) judge(ctx context.Context, l Leased, handle queue.Handler) queue.Verdict {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queue.HandleTimeout)
	defer cancel()
	return handle(ctx, queue.Delivery{
		Body: l.Message.Body, ContentType: l.Message.ContentType, Headers: l.Message.Headers, Redelivered: l.Redelivered,
	})
}

// PublishEvents implements [queue.Queue].
func (q *Queue) PublishEvents(ctx context.Context, events []queue.Message) error {
	if q.isClosed() {
		return orchestrator.E("embedded.PublishEvents", orchestrator.Transient, errClosed)
	}
	return q.config.Log.AppendEvents(ctx, events)
}

// PublishOrder implements [queue.Queue].
func (q *Queue) PublishOrder(ctx context.Context, order queue.Message) error {
	if q.isClosed() {
		return orchestrator.E("embedded.PublishOrder", orchestrator.Transient, errClosed)
	}
	if err := q.config.Log.AppendOrder(ctx, order); err != nil {
		return err
	}
	q.wake()
	return nil
}

// Dead implements [queue.DeadLetters].
func (q *Queue) Dead(ctx context.Context, limit int) ([]queue.DeadLetter, error) {
	return q.config.Log.Dead(ctx, limit)
}

// RequeueDead implements [queue.DeadLetters].
func (q *Queue) RequeueDead(ctx context.Context, id string) error {
	err := q.config.Log.RequeueDead(ctx, id)
	q.wake()
	return err
}

// DropDead implements [queue.DeadLetters].
func (q *Queue) DropDead(ctx context.Context, id string) error { return q.config.Log.DropDead(ctx, id) }

func (q *Queue) wake() {
	select {
	case q.nudge <- struct{}{}:
	default:
	}
}

func (q *Queue) note(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil && q.failed == nil {
		q.since = time.Now()
		q.config.Logger.Warn("the queue's log is away", slog.Any("error", err))
	}
	q.failed = err
}

// Healthy implements [queue.Queue].
func (q *Queue) Healthy() error {
	if q.isClosed() {
		return errClosed
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failed == nil {
		return nil
	}
	return orchestrator.Errorf("", orchestrator.Transient, "log away since %s: %w", q.since.UTC().Format(time.RFC3339), q.failed)
}

// Close ends Orders. The log is the caller's.
func (q *Queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

func (q *Queue) isClosed() bool {
	select {
	case <-q.closed:
		return true
	default:
		return false
	}
}
