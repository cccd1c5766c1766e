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

// A standby is refused until it is promoted; with both servers in the address a running store follows the promotion, also when no connection was
// cut, and nothing that was acknowledged is lost or doubled.
func TestFailover(t *testing.T) {
	for name, retire := range map[string]func(*testing.T, *testserver.Database){
		"dies": func(t *testing.T, primary *testserver.Database) { primary.Kill9(t) },
		"retires": func(t *testing.T, primary *testserver.Database) {
			primary.Exec(t, `ALTER SYSTEM SET default_transaction_read_only = on`)
			primary.Exec(t, `SELECT pg_reload_conf()`)
			t.Cleanup(func() { primary.Kill9(t) }) // its databases go with it
		},
	} {
		t.Run(name, func(t *testing.T) { failover(t, retire) })
	}
}

func failover(t *testing.T, retire func(*testing.T, *testserver.Database)) {
	primary := testserver.NewPostgreSQL(t)
	dsn := primary.DSN(t)
	must(t, postgres.Migrate(t.Context(), dsn))
	standby := primary.Standby(t)
	primary.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = '*'`)
	primary.Exec(t, `SELECT pg_reload_conf()`)
	alone := strings.Replace(dsn, primary.Address(), standby.Address(), 1)
	both := strings.Replace(dsn, primary.Address(), primary.Address()+","+standby.Address(), 1) + "&pool_max_conns=4"

	_, err := postgres.Open(t.Context(), alone)
	isAway(t, err, "the server is read-only: a standby")
	s := opened(t, both)
	acceptAll(t, s, 0, 5)
	retire(t, primary)
	acknowledged := 10
	for n, err := 1000, error(nil); err == nil && n < 2000; n++ {
		if _, err = s.Accept(t.Context(), storetest.Install(n, time.Now())); err == nil {
			acknowledged++ // it has not heard yet
		}
	}
	poll(t, "readiness to say so", func() bool {
		err := s.Ping(t.Context())
		return err != nil && strings.Contains(err.Error(), "read-only")
	})
	standby.Exec(t, `ALTER SYSTEM RESET synchronous_standby_names`) // nobody follows it
	standby.Promote(t)
	acceptAll(t, s, 5, 10)
	d := database{alone + "&pool_max_conns=4"}
	all, err := d.Value(t.Context(), `SELECT count(*) FROM orders`)
	must(t, err)
	if n := int(all) - acknowledged; n < 0 || n > 1 { // one may have been committed without an answer
		t.Errorf("%d orders are there, %d were acknowledged", all, acknowledged)
	}
	eachOnce(t, d, int(all))
}

// Transactions that the server breaks off are made again, with a bound.
func TestTransactionsAreRepeated(t *testing.T) {
	const repetitions = 8
	d := newDatabase(t)
	s := opened(t, d.dsn)
	must(t, d.Exec(t.Context(), `CREATE SEQUENCE tries; CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
		CREATE TRIGGER fail BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION fail()`))
	taken := 0
	for _, tt := range []struct {
		name, code string
		fails      int
	}{
		{"serialization failure", "40001", repetitions - 1},
		{"deadlock", "40P01", repetitions - 1},
		{"serialization failure without end", "40001", 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			must(t, d.Exec(t.Context(), fmt.Sprintf(`ALTER SEQUENCE tries RESTART; CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF nextval('tries') <= %d THEN RAISE EXCEPTION 'broken off' USING ERRCODE = '%s'; END IF; RETURN NEW; END $$`, tt.fails, tt.code)))
			_, err := s.Accept(t.Context(), storetest.Install(taken, time.Now()))
			tries, counted := d.Value(t.Context(), `SELECT last_value FROM tries`)
			must(t, counted)
			if tries != repetitions {
				t.Errorf("it was tried %d times", tries)
			}
			if tt.fails >= repetitions {
				isAway(t, err, "broken off")
			} else {
				must(t, err)
				taken++
			}
			eachOnce(t, d, taken)
		})
	}
}

// Where every transaction must be serializable, many that meet are broken off by the server; each order is one run all the same.
func TestSerializable(t *testing.T) {
	d := newDatabase(t)
	must(t, d.do(t.Context(), func(conn *pgx.Conn) error {
		var name string
		err := conn.QueryRow(t.Context(), `SELECT current_database()`).Scan(&name)
		if err == nil {
			_, err = conn.Exec(t.Context(), `ALTER DATABASE `+name+` SET default_transaction_isolation = 'serializable'`)
		}
		return err
	}))
	const workers, each = 4, 20
	var work sync.WaitGroup
	for w := range workers {
		s := opened(t, d.dsn)
		work.Go(func() { acceptAll(t, s, w*each, (w+1)*each) })
	}
	work.Wait()
	eachOnce(t, d, workers*each)
}

// A real deadlock: the server ends our transaction or the other one, and ours is made in any case.
func TestDeadlock(t *testing.T) {
	d := newDatabase(t)
	s := opened(t, d.dsn+"&deadlock_timeout=2s")
	acceptAll(t, s, 0, 2)
	claims, err := s.Claim(t.Context(), orchestrator.Ask{Holder: "a", Limit: 2, Lease: time.Minute})
	if err != nil || len(claims) != 2 {
		t.Fatalf("%d claims, %v", len(claims), err)
	}
	for range 10 { // who is ended is for the server to choose
		other, err := pgx.Connect(t.Context(), strings.TrimSuffix(d.dsn, "&pool_max_conns=4"))
		must(t, err)
		step := func(sql string, args ...any) error {
			_, err := other.Exec(t.Context(), sql, args...)
			return err
		}
		must(t, step(`SET deadlock_timeout = '10s'`))
		must(t, step(`BEGIN`))
		must(t, step(`SELECT 1 FROM runs WHERE id = $1 FOR UPDATE`, claims[1].Run.ID))
		committed := make(chan []orchestrator.CommitResult, 1)
		go func() {
			committed <- s.Commit(context.WithoutCancel(t.Context()), []orchestrator.Commit{{Run: claims[0].Run}, {Run: claims[1].Run}})
		}()
		poll(t, "our transaction to wait for the other", func() bool {
			n, err := d.Value(t.Context(), `SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted AND application_name = 'slipway'`)
			return err == nil && n > 0
		})
		ended := step(`SELECT 1 FROM runs WHERE id = $1 FOR UPDATE`, claims[0].Run.ID) // waits for ours, and has ours ended
		must(t, other.Close(t.Context()))                                              // rolls back
		for _, result := range <-committed {
			must(t, result.Err)
		}
		if ended == nil {
			return // ours was the one, and has been made again
		}
	}
	t.Error("our transaction was never the one that the server ended")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A lock that somebody keeps: with a bound of the server's (lock_timeout), or with the call's own.
func TestLockIsKept(t *testing.T) {
	d := newDatabase(t)
	patient, hasty := opened(t, d.dsn), opened(t, d.dsn+"&lock_timeout=100ms")
	acceptAll(t, patient, 0, 1)
	must(t, d.do(t.Context(), func(conn *pgx.Conn) error {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			return err
		}
		if _, err := tx.Exec(t.Context(), `LOCK TABLE orders IN ACCESS EXCLUSIVE MODE`); err != nil {
			return err
		}
		a := storetest.Install(1, time.Now())
		_, err = hasty.Accept(t.Context(), a)
		isAway(t, err, "lock timeout")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = patient.Accept(ctx, a)
		isAway(t, err)
		return tx.Rollback(t.Context())
	}))
	acceptAll(t, hasty, 1, 2)
	acceptAll(t, patient, 2, 3)
	eachOnce(t, d, 3)
}

// A server that has no connection left for us is one that is away.
func TestTooManyConnections(t *testing.T) {
	d := newDatabase(t)
	role := fmt.Sprintf("few_%d", time.Now().UnixNano())
	var name string
	must(t, d.do(t.Context(), func(conn *pgx.Conn) error {
		return conn.QueryRow(t.Context(), `SELECT current_database()`).Scan(&name)
	}))
	must(t, d.Exec(t.Context(), `CREATE ROLE `+role+` LOGIN CONNECTION LIMIT 1`))
	must(t, d.Exec(t.Context(), `GRANT ALL ON ALL TABLES IN SCHEMA public TO `+role+`; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO `+role))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		must(t, d.Exec(ctx, `DROP OWNED BY `+role+`; DROP ROLE `+role))
	})
	few := strings.Replace(d.dsn, "postgres@", role+"@", 1)
	plain := strings.TrimSuffix(few, "&pool_max_conns=4")
	occupant, err := pgx.Connect(t.Context(), plain)
	must(t, err)
	_, err = postgres.Open(t.Context(), few)
	isAway(t, err, "too many connections")
	must(t, occupant.Close(t.Context()))

	var s *sqlstore.Store
	poll(t, "the place to be free", func() bool {
		var err error
		s, err = postgres.Open(t.Context(), plain+"&pool_max_conns=1")
		return err == nil
	})
	t.Cleanup(func() { _ = s.Close() })
	acceptAll(t, s, 0, 1)
	poll(t, "somebody else to have our place", func() bool {
		must(t, d.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '`+role+`'`))
		occupant, err = pgx.Connect(t.Context(), plain)
		return err == nil
	})
	_, err = s.Accept(t.Context(), storetest.Install(1, time.Now()))
	isAway(t, err)
	_, err = s.Accept(t.Context(), storetest.Install(1, time.Now()))
	isAway(t, err, "too many connections")
	must(t, occupant.Close(t.Context()))
	acceptAll(t, s, 1, 2)
	eachOnce(t, d, 2)
}

