// Package postgres is the store of a production installation.
//
// A commit of steps is one batch: all its statements travel together and the server runs them as one transaction, so that a durable step
// costs one round trip. Only a decision about placements needs a transaction that asks in between.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"slipway/orchestrator"
	"slipway/store/internal/schema"
	"slipway/store/internal/sqlstore"
)

var words = sqlstore.Words{
	Now:  `(CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT))`,
	Lock: `FOR UPDATE`,
	Skip: `FOR UPDATE SKIP LOCKED`,
	List: `(SELECT value FROM json_array_elements_text(CAST(CAST(%s AS TEXT) AS json)))`,
}

// ledgerLock is the advisory lock under which placements are decided; "slipway\0" in ASCII.
const ledgerLock = 0x736c697077617900

// hostnameLock is the first number of the advisory locks of hostnames; "host" in ASCII.
const hostnameLock = 0x686f7374

// connectTimeout bounds one try to connect, and pingTimeout the question whether a connection that lay idle is still one.
const (
	connectTimeout = 10 * time.Second
	pingTimeout    = 5 * time.Second
)

// errReadOnly is said of a standby, too.
var errReadOnly = errors.New("the server is read-only: a standby, or default_transaction_read_only is on; name the primary in `database`, or all " +
	"servers, of which the primary is found: postgres://USER@ONE,TWO/NAME")

// writable is asked of every new connection. With several servers in the address the driver goes on to the next.
func writable(ctx context.Context, conn *pgconn.PgConn) error {
	result := conn.ExecParams(ctx, `SHOW transaction_read_only`, nil, nil, nil, nil).Read()
	if result.Err != nil {
		return result.Err
	}
	if len(result.Rows) != 1 || string(result.Rows[0][0]) != "off" {
		return errReadOnly
	}
	return nil
}

// Open connects to a database that Migrate has prepared. It is closed by its Close.
func Open(ctx context.Context, dsn string) (*sqlstore.Store, error) {
	config, err := parse(dsn)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, orchestrator.E("store.Open", orchestrator.Permanent, err)
	}
	db := &database{pool: pool, speller: sqlstore.NewSpeller(words)}
	std := stdlib.OpenDBFromPool(pool)
	err = schema.Check(ctx, schema.Postgres, std)
	if err = errors.Join(err, std.Close()); err != nil {
		pool.Close()
		return nil, db.refusal(err)
	}
	return sqlstore.New(db, 0), nil
}

// Migrate brings the database's schema up to date. Several may try at once.
func Migrate(ctx context.Context, dsn string) error {
	config, err := parse(dsn)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config.ConnConfig)
	if err := errors.Join(schema.Up(ctx, schema.Postgres, db), db.Close()); err != nil {
		return (&database{}).refusal(err)
	}
	return nil
}

func parse(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err == nil && sslmode(dsn) == "" && slices.ContainsFunc(hosts(config), remote) {
		config, err = pgxpool.ParseConfig(verified(dsn))
	}
	if err != nil {
		// The driver's message has the password taken out.
		return nil, orchestrator.E("store.Open", orchestrator.Permanent, err)
	}
	config.ConnConfig.ConnectTimeout = connectTimeout
	config.PingTimeout = pingTimeout
	config.ConnConfig.ValidateConnect = writable
	if _, ok := config.ConnConfig.RuntimeParams["application_name"]; !ok {
		config.ConnConfig.RuntimeParams["application_name"] = "slipway"
	}
	return config, nil
}

// refusal names an error of opening; what is wrong with the schema has been named.
func (db *database) refusal(err error) error {
	var known *orchestrator.Error
	if !errors.As(err, &known) && db.Fault(err).Away {
		return orchestrator.Errorf("store.Open", orchestrator.Transient, "%w: %w", orchestrator.ErrStoreAway, err)
	}
	return err
}

// database implements sqlstore.DB.
type database struct {
	pool    *pgxpool.Pool
	speller *sqlstore.Speller
	commits atomic.Int64
	trips   atomic.Int64
}

