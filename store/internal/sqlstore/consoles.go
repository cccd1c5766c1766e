package sqlstore

import (
	"context"
	"maps"
	"slices"
	"time"

	"slipway/orchestrator"
)

// moveLeeway is how many generations after a move the shrink guard lets through: it counts what the appliance has, and an install that is
// committed between the move and the next apply must not stop it.
const moveLeeway = 64

// ConsoleBackends implements orchestrator.ConsoleBackends.
func (s *Store) ConsoleBackends(ctx context.Context) (map[string]orchestrator.ConsoleBackend, error) {
	known := map[string]orchestrator.ConsoleBackend{}
	err := s.view(ctx, "store.ConsoleBackends", Stmt{SQL: `SELECT pool, backend FROM console_backends`, Scan: func(row Row) error {
		var pool, backend string
		err := row.Scan(&pool, &backend)
		known[pool] = orchestrator.ConsoleBackend(backend)
		return err
	}})
	return known, err
}

// SyncConsoleBackends implements orchestrator.ConsoleBackends.
func (s *Store) SyncConsoleBackends(ctx context.Context, wanted map[string]orchestrator.ConsoleBackend) error {
	return s.transact(ctx, "store.SyncConsoleBackends", func(ctx context.Context, tx Tx) error {
		var stmts []Stmt
		for _, pool := range slices.Sorted(maps.Keys(wanted)) {
			stmts = append(stmts, Stmt{SQL: `INSERT INTO console_backends (pool, backend, changed_at)
				SELECT CAST($1 AS TEXT), CASE WHEN EXISTS (SELECT 1 FROM machines WHERE pool = $1 AND console_group <> '') THEN 'xvp' ELSE $2 END, {now}
				WHERE NOT EXISTS (SELECT 1 FROM console_backends WHERE pool = $1)`, Args: []any{pool, string(wanted[pool])}})
		}
		_, err := tx.Run(ctx, stmts...)
		return err
	})
}

// MoveConsoles implements orchestrator.ConsoleBackends.
func (s *Store) MoveConsoles(ctx context.Context, pool string, to orchestrator.ConsoleBackend, actor, reason string) (machines int, err error) {
	const op = "store.MoveConsoles"
	if !to.IsValid() {
		return 0, orchestrator.Errorf(op, orchestrator.Permanent, "there is no console backend %q", to)
	}
	err = s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		machines = 0
		now := string(orchestrator.ConsoleXVP)
		_, err := tx.Run(ctx,
			Stmt{SQL: `SELECT backend FROM console_backends WHERE pool = $1 {lock}`, Args: []any{pool}, Scan: func(row Row) error { return row.Scan(&now) }},
			Stmt{SQL: `SELECT count(*) FROM machines WHERE pool = $1 AND console_group <> ''`, Args: []any{pool}, Scan: func(row Row) error { return row.Scan(&machines) }})
		if err != nil || now == string(to) {
			return err
		}
		_, err = tx.Run(ctx,
			Stmt{SQL: `INSERT INTO console_backends (pool, backend, changed_at) VALUES ($1, $2, {now})
				ON CONFLICT (pool) DO UPDATE SET backend = excluded.backend, changed_at = excluded.changed_at`, Args: []any{pool, string(to)}},
			Stmt{SQL: `UPDATE appliance_groups SET generation = generation + 1, shrink_approved = generation + 1 + CAST($2 AS BIGINT) WHERE unit = 'console'
				AND id IN (SELECT console_group FROM machines WHERE pool = $1 AND console_group <> '')`, Args: []any{pool, int64(moveLeeway)}})
		if err != nil {
			return err
		}
		return act(ctx, tx, actor, "move-consoles-to-"+string(to), pool, reason)
	})
	return machines, err
}

// ReportGateway implements orchestrator.ConsoleBackends.
func (s *Store) ReportGateway(ctx context.Context, r orchestrator.GatewayReport, life time.Duration) error {
	return s.update(ctx, "store.ReportGateway",
		Stmt{SQL: `DELETE FROM gateways WHERE until <= {now}`},
		Stmt{SQL: `INSERT INTO gateways (group_id, holder, generation, ports, problem, until) VALUES ($1, $2, $3, $4, $5, {now} + CAST($6 AS BIGINT))
			ON CONFLICT (group_id, holder) DO UPDATE SET generation = excluded.generation, ports = excluded.ports, problem = excluded.problem, until = excluded.until`,
			Args: []any{r.Group, r.Holder, r.Generation, int64(r.Ports), r.Problem, life.Microseconds()}})
}

// GatewayReports implements orchestrator.ConsoleBackends.
func (s *Store) GatewayReports(ctx context.Context, group string) ([]orchestrator.GatewayReport, error) {
	var reports []orchestrator.GatewayReport
	err := s.view(ctx, "store.GatewayReports", Stmt{
		SQL:  `SELECT group_id, holder, generation, ports, problem FROM gateways WHERE group_id = $1 AND until > {now} ORDER BY holder`,
		Args: []any{group},
		Scan: func(row Row) error {
			var r orchestrator.GatewayReport
			err := row.Scan(&r.Group, &r.Holder, &r.Generation, &r.Ports, &r.Problem)
			reports = append(reports, r)
			return err
		},
	})
	return reports, err
}
