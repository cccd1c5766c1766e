package queuelog

import (
	"context"
	"strconv"
	"time"

	"slipway/orchestrator"
	"slipway/store/internal/sqlstore"
	"slipway/workers/queue"
)

// Dead implements queue.DeadLetters.
func (l *log) Dead(ctx context.Context, limit int) ([]queue.DeadLetter, error) {
	var letters []queue.DeadLetter
	err := l.tables.View(ctx, "queuelog.Dead", sqlstore.Stmt{
		SQL:  `SELECT ` + columns + `, id, reason, at FROM queue_dead ORDER BY id LIMIT $1`,
		Args: []any{max(limit, 0)},
		Scan: func(row sqlstore.Row) error {
			var m queue.Message
			var id, at int64
			var reason string
			if err := scan(row, &m, &id, &reason, &at); err != nil {
				return err
			}
			letters = append(letters, queue.DeadLetter{
				ID: strconv.FormatInt(id, 10), Reason: reason, At: time.UnixMicro(at).UTC(),
				Body: m.Body, ContentType: m.ContentType, Headers: m.Headers,
			})
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return letters, nil
}

// RequeueDead implements queue.DeadLetters. The order is a new one, behind those that are there.
func (l *log) RequeueDead(ctx context.Context, id string) error {
	return l.take(ctx, "queuelog.RequeueDead", id,
		`INSERT INTO queue_orders (`+columns+`) SELECT `+columns+` FROM queue_dead WHERE id = $1`,
		`DELETE FROM queue_dead WHERE id = $1 RETURNING id`)
}

// DropDead implements queue.DeadLetters.
func (l *log) DropDead(ctx context.Context, id string) error {
	return l.take(ctx, "queuelog.DropDead", id, `DELETE FROM queue_dead WHERE id = $1 RETURNING id`)
}

// take does something with a dead letter, or nothing when there is none of this id.
func (l *log) take(ctx context.Context, op, id string, statements ...string) error {
	missing := func() error {
		return orchestrator.Errorf(op, orchestrator.Permanent, "dead letter %q: %w", id, orchestrator.ErrNotFound)
	}
	number, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return missing()
	}
	var stmts []sqlstore.Stmt
	for _, text := range statements {
		stmts = append(stmts, sqlstore.Stmt{SQL: text, Args: []any{number}})
	}
	return l.oneRow(ctx, op, stmts, missing)
}
