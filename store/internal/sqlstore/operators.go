package sqlstore

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"slipway/orchestrator"
)

// Run implements orchestrator.Operators.
func (s *Store) Run(ctx context.Context, id string) (orchestrator.Run, error) {
	const op = "store.Run"
	var runs []orchestrator.Run
	err := s.view(ctx, op, Stmt{SQL: `SELECT ` + runColumns + ` FROM runs r WHERE r.id = $1`, Args: []any{id}, Scan: collectRuns(&runs)})
	if err == nil && len(runs) == 0 {
		err = notFound(op, "run %s", id)
	}
	if err != nil {
		return orchestrator.Run{}, err
	}
	return runs[0], nil
}

const defaultLimit = 1000

// Runs implements orchestrator.Operators: the newest first.
func (s *Store) Runs(ctx context.Context, f orchestrator.RunFilter) ([]orchestrator.RunView, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	var views []orchestrator.RunView
	err := s.view(ctx, "store.Runs", Stmt{
		SQL: `SELECT ` + runColumns + `, m.tenant, m.name, m.pool, m.private, m.public FROM runs r JOIN machines m ON m.id = r.machine
			WHERE (CAST($1 AS BIGINT) = 0 OR r.status IN {list $2}) AND (CAST($3 AS TEXT) = '' OR r.process = $3) AND (CAST($4 AS TEXT) = '' OR m.pool = $4)
			AND (CAST($5 AS TEXT) = '' OR m.tenant = $5) AND (CAST($6 AS TEXT) = '' OR r.machine = $6)
			ORDER BY r.created_at DESC, r.id LIMIT $7`,
		Args: []any{len(f.Status), list(f.Status), f.Process, f.Pool, f.Tenant, f.Machine, limit},
		Scan: func(row Row) error {
			var v orchestrator.RunView
			err := row.Scan(append(runFields(&v.Run), &v.Tenant, &v.Name, &v.Pool, intoAddr(&v.Private), intoAddr(&v.Public))...)
			views = append(views, v)
			return err
		},
	})
	return views, err
}

// Machine implements orchestrator.Operators.
func (s *Store) Machine(ctx context.Context, id string) (orchestrator.Machine, error) {
	const op = "store.Machine"
	var found []orchestrator.Machine
	err := s.view(ctx, op, Stmt{SQL: `SELECT ` + machineColumns + ` FROM machines m WHERE m.id = $1`, Args: []any{id}, Scan: collectMachines(&found)})
	if err == nil && len(found) == 0 {
		err = notFound(op, "machine %s", id)
	}
	if err != nil {
		return orchestrator.Machine{}, err
	}
	return found[0], nil
}

// minPrefix is how much of an id names a machine.
const minPrefix = 8

// maxCandidates is how many machines a name that several have is answered with.
const maxCandidates = 20

// FindMachine implements orchestrator.Operators. Of machines of one tenant that had the same name one after another, the one that is not
// removed is meant, else the newest.
func (s *Store) FindMachine(ctx context.Context, what string) (orchestrator.Machine, error) {
	const op = "store.FindMachine"
	tenant, name, qualified := strings.Cut(what, "/")
	if !qualified {
		tenant, name = "", what
	}
	prefix := ""
	if len(what) >= minPrefix && !strings.ContainsAny(what, `%_\/`) {
		prefix = what + "%"
	}
	var exact, loose []orchestrator.Machine
	err := s.view(ctx, op,
		Stmt{
			SQL:  `SELECT ` + machineColumns + ` FROM machines m WHERE m.id = $1 OR m.id IN (SELECT machine FROM runs WHERE id = $1)`,
			Args: []any{what}, Scan: collectMachines(&exact),
		},
		Stmt{
			SQL: `SELECT ` + machineColumns + ` FROM machines m WHERE m.name = $1 AND (CAST($2 AS TEXT) = '' OR m.tenant = $2)
				OR CAST($3 AS TEXT) <> '' AND m.id LIKE $3 ORDER BY CASE WHEN m.presence = 'absent' THEN 1 ELSE 0 END, m.created_at DESC, m.id LIMIT $4`,
			Args: []any{name, tenant, prefix, maxCandidates}, Scan: collectMachines(&loose),
		})
	if err != nil {
		return orchestrator.Machine{}, err
	}
	hits := exact
	if len(hits) == 0 {
		hits = meant(loose)
	}
	switch len(hits) {
	case 0:
		return orchestrator.Machine{}, notFound(op, "no machine has the id, run or name %q", what)
	case 1:
		return hits[0], nil
	}
	var several orchestrator.FieldErrors
	for _, m := range hits {
		several = append(several, orchestrator.FieldError{Field: "machine", Fix: "use " + m.ID,
			Problem: fmt.Sprintf("%q may be %s/%s of %s, which is %s", what, m.Tenant, m.Name, m.CreatedAt.UTC().Format(time.DateTime), m.State)})
	}
	return orchestrator.Machine{}, several
}

