package queuelog_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/store"
	"slipway/store/queuelog"
	"slipway/workers/queue"
	"slipway/workers/queue/embedded"
	"slipway/workers/queue/queuetest"
)

func TestMain(m *testing.M) { testserver.Main(m) }

// databases make a migrated, empty database and return its name.
var databases = map[string]func(testing.TB) string{
	"sqlite":   func(tb testing.TB) string { return migrated(tb, "sqlite:"+filepath.Join(tb.TempDir(), "a.sqlite")) },
	"postgres": func(tb testing.TB) string { return migrated(tb, testserver.PostgreSQL(tb)+"&pool_max_conns=4") },
}

func migrated(tb testing.TB, dsn string) string {
	tb.Helper()
	name, _, _ := strings.Cut(dsn, "&pool_max_conns")
	if err := store.Migrate(tb.Context(), name); err != nil {
		tb.Fatal(err)
	}
	return dsn
}

// open opens the queue as another process would.
func open(tb testing.TB, dsn string) embedded.Log {
	tb.Helper()
	s, err := store.Open(tb.Context(), dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	kept, ok := queuelog.For(s)
	if !ok {
		tb.Fatalf("%T keeps no queue", s)
	}
	return kept
}

// each runs a test on every database.
func each(t *testing.T, test func(t *testing.T, dsn string)) {
	for name, create := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, create(t))
		})
	}
}

func TestSuite(t *testing.T) {
	for name, create := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			queuetest.Run(t, func(tb testing.TB) queuetest.Harness {
				dsn := create(tb)
				return queuetest.Harness{
					Open: func(tb testing.TB) queue.Queue { // each with a store of its own, as processes have
						return embedded.New(embedded.Config{Log: open(tb, dsn), Poll: 10 * time.Millisecond, Lease: 4 * time.Second})
					},
					Listen: func(tb testing.TB) func(context.Context) (queue.Message, error) { return listen(tb, open(tb, dsn)) },
				}
			})
		})
	}
}

func listen(tb testing.TB, kept embedded.Log) func(context.Context) (queue.Message, error) {
	tb.Helper()
	_, cursor, err := kept.EventsAfter(tb.Context(), 0, 1<<30)
	if err != nil {
		tb.Fatal(err)
	}
	return func(ctx context.Context) (queue.Message, error) {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			events, next, err := kept.EventsAfter(ctx, cursor, 1)
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
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func TestForeignStore(t *testing.T) {
	if kept, ok := queuelog.For(struct{ orchestrator.Store }{}); ok || kept != nil {
		t.Errorf("%v, %v", kept, ok)
	}
}

// lease takes one order that must be there.
func lease(tb testing.TB, kept embedded.Log, length time.Duration) embedded.Leased {
	tb.Helper()
	leased, err := kept.LeaseOrders(tb.Context(), 1, length)
	must(tb, err)
	if len(leased) != 1 {
		tb.Fatalf("%d orders", len(leased))
	}
	return leased[0]
}

func TestALeaseThatRanOutAnswersNothing(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		kept := open(t, dsn)
		must(t, kept.AppendOrder(t.Context(), queue.Message{ID: "1"}))
		first := lease(t, kept, 0) // over at once
		second := lease(t, open(t, dsn), time.Hour)
		if first.Redelivered || !second.Redelivered {
			t.Errorf("%+v, then %+v", first, second)
		}
		for name, answer := range map[string]func(embedded.Lease) error{
			"ack":    func(l embedded.Lease) error { return kept.AckOrder(t.Context(), l) },
			"return": func(l embedded.Lease) error { return kept.ReturnOrder(t.Context(), l, 0) },
			"bury":   func(l embedded.Lease) error { return kept.BuryOrder(t.Context(), l, "late") },
		} {
			if err := answer(first.Lease); !errors.Is(err, orchestrator.ErrFenced) || orchestrator.KindOf(err) != orchestrator.Conflict {
				t.Errorf("%s by a holder of yesterday: %v", name, err)
			}
		}
		letters, err := kept.Dead(t.Context(), 10)
		if err != nil || len(letters) != 0 {
			t.Errorf("what was refused is done by half: %+v, %v", letters, err)
		}
		must(t, kept.ReturnOrder(t.Context(), second.Lease, 0))
		if err := kept.AckOrder(t.Context(), second.Lease); !errors.Is(err, orchestrator.ErrFenced) {
			t.Errorf("after it was given back: %v", err)
		}
		third := lease(t, kept, time.Hour)
		must(t, kept.AckOrder(t.Context(), third.Lease))
		if left, err := kept.LeaseOrders(t.Context(), 1, time.Hour); err != nil || len(left) != 0 {
			t.Errorf("%+v, %v", left, err)
		}
	})
}

