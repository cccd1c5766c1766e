package sqlstore

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"slipway/orchestrator"
)

// keepPasses is how long a pass that opens nothing any more still says why.
const keepPasses = 7 * 24 * time.Hour

const passColumns = `machine, viewer, address, expires_at, used_at, revoked_at, CASE WHEN expires_at <= {now} THEN 1 ELSE 0 END`

// pass is a row of console_passes.
type pass struct {
	orchestrator.ConsolePass
	used, revoked, expired int64
}

func collectPass(into *[]pass) func(Row) error {
	return func(row Row) error {
		var p pass
		err := row.Scan(&p.Machine, &p.User, intoAddr(&p.Address), intoTime(&p.Expires), &p.used, &p.revoked, &p.expired)
		*into = append(*into, p)
		return err
	}
}

// open says why a pass does not open the machine from there. One that is for another machine is not told apart from none.
func (p pass) open(op, machine string, from netip.Addr) error {
	switch {
	case p.Machine != machine:
		return notFound(op, "no such pass")
	case p.revoked != 0:
		return orchestrator.E(op, orchestrator.Permanent, orchestrator.ErrPassRevoked)
	case p.used != 0:
		return orchestrator.E(op, orchestrator.Permanent, orchestrator.ErrPassUsed)
	case p.expired != 0:
		return orchestrator.E(op, orchestrator.Permanent, orchestrator.ErrPassExpired)
	case p.Address.IsValid() && p.Address.Unmap() != from.Unmap():
		return orchestrator.E(op, orchestrator.Permanent, orchestrator.ErrPassAddress)
	}
	return nil
}

func hash(h orchestrator.PassHash) string { return hex.EncodeToString(h[:]) }

// IssueToken implements orchestrator.ConsolePasses.
func (s *Store) IssueToken(ctx context.Context, token orchestrator.PassHash, p orchestrator.ConsolePass, life time.Duration, actor string) (orchestrator.ConsolePass, error) {
	const op = "store.IssueToken"
	err := s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		var machines []orchestrator.Machine
		if err := one(ctx, tx, `SELECT `+machineColumns+` FROM machines m WHERE m.id = $1 {lock}`, collectMachines(&machines), p.Machine); err != nil {
			return err
		}
		switch {
		case len(machines) == 0:
			return notFound(op, "machine %s", p.Machine)
		case machines[0].Presence == orchestrator.Absent:
			return orchestrator.Errorf(op, orchestrator.Permanent, "machine %s is removed: it has no console", p.Machine)
		case machines[0].Suspension.Power != "":
			return orchestrator.Errorf(op, orchestrator.Permanent, "machine %s is suspended: its console is closed", p.Machine)
		}
		err := one(ctx, tx, `INSERT INTO console_passes (hash, kind, machine, viewer, address, expires_at, created_at)
			VALUES ($1, 'token', $2, $3, $4, {now} + CAST($5 AS BIGINT), {now}) RETURNING expires_at`,
			func(row Row) error { return row.Scan(intoTime(&p.Expires)) }, hash(token), p.Machine, p.User, addr(p.Address), life.Microseconds())
		if err != nil {
			return err
		}
		return act(ctx, tx, actor, "console-issue", p.Machine, "for "+strconv.Quote(p.User))
	})
	return p, err
}

// RedeemToken implements orchestrator.ConsolePasses. Anybody may try: only a token that would open costs a transaction. The machine's row is
// locked first, as commits do, so that no session begins beside what revokes it; of two who try one token at once, one is told that it was used.
func (s *Store) RedeemToken(ctx context.Context, token, session orchestrator.PassHash, machine string, from netip.Addr, age time.Duration) (orchestrator.ConsolePass, error) {
	const op = "store.RedeemToken"
	opens := func(found []pass) error {
		if len(found) == 0 {
			return notFound(op, "no such pass")
		}
		return found[0].open(op, machine, from)
	}
	var found []pass
	read := Stmt{SQL: `SELECT ` + passColumns + ` FROM console_passes WHERE hash = $1 AND kind = 'token'`, Args: []any{hash(token)}, Scan: collectPass(&found)}
	if err := s.view(ctx, op, read); err != nil {
		return orchestrator.ConsolePass{}, err
	}
	if err := opens(found); err != nil {
		return orchestrator.ConsolePass{}, err
	}
	var p orchestrator.ConsolePass
	err := s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		found = nil
		if _, err := tx.Run(ctx, lockMachine(machine), read); err != nil {
			return err
		}
		if err := opens(found); err != nil {
			return err
		}
		p = found[0].ConsolePass
		_, err := tx.Run(ctx,
			Stmt{SQL: `UPDATE console_passes SET used_at = {now} WHERE hash = $1`, Args: []any{hash(token)}},
			Stmt{
				SQL: `INSERT INTO console_passes (hash, kind, machine, viewer, address, expires_at, created_at)
					VALUES ($1, 'session', $2, $3, $4, {now} + CAST($5 AS BIGINT), {now}) RETURNING expires_at`,
				Args: []any{hash(session), p.Machine, p.User, addr(p.Address), age.Microseconds()},
				Scan: func(row Row) error { return row.Scan(intoTime(&p.Expires)) },
			})
		return err
	})
	return p, err
}