// The database's disk is full: what was not written is refused, what is read is answered, and all goes on once there is room.
func TestDiskFull(t *testing.T) {
	server := testserver.NewSmallPostgreSQL(t, 24)
	d := database{server.DSN(t) + "&pool_max_conns=4"}
	must(t, postgres.Migrate(t.Context(), strings.TrimSuffix(d.dsn, "&pool_max_conns=4")))
	s := opened(t, d.dsn)
	acceptAll(t, s, 0, 1)
	must(t, d.Exec(t.Context(), `CREATE TABLE filler (bytes text)`))
	must(t, d.Exec(t.Context(), `ALTER TABLE filler ALTER bytes SET STORAGE EXTERNAL`))
	var full error
	for range 1000 {
		if full = d.Exec(t.Context(), `INSERT INTO filler SELECT repeat('x', 100000) FROM generate_series(1, 10)`); full != nil {
			break
		}
	}
	if full == nil || !strings.Contains(full.Error(), "No space left on device") {
		t.Fatalf("the disk does not get full: %v", full)
	}
	taken := 1
	var refused error
	for ; refused == nil; taken++ { // the tables' last pages have some room
		if taken == 1000 {
			t.Fatal("orders are taken on a disk that is full")
		}
		if _, refused = s.Accept(t.Context(), storetest.Install(taken, time.Now())); refused != nil {
			break
		}
	}
	isAway(t, refused, "takes no writes: its disk is full", "No space left on device")
	isAway(t, s.Ping(t.Context()), "takes no writes: its disk is full")
	isAway(t, opened(t, d.dsn).TryWrite(t.Context()), "takes no writes: its disk is full")
	if machines, err := s.Machines(t.Context()); err != nil || len(machines) != taken {
		t.Errorf("%d machines of %d orders are read: %v", len(machines), taken, err)
	}
	eachOnce(t, d, taken)
	must(t, d.Exec(t.Context(), `DROP TABLE filler`))
	must(t, s.Ping(t.Context()))
	acceptAll(t, s, taken, taken+5)
	eachOnce(t, d, taken+5)
}

