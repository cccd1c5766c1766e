package sqlstore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"slipway/orchestrator"
)

// claimable holds for runs that may be taken: nobody holds them and they are ready or due, or their holder's lease ran out.
const claimable = `(holder = '' AND (status = 'ready' OR status IN ('waiting', 'canceling') AND wake_at <= {now})
	OR holder <> '' AND status IN ('ready', 'running', 'canceling') AND lease_until <= {now})`

// take gives a run to a holder. A run whose holder went away has no wake time: it was at work, and its open attempt was interrupted.
const take = `UPDATE runs SET holder = $1, fence = fence + 1, lease_length = CAST($2 AS BIGINT), lease_until = {now} + CAST($2 AS BIGINT), asked = 0,
	wake_at = CASE WHEN holder <> '' THEN 0 ELSE wake_at END,
	status = CASE WHEN status = 'canceling' THEN status ELSE 'running' END, updated_at = {now} WHERE `

// turns gives each run that may be taken its turn: the runs of its tenant that are in workers' hands, and those of it that come before. A pool
// without room is left out, one with little gets no more than that: $4 are the pools without, $5 has the others that are bounded, each as
// often as it has room.
const turns = `SELECT id, turn FROM (
	SELECT r.id, r.wake_at, r.created_at, room.n AS room,
		row_number() OVER (PARTITION BY m.pool ORDER BY r.wake_at, r.created_at, r.id) AS in_pool,
		COALESCE(busy.n, 0) + row_number() OVER (PARTITION BY m.tenant ORDER BY r.wake_at, r.created_at, r.id) AS turn
	FROM runs r JOIN machines m ON m.id = r.machine
	LEFT JOIN (SELECT held.tenant, count(*) AS n FROM runs h JOIN machines held ON held.id = h.machine WHERE h.holder <> '' GROUP BY held.tenant) busy
		ON busy.tenant = m.tenant
	LEFT JOIN (SELECT value AS pool, count(*) AS n FROM {list $5} AS rooms GROUP BY value) room ON room.pool = m.pool
	WHERE r.id IN (SELECT id FROM runs WHERE ` + claimable + known + `) AND m.pool NOT IN {list $4}) AS due
	WHERE room IS NULL OR in_pool <= room`

// place is orchestrator.Place of a run.
const place = `process || CASE WHEN undoing = 1 THEN '//' ELSE '/' || state || '/' END || step`

// known holds for runs that stand where the worker can take them up: $7 lists its places, unless it takes every run ($8). With $9 it takes
// those as well that have been due for longer than $10 and that no worker has known for as long.
const known = ` AND (CAST($8 AS BIGINT) = 1 OR ` + place + ` IN {list $7} OR CAST($9 AS BIGINT) = 1
	AND CASE WHEN holder <> '' THEN lease_until WHEN wake_at > updated_at THEN wake_at ELSE updated_at END <= {now} - CAST($10 AS BIGINT)
	AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.seen_at > {now} - CAST($10 AS BIGINT) AND replace(w.knows, '|' || ` + place + ` || '|', '') <> w.knows))`

// places is how a worker's places are written down: each between two bars.
func places(knows []string) string { return "|" + strings.Join(knows, "||") + "|" }

func placesIn(text string) []string {
	if text = strings.Trim(text, "|"); text == "" {
		return nil
	}
	return strings.Split(text, "||")
}

// beyond is how many more turns are looked at than are taken, for what other workers take at the same moment.
const beyond = 64

// Claim implements orchestrator.Claims.
func (s *Store) Claim(ctx context.Context, ask orchestrator.Ask) ([]orchestrator.Claim, error) {
	var full, rooms []string
	for _, pool := range slices.Sorted(maps.Keys(ask.Room)) {
		if ask.Room[pool] <= 0 {
			full = append(full, pool)
		}
		for range min(ask.Room[pool], ask.Limit) {
			rooms = append(rooms, pool)
		}
	}
	return s.claim(ctx, "store.Claim", Stmt{
		SQL: take + `id IN (SELECT r.id FROM (` + turns + ` ORDER BY turn, wake_at, created_at, id LIMIT $6) AS next JOIN runs r ON r.id = next.id
			WHERE ` + claimable + known + ` ORDER BY next.turn, r.wake_at, r.created_at, r.id LIMIT $3 {skip r}) RETURNING ` + bare(runColumns),
		Args: []any{ask.Holder, ask.Lease.Microseconds(), ask.Limit, list(full), list(rooms), ask.Limit + beyond,
			list(ask.Knows), flag(ask.Knows == nil), flag(ask.Strangers), orchestrator.StrangerAfter.Microseconds()},
	})
}