// meant are those of the hits, the newest first and the removed last, that an operator may mean: nobody means a removed one while there is
// another, nor an older one of the same tenant and name.
func meant(hits []orchestrator.Machine) []orchestrator.Machine {
	here := slices.DeleteFunc(slices.Clone(hits), func(m orchestrator.Machine) bool { return m.Presence == orchestrator.Absent })
	if len(here) > 0 {
		return here
	}
	seen := map[[2]string]bool{}
	return slices.DeleteFunc(hits, func(m orchestrator.Machine) bool {
		name := [2]string{m.Tenant, m.Name}
		older := seen[name]
		seen[name] = true
		return older
	})
}

// Machines implements orchestrator.Operators: all there ever were, by tenant and name.
func (s *Store) Machines(ctx context.Context) ([]orchestrator.Machine, error) {
	var machines []orchestrator.Machine
	err := s.view(ctx, "store.Machines", Stmt{SQL: `SELECT ` + machineColumns + ` FROM machines m ORDER BY m.tenant, m.name, m.created_at, m.id`, Scan: collectMachines(&machines)})
	return machines, err
}

// Attempts implements orchestrator.Operators: the machine's journal, oldest first.
func (s *Store) Attempts(ctx context.Context, machine string) ([]orchestrator.Attempt, error) {
	var attempts []orchestrator.Attempt
	err := s.view(ctx, "store.Attempts", Stmt{SQL: `SELECT ` + attemptColumns + ` FROM attempts a WHERE a.machine = $1 ORDER BY a.id`, Args: []any{machine}, Scan: collectAttempts(&attempts)})
	return attempts, err
}

// Intervene implements orchestrator.Operators. The journal's line has the verb as its outcome and the reason as its message;
// the audit trail has the same.
func (s *Store) Intervene(ctx context.Context, i orchestrator.Intervention) (orchestrator.Run, error) {
	const op = "store.Intervene"
	var run orchestrator.Run
	err := s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		var runs []orchestrator.Run
		read := `SELECT ` + runColumns + ` FROM runs r WHERE r.id = $1 `
		if err := one(ctx, tx, read+`{lock}`, collectRuns(&runs), i.Run); err != nil {
			return err
		}
		if len(runs) == 0 {
			return notFound(op, "run %s", i.Run)
		}
		before := runs[0]
		change, err := intervention(op, before, i)
		if err != nil {
			return err
		}
		line := orchestrator.Attempt{
			Step: before.Step, From: before.State, To: before.State, Number: before.Attempt, Undo: before.Undoing, Started: i.Now, Ended: i.Now,
			Outcome: i.Verb, Message: lineOf(i), Actor: i.Actor,
		}
		runs = nil
		_, err = tx.Run(ctx, change, insertAttempt(line, before.ID, before.Machine), Stmt{SQL: read, Args: []any{i.Run}, Scan: collectRuns(&runs)})
		if err != nil {
			return err
		}
		run = runs[0]
		return act(ctx, tx, i.Actor, i.Verb, "run "+run.ID, lineOf(i))
	})
	return run, err
}

// PutAddress implements orchestrator.Operators.
func (s *Store) PutAddress(ctx context.Context, a orchestrator.AddressRecord, actor, reason string) error {
	const op = "store.PutAddress"
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		if err := s.lockLedger(ctx, tx); err != nil {
			return err
		}
		n := 0
		err := one(ctx, tx, `INSERT INTO addresses (address, pool, role, owner, state, note) VALUES ($1, $2, $3, 'foreign', 'foreign', $4)
			ON CONFLICT (address) DO UPDATE SET pool = excluded.pool, role = excluded.role, note = excluded.note WHERE addresses.owner = 'foreign' RETURNING address`,
			counted(&n), addr(a.Address), a.Pool, a.Role, a.Note)
		if err == nil && n == 0 {
			return orchestrator.Errorf(op, orchestrator.Permanent, "%s is ours: look at its machine first (slipway ip list)", a.Address)
		}
		if err != nil {
			return err
		}
		return act(ctx, tx, actor, "reserve-address", addr(a.Address), reason)
	})
}

