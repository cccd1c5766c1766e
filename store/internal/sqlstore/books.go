package sqlstore

import (
	"context"

	"slipway/orchestrator"
)

// Books implements orchestrator.Operators.
func (s *Store) Books(ctx context.Context) (orchestrator.Books, error) {
	const op = "store.Books"
	ctx, cancel := s.bound(ctx)
	defer cancel()
	var books orchestrator.Books
	err := s.db.View(ctx, func(tx Tx) error {
		l := newLedger()
		books = orchestrator.Books{Ledger: l.Ledger, Active: map[string]orchestrator.Status{}, Orders: map[string]orchestrator.OrderKey{}}
		stmts := append(l.reads(), readHeld(&books.Holdings)...)
		stmts = append(stmts,
			Stmt{SQL: `SELECT ` + machineColumns + ` FROM machines m ORDER BY m.tenant, m.name, m.created_at, m.id`, Scan: collectMachines(&books.Machines)},
			Stmt{SQL: `SELECT machine, status FROM runs WHERE status NOT IN ('done', 'canceled')`, Scan: func(row Row) error {
				var machine, status string
				err := row.Scan(&machine, &status)
				books.Active[machine] = orchestrator.Status(status)
				return err
			}},
			Stmt{SQL: `SELECT machine, source, id FROM orders WHERE process IN ('install', 'import') ORDER BY created_at`, Scan: func(row Row) error {
				var machine string
				var key orchestrator.OrderKey
				err := row.Scan(&machine, &key.Source, &key.ID)
				books.Orders[machine] = key
				return err
			}})
		_, err := tx.Run(ctx, stmts...)
		return err
	})
	return books, s.fail(op, err)
}

// readHeld reads everything that is not free.
func readHeld(out *[]orchestrator.Holding) []Stmt {
	take := func(kind string) func(Row) error {
		return func(row Row) error {
			h := orchestrator.Holding{Kind: kind}
			err := row.Scan(&h.Scope, &h.Value, &h.Role, &h.Owner, &h.Machine, &h.State)
			*out = append(*out, h)
			return err
		}
	}
	return []Stmt{
		{SQL: `SELECT pool, address, role, owner, COALESCE(machine, ''), state FROM addresses ORDER BY pool, role, address`, Scan: take(orchestrator.SightedAddress)},
		{SQL: `SELECT pool, mac, '', owner, COALESCE(machine, ''), state FROM macs ORDER BY pool, mac`, Scan: take(orchestrator.SightedMAC)},
		{SQL: `SELECT console_group, CAST(port AS TEXT), '', owner, COALESCE(machine, ''), state FROM console_ports ORDER BY console_group, port`,
			Scan: take(orchestrator.SightedPort)},
	}
}