// ClaimRun implements orchestrator.Claims.
func (s *Store) ClaimRun(ctx context.Context, run, holder string, lease time.Duration) (orchestrator.Claim, error) {
	const op = "store.ClaimRun"
	claims, err := s.claim(ctx, op, Stmt{SQL: take + `id = $3 AND ` + claimable + ` RETURNING ` + bare(runColumns), Args: []any{holder, lease.Microseconds(), run}})
	if err != nil {
		return orchestrator.Claim{}, err
	}
	if len(claims) == 0 {
		return orchestrator.Claim{}, notFound(op, "run %s cannot be taken now", run)
	}
	return claims[0], nil
}

func (s *Store) claim(ctx context.Context, op string, stmt Stmt) ([]orchestrator.Claim, error) {
	var claims []orchestrator.Claim
	err := s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		var runs []orchestrator.Run
		stmt.Scan = collectRuns(&runs)
		if _, err := tx.Run(ctx, stmt); err != nil || len(runs) == 0 {
			claims = nil
			return err
		}
		slices.SortFunc(runs, func(a, b orchestrator.Run) int {
			return cmp.Or(a.WakeAt.Compare(b.WakeAt), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
		})
		var ids, owners []string
		for _, run := range runs {
			ids, owners = append(ids, run.ID), append(owners, run.Machine)
		}
		var machines []orchestrator.Machine
		var open []orchestrator.Attempt
		_, err := tx.Run(ctx,
			Stmt{SQL: `SELECT ` + machineColumns + ` FROM machines m WHERE m.id IN {list $1}`, Args: []any{list(owners)}, Scan: collectMachines(&machines)},
			Stmt{SQL: `SELECT ` + attemptColumns + ` FROM attempts a WHERE a.run IN {list $1} AND a.outcome = 'open' ORDER BY a.id`, Args: []any{list(ids)}, Scan: collectAttempts(&open)})
		if err != nil {
			return err
		}
		claims, err = join(runs, machines, open)
		return err
	})
	return claims, err
}

// bare takes the alias off a list of run columns: RETURNING knows no alias in SQLite.
func bare(columns string) string { return strings.ReplaceAll(columns, "r.", "") }

func join(runs []orchestrator.Run, machines []orchestrator.Machine, open []orchestrator.Attempt) ([]orchestrator.Claim, error) {
	byID := map[string]orchestrator.Machine{}
	for _, m := range machines {
		byID[m.ID] = m
	}
	byRun := map[string]*orchestrator.Attempt{}
	for _, a := range open {
		byRun[a.Run] = &a
	}
	var claims []orchestrator.Claim
	for _, run := range runs {
		m, ok := byID[run.Machine]
		if !ok {
			return nil, fmt.Errorf("run %s has no machine", run.ID)
		}
		claims = append(claims, orchestrator.Claim{Run: run, Machine: m, Open: byRun[run.ID]})
	}
	return claims, nil
}

// leases is the runs and fences of a call as JSON arrays: the ids, and "id fence".
func leases(runs map[string]int64) (ids, pairs string) {
	var a, b []string
	for id, fence := range runs {
		a, b = append(a, id), append(b, fmt.Sprintf("%s %d", id, fence))
	}
	return list(a), list(b)
}

const held = ` WHERE holder = $1 AND id IN {list $2} AND id || ' ' || CAST(fence AS TEXT) IN {list $3}`

