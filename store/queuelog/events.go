package queuelog

import (
	"context"

	"slipway/store/internal/sqlstore"
	"slipway/workers/queue"
)

// AppendEvents implements embedded.Log. The newest events are kept, as many as a listener may lag behind.
func (l *log) AppendEvents(ctx context.Context, events []queue.Message) error {
	if len(events) == 0 {
		return nil
	}
	stmts := []sqlstore.Stmt{{SQL: `UPDATE queue_tail SET event = event + CAST($1 AS BIGINT)`, Args: []any{len(events)}}}
	for i, e := range events {
		stmts = append(stmts, sqlstore.Stmt{
			SQL: `INSERT INTO queue_events (` + columns + `, id)
				VALUES ($1, $2, $3, $4, $5, $6, (SELECT event FROM queue_tail) - CAST($7 AS BIGINT))`,
			Args: append(values(e), len(events)-1-i),
		})
	}
	return l.tables.Apply(ctx, "queuelog.AppendEvents", append(stmts, sqlstore.Stmt{
		SQL: `DELETE FROM queue_events WHERE id <= (SELECT event FROM queue_tail) - CAST($1 AS BIGINT)`, Args: []any{l.keep},
	})...)
}

// EventsAfter implements embedded.Log.
func (l *log) EventsAfter(ctx context.Context, cursor int64, limit int) (events []queue.Message, next int64, err error) {
	next = max(cursor, 0)
	err = l.tables.View(ctx, "queuelog.EventsAfter", sqlstore.Stmt{
		SQL:  `SELECT ` + columns + `, id FROM queue_events WHERE id > $1 ORDER BY id LIMIT $2`,
		Args: []any{next, max(limit, 0)},
		Scan: func(row sqlstore.Row) error {
			var e queue.Message
			err := scan(row, &e, &next)
			events = append(events, e)
			return err
		},
	})
	if err != nil {
		return nil, cursor, err
	}
	return events, next, nil
}