func (db *database) Close() error {
	db.pool.Close()
	return nil
}

func (db *database) Counters() (commits, roundTrips int64) { return db.commits.Load(), db.trips.Load() }

// Ping also fails when the server became read-only under our connections.
func (db *database) Ping(ctx context.Context) error {
	err := db.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return writable(ctx, conn.Conn().PgConn()) })
	db.leave(err)
	return err
}

// leave lets go of all connections to a server that is read-only now, so that the next ones are made to one that is not.
func (db *database) leave(err error) {
	if errors.Is(err, errReadOnly) || isReadOnly(err) {
		db.pool.Reset()
	}
}

// LockLedger is held to the end of the transaction.
func (db *database) LockLedger() (sqlstore.Stmt, bool) {
	return sqlstore.Stmt{SQL: fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d)`, ledgerLock)}, true
}

// LockHostname is held to the end of the transaction. Locks of two numbers are others than those of one; names that share a number wait for
// each other, which is all that they notice.
func (db *database) LockHostname(tenant, hostname string) (sqlstore.Stmt, bool) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(tenant + "\x00" + hostname)) // never fails
	return sqlstore.Stmt{SQL: `SELECT pg_advisory_xact_lock(CAST($1 AS INT), CAST($2 AS INT))`, Args: []any{int32(hostnameLock), int32(h.Sum32())}}, true
}

// repetitions bounds how often a transaction is made again that the server broke off to end a deadlock.
const repetitions = 8

func (db *database) Apply(ctx context.Context, stmts []sqlstore.Stmt) (at int, err error) {
	for range repetitions {
		if at, err = db.send(ctx, db.pool, stmts); err == nil {
			db.commits.Add(1)
			return at, nil
		}
		if !repeats(err) {
			db.leave(err)
			return at, err
		}
	}
	return -1, err
}

func (db *database) Update(ctx context.Context, f func(sqlstore.Tx) error) (err error) {
	for range repetitions {
		if err = db.transact(ctx, pgx.TxOptions{}, f); !repeats(err) {
			break
		}
	}
	if err == nil {
		db.commits.Add(1)
	}
	db.leave(err)
	return err
}

func (db *database) View(ctx context.Context, f func(sqlstore.Tx) error) error {
	return db.transact(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, f)
}

func (db *database) transact(ctx context.Context, options pgx.TxOptions, f func(sqlstore.Tx) error) error {
	db.trips.Add(1)
	tx, err := db.pool.BeginTx(ctx, options)
	if err != nil {
		return err
	}
	db.trips.Add(1)
	if err := f(transaction{db, tx}); err != nil {
		// A connection that cannot roll back is closed by the pool, which is the same to the server.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		defer cancel()
		_ = tx.Rollback(end)
		return err
	}
	return tx.Commit(ctx)
}

type transaction struct {
	db *database
	tx pgx.Tx
}

func (t transaction) Run(ctx context.Context, stmts ...sqlstore.Stmt) (int, error) {
	return t.db.send(ctx, t.tx, stmts)
}

// send runs statements in one round trip. Outside of a transaction the server makes them one.
func (db *database) send(ctx context.Context, on interface {
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}, stmts []sqlstore.Stmt) (at int, err error) {
	if len(stmts) == 0 {
		return -1, nil
	}
	batch := &pgx.Batch{}
	for _, stmt := range stmts {
		batch.Queue(db.speller.Spell(stmt.SQL), stmt.Args...)
	}
	db.trips.Add(1)
	results := on.SendBatch(ctx, batch)
	for i, stmt := range stmts {
		if err := receive(results, stmt); err != nil {
			_ = results.Close() // says the same again
			return i, err
		}
	}
	return -1, results.Close()
}

func receive(results pgx.BatchResults, stmt sqlstore.Stmt) error {
	if stmt.Scan == nil {
		_, err := results.Exec()
		return err
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := stmt.Scan(rows); err != nil {
			return unreadable{err}
		}
	}
	return rows.Err()
}
