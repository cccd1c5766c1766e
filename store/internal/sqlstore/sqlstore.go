// Package sqlstore is orchestrator.Store over a relational database. Every statement is written once, for both dialects; a dialect
// brings connections, transactions and its way of saying which constraint was broken.
//
// A statement numbers its parameters $1, $2 … and may use these words, which each dialect spells in its own way:
//
//	{now}      the database's clock, microseconds since 1970
//	{lock}     end of a SELECT: nobody else changes these rows before we commit
//	{skip}     end of a sub-SELECT: leave out rows that somebody else has locked
//	{list $1}  the rows of a JSON array of strings, as text
package sqlstore

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"sync/atomic"
	"time"
)

// Stmt is one statement. Scan is called for each row of its answer; nil for a statement whose rows nobody wants.
type Stmt struct {
	SQL  string
	Args []any
	Scan func(Row) error
}

// Row is one row of an answer.
type Row interface{ Scan(dest ...any) error }

// Tx is an open transaction.
type Tx interface {
	// Run executes statements in order, in one round trip where the dialect can. On an error, at is the index of the statement that failed.
	Run(ctx context.Context, stmts ...Stmt) (at int, err error)
}

// DB is what a dialect brings. Errors are as the driver gave them; Fault classifies them.
type DB interface {
	// Apply runs the statements as one transaction, in one round trip and one commit where the dialect can. On an error nothing of
	// it is there, unless Fault says Away: then nobody knows. at is the index of the statement that failed, -1 when it was none of them.
	Apply(ctx context.Context, stmts []Stmt) (at int, err error)
	// Update calls f inside one writing transaction and commits when it returns nil. f may be called again when the database asked
	// for a repetition (deadlock, serialization), so it starts from nothing each time.
	Update(ctx context.Context, f func(Tx) error) error
	// View calls f inside one reading transaction with one snapshot.
	View(ctx context.Context, f func(Tx) error) error
	// LockLedger is the statement by which a transaction makes itself the only one that decides about placements.
	LockLedger() (Stmt, bool)
	// LockHostname is the statement by which a transaction makes itself the only one that decides who of the tenant's has the name.
	LockHostname(tenant, hostname string) (Stmt, bool)
	// Fault says what an error means.
	Fault(error) Fault
	Ping(ctx context.Context) error
	Counters() (commits, roundTrips int64)
	Close() error
}

// Fault is a classified error of a database.
type Fault struct {
	// Constraint names the constraint, unique index or trigger that refused a row, "" when none did.
	Constraint string
	// Away is true when the database could not be reached or used at all: nobody knows whether a commit happened.
	Away bool
	// Full is true when it is Away for want of room on its disk.
	Full bool
}

// Store implements orchestrator.Store.
type Store struct {
	db      DB
	timeout time.Duration
	doubted atomic.Bool // it was away, and nothing was tried since
}

// DefaultTimeout bounds a call whose context has no deadline of its own.
const DefaultTimeout = 30 * time.Second

// New makes a Store. timeout bounds calls whose context has no deadline; 0 means DefaultTimeout.
func New(db DB, timeout time.Duration) *Store {
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	return &Store{db: db, timeout: timeout}
}

// Close waits for nothing: callers end their calls first.
func (s *Store) Close() error { return s.db.Close() }

// Counters says how many transactions were committed and how often the database was asked, since the store was opened. Statements that a
// connection prepares once are not counted.
func (s *Store) Counters() (commits, roundTrips int64) { return s.db.Counters() }

// Ping implements orchestrator.Operators.
func (s *Store) Ping(ctx context.Context) error {
	const op = "store.Ping"
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.db.Ping(ctx); err != nil {
		return s.fail(op, err)
	}
	if s.doubted.Load() {
		return s.tryWrite(ctx, op)
	}
	return nil
}

// TryWrite implements orchestrator.Operators.
func (s *Store) TryWrite(ctx context.Context) error { return s.tryWrite(ctx, "store.TryWrite") }

// tried is how many bytes are written to see whether there is room: more than the last pages of a table may have left.
const tried = 64 << 10

func (s *Store) tryWrite(ctx context.Context, op string) error {
	const name = "trial"
	var noise [tried / 4 * 3]byte // which does not get smaller by being compressed
	_, _ = rand.Read(noise[:])    // never fails
	err := s.update(ctx, op, Stmt{
		SQL: `INSERT INTO leases (name, holder, fence, until) VALUES ($1, $2, 0, 0)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder`,
		Args: []any{name, base64.StdEncoding.EncodeToString(noise[:])},
	})
	if err == nil {
		err = s.update(ctx, op, Stmt{SQL: `DELETE FROM leases WHERE name = $1`, Args: []any{name}})
	}
	if err == nil {
		s.doubted.Store(false)
	}
	return err
}

func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.timeout)
}

// update runs statements in one writing transaction.
func (s *Store) update(ctx context.Context, op string, stmts ...Stmt) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	_, err := s.db.Apply(ctx, stmts)
	return s.fail(op, err)
}

// transact runs f in one writing transaction.
func (s *Store) transact(ctx context.Context, op string, f func(context.Context, Tx) error) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return s.fail(op, s.db.Update(ctx, func(tx Tx) error { return f(ctx, tx) }))
}

// view reads in one snapshot.
func (s *Store) view(ctx context.Context, op string, stmts ...Stmt) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return s.fail(op, s.db.View(ctx, func(tx Tx) error {
		_, err := tx.Run(ctx, stmts...)
		return err
	}))
}

// one runs a single statement of a transaction.
func one(ctx context.Context, tx Tx, sql string, scan func(Row) error, args ...any) error {
	_, err := tx.Run(ctx, Stmt{SQL: sql, Args: args, Scan: scan})
	return err
}

// counted makes a Scan that counts rows.
func counted(n *int) func(Row) error {
	return func(Row) error {
		*n++
		return nil
	}
}
