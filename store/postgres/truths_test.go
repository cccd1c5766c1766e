package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/store/internal/sqlstore"
	"slipway/store/postgres"
	"slipway/store/storetest"
)

// opened is a store on a migrated database. What breaks its connections may break its end too.
func opened(t *testing.T, dsn string) *sqlstore.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// through puts a proxy before the server.
func through(t *testing.T, dsn string) (*testserver.Proxy, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	p := testserver.NewProxy(t, u.Host)
	u.Host = p.Address
	return p, u.String()
}

// isAway checks what every caller goes by: nobody knows, and it may be tried again.
func isAway(t *testing.T, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, orchestrator.ErrStoreAway) || orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("answered %v, kind %q", err, orchestrator.KindOf(err))
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in: %v", word, err)
		}
	}
}

func poll(t *testing.T, what string, fact func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// acceptAll takes orders in, each again until it is taken, as intake does when the broker delivers it again.
func acceptAll(t *testing.T, s *sqlstore.Store, from, to int) (failures int) {
	t.Helper()
	for n := from; n < to; n++ {
		a := storetest.Install(n, time.Now())
		poll(t, fmt.Sprintf("order %d to be taken", n), func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := s.Accept(ctx, a)
			if err != nil {
				failures++
				isAway(t, err)
			}
			return err == nil
		})
	}
	return failures
}

// eachOnce counts what orders have become.
func eachOnce(t *testing.T, d database, orders int) {
	t.Helper()
	for what, sql := range map[string]string{
		"orders":   `SELECT count(*) FROM orders`,
		"machines": `SELECT count(*) FROM machines`,
		"runs":     `SELECT count(*) FROM runs`,
		"numbers":  `SELECT sum(seq) FROM machines`, // one event each
	} {
		if n, err := d.Value(t.Context(), sql); err != nil || n != int64(orders) {
			t.Errorf("%d %s of %d orders (%v)", n, what, orders, err)
		}
	}
}

// Connections that are reset at any moment: what was answered is there, and what was not is there once it is answered.
func TestConnectionsAreReset(t *testing.T) {
	d := newDatabase(t)
	p, dsn := through(t, d.dsn)
	s := opened(t, dsn)
	const workers, each = 4, 40
	var work sync.WaitGroup
	var done, failed atomic.Int64
	for w := range workers {
		work.Go(func() {
			for n := range each {
				failed.Add(int64(acceptAll(t, s, w*each+n, w*each+n+1)))
				done.Add(1)
			}
		})
	}
	for cut := int64(1); cut < 8; cut++ {
		poll(t, "the work to go on", func() bool { return done.Load() >= cut*workers*each/8 })
		p.Cut()
	}
	work.Wait()
	if failed.Load() == 0 {
		t.Error("no call met a connection that was cut")
	}
	eachOnce(t, d, workers*each)
}

// A connection that goes silent with both ends open: a call ends with its own time, and the next finds another connection soon.
func TestHalfOpenConnection(t *testing.T) {
	d := newDatabase(t)
	p, dsn := through(t, d.dsn)
	s := opened(t, dsn)
	acceptAll(t, s, 0, 1)
	p.Silence(testserver.BothWays)
	p.Mend() // for those to come
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := s.Accept(ctx, storetest.Install(1, time.Now()))
	isAway(t, err)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the call ended after %s", took)
	}
	acceptAll(t, s, 1, 2)
	eachOnce(t, d, 2)
}