// What keeps two machines from one address must be there and work, or nothing starts.
func TestSchemaIsNotWhole(t *testing.T) {
	d := newDatabase(t)
	for name, change := range map[string][2]string{ // and back
		"trigger host_room":    {`ALTER TABLE hosts DISABLE TRIGGER host_room`, `ALTER TABLE hosts ENABLE TRIGGER host_room`},
		"index run_active":     {`ALTER INDEX run_active RENAME TO x`, `ALTER INDEX x RENAME TO run_active`},
		"constraint run_lease": {`ALTER TABLE runs RENAME CONSTRAINT run_lease TO x`, `ALTER TABLE runs RENAME CONSTRAINT x TO run_lease`},
		"table pools":          {`ALTER TABLE pools RENAME TO x`, `ALTER TABLE x RENAME TO pools`},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, d.Exec(t.Context(), change[0]))
			_, err := postgres.Open(t.Context(), d.dsn)
			if orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), "lacks "+name+";") {
				t.Errorf("answered %v", err)
			}
			must(t, d.Exec(t.Context(), change[1]))
		})
	}
	opened(t, d.dsn)
}

// A schema that a newer version has made is told from a server that is away.
func TestSchemaIsNewer(t *testing.T) {
	d := newDatabase(t)
	must(t, d.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`))
	for name, err := range map[string]error{
		"open":    func() error { _, err := postgres.Open(t.Context(), d.dsn); return err }(),
		"migrate": postgres.Migrate(t.Context(), strings.TrimSuffix(d.dsn, "&pool_max_conns=4")),
	} {
		if orchestrator.KindOf(err) != orchestrator.Permanent || errors.Is(err, orchestrator.ErrStoreAway) || !strings.Contains(err.Error(), "run a newer slipway") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