// lockMachine keeps everybody else who issues, redeems or revokes a machine's passes waiting.
func lockMachine(machine string) Stmt {
	return Stmt{SQL: `SELECT id FROM machines WHERE id = $1 {lock}`, Args: []any{machine}, Scan: func(Row) error { return nil }}
}

// Session implements orchestrator.ConsolePasses.
func (s *Store) Session(ctx context.Context, session orchestrator.PassHash, machine string, from netip.Addr) (orchestrator.ConsolePass, error) {
	const op = "store.Session"
	var found []pass
	err := s.view(ctx, op, Stmt{
		SQL: `SELECT ` + passColumns + ` FROM console_passes WHERE hash = $1 AND kind = 'session'`, Args: []any{hash(session)}, Scan: collectPass(&found),
	})
	if err == nil && len(found) == 0 {
		err = notFound(op, "no such pass")
	}
	if err == nil {
		err = found[0].open(op, machine, from)
	}
	if err != nil {
		return orchestrator.ConsolePass{}, err
	}
	return found[0].ConsolePass, nil
}

// RevokePasses implements orchestrator.ConsolePasses.
func (s *Store) RevokePasses(ctx context.Context, machine, actor, reason string) (int, error) {
	n := 0
	err := s.transact(ctx, "store.RevokePasses", func(ctx context.Context, tx Tx) error {
		n = 0
		if _, err := tx.Run(ctx, lockMachine(machine)); err != nil {
			return err
		}
		err := one(ctx, tx, `UPDATE console_passes SET revoked_at = {now} WHERE machine = $1 AND revoked_at = 0 AND expires_at > {now} RETURNING hash`, counted(&n), machine)
		if err != nil {
			return err
		}
		return act(ctx, tx, actor, "console-revoke", machine, reason)
	})
	return n, err
}

// revokePasses ends the machine's passes when its console entry is about to go (body "") or to become another.
func (c *compiler) revokePasses(group, body string) {
	c.stmts = append(c.stmts, lockMachine(c.commit.Run.Machine))
	c.add(`UPDATE console_passes SET revoked_at = {now} WHERE machine = $1 AND revoked_at = 0 AND EXISTS
		(SELECT 1 FROM entries e JOIN appliance_groups g ON g.id = e.group_id
		WHERE e.group_id = $2 AND e.machine = $1 AND e.removed = 0 AND e.body <> $3 AND g.unit = 'console')`, c.commit.Run.Machine, group, body)
}

// console issues the token of an order. The order's run id is spent for nothing: no run begins.
func (i *intake) console() error {
	m, err := i.find("")
	if err != nil {
		return err
	}
	if _, err := i.tx.Run(i.ctx, lockMachine(m.ID)); err != nil {
		return err
	}
	open := 0
	err = one(i.ctx, i.tx, `SELECT 1 FROM entries e JOIN appliance_groups g ON g.id = e.group_id WHERE e.machine = $1 AND e.removed = 0 AND g.unit = 'console'`, counted(&open), m.ID)
	if err != nil {
		return err
	}
	if open == 0 {
		return i.refuse(fmt.Sprintf("has no console in state %s", m.State), "wait until it has one, or unsuspend it")
	}
	issued, o := 0, i.Order
	var expires time.Time
	err = one(i.ctx, i.tx, `INSERT INTO console_passes (hash, kind, machine, viewer, address, expires_at, created_at)
		VALUES ($1, 'token', $2, $3, $4, {now} + CAST($5 AS BIGINT), {now}) ON CONFLICT (hash) DO NOTHING RETURNING expires_at`, func(row Row) error {
		issued++
		return row.Scan(intoTime(&expires))
	}, hash(o.TokenHash), m.ID, o.Viewer, addr(o.ViewerFrom), i.PassLife.Microseconds())
	if err != nil {
		return err
	}
	if issued == 0 {
		return orchestrator.FieldErrors{{Field: "token_sha256", Problem: "was issued before", Fix: "draw 32 new random bytes for each order"}}
	}
	if err := act(i.ctx, i.tx, i.Actor, "console-issue", m.ID, "for "+strconv.Quote(o.Viewer)+", by order "+o.ID+" of "+o.Source); err != nil {
		return err
	}
	i.answer.Machine = m.ID
	event, err := i.event(orchestrator.EventConsole, m.ID, orchestrator.EventData{
		Machine: m.ID, Tenant: m.Tenant, Name: m.Name, ConsoleURL: i.Page(m), ConsoleExpires: &expires, Source: o.Source, OrderID: o.ID,
	})
	if err != nil {
		return err
	}
	return one(i.ctx, i.tx, `UPDATE orders SET machine = $3, event = $4 WHERE source = $1 AND id = $2`, nil, o.Source, o.ID, m.ID, event)
}
