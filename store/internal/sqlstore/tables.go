package sqlstore

import "context"

// Tables lets another package under store keep tables of its own in the database: its calls are bounded and its errors classified as those
// of the Store.
type Tables struct{ s *Store }

// Tables is the way in.
func (s *Store) Tables() Tables { return Tables{s} }

// Apply runs statements in one writing transaction, in one round trip where the dialect can.
func (t Tables) Apply(ctx context.Context, op string, stmts ...Stmt) error {
	return t.s.update(ctx, op, stmts...)
}

// Update runs f in one writing transaction. f may be called again, so it starts from nothing each time.
func (t Tables) Update(ctx context.Context, op string, f func(context.Context, Tx) error) error {
	return t.s.transact(ctx, op, f)
}

// View reads in one snapshot.
func (t Tables) View(ctx context.Context, op string, stmts ...Stmt) error {
	return t.s.view(ctx, op, stmts...)
}
