package sqlstore

import (
	"context"

	"slipway/orchestrator"
)

const (
	holdColumns = `subject, kind, actor, reason, since, until`
	// inForce holds for holds whose end has not come.
	inForce = `(until = 0 OR until > {now})`
)

func collectHolds(out *[]orchestrator.Hold) func(Row) error {
	return func(row Row) error {
		var h orchestrator.Hold
		err := row.Scan((*string)(&h.Subject), (*string)(&h.Kind), &h.Actor, &h.Reason, intoTime(&h.Since), intoTime(&h.Until))
		*out = append(*out, h)
		return err
	}
}

// Holds implements orchestrator.Holds.
func (s *Store) Holds(ctx context.Context) ([]orchestrator.Hold, error) {
	var holds []orchestrator.Hold
	err := s.view(ctx, "store.Holds", Stmt{SQL: `SELECT ` + holdColumns + ` FROM holds WHERE ` + inForce + ` ORDER BY subject, kind`, Scan: collectHolds(&holds)})
	return holds, err
}

// maintained reads what is in maintenance, in words.
func maintained(into map[orchestrator.Subject]string) Stmt {
	return Stmt{
		SQL: `SELECT ` + holdColumns + ` FROM holds WHERE kind = '` + string(orchestrator.HoldMaintenance) + `' AND ` + inForce,
		Scan: func(row Row) error {
			var holds []orchestrator.Hold
			err := collectHolds(&holds)(row)
			into[holds[0].Subject] = holds[0].String()
			return err
		},
	}
}

// PutHold implements orchestrator.Holds. One whose time had come begins anew.
func (s *Store) PutHold(ctx context.Context, h orchestrator.Hold) error {
	const op = "store.PutHold"
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		err := one(ctx, tx, `INSERT INTO holds (subject, kind, actor, reason, since, until) VALUES ($1, $2, $3, $4, {now}, $5)
			ON CONFLICT (subject, kind) DO UPDATE SET actor = excluded.actor, reason = excluded.reason, until = excluded.until,
			since = CASE WHEN holds.until = 0 OR holds.until > {now} THEN holds.since ELSE excluded.since END`,
			nil, string(h.Subject), string(h.Kind), h.Actor, h.Reason, micros(h.Until))
		if err != nil {
			return err
		}
		return act(ctx, tx, h.Actor, string(h.Kind)+" on", string(h.Subject), h.Reason)
	})
}

// LiftHold implements orchestrator.Holds.
func (s *Store) LiftHold(ctx context.Context, subject orchestrator.Subject, kind orchestrator.HoldKind, actor, reason string) error {
	const op = "store.LiftHold"
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		n := 0
		err := one(ctx, tx, `DELETE FROM holds WHERE subject = $1 AND kind = $2 RETURNING subject`, counted(&n), string(subject), string(kind))
		if err == nil && n == 0 {
			return notFound(op, "%s of %s", kind, subject.Words())
		}
		if err != nil {
			return err
		}
		return lifted(ctx, tx, subject, kind, actor, reason)
	})
}

// EndHolds implements orchestrator.Holds.
func (s *Store) EndHolds(ctx context.Context) ([]orchestrator.Hold, error) {
	var ended []orchestrator.Hold
	err := s.transact(ctx, "store.EndHolds", func(ctx context.Context, tx Tx) error {
		ended = nil
		if _, err := tx.Run(ctx, Stmt{SQL: `DELETE FROM holds WHERE NOT ` + inForce + ` RETURNING ` + holdColumns, Scan: collectHolds(&ended)}); err != nil {
			return err
		}
		for _, h := range ended {
			if err := lifted(ctx, tx, h.Subject, h.Kind, h.Actor, "its time had come: "+h.Reason); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ended, nil
}

// lifted records a hold's end and makes what waited for it due; so is what waits for room, since a held pool takes no machine. Members that
// were left out, or that somebody may have worked on, catch up and are proven before they count.
func lifted(ctx context.Context, tx Tx, subject orchestrator.Subject, kind orchestrator.HoldKind, actor, reason string) error {
	_, err := tx.Run(ctx, wake(orchestrator.WakeHold(subject), orchestrator.WakeCapacity),
		Stmt{SQL: `UPDATE members SET dirty = 1 WHERE 'group:' || group_id = $1 OR 'member:' || group_id || '/' || name = $1`, Args: []any{string(subject)}})
	if err != nil {
		return err
	}
	return act(ctx, tx, actor, string(kind)+" off", string(subject), reason)
}
