package sqlstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"slipway/orchestrator"
)

// guardActor is who puts a halt there.
const guardActor = "guard"

// Begin implements orchestrator.Guards. Those that begin in one pool wait for each other at the guard's row, so that what they count is true.
func (s *Store) Begin(ctx context.Context, b orchestrator.Beginning, tell func(orchestrator.Hold) orchestrator.Event) (halt orchestrator.Hold, halted bool, err error) {
	const op = "store.Begin"
	kind := string(orchestrator.HaltOf(b.Run.Process))
	err = s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		halt, halted = orchestrator.Hold{}, false
		var holds []orchestrator.Hold
		var begun []beginner
		mine, at := 0, time.Time{}
		_, err := tx.Run(ctx,
			Stmt{SQL: `INSERT INTO guards (subject, process, since) VALUES ($1, $2, 0) ON CONFLICT (subject, process) DO UPDATE SET since = guards.since`,
				Args: []any{string(b.Subject), b.Run.Process}},
			Stmt{SQL: `SELECT begun_at FROM runs WHERE id = $1 AND fence = $2 AND holder = $3`, Args: []any{b.Run.ID, b.Run.Fence, b.Run.Holder},
				Scan: func(row Row) error { mine++; return row.Scan(intoTime(&at)) }},
			Stmt{SQL: `SELECT ` + holdColumns + ` FROM holds WHERE subject = $1 AND kind = $2 AND ` + inForce, Args: []any{string(b.Subject), kind}, Scan: collectHolds(&holds)},
			Stmt{SQL: `SELECT r.order_source, m.tenant, count(*) FROM runs r JOIN machines m ON m.id = r.machine
				WHERE r.process = $2 AND r.begun_at > {now} - CAST($3 AS BIGINT)
				AND r.begun_at > (SELECT since FROM guards WHERE subject = $1 AND process = $2)
				AND 'pool:' || CASE WHEN r.pool <> '' THEN r.pool ELSE m.pool END = $1 GROUP BY r.order_source, m.tenant`,
				Args: []any{string(b.Subject), b.Run.Process, b.Window.Microseconds()}, Scan: collectBeginners(&begun)})
		switch {
		case err != nil:
			return err
		case mine == 0:
			return orchestrator.E(op, orchestrator.Conflict, fmt.Errorf("run %s: %w", b.Run.ID, orchestrator.ErrFenced))
		case !at.IsZero():
			return nil
		case len(holds) > 0:
			halt, halted = holds[0], true
			return nil
		}
		if total(begun) < b.Limit {
			return one(ctx, tx, `UPDATE runs SET begun_at = {now} WHERE id = $1`, nil, b.Run.ID)
		}
		halt = orchestrator.Hold{Subject: b.Subject, Kind: orchestrator.HoldKind(kind), Actor: guardActor, Reason: tooMany(begun, b)}
		halted = true
		err = one(ctx, tx, `INSERT INTO holds (subject, kind, actor, reason, since, until) VALUES ($1, $2, $3, $4, {now}, 0) RETURNING since`,
			func(row Row) error { return row.Scan(intoTime(&halt.Since)) }, string(halt.Subject), kind, halt.Actor, halt.Reason)
		if err != nil {
			return err
		}
		e := tell(halt)
		err = one(ctx, tx, `INSERT INTO outbox (type, machine, seq, time, order_source, order_id, data) VALUES ($1, '', 0, $2, $3, $4, $5)`, nil,
			e.Type, micros(e.Time), e.Order.Source, e.Order.ID, string(e.Data))
		if err != nil {
			return err
		}
		return act(ctx, tx, guardActor, kind, string(b.Subject), halt.Reason)
	})
	return halt, halted && err == nil, err
}

// beginner is who ordered how many of the runs that began.
type beginner struct {
	source, tenant string
	runs           int
}

func collectBeginners(out *[]beginner) func(Row) error {
	return func(row Row) error {
		var b beginner
		err := row.Scan(&b.source, &b.tenant, &b.runs)
		*out = append(*out, b)
		return err
	}
}

func total(begun []beginner) (n int) {
	for _, b := range begun {
		n += b.runs
	}
	return n
}

// told is how many of those who ordered are named.
const told = 3

// tooMany says how many began within which time, and who ordered most of them.
func tooMany(begun []beginner, b orchestrator.Beginning) string {
	slices.SortFunc(begun, func(a, b beginner) int {
		return cmp.Or(cmp.Compare(b.runs, a.runs), cmp.Compare(a.source, b.source), cmp.Compare(a.tenant, b.tenant))
	})
	var who []string
	for _, one := range begun[:min(len(begun), told)] {
		who = append(who, fmt.Sprintf("%d by %s for tenant %s", one.runs, one.source, one.tenant))
	}
	if rest := total(begun[min(len(begun), told):]); rest > 0 {
		who = append(who, fmt.Sprintf("%d by others", rest))
	}
	return fmt.Sprintf("%d began within %s, as many as may: %s; the next one was ordered by %s for tenant %s",
		total(begun), b.Window, strings.Join(who, ", "), b.Run.Order.Source, b.Tenant)
}

// EndHalt implements orchestrator.Guards. What it lets begin was begun before the time from which is counted.
func (s *Store) EndHalt(ctx context.Context, subject orchestrator.Subject, process, actor, reason string) (let int, err error) {
	const op = "store.EndHalt"
	kind := string(orchestrator.HaltOf(process))
	err = s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		ended := 0
		let = 0
		err := one(ctx, tx, `UPDATE guards SET since = since WHERE subject = $1 AND process = $2`, nil, string(subject), process)
		if err == nil {
			err = one(ctx, tx, `DELETE FROM holds WHERE subject = $1 AND kind = $2 RETURNING subject`, counted(&ended), string(subject), kind)
		}
		switch {
		case err != nil:
			return err
		case ended == 0:
			return notFound(op, "%s in %s", kind, subject.Words())
		}
		key := orchestrator.WakeHalt(subject, process)
		_, err = tx.Run(ctx,
			Stmt{SQL: `UPDATE runs SET begun_at = {now} WHERE wake_key = $1 AND begun_at = 0 AND cancel = '' AND status NOT IN ('done', 'canceled') RETURNING id`,
				Args: []any{key}, Scan: counted(&let)},
			wake(key),
			Stmt{SQL: `UPDATE guards SET since = {now} WHERE subject = $1 AND process = $2`, Args: []any{string(subject), process}})
		if err != nil {
			return err
		}
		return act(ctx, tx, actor, kind+" ended", string(subject), reason)
	})
	return let, err
}