// DropAddress implements orchestrator.Operators.
func (s *Store) DropAddress(ctx context.Context, pool string, a netip.Addr, actor, reason string) error {
	const op = "store.DropAddress"
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		if err := s.lockLedger(ctx, tx); err != nil {
			return err
		}
		n := 0
		err := one(ctx, tx, `DELETE FROM addresses WHERE address = $1 AND pool = $2 AND owner = 'foreign' RETURNING address`, counted(&n), addr(a), pool)
		if err == nil && n == 0 {
			return notFound(op, "%s is not marked as foreign in pool %s", a, pool)
		}
		if err != nil {
			return err
		}
		if _, err := tx.Run(ctx, forgetSightings(orchestrator.SightedAddress, "", addr(a)), wake(orchestrator.WakeCapacity)); err != nil {
			return err
		}
		return act(ctx, tx, actor, "release-address", addr(a), reason)
	})
}

func (s *Store) lockLedger(ctx context.Context, tx Tx) error {
	lock, ok := s.db.LockLedger()
	if !ok {
		return nil
	}
	_, err := tx.Run(ctx, lock)
	return err
}

// Addresses implements orchestrator.Operators.
func (s *Store) Addresses(ctx context.Context) ([]orchestrator.AddressRecord, error) {
	var records []orchestrator.AddressRecord
	err := s.view(ctx, "store.Addresses", Stmt{
		SQL: `SELECT pool, address, role, owner, COALESCE(machine, ''), state, until, note FROM addresses ORDER BY pool, role, address`,
		Scan: func(row Row) error {
			var r orchestrator.AddressRecord
			err := row.Scan(&r.Pool, intoAddr(&r.Address), &r.Role, &r.Owner, &r.Machine, &r.State, intoTime(&r.Until), &r.Note)
			records = append(records, r)
			return err
		},
	})
	return records, err
}

// EndQuarantine implements orchestrator.Operators. It counts addresses, MACs and console ports; whoever waits for room is due.
func (s *Store) EndQuarantine(ctx context.Context) (int, error) {
	n := 0
	err := s.transact(ctx, "store.EndQuarantine", func(ctx context.Context, tx Tx) error {
		n = 0
		if err := s.lockLedger(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Run(ctx,
			Stmt{SQL: `DELETE FROM addresses WHERE state = 'quarantine' AND until <= {now} RETURNING 1`, Scan: counted(&n)},
			Stmt{SQL: `DELETE FROM macs WHERE state = 'quarantine' AND until <= {now} RETURNING 1`, Scan: counted(&n)},
			Stmt{SQL: `DELETE FROM console_ports WHERE state = 'quarantine' AND until <= {now} RETURNING 1`, Scan: counted(&n)})
		if err != nil || n == 0 {
			return err
		}
		_, err = tx.Run(ctx, wake(orchestrator.WakeCapacity))
		return err
	})
	return n, err
}

// Stats implements orchestrator.Operators.
func (s *Store) Stats(ctx context.Context) (orchestrator.Stats, error) {
	stats := orchestrator.Stats{Runs: map[string]map[orchestrator.Status]int{}, Addresses: map[string]map[string]int{}}
	err := s.view(ctx, "store.Stats",
		Stmt{SQL: `SELECT process, status, count(*) FROM runs GROUP BY process, status`, Scan: func(row Row) error {
			var process, status string
			var n int
			err := row.Scan(&process, &status, &n)
			if stats.Runs[process] == nil {
				stats.Runs[process] = map[orchestrator.Status]int{}
			}
			stats.Runs[process][orchestrator.Status(status)] = n
			return err
		}},
		Stmt{SQL: `SELECT count(*) FROM outbox WHERE published_at = 0`, Scan: func(row Row) error { return row.Scan(&stats.Unpublished) }},
		Stmt{SQL: `SELECT pool, state, count(*) FROM addresses GROUP BY pool, state`, Scan: func(row Row) error {
			var pool, state string
			var n int
			err := row.Scan(&pool, &state, &n)
			if stats.Addresses[pool] == nil {
				stats.Addresses[pool] = map[string]int{}
			}
			stats.Addresses[pool][state] = n
			return err
		}})
	return stats, err
}
