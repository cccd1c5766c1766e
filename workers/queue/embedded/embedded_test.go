package embedded_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"slipway/orchestrator"
	"slipway/workers/queue"
	"slipway/workers/queue/embedded"
	"slipway/workers/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSuite(t *testing.T) {
	queuetest.Run(t, func(testing.TB) queuetest.Harness {
		log := new(embedded.Memory)
		return queuetest.Harness{
			Open: func(testing.TB) queue.Queue {
				return embedded.New(embedded.Config{Log: log, Poll: 10 * time.Millisecond, Lease: time.Second})
			},
			Listen: func(tb testing.TB) func(context.Context) (queue.Message, error) {
				_, cursor, err := log.EventsAfter(tb.Context(), 0, 1<<30)
				if err != nil {
					tb.Fatal(err)
				}
				return func(ctx context.Context) (queue.Message, error) {
					tick := time.NewTicker(time.Millisecond)
					defer tick.Stop()
					for {
						events, next, err := log.EventsAfter(ctx, cursor, 1)
						if err != nil {
							return queue.Message{}, err
						}
						if cursor = next; len(events) == 1 {
							return events[0], nil
						}
						select {
						case <-ctx.Done():
							return queue.Message{}, context.Cause(ctx)
						case <-tick.C:
						}
					}
				}
			},
		}
	})
}

// brokenLog fails to lease for a while, as a store whose database is away.
type brokenLog struct {
	embedded.Memory
	broken atomic.Bool
}

func (l *brokenLog) LeaseOrders(ctx context.Context, limit int, length time.Duration) ([]embedded.Leased, error) {
	if l.broken.Load() {
		return nil, orchestrator.E("store.LeaseOrders", orchestrator.Transient, orchestrator.ErrStoreAway)
	}
	return l.Memory.LeaseOrders(ctx, limit, length)
}

func TestALogThatIsAwayIsSaidAndWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(brokenLog)
		log.broken.Store(true)
		q := embedded.New(embedded.Config{Log: log})
		if err := q.PublishOrder(t.Context(), queue.Message{ID: "1"}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		got := make(chan struct{}, 1)
		ended := make(chan error, 1)
		go func() {
			ended <- q.Orders(ctx, 1, func(context.Context, queue.Delivery) queue.Verdict {
				got <- struct{}{}
				return queue.Ack()
			})
		}()
		synctest.Wait()
		if err := q.Healthy(); !errors.Is(err, orchestrator.ErrStoreAway) {
			t.Errorf("healthy: %v", err)
		}
		log.broken.Store(false)
		<-got
		synctest.Wait()
		if err := q.Healthy(); err != nil {
			t.Errorf("the log is back, but: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestALeaseThatRanOutAnswersNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log embedded.Memory
		ctx := t.Context()
		if err := log.AppendOrder(ctx, queue.Message{ID: "1"}); err != nil {
			t.Fatal(err)
		}
		first, err := log.LeaseOrders(ctx, 1, time.Minute)
		if err != nil || len(first) != 1 {
			t.Fatal(first, err)
		}
		<-time.After(time.Minute) // by the bubble's clock
		second, err := log.LeaseOrders(ctx, 1, time.Minute)
		if err != nil || len(second) != 1 || !second[0].Redelivered {
			t.Fatal(second, err)
		}
		for name, err := range map[string]error{
			"ack":    log.AckOrder(ctx, first[0].Lease),
			"return": log.ReturnOrder(ctx, first[0].Lease, 0),
			"bury":   log.BuryOrder(ctx, first[0].Lease, "late"),
		} {
			if !errors.Is(err, orchestrator.ErrFenced) {
				t.Errorf("%s by a holder of yesterday: %v", name, err)
			}
		}
		if err := log.AckOrder(ctx, second[0].Lease); err != nil {
			t.Error(err)
		}
	})
}

// slowLog leases until its caller gives up, as a store in a transaction.
type slowLog struct {
	embedded.Memory
	asked chan struct{}
}

func (l *slowLog) LeaseOrders(ctx context.Context, _ int, _ time.Duration) ([]embedded.Leased, error) {
	close(l.asked)
	<-ctx.Done()
	return nil, orchestrator.E("store.LeaseOrders", orchestrator.Canceled, ctx.Err())
}

func TestAShutdownIsNotTheLogsFault(t *testing.T) {
	log := &slowLog{asked: make(chan struct{})}
	q := embedded.New(embedded.Config{Log: log})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- q.Orders(ctx, 1, func(context.Context, queue.Delivery) queue.Verdict { return queue.Ack() })
	}()
	<-log.asked
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := q.Healthy(); err != nil {
		t.Errorf("the log was well: %v", err)
	}
}
