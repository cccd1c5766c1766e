package queuelog

import (
	"cmp"
	"context"
	"slices"
	"time"

	"slipway/orchestrator"
	"slipway/store/internal/sqlstore"
	"slipway/workers/queue"
	"slipway/workers/queue/embedded"
)

// AppendOrder implements embedded.Log.
func (l *log) AppendOrder(ctx context.Context, order queue.Message) error {
	return l.tables.Apply(ctx, "queuelog.AppendOrder", sqlstore.Stmt{
		SQL: `INSERT INTO queue_orders (` + columns + `) VALUES ($1, $2, $3, $4, $5, $6)`, Args: values(order),
	})
}

// free are the orders that may be handed out.
const free = `SELECT id FROM queue_orders WHERE until <= {now} ORDER BY id LIMIT $1`

// LeaseOrders implements embedded.Log. It looks before it writes: the worker of an idle queue keeps nobody from writing.
func (l *log) LeaseOrders(ctx context.Context, limit int, length time.Duration) ([]embedded.Leased, error) {
	const op = "queuelog.LeaseOrders"
	if limit < 1 {
		return nil, nil
	}
	some := false
	err := l.tables.View(ctx, op, sqlstore.Stmt{SQL: free, Args: []any{1}, Scan: func(sqlstore.Row) error {
		some = true
		return nil
	}})
	if err != nil || !some {
		return nil, err
	}
	var leased []embedded.Leased
	err = l.tables.Update(ctx, op, func(ctx context.Context, tx sqlstore.Tx) error {
		leased = nil
		_, err := tx.Run(ctx, sqlstore.Stmt{
			SQL: `UPDATE queue_orders SET token = token + 1, until = {now} + CAST($2 AS BIGINT) WHERE id IN (` + free + ` {skip})
				RETURNING ` + columns + `, id, token`,
			Args: []any{limit, length.Microseconds()},
			Scan: func(row sqlstore.Row) error {
				var o embedded.Leased
				err := scan(row, &o.Message, &o.Order, &o.Token)
				o.Redelivered = o.Token > 1
				leased = append(leased, o)
				return err
			},
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(leased, func(a, b embedded.Leased) int { return cmp.Compare(a.Order, b.Order) })
	return leased, nil
}

// held is the order of a lease, $1 and $2.
const held = ` WHERE id = $1 AND token = $2`

// AckOrder implements embedded.Log.
func (l *log) AckOrder(ctx context.Context, lease embedded.Lease) error {
	return l.answer(ctx, "queuelog.AckOrder", lease, sqlstore.Stmt{SQL: `DELETE FROM queue_orders` + held + ` RETURNING id`})
}

// ReturnOrder implements embedded.Log.
func (l *log) ReturnOrder(ctx context.Context, lease embedded.Lease, after time.Duration) error {
	return l.answer(ctx, "queuelog.ReturnOrder", lease, sqlstore.Stmt{
		SQL:  `UPDATE queue_orders SET token = token + 1, until = {now} + CAST($3 AS BIGINT)` + held + ` RETURNING id`,
		Args: []any{after.Microseconds()},
	})
}

// BuryOrder implements embedded.Log.
func (l *log) BuryOrder(ctx context.Context, lease embedded.Lease, reason string) error {
	return l.answer(ctx, "queuelog.BuryOrder", lease,
		sqlstore.Stmt{
			SQL:  `INSERT INTO queue_dead (` + columns + `, reason, at) SELECT ` + columns + `, CAST($3 AS TEXT), {now} FROM queue_orders` + held,
			Args: []any{reason},
		},
		sqlstore.Stmt{SQL: `DELETE FROM queue_orders` + held + ` RETURNING id`})
}

// answer ends a lease with statements whose first arguments are the lease's. The last returns the order; without one nothing is done.
func (l *log) answer(ctx context.Context, op string, lease embedded.Lease, stmts ...sqlstore.Stmt) error {
	for i := range stmts {
		stmts[i].Args = append([]any{lease.Order, lease.Token}, stmts[i].Args...)
	}
	return l.oneRow(ctx, op, stmts, func() error {
		return orchestrator.Errorf(op, orchestrator.Conflict, "order %d: %w", lease.Order, orchestrator.ErrFenced)
	})
}

// oneRow runs statements in one transaction; when the last returns no row, nothing of them is done and missing is the error.
func (l *log) oneRow(ctx context.Context, op string, stmts []sqlstore.Stmt, missing func() error) error {
	return l.tables.Update(ctx, op, func(ctx context.Context, tx sqlstore.Tx) error {
		found := false
		stmts[len(stmts)-1].Scan = func(sqlstore.Row) error {
			found = true
			return nil
		}
		if _, err := tx.Run(ctx, stmts...); err != nil {
			return err
		}
		if !found {
			return missing()
		}
		return nil
	})
}
