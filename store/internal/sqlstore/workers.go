package sqlstore

import (
	"context"
	"time"

	"slipway/orchestrator"
)

// forgetWorkers is how long a worker that says nothing is still listed.
const forgetWorkers = 10 * time.Minute

const workerColumns = `holder, version, started_at, seen_at, held, idle, drained_at, drained_by, drain_reason, knows`

func collectWorkers(out *[]orchestrator.Worker) func(Row) error {
	return func(row Row) error {
		var w orchestrator.Worker
		var knows string
		err := row.Scan(&w.Holder, &w.Version, intoTime(&w.Started), intoTime(&w.Seen), &w.Held, intoBool(&w.Idle), intoTime(&w.Drained), &w.DrainedBy, &w.DrainReason, &knows)
		w.Knows = placesIn(knows)
		*out = append(*out, w)
		return err
	}
}

// Beat implements orchestrator.Workers.
func (s *Store) Beat(ctx context.Context, w orchestrator.Worker) (orchestrator.Worker, error) {
	var known []orchestrator.Worker
	err := s.transact(ctx, "store.Beat", func(ctx context.Context, tx Tx) error {
		known = nil
		_, err := tx.Run(ctx,
			Stmt{
				SQL: `INSERT INTO workers (holder, version, started_at, seen_at, held, idle, knows) VALUES ($1, $2, $3, {now}, $4, $5, $6)
					ON CONFLICT (holder) DO UPDATE SET version = excluded.version, seen_at = excluded.seen_at, held = excluded.held, idle = excluded.idle,
						knows = excluded.knows
					RETURNING ` + workerColumns,
				Args: []any{w.Holder, w.Version, micros(w.Started), w.Held, flag(w.Idle), places(w.Knows)}, Scan: collectWorkers(&known),
			},
			Stmt{SQL: `DELETE FROM workers WHERE seen_at <= {now} - CAST($1 AS BIGINT)`, Args: []any{forgetWorkers.Microseconds()}})
		return err
	})
	if err != nil {
		return orchestrator.Worker{}, err
	}
	return known[0], nil
}

// Workers implements orchestrator.Workers.
func (s *Store) Workers(ctx context.Context) ([]orchestrator.Worker, error) {
	var workers []orchestrator.Worker
	err := s.view(ctx, "store.Workers", Stmt{SQL: `SELECT ` + workerColumns + ` FROM workers ORDER BY holder`, Scan: collectWorkers(&workers)})
	return workers, err
}

// Drain implements orchestrator.Workers. A worker that is told again keeps the time at which it was told first.
func (s *Store) Drain(ctx context.Context, holder string, on bool, actor, reason string) error {
	const op = "store.Drain"
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		n, verb := 0, "drain"
		sql := `UPDATE workers SET drained_at = CASE WHEN drained_at = 0 THEN {now} ELSE drained_at END, drained_by = $2, drain_reason = $3
			WHERE holder = $1 RETURNING holder`
		args := []any{holder, actor, reason}
		if !on {
			verb, args = "undrain", args[:1]
			sql = `UPDATE workers SET drained_at = 0, drained_by = '', drain_reason = '', idle = 0 WHERE holder = $1 RETURNING holder`
		}
		if _, err := tx.Run(ctx, Stmt{SQL: sql, Args: args, Scan: counted(&n)}); err != nil {
			return err
		}
		if n == 0 {
			return notFound(op, "worker %s", holder)
		}
		return act(ctx, tx, actor, verb, holder, reason)
	})
}

// Leave implements orchestrator.Workers.
func (s *Store) Leave(ctx context.Context, holder string) error {
	return s.update(ctx, "store.Leave", Stmt{SQL: `DELETE FROM workers WHERE holder = $1`, Args: []any{holder}})
}
