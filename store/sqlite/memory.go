package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"slipway/store/internal/schema"
	"slipway/store/internal/sqlstore"
)

// Memory is a store that has the statements, constraints and triggers of every other one, and neither a file nor a clock of its own: the
// same calls have the same answers. It is for simulations. Safe for concurrent use, one transaction at a time.
type Memory struct {
	*sqlstore.Store
	db *memory
}

// NewMemory makes an empty one. now is its database's clock, asked once for each transaction that writes.
func NewMemory(ctx context.Context, now func() time.Time) (_ *Memory, err error) {
	pool, err := sql.Open("sqlite", "file::memory:?_pragma=foreign_keys(1)&_time_format=sqlite")
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(1) // every connection would have a memory of its own
	db := &memory{pool: pool, now: now, speller: sqlstore.NewSpeller(sqlstore.Words{Now: `(SELECT at FROM temp.clock)`, List: words.List, Limit: words.Limit})}
	if err := schema.Up(ctx, schema.SQLite, pool); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := db.begin(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Memory{Store: sqlstore.New(db, 0), db: db}, nil
}

// Reset empties it again, which takes far less time than to make another one: its statements stay prepared.
func (m *Memory) Reset() error {
	m.db.mu.Lock()
	defer m.db.mu.Unlock()
	return errors.Join(m.db.exec(`ROLLBACK`), m.db.exec(`BEGIN`))
}

// Mark notes what is in it; Rewind takes back everything since.
func (m *Memory) Mark() error {
	m.db.mu.Lock()
	defer m.db.mu.Unlock()
	return m.db.exec(`SAVEPOINT mark`)
}

// Rewind makes it what it was at Mark. It may be called again and again.
func (m *Memory) Rewind() error {
	m.db.mu.Lock()
	defer m.db.mu.Unlock()
	return m.db.exec(`ROLLBACK TO mark`)
}

// memory implements sqlstore.DB on one connection. All its transactions are savepoints of one that is never committed. The connection is
// not told of the callers' contexts: it would watch each of them with a goroutine.
type memory struct {
	pool    *sql.DB
	now     func() time.Time
	speller *sqlstore.Speller

	mu      sync.Mutex
	conn    connection
	commits int64
	trips   int64
}

func (db *memory) begin(ctx context.Context) error {
	if err := db.conn.open(ctx, db.pool); err != nil {
		return err
	}
	for _, text := range []string{`PRAGMA journal_mode = MEMORY`, `CREATE TEMP TABLE clock (at INTEGER NOT NULL)`, `INSERT INTO temp.clock VALUES (0)`, `BEGIN`} {
		if _, err := db.conn.conn.ExecContext(ctx, text); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	return nil
}

func (db *memory) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.conn.conn != nil {
		db.conn.discard()
	}
	return db.pool.Close()
}

func (db *memory) Counters() (commits, roundTrips int64) {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.commits, db.trips
}

func (db *memory) Ping(ctx context.Context) error { return ctx.Err() }

func (db *memory) LockLedger() (sqlstore.Stmt, bool) { return sqlstore.Stmt{}, false }

func (db *memory) LockHostname(string, string) (sqlstore.Stmt, bool) { return sqlstore.Stmt{}, false }

func (db *memory) Fault(err error) sqlstore.Fault { return fault(err) }

func (db *memory) Apply(ctx context.Context, stmts []sqlstore.Stmt) (at int, err error) {
	at = -1
	err = db.Update(ctx, func(tx sqlstore.Tx) error {
		at, err = tx.Run(ctx, stmts...)
		return err
	})
	return at, err
}

func (db *memory) Update(ctx context.Context, f func(sqlstore.Tx) error) error {
	return db.alone(ctx, func(tx sqlstore.Tx) error {
		err := errors.Join(db.exec(`UPDATE temp.clock SET at = $1`, db.now().UnixMicro()), db.exec(`SAVEPOINT update_`))
		if err != nil {
			return err
		}
		if err := f(tx); err != nil {
			if undo := errors.Join(db.exec(`ROLLBACK TO update_`), db.exec(`RELEASE update_`)); undo != nil {
				return errors.Join(err, undo)
			}
			return err
		}
		db.commits++
		return db.exec(`RELEASE update_`)
	})
}

// View needs no transaction: nobody writes meanwhile.
func (db *memory) View(ctx context.Context, f func(sqlstore.Tx) error) error { return db.alone(ctx, f) }

func (db *memory) alone(ctx context.Context, f func(sqlstore.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.conn.conn == nil {
		return sql.ErrConnDone
	}
	db.trips++
	return f(uninterrupted{transaction{speller: db.speller, prepare: db.conn.prepare}})
}

func (db *memory) exec(text string, args ...any) error {
	stmt, err := db.conn.prepare(context.Background(), text)
	if err == nil {
		_, err = stmt.ExecContext(context.Background(), args...)
	}
	return err
}

// uninterrupted is a transaction whose statements do not look at the caller's context.
type uninterrupted struct{ transaction }

func (u uninterrupted) Run(ctx context.Context, stmts ...sqlstore.Stmt) (int, error) {
	return u.transaction.Run(context.WithoutCancel(ctx), stmts...)
}
