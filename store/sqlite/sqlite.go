// Package sqlite is the store of one machine: a file, written by one connection and read by several.
//
// Every commit is on the disk before anybody is told of it (WAL with synchronous=FULL). Several processes may open one file: each
// transaction that writes takes the write lock when it begins and waits for it, so that none fails halfway.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"slipway/orchestrator"
	"slipway/store/internal/schema"
	"slipway/store/internal/sqlstore"
)

const readers = 4

// How long SQLite waits for a lock. It does not look at the caller's context meanwhile, so that the writer asks again and again.
const (
	patience     = 50 * time.Millisecond
	longPatience = 5 * time.Second
)

var words = sqlstore.Words{
	Now:  `(CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000)`,
	List: `(SELECT value FROM json_each(%s))`,
	// A parameter alone would let the planner look at its value, and each other value would then cost a new plan.
	Limit: `CAST(%s AS INTEGER)`,
}

// Open opens a store that Migrate has made. It is closed by its Close.
func Open(ctx context.Context, path string) (*sqlstore.Store, error) {
	db := &database{speller: sqlstore.NewSpeller(words), writer: make(chan *connection, 1)}
	var err error
	if db.write, err = open(path, patience, false); err != nil {
		return nil, err
	}
	if db.read, err = open(path, longPatience, true); err != nil {
		return nil, errors.Join(err, db.write.Close())
	}
	db.read.SetMaxOpenConns(readers)
	if err := schema.Check(ctx, schema.SQLite, db.write); err != nil {
		return nil, errors.Join(unopened("store.Open", path, err), db.Close())
	}
	db.writer <- &connection{}
	return sqlstore.New(db, 0), nil
}