// Renew implements orchestrator.Claims.
func (s *Store) Renew(ctx context.Context, holder string, runs map[string]int64, lease time.Duration) (lost []string, err error) {
	if len(runs) == 0 {
		return nil, nil
	}
	ids, pairs := leases(runs)
	kept := map[string]bool{}
	err = s.update(ctx, "store.Renew", Stmt{
		SQL:  `UPDATE runs SET lease_length = CAST($4 AS BIGINT), lease_until = {now} + CAST($4 AS BIGINT)` + held + ` RETURNING id`,
		Args: []any{holder, ids, pairs, lease.Microseconds()},
		Scan: func(row Row) error {
			var id string
			err := row.Scan(&id)
			kept[id] = true
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	for id := range runs {
		if !kept[id] {
			lost = append(lost, id)
		}
	}
	slices.Sort(lost)
	return lost, nil
}

// ReleaseRuns implements orchestrator.Claims. A running run is ready again; its open attempt stays open.
func (s *Store) ReleaseRuns(ctx context.Context, holder string, runs map[string]int64) error {
	if len(runs) == 0 {
		return nil
	}
	ids, pairs := leases(runs)
	return s.update(ctx, "store.ReleaseRuns", Stmt{
		SQL: `UPDATE runs SET holder = '', lease_until = 0, status = CASE WHEN asked = 1 THEN 'canceling' WHEN status = 'running' THEN 'ready' ELSE status END,
			asked = 0, updated_at = {now}` + held,
		Args: []any{holder, ids, pairs},
	})
}

// HandOver implements orchestrator.Claims. A wake time is what tells a run that was put down from one whose worker went away.
func (s *Store) HandOver(ctx context.Context, holder string, runs map[string]int64) error {
	if len(runs) == 0 {
		return nil
	}
	ids, pairs := leases(runs)
	return s.update(ctx, "store.HandOver", Stmt{
		SQL: `UPDATE runs SET holder = '', lease_until = 0, wake_at = {now}, status = CASE WHEN asked = 1 THEN 'canceling' WHEN status = 'running' THEN 'ready' ELSE status END,
			asked = 0` + held,
		Args: []any{holder, ids, pairs},
	})
}

// Wake implements orchestrator.Claims.
func (s *Store) Wake(ctx context.Context, keys ...string) (int, error) {
	if len(keys) == 0 {
		return 0, nil
	}
	n := 0
	stmt := wake(keys...)
	stmt.SQL += ` RETURNING id`
	stmt.Scan = counted(&n)
	err := s.update(ctx, "store.Wake", stmt)
	return n, err
}

// AcquireLease implements orchestrator.Claims. While another holds it, the lease that comes back is the other's.
func (s *Store) AcquireLease(ctx context.Context, name, holder string, length time.Duration) (orchestrator.Lease, bool, error) {
	lease, taken := orchestrator.Lease{}, 0
	scan := func(row Row) error { return row.Scan(&lease.Name, &lease.Holder, &lease.Fence, intoTime(&lease.Until)) }
	err := s.update(ctx, "store.AcquireLease",
		Stmt{
			SQL: `INSERT INTO leases (name, holder, fence, until) VALUES ($1, $2, 1, {now} + CAST($3 AS BIGINT))
				ON CONFLICT (name) DO UPDATE SET fence = CASE WHEN leases.holder = excluded.holder THEN leases.fence ELSE leases.fence + 1 END,
				holder = excluded.holder, until = excluded.until
				WHERE leases.holder = excluded.holder OR leases.until <= {now} RETURNING name`,
			Args: []any{name, holder, length.Microseconds()}, Scan: counted(&taken),
		},
		Stmt{SQL: `SELECT name, holder, fence, until FROM leases WHERE name = $1`, Args: []any{name}, Scan: scan})
	if err != nil {
		return orchestrator.Lease{}, false, err
	}
	return lease, taken > 0, nil
}

// ReleaseLease implements orchestrator.Claims.
func (s *Store) ReleaseLease(ctx context.Context, name, holder string) error {
	return s.update(ctx, "store.ReleaseLease", Stmt{SQL: `UPDATE leases SET holder = '', until = 0 WHERE name = $1 AND holder = $2`, Args: []any{name, holder}})
}