func TestEveryOrderIsHandedOutOnce(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		const processes, orders = 4, 60
		var mu sync.Mutex
		taken := map[string]int{}
		var all sync.WaitGroup
		for p := range processes {
			kept := open(t, dsn)
			all.Go(func() {
				for n := range orders / processes {
					if err := kept.AppendOrder(t.Context(), queue.Message{ID: fmt.Sprintf("%d-%d", p, n)}); err != nil {
						t.Error(err)
					}
					leased, err := kept.LeaseOrders(t.Context(), 3, time.Hour)
					if err != nil || len(leased) > 3 {
						t.Errorf("%d orders, %v", len(leased), err)
					}
					mu.Lock()
					for _, o := range leased {
						taken[o.Message.ID]++
					}
					mu.Unlock()
				}
			})
		}
		all.Wait()
		rest, err := open(t, dsn).LeaseOrders(t.Context(), orders, time.Hour)
		must(t, err)
		for i, o := range rest {
			taken[o.Message.ID]++
			if i > 0 && rest[i-1].Order >= o.Order {
				t.Errorf("order %d comes before %d", rest[i-1].Order, o.Order)
			}
		}
		if len(taken) != orders {
			t.Errorf("%d of %d orders were handed out", len(taken), orders)
		}
		for id, n := range taken {
			if n != 1 {
				t.Errorf("order %s was handed out %d times", id, n)
			}
		}
	})
}

func TestMessagesSurvive(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		messages := []queue.Message{
			{ID: "1", Type: "slipway.order.install", Key: "m", ContentType: "application/json", Headers: map[string]string{"a": "ü\x00"}, Body: []byte("\x00\xff\n")},
			{ID: "2"},
		}
		before := open(t, dsn)
		must(t, before.AppendEvents(t.Context(), messages))
		for _, m := range messages {
			must(t, before.AppendOrder(t.Context(), m))
		}
		must(t, before.BuryOrder(t.Context(), lease(t, before, time.Hour).Lease, "name: is wrong"))

		after := open(t, dsn)
		got, next, err := after.EventsAfter(t.Context(), 0, 10)
		must(t, err)
		if diff := cmp.Diff(messages, got, cmpopts.EquateEmpty()); diff != "" || next != 2 {
			t.Errorf("events up to %d:\n%s", next, diff)
		}
		letters, err := after.Dead(t.Context(), 10)
		must(t, err)
		if len(letters) != 1 || string(letters[0].Body) != string(messages[0].Body) || time.Since(letters[0].At).Abs() > time.Minute {
			t.Fatalf("dead letters %+v", letters)
		}
		if o := lease(t, after, time.Hour); o.Message.ID != "2" || len(o.Message.Body) != 0 {
			t.Errorf("%+v", o)
		}
		must(t, after.RequeueDead(t.Context(), letters[0].ID))
		if o := lease(t, before, time.Hour); o.Message.ID != "1" || o.Redelivered {
			t.Errorf("sent again: %+v", o)
		}
		for _, id := range []string{letters[0].ID, "x", "", "-1"} {
			if err := after.DropDead(t.Context(), id); !errors.Is(err, orchestrator.ErrNotFound) || orchestrator.KindOf(err) != orchestrator.Permanent {
				t.Errorf("%q: %v", id, err)
			}
		}
	})
}

