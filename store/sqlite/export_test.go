package sqlite

import (
	"context"
	"database/sql"
)

// Exec and Value are a test's way past the store.
func (m *Memory) Exec(ctx context.Context, text string) error {
	m.db.mu.Lock()
	defer m.db.mu.Unlock()
	_, err := m.db.conn.conn.ExecContext(ctx, text)
	return err
}

func (m *Memory) Value(ctx context.Context, text string) (n int64, err error) {
	m.db.mu.Lock()
	defer m.db.mu.Unlock()
	var out sql.NullInt64
	err = m.db.conn.conn.QueryRowContext(ctx, text).Scan(&out)
	return out.Int64, err
}
