// Package outbox publishes committed events. One worker at a time holds the lease for it, so that each machine's events leave in the order
// of their seq, also with several workers: after a change of holder some may be sent again, none is missing, and the first copy of each
// is in order.
package outbox

import (
	"context"
	"log/slog"
	"time"

	"slipway/orchestrator"
)

// leaseName in the store.
const leaseName = "outbox"

// batch is how many events are read and published at once, as long as that goes well.
const batch = 200

// Config is what a Publisher needs.
type Config struct {
	Store interface {
		orchestrator.Outbox
		AcquireLease(ctx context.Context, name, holder string, length time.Duration) (orchestrator.Lease, bool, error)
		ReleaseLease(ctx context.Context, name, holder string) error
	}
	// Publish sends events in their order and returns when all are confirmed.
	Publish func(context.Context, []orchestrator.Event) error
	// Parked, when set, hears of every run that parks and of every halt of the guard, once the event is published, like everybody at least once; it must not block.
	Parked func(orchestrator.Event)
	Holder string
	Log    *slog.Logger
	Lease  time.Duration // default 15 s
	Poll   time.Duration // default 250 ms
}

// Publisher publishes until its context ends.
type Publisher struct {
	Config
	nudge chan struct{}
	// size of the next batch: halved when one fails, doubled when one is through, so that a broker too slow for a whole batch within the
	// lease is not given the same one for ever. Once's own.
	size int
}

// New makes a Publisher.
func New(c Config) *Publisher {
	if c.Lease == 0 {
		c.Lease = 15 * time.Second
	}
	if c.Poll == 0 {
		c.Poll = 250 * time.Millisecond
	}
	return &Publisher{Config: c, nudge: make(chan struct{}, 1), size: batch}
}

// Nudge makes it look now.
func (p *Publisher) Nudge() {
	select {
	case p.nudge <- struct{}{}:
	default:
	}
}

// Run publishes until the context ends, and gives the lease back.
func (p *Publisher) Run(ctx context.Context) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := p.Store.ReleaseLease(ctx, leaseName, p.Holder); err != nil {
			p.Log.Debug("outbox lease not given back, it runs out by itself", "error", err)
		}
	}()
	wait := time.NewTimer(0)
	defer wait.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.nudge:
		case <-wait.C:
		}
		more, err := p.Once(ctx)
		pause := p.Poll
		switch {
		case err != nil && ctx.Err() == nil:
			failures++
			pause = min(p.Poll<<min(failures, 7), 30*time.Second)
			p.Log.Warn("publish events", "error", err, "again_in", pause)
		case more:
			failures, pause = 0, time.Millisecond
		default:
			failures = 0
		}
		wait.Stop()
		wait.Reset(pause)
	}
}

// Once publishes one batch; more means that there may be another. Run calls it again and again; only who has a scheduler of his own calls it.
func (p *Publisher) Once(ctx context.Context) (more bool, err error) {
	events, err := p.Store.Unpublished(ctx, 1)
	if err != nil || len(events) == 0 {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.Lease/2) // beyond it another holder may begin
	defer cancel()
	_, ours, err := p.Store.AcquireLease(ctx, leaseName, p.Holder, p.Lease)
	if err != nil || !ours {
		return false, err
	}
	if events, err = p.Store.Unpublished(ctx, p.size); err != nil || len(events) == 0 {
		return false, err
	}
	if err := p.Publish(ctx, events); err != nil {
		p.size = max(1, p.size/2)
		return false, err
	}
	asked := p.size
	p.size = min(batch, 2*p.size)
	ids := make([]int64, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	if p.Parked != nil { // before the mark: a worker that dies in between leaves it to the next one
		for _, e := range events {
			if e.Type == orchestrator.EventParked || e.Type == orchestrator.EventHalted {
				p.Parked(e)
			}
		}
	}
	if err := p.Store.MarkPublished(ctx, ids); err != nil {
		return false, err
	}
	return len(events) == asked, nil
}