// The connection is cut between a commit and its answer: what was committed is found, and never made again.
func TestUnknownCommit(t *testing.T) {
	d := newDatabase(t)
	p, dsn := through(t, strings.Replace(d.dsn, "pool_max_conns=4", "pool_max_conns=1", 1))
	s := opened(t, dsn)
	acceptAll(t, s, 0, 1)

	t.Run("order", func(t *testing.T) {
		now := time.Now()
		a := storetest.Install(1, now)
		p.LoseAnswer(func(answer []byte) bool { return bytes.Contains(answer, []byte("COMMIT\x00")) })
		_, err := s.Accept(t.Context(), a)
		isAway(t, err)
		if p.LostAnswers() != 1 {
			t.Fatal("no answer was lost")
		}
		again := storetest.Install(1, now) // the message comes again, and is taken for another machine's
		answer, err := s.Accept(t.Context(), again)
		if err != nil || !answer.Repeated || answer.Run != a.Run.ID || answer.Machine != a.Machine.ID {
			t.Errorf("the order again: %+v, %v; its run is %s", answer, err, a.Run.ID)
		}
		eachOnce(t, d, 2)
	})
	t.Run("step", func(t *testing.T) {
		claim := func(holder string) orchestrator.Claim {
			t.Helper()
			claims, err := s.Claim(t.Context(), orchestrator.Ask{Holder: holder, Limit: 1, Lease: time.Minute})
			if err != nil || len(claims) != 1 {
				t.Fatalf("claimed %d, %v", len(claims), err)
			}
			return claims[0]
		}
		next := func(c orchestrator.Claim) orchestrator.Commit {
			run := c.Run
			run.State, run.Step, run.Attempt = "placed", "create_machine", 2
			return orchestrator.Commit{Run: run, Opened: &orchestrator.Attempt{Step: "create_machine", Outcome: orchestrator.OutcomeOpen},
				Events: []orchestrator.Event{orchestrator.NewEvent(orchestrator.EventStepDone, time.Now(), orchestrator.EventData{Run: run.ID, Machine: run.Machine})}}
		}
		c := claim("a")
		// The answer to a batch of statements ends with: ready, and in no transaction.
		p.LoseAnswer(func(answer []byte) bool {
			return bytes.Contains(answer, []byte("UPDATE 1\x00")) && bytes.HasSuffix(answer, []byte("Z\x00\x00\x00\x05I"))
		})
		isAway(t, s.Commit(t.Context(), []orchestrator.Commit{next(c)})[0].Err)
		if p.LostAnswers() != 2 {
			t.Fatal("no answer was lost")
		}
		// The lease runs out, and whoever takes the run next finds the step committed, and its attempt open.
		if err := d.Exec(t.Context(), `UPDATE runs SET lease_until = 1 WHERE holder = 'a'`); err != nil {
			t.Fatal(err)
		}
		taken, err := s.ClaimRun(t.Context(), c.Run.ID, "b", time.Minute)
		if err != nil || taken.Run.Step != "create_machine" || taken.Run.Attempt != 2 || taken.Open == nil || taken.Open.Step != "create_machine" {
			t.Fatalf("taken %+v, %v", taken, err)
		}
		// The first holder, which does not know, changes nothing more.
		if err := s.Commit(t.Context(), []orchestrator.Commit{next(c)})[0].Err; !errors.Is(err, orchestrator.ErrFenced) {
			t.Errorf("the first holder again: %v", err)
		}
		if n, err := d.Value(t.Context(), `SELECT count(*) FROM outbox WHERE type = '`+orchestrator.EventStepDone+`'`); err != nil || n != 1 {
			t.Errorf("%d events, %v", n, err)
		}
	})
}

// A server that takes no changes is refused at the start, said by readiness, and left for good as soon as one is met.
func TestReadOnlyServer(t *testing.T) {
	d := newDatabase(t)
	s := opened(t, d.dsn)
	acceptAll(t, s, 0, 1)
	set := func(value string) {
		t.Helper()
		err := d.do(t.Context(), func(conn *pgx.Conn) error {
			var name string
			err := conn.QueryRow(t.Context(), `SELECT current_database()`).Scan(&name)
			for _, sql := range []string{`SET default_transaction_read_only = off`, `ALTER DATABASE ` + name + ` SET default_transaction_read_only = ` + value} {
				if err == nil {
					_, err = conn.Exec(t.Context(), sql)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	set("on")
	const hint = "the server is read-only: a standby"
	_, err := postgres.Open(t.Context(), d.dsn)
	isAway(t, err, hint, "name the primary")
	err = postgres.Migrate(t.Context(), d.dsn[:strings.LastIndex(d.dsn, "&")])
	isAway(t, err, hint)
	// Connections that the store has already learn of it when they begin anew, as they do when the server is made a standby.
	if err := d.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'slipway'`); err != nil {
		t.Fatal(err)
	}
	poll(t, "readiness to say so", func() bool {
		err := s.Ping(t.Context())
		return err != nil && strings.Contains(err.Error(), hint)
	})
	_, err = s.Accept(t.Context(), storetest.Install(1, time.Now()))
	isAway(t, err, hint)
	set("off")
	acceptAll(t, s, 1, 2)
	eachOnce(t, d, 2)
}