// Migrate makes the file when there is none and brings its schema up to date. Several may try at once: a lock beside the file (its name
// and ".migrating") lets one go first.
func Migrate(ctx context.Context, path string) (err error) {
	unlock, err := lock(ctx, path+".migrating")
	if err != nil {
		return orchestrator.Errorf("store.Migrate", orchestrator.Transient, "%w: lock %s: %w", orchestrator.ErrStoreAway, path, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	// Made by us, so that only our user reads it: it holds sealed secrets and customers' names. A file that is there is left alone: to
	// close it again would take the locks away that SQLite holds on it in this process.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = file.Close()
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return orchestrator.Errorf("store.Migrate", orchestrator.Permanent, "make the database: %w", err)
	}
	db, err := open(path, longPatience, false)
	if err != nil {
		return err
	}
	return errors.Join(unopened("store.Migrate", path, schema.Up(ctx, schema.SQLite, db)), db.Close())
}

// unopened names an error of opening; what is wrong with the schema has been named.
func unopened(op, path string, err error) error {
	var known *orchestrator.Error
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case isDamaged(err):
		return orchestrator.Errorf(op, orchestrator.Permanent, "%s is damaged or is no database: restore it from a backup, or name another file in `database`: %w", path, err)
	case fault(err).Away:
		return orchestrator.Errorf(op, orchestrator.Transient, "%w: %s: %w", orchestrator.ErrStoreAway, path, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

func open(path string, busy time.Duration, readOnly bool) (*sql.DB, error) {
	pragmas := url.Values{"_pragma": {fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()), "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}}
	if readOnly {
		pragmas["_pragma"] = append(pragmas["_pragma"], "query_only(1)")
	}
	pragmas.Set("_time_format", "sqlite")
	return sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+pragmas.Encode())
}

// database implements sqlstore.DB.
type database struct {
	write, read *sql.DB
	speller     *sqlstore.Speller
	writer      chan *connection // whoever has it may write
	commits     atomic.Int64
	trips       atomic.Int64
}

// connection is the one that writes, with its prepared statements. It is opened when it is needed.
type connection struct {
	conn       *sql.Conn
	statements map[string]*sql.Stmt
}

func (db *database) Close() error { return errors.Join(db.write.Close(), db.read.Close()) }

func (db *database) Counters() (commits, roundTrips int64) { return db.commits.Load(), db.trips.Load() }

func (db *database) Ping(ctx context.Context) error {
	var one int
	return db.read.QueryRowContext(ctx, `SELECT count(*) FROM pools`).Scan(&one)
}

// LockLedger has nothing to do: there is one writer at a time.
func (db *database) LockLedger() (sqlstore.Stmt, bool) { return sqlstore.Stmt{}, false }

// LockHostname has nothing to do either.
func (db *database) LockHostname(string, string) (sqlstore.Stmt, bool) { return sqlstore.Stmt{}, false }

func (db *database) Apply(ctx context.Context, stmts []sqlstore.Stmt) (at int, err error) {
	at = -1
	err = db.Update(ctx, func(tx sqlstore.Tx) error {
		at, err = tx.Run(ctx, stmts...)
		return err
	})
	return at, err
}

func (db *database) Update(ctx context.Context, f func(sqlstore.Tx) error) (err error) {
	var c *connection
	select {
	case c = <-db.writer:
	case <-ctx.Done():
		return fmt.Errorf("wait for the writer: %w", ctx.Err())
	}
	defer func() { db.writer <- c }()
	db.trips.Add(1)
	if err := c.open(ctx, db.write); err != nil {
		return err
	}
	if err := c.begin(ctx); err != nil {
		c.discard()
		return err
	}
	// What was begun is ended whatever becomes of the caller.
	end := context.WithoutCancel(ctx)
	if err := f(transaction{db.speller, c.prepare}); err != nil {
		if _, rollback := c.conn.ExecContext(end, `ROLLBACK`); rollback != nil {
			c.discard() // SQLite may have rolled back by itself; a new connection is in no doubt
		}
		return err
	}
	if _, err := c.conn.ExecContext(end, `COMMIT`); err != nil {
		c.discard()
		return err
	}
	db.commits.Add(1)
	return nil
}

func (db *database) View(ctx context.Context, f func(sqlstore.Tx) error) error {
	db.trips.Add(1)
	tx, err := db.read.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	err = f(transaction{db.speller, tx.PrepareContext})
	return errors.Join(err, tx.Rollback())
}

func (c *connection) open(ctx context.Context, db *sql.DB) error {
	if c.conn != nil {
		return nil
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	c.conn, c.statements = conn, map[string]*sql.Stmt{}
	return nil
}

// begin takes the write lock, and waits for it as long as the caller does: SQLite's own waiting is not fair, so that a process may be
// passed over for many seconds while others come and go.
func (c *connection) begin(ctx context.Context) error {
	for {
		_, err := c.conn.ExecContext(ctx, `BEGIN IMMEDIATE`)
		if err == nil || !isBusy(err) || ctx.Err() != nil {
			return err
		}
	}
}

// discard closes the connection for good; the next writer opens another.
func (c *connection) discard() {
	for _, stmt := range c.statements {
		_ = stmt.Close() // the connection goes with it
	}
	_ = c.conn.Raw(func(any) error { return errDiscard }) // makes database/sql drop the connection
	_ = c.conn.Close()
	c.conn, c.statements = nil, nil
}

// prepare keeps each statement of the package for as long as the connection lives.
func (c *connection) prepare(ctx context.Context, text string) (*sql.Stmt, error) {
	if stmt, ok := c.statements[text]; ok {
		return stmt, nil
	}
	stmt, err := c.conn.PrepareContext(context.WithoutCancel(ctx), text)
	if err != nil {
		return nil, err
	}
	c.statements[text] = stmt
	return stmt, nil
}

type transaction struct {
	speller *sqlstore.Speller
	prepare func(context.Context, string) (*sql.Stmt, error)
}

func (t transaction) Run(ctx context.Context, stmts ...sqlstore.Stmt) (int, error) {
	for i, stmt := range stmts {
		if err := t.run(ctx, stmt); err != nil {
			return i, err
		}
	}
	return -1, nil
}

func (t transaction) run(ctx context.Context, stmt sqlstore.Stmt) error {
	prepared, err := t.prepare(ctx, t.speller.Spell(stmt.SQL))
	if err != nil {
		return err
	}
	if stmt.Scan == nil {
		_, err := prepared.ExecContext(ctx, stmt.Args...)
		return err
	}
	rows, err := prepared.QueryContext(ctx, stmt.Args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := stmt.Scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
