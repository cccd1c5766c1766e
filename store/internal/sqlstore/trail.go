package sqlstore

import (
	"context"

	"slipway/orchestrator"
)

// RecordAct implements orchestrator.Trail.
func (s *Store) RecordAct(ctx context.Context, actor, verb, subject, reason string) error {
	return s.transact(ctx, "store.RecordAct", func(ctx context.Context, tx Tx) error { return act(ctx, tx, actor, verb, subject, reason) })
}

// act adds a line to the audit trail. Its writers wait for each other at the row of the head, so it comes last in a transaction.
func act(ctx context.Context, tx Tx, actor, verb, subject, reason string) error {
	a := orchestrator.Act{Actor: actor, Verb: verb, Subject: subject, Reason: reason}
	var head orchestrator.ActHead
	err := one(ctx, tx, `SELECT id, hash, {now} FROM act_head WHERE one = 1 {lock}`, func(row Row) error {
		return row.Scan(&head.ID, &head.Hash, intoTime(&a.At))
	})
	if err == nil && head.Hash == "" && head.ID > 0 {
		head.Hash, err = beforeTheChain(ctx, tx)
	}
	if err != nil {
		return err
	}
	a.ID = head.ID + 1
	a.Hash = a.HashAfter(head.Hash)
	_, err = tx.Run(ctx,
		Stmt{
			SQL:  `INSERT INTO acts (id, at, actor, verb, subject, reason, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			Args: []any{a.ID, micros(a.At), actor, verb, subject, reason, a.Hash},
		},
		Stmt{SQL: `UPDATE act_head SET id = $1, hash = $2 WHERE one = 1`, Args: []any{a.ID, a.Hash}})
	return err
}

const actColumns = `id, at, actor, verb, subject, reason, hash`

func actFields(a *orchestrator.Act) []any {
	return []any{&a.ID, intoTime(&a.At), &a.Actor, &a.Verb, &a.Subject, &a.Reason, &a.Hash}
}

// beforeTheChain is the hash of the lines that were written when there were none; it is asked for once in a database's life.
func beforeTheChain(ctx context.Context, tx Tx) (string, error) {
	var chain orchestrator.Chain
	err := one(ctx, tx, `SELECT `+actColumns+` FROM acts ORDER BY id`, func(row Row) error {
		var a orchestrator.Act
		if err := row.Scan(actFields(&a)...); err != nil {
			return err
		}
		return chain.Follow(a)
	})
	return chain.Head.Hash, err
}

// Acts implements orchestrator.Trail.
func (s *Store) Acts(ctx context.Context, after int64, limit int) (acts []orchestrator.Act, head orchestrator.ActHead, err error) {
	stmts := []Stmt{{SQL: `SELECT id, hash FROM act_head WHERE one = 1`, Scan: func(row Row) error { return row.Scan(&head.ID, &head.Hash) }}}
	if limit > 0 {
		stmts = append(stmts, Stmt{
			SQL: `SELECT ` + actColumns + ` FROM acts WHERE id > $1 ORDER BY id LIMIT $2`, Args: []any{after, limit},
			Scan: func(row Row) error {
				var a orchestrator.Act
				err := row.Scan(actFields(&a)...)
				acts = append(acts, a)
				return err
			},
		})
	}
	err = s.view(ctx, "store.Acts", stmts...)
	return acts, head, err
}
