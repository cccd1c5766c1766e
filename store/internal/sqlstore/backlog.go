package sqlstore

import (
	"context"
	"time"

	"slipway/orchestrator"
)

// Load implements orchestrator.Backlog.
func (s *Store) Load(ctx context.Context, tenant string) (orchestrator.TenantLoad, error) {
	load := orchestrator.TenantLoad{Tenant: tenant}
	err := s.view(ctx, "store.Load",
		Stmt{
			SQL: `SELECT count(*) FROM runs r JOIN machines m ON m.id = r.machine
				WHERE m.tenant = $1 AND r.status IN ('ready', 'running', 'waiting', 'canceling')`,
			Args: []any{tenant}, Scan: func(row Row) error { return row.Scan(&load.UnderWay) },
		},
		Stmt{SQL: `SELECT 1 FROM backlog WHERE tenant = $1 LIMIT 1`, Args: []any{tenant}, Scan: counted(&load.Kept)})
	return load, err
}

// Keep implements orchestrator.Backlog.
func (s *Store) Keep(ctx context.Context, orders []orchestrator.KeptOrder, limited func(orchestrator.KeptOrder) orchestrator.Event) error {
	return s.transact(ctx, "store.Keep", func(ctx context.Context, tx Tx) error {
		known := map[string]bool{}
		var tenants []string
		for _, o := range orders {
			tenants = append(tenants, o.Tenant)
		}
		_, err := tx.Run(ctx, Stmt{
			SQL:  `SELECT value FROM {list $1} AS asked WHERE EXISTS (SELECT 1 FROM backlog b WHERE b.tenant = asked.value)`,
			Args: []any{list(tenants)},
			Scan: func(row Row) error {
				var tenant string
				err := row.Scan(&tenant)
				known[tenant] = true
				return err
			},
		})
		if err != nil {
			return err
		}
		var stmts []Stmt
		for _, o := range orders {
			stmts = append(stmts, Stmt{
				SQL: `INSERT INTO backlog (tenant, source, order_id, sha256, body, at) VALUES ($1, $2, $3, $4, $5, {now})
					ON CONFLICT (source, order_id, sha256) DO NOTHING`,
				Args: []any{o.Tenant, o.Order.Source, o.Order.ID, o.SHA256, string(o.Body)},
			})
			if !known[o.Tenant] {
				known[o.Tenant] = true
				e := limited(o)
				stmts = append(stmts, Stmt{
					SQL:  `INSERT INTO outbox (type, machine, seq, time, order_source, order_id, data) VALUES ($1, '', 0, $2, $3, $4, $5)`,
					Args: []any{e.Type, micros(e.Time), e.Order.Source, e.Order.ID, string(e.Data)},
				})
			}
		}
		_, err = tx.Run(ctx, stmts...)
		return err
	})
}

// Kept implements orchestrator.Backlog.
func (s *Store) Kept(ctx context.Context) ([]orchestrator.TenantLoad, error) {
	var loads []orchestrator.TenantLoad
	err := s.view(ctx, "store.Kept", Stmt{
		SQL: `SELECT b.tenant, b.n, (SELECT at FROM backlog WHERE id = b.first), (SELECT count(*) FROM runs r JOIN machines m ON m.id = r.machine
				WHERE m.tenant = b.tenant AND r.status IN ('ready', 'running', 'waiting', 'canceling'))
			FROM (SELECT tenant, count(*) AS n, min(id) AS first FROM backlog GROUP BY tenant) b ORDER BY b.tenant`,
		Scan: func(row Row) error {
			var l orchestrator.TenantLoad
			err := row.Scan(&l.Tenant, &l.Kept, intoTime(&l.Oldest), &l.UnderWay)
			loads = append(loads, l)
			return err
		},
	})
	return loads, err
}

// NextKept implements orchestrator.Backlog.
func (s *Store) NextKept(ctx context.Context, tenant string, limit int) ([]orchestrator.KeptOrder, error) {
	var orders []orchestrator.KeptOrder
	err := s.view(ctx, "store.NextKept", Stmt{
		SQL:  `SELECT id, tenant, source, order_id, sha256, body, tries FROM backlog WHERE tenant = $1 AND due <= {now} ORDER BY id LIMIT $2`,
		Args: []any{tenant, limit},
		Scan: func(row Row) error {
			var o orchestrator.KeptOrder
			var body string
			err := row.Scan(&o.ID, &o.Tenant, &o.Order.Source, &o.Order.ID, &o.SHA256, &body, &o.Tries)
			o.Body = []byte(body)
			orders = append(orders, o)
			return err
		},
	})
	return orders, err
}

// DropKept implements orchestrator.Backlog.
func (s *Store) DropKept(ctx context.Context, id int64) error {
	return s.update(ctx, "store.DropKept", Stmt{SQL: `DELETE FROM backlog WHERE id = $1`, Args: []any{id}})
}

// PutOff implements orchestrator.Backlog.
func (s *Store) PutOff(ctx context.Context, id int64, pause time.Duration) error {
	return s.update(ctx, "store.PutOff", Stmt{
		SQL: `UPDATE backlog SET tries = tries + 1, due = {now} + CAST($2 AS BIGINT) WHERE id = $1`, Args: []any{id, pause.Microseconds()},
	})
}