func TestOldEventsAreForgotten(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		kept := open(t, dsn)
		queuelog.Keep(kept, 5)
		for n := range 4 {
			must(t, kept.AppendEvents(t.Context(), []queue.Message{{ID: fmt.Sprint(3 * n)}, {ID: fmt.Sprint(3*n + 1)}, {ID: fmt.Sprint(3*n + 2)}}))
		}
		must(t, kept.AppendEvents(t.Context(), nil))
		for cursor, want := range map[int64][]string{0: {"7", "8", "9"}, 10: {"10", "11"}, 12: nil, -1: {"7", "8", "9"}} {
			events, next, err := kept.EventsAfter(t.Context(), cursor, 3)
			must(t, err)
			var got []string
			for _, e := range events {
				got = append(got, e.ID)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("after %d:\n%s", cursor, diff)
			}
			if want := map[int64]int64{0: 10, 10: 12, 12: 12, -1: 10}[cursor]; next != want {
				t.Errorf("after %d comes %d, want %d", cursor, next, want)
			}
		}
	})
}

// TestAListenerMissesNothing reads while several processes append: nobody commits an event behind the reader.
func TestAListenerMissesNothing(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		const processes, rounds, batch = 4, 12, 5
		var all sync.WaitGroup
		for p := range processes {
			kept := open(t, dsn)
			all.Go(func() {
				for n := range rounds {
					var events []queue.Message
					for i := range batch {
						events = append(events, queue.Message{ID: fmt.Sprint(n*batch + i), Key: fmt.Sprint(p)})
					}
					if err := kept.AppendEvents(t.Context(), events); err != nil {
						t.Error(err)
					}
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		seen := map[string]int{}
		reader, cursor := open(t, dsn), int64(0)
		for total := 0; total < processes*rounds*batch; {
			events, after, err := reader.EventsAfter(ctx, cursor, 7)
			must(t, err)
			for _, e := range events {
				if e.ID != fmt.Sprint(seen[e.Key]) {
					t.Fatalf("process %s: event %s comes where %d was expected", e.Key, e.ID, seen[e.Key])
				}
				seen[e.Key]++
			}
			total, cursor = total+len(events), after
		}
		all.Wait()
	})
}

func TestTheDatabaseGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	server := testserver.NewPostgreSQL(t)
	kept := open(t, migrated(t, server.DSN(t)))
	must(t, kept.AppendOrder(t.Context(), queue.Message{ID: "1"}))
	held := lease(t, kept, time.Hour)
	server.Stop(t)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, leaseErr := kept.LeaseOrders(ctx, 1, time.Minute)
	_, _, eventsErr := kept.EventsAfter(ctx, 0, 1)
	_, deadErr := kept.Dead(ctx, 1)
	for what, err := range map[string]error{
		"append an order": kept.AppendOrder(ctx, queue.Message{ID: "2"}), "lease": leaseErr, "ack": kept.AckOrder(ctx, held.Lease),
		"return": kept.ReturnOrder(ctx, held.Lease, 0), "bury": kept.BuryOrder(ctx, held.Lease, "x"), "append events": kept.AppendEvents(ctx, []queue.Message{{ID: "e"}}),
		"read events": eventsErr, "dead letters": deadErr, "requeue": kept.RequeueDead(ctx, "1"), "drop": kept.DropDead(ctx, "1"),
	} {
		if !errors.Is(err, orchestrator.ErrStoreAway) || orchestrator.KindOf(err) != orchestrator.Transient {
			t.Errorf("%s: kind %q: %v", what, orchestrator.KindOf(err), err)
		}
	}

	server.Start(t)
	must(t, kept.AckOrder(t.Context(), held.Lease)) // the lease has outlived the server
}
