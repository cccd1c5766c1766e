package sqlstore

import (
	"context"
	"maps"
	"slices"

	"slipway/orchestrator"
)

// SyncGroups implements orchestrator.Appliances. A group that has entries or promises keeps its unit and stays; a member that the
// configuration does not name any more is forgotten.
func (s *Store) SyncGroups(ctx context.Context, groups []orchestrator.Group, members []orchestrator.Member) error {
	const op = "store.SyncGroups"
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		var ids, pairs []string
		for _, g := range groups {
			ids = append(ids, g.ID)
			n := 0
			err := one(ctx, tx, `INSERT INTO appliance_groups (id, unit, min_applied, capacity) VALUES ($1, $2, $3, $4)
				ON CONFLICT (id) DO UPDATE SET unit = excluded.unit, min_applied = excluded.min_applied, capacity = excluded.capacity
				WHERE appliance_groups.unit = excluded.unit OR NOT EXISTS (SELECT 1 FROM entries WHERE group_id = excluded.id) RETURNING id`,
				counted(&n), g.ID, string(g.Unit), g.MinApplied, g.Capacity)
			if err != nil {
				return err
			}
			if n == 0 {
				return orchestrator.Errorf(op, orchestrator.Permanent, "group %s has entries and cannot become a %s group: give the new one another id", g.ID, g.Unit)
			}
		}
		var stmts []Stmt
		for _, m := range members {
			pairs = append(pairs, m.Group+" "+m.Name)
			stmts = append(stmts, Stmt{SQL: `INSERT INTO members (group_id, name) VALUES ($1, $2) ON CONFLICT (group_id, name) DO NOTHING`, Args: []any{m.Group, m.Name}})
		}
		// Group ids and member names have no spaces, so that the pair is unambiguous.
		stmts = append(stmts,
			Stmt{SQL: `DELETE FROM members WHERE group_id || ' ' || name NOT IN {list $1}`, Args: []any{list(pairs)}},
			Stmt{SQL: `DELETE FROM appliance_groups WHERE id NOT IN {list $1} AND NOT EXISTS (SELECT 1 FROM entries WHERE group_id = appliance_groups.id)
				AND NOT EXISTS (SELECT 1 FROM reservations v WHERE appliance_groups.id IN (v.dhcp_group, v.firewall_group, v.console_group))`, Args: []any{list(ids)}})
		_, err := tx.Run(ctx, stmts...)
		return err
	})
}

const groupColumns = `g.id, g.unit, g.generation, g.applied, g.min_applied, g.capacity,
	(SELECT count(*) FROM reservations v WHERE g.id IN (v.dhcp_group, v.firewall_group, v.console_group))`

func groupFields(g *orchestrator.Group) []any {
	return []any{&g.ID, (*string)(&g.Unit), &g.Generation, &g.Applied, &g.MinApplied, &g.Capacity, &g.Entries}
}

func collectGroups(out *[]orchestrator.Group) func(Row) error {
	return func(row Row) error {
		var g orchestrator.Group
		err := row.Scan(groupFields(&g)...)
		*out = append(*out, g)
		return err
	}
}

// Groups implements orchestrator.Appliances.
func (s *Store) Groups(ctx context.Context) ([]orchestrator.Group, error) {
	var groups []orchestrator.Group
	held := map[orchestrator.Subject]string{}
	err := s.view(ctx, "store.Groups",
		Stmt{SQL: `SELECT ` + groupColumns + ` FROM appliance_groups g ORDER BY g.id`, Scan: collectGroups(&groups)}, maintained(held))
	for i, g := range groups {
		groups[i].Held = held[orchestrator.GroupSubject(g.ID)]
	}
	return groups, err
}

// Members implements orchestrator.Appliances.
func (s *Store) Members(ctx context.Context, group string) ([]orchestrator.Member, error) {
	var members []orchestrator.Member
	held := map[orchestrator.Subject]string{}
	err := s.view(ctx, "store.Members", maintained(held), Stmt{
		SQL:  `SELECT group_id, name, applied, sha256, dirty, halted, problem, seen_at FROM members WHERE group_id = $1 ORDER BY name`,
		Args: []any{group},
		Scan: func(row Row) error {
			var m orchestrator.Member
			err := row.Scan(&m.Group, &m.Name, &m.Applied, &m.SHA256, intoBool(&m.Dirty), &m.Halted, &m.Problem, intoTime(&m.SeenAt))
			m.Held = held[orchestrator.MemberSubject(m.Group, m.Name)]
			members = append(members, m)
			return err
		},
	})
	return members, err
}

// Entries implements orchestrator.Appliances.
func (s *Store) Entries(ctx context.Context, group string) (orchestrator.Group, []orchestrator.Entry, error) {
	const op = "store.Entries"
	var groups []orchestrator.Group
	var entries []orchestrator.Entry
	held := map[orchestrator.Subject]string{}
	err := s.view(ctx, op, maintained(held),
		Stmt{SQL: `SELECT ` + groupColumns + ` FROM appliance_groups g WHERE g.id = $1`, Args: []any{group}, Scan: collectGroups(&groups)},
		Stmt{
			SQL: `SELECT e.group_id, e.machine, e.owner, e.generation, e.removed, e.body, e.live, e.bad, COALESCE(b.backend, '') FROM entries e
				LEFT JOIN machines m ON m.id = e.machine AND m.console_group = e.group_id LEFT JOIN console_backends b ON b.pool = m.pool
				WHERE e.group_id = $1 ORDER BY e.machine`,
			Args: []any{group},
			Scan: func(row Row) error {
				var e orchestrator.Entry
				err := row.Scan(&e.Group, &e.Machine, &e.Owner, &e.Generation, intoBool(&e.Removed), intoRaw(&e.Body), intoRaw(&e.Live), &e.Bad, (*string)(&e.Backend))
				entries = append(entries, e)
				return err
			},
		})
	if err == nil && len(groups) == 0 {
		err = notFound(op, "group %s", group)
	}
	if err != nil {
		return orchestrator.Group{}, nil, err
	}
	groups[0].Held = held[orchestrator.GroupSubject(group)]
	return groups[0], entries, nil
}

// EntryState implements orchestrator.Appliances. A group gets on when as many members as must confirm are neither halted nor failing; those
// in maintenance are not asked for.
func (s *Store) EntryState(ctx context.Context, group, machine string) (orchestrator.EntryState, error) {
	const op = "store.EntryState"
	var state orchestrator.EntryState
	known, need, well, standing, problem := false, 0, 0, 0, ""
	held := map[orchestrator.Subject]string{}
	err := s.view(ctx, op, maintained(held),
		Stmt{SQL: `SELECT applied, min_applied FROM appliance_groups WHERE id = $1`, Args: []any{group}, Scan: func(row Row) error {
			known = true
			return row.Scan(&state.Applied, &need)
		}},
		Stmt{
			SQL: `SELECT generation, removed, body, bad FROM entries WHERE group_id = $1 AND machine = $2`, Args: []any{group, machine},
			Scan: func(row Row) error {
				state.Found = true
				return row.Scan(&state.Generation, intoBool(&state.Removed), intoRaw(&state.Body), &state.Bad)
			},
		},
		Stmt{SQL: `SELECT name, halted, problem FROM members WHERE group_id = $1 ORDER BY name`, Args: []any{group}, Scan: func(row Row) error {
			var name, halted, failing string
			err := row.Scan(&name, &halted, &failing)
			hold := held[orchestrator.MemberSubject(group, name)]
			if hold == "" {
				standing++
			}
			switch {
			case hold != "":
				if problem == "" {
					problem = hold
				}
			case halted != "":
				problem = name + " is halted: " + halted
			case failing != "":
				if problem == "" {
					problem = name + ": " + failing
				}
			default:
				well++
			}
			return err
		}})
	if err == nil && !known {
		err = notFound(op, "group %s", group)
	}
	if err != nil {
		return orchestrator.EntryState{}, err
	}
	if why := held[orchestrator.GroupSubject(group)]; why != "" {
		state.Problem = why
	} else if well < max(1, min(need, standing)) {
		if state.Problem = problem; problem == "" {
			state.Problem = "the group has fewer members than must confirm"
		}
	}
	return state, nil
}

// Ask implements orchestrator.Appliances.
func (s *Store) Ask(ctx context.Context, group, sha256 string) error {
	return s.update(ctx, "store.Ask", Stmt{
		SQL:  `INSERT INTO asked_states (group_id, sha256, at) VALUES ($1, $2, {now}) ON CONFLICT (group_id, sha256) DO UPDATE SET at = excluded.at`,
		Args: []any{group, sha256},
	})
}

// Asked implements orchestrator.Appliances.
func (s *Store) Asked(ctx context.Context, group, sha256 string) (bool, error) {
	n := 0
	err := s.view(ctx, "store.Asked", Stmt{SQL: `SELECT 1 FROM asked_states WHERE group_id = $1 AND sha256 = $2`, Args: []any{group, sha256}, Scan: counted(&n)})
	return n > 0, err
}

// PutMember implements orchestrator.Appliances.
func (s *Store) PutMember(ctx context.Context, m orchestrator.Member) error {
	return s.update(ctx, "store.PutMember", Stmt{
		SQL: `INSERT INTO members (group_id, name, applied, sha256, dirty, halted, problem, seen_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (group_id, name) DO UPDATE SET applied = excluded.applied, sha256 = excluded.sha256, dirty = excluded.dirty,
			halted = excluded.halted, problem = excluded.problem, seen_at = excluded.seen_at`,
		Args: []any{m.Group, m.Name, m.Applied, m.SHA256, flag(m.Dirty), m.Halted, m.Problem, micros(m.SeenAt)},
	})
}

// Confirm implements orchestrator.Appliances. Confirming a generation again, or an older one, changes nothing that is newer.
func (s *Store) Confirm(ctx context.Context, group string, fence, generation int64, bad map[string]string) error {
	const op = "store.Confirm"
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		if err := holdsGroup(ctx, tx, op, group, fence); err != nil {
			return err
		}
		n := 0
		err := one(ctx, tx, `UPDATE appliance_groups SET applied = CASE WHEN applied < $2 THEN $2 ELSE applied END WHERE id = $1 AND generation >= $2 RETURNING id`,
			counted(&n), group, generation)
		if err != nil {
			return err
		}
		if n == 0 {
			return orchestrator.Errorf(op, orchestrator.Permanent, "group %s has no generation %d", group, generation)
		}
		stmts := markBad(group, generation, bad)
		stmts = append(stmts,
			Stmt{SQL: `UPDATE entries SET live = body WHERE group_id = $1 AND removed = 0 AND generation <= $2 AND bad = ''`, Args: []any{group, generation}},
			Stmt{SQL: `DELETE FROM entries WHERE group_id = $1 AND removed = 1 AND generation <= $2`, Args: []any{group, generation}},
			Stmt{SQL: `DELETE FROM departures WHERE group_id = $1 AND generation <= (SELECT MIN(applied) FROM members WHERE group_id = $1)`, Args: []any{group}},
			wake(orchestrator.WakeGroup(group)))
		_, err = tx.Run(ctx, stmts...)
		return err
	})
}

// maxDepartures bounds what a worker and an agent have to read.
const maxDepartures = 10_000

// Departed implements orchestrator.Appliances.
func (s *Store) Departed(ctx context.Context, group string) ([]orchestrator.Departure, error) {
	var departed []orchestrator.Departure
	err := s.view(ctx, "store.Departed", Stmt{
		SQL: `SELECT machine, body FROM departures d WHERE group_id = $1
			AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.group_id = d.group_id AND e.machine = d.machine AND e.removed = 0)
			ORDER BY generation DESC, machine LIMIT $2`,
		Args: []any{group, maxDepartures},
		Scan: func(row Row) error {
			var d orchestrator.Departure
			err := row.Scan(&d.Machine, intoRaw(&d.Body))
			departed = append(departed, d)
			return err
		},
	})
	return departed, err
}

// MarkBad implements orchestrator.Appliances. The runs that wait for the group are due: one of them hears that its text is bad.
func (s *Store) MarkBad(ctx context.Context, group string, fence int64, bad map[string]string) error {
	const op = "store.MarkBad"
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		if err := holdsGroup(ctx, tx, op, group, fence); err != nil {
			return err
		}
		_, err := tx.Run(ctx, append(markBad(group, 1<<62, bad), wake(orchestrator.WakeGroup(group)))...)
		return err
	})
}

func markBad(group string, generation int64, bad map[string]string) []Stmt {
	var stmts []Stmt
	for _, machine := range slices.Sorted(maps.Keys(bad)) {
		line := bad[machine]
		if line == "" {
			line = "the tool refused it without saying why"
		}
		stmts = append(stmts, Stmt{
			SQL:  `UPDATE entries SET bad = $4 WHERE group_id = $1 AND machine = $2 AND removed = 0 AND generation <= $3`,
			Args: []any{group, machine, generation, line},
		})
	}
	return stmts
}

// holdsGroup locks the group and its lease and checks the fence.
func holdsGroup(ctx context.Context, tx Tx, op, group string, fence int64) error {
	var now int64
	known := 0
	_, err := tx.Run(ctx,
		Stmt{SQL: `SELECT id FROM appliance_groups WHERE id = $1 {lock}`, Args: []any{group}, Scan: counted(&known)},
		Stmt{SQL: `SELECT fence FROM leases WHERE name = $1 {lock}`, Args: []any{"group:" + group}, Scan: func(row Row) error { return row.Scan(&now) }})
	switch {
	case err != nil:
		return err
	case known == 0:
		return notFound(op, "group %s", group)
	case now != fence:
		return orchestrator.Errorf(op, orchestrator.Conflict, "group %s is at fence %d, not %d: %w", group, now, fence, orchestrator.ErrFenced)
	}
	return nil
}

// ApproveShrink implements orchestrator.Appliances.
func (s *Store) ApproveShrink(ctx context.Context, group string, generation int64, actor, reason string) error {
	const op = "store.ApproveShrink"
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		n := 0
		err := one(ctx, tx, `UPDATE appliance_groups SET shrink_approved = $2 WHERE id = $1 RETURNING id`, counted(&n), group, generation)
		if err == nil && n == 0 {
			return notFound(op, "group %s", group)
		}
		if err != nil {
			return err
		}
		return act(ctx, tx, actor, "approve-shrink", group, reason)
	})
}

// ShrinkApproved implements orchestrator.Appliances.
func (s *Store) ShrinkApproved(ctx context.Context, group string) (generation int64, err error) {
	err = s.view(ctx, "store.ShrinkApproved", Stmt{
		SQL: `SELECT shrink_approved FROM appliance_groups WHERE id = $1`, Args: []any{group}, Scan: func(row Row) error { return row.Scan(&generation) },
	})
	return generation, err
}

// Resume implements orchestrator.Appliances.
func (s *Store) Resume(ctx context.Context, group, member, actor, reason string) error {
	const op = "store.Resume"
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		n := 0
		err := one(ctx, tx, `UPDATE members SET halted = '' WHERE group_id = $1 AND name = $2 RETURNING name`, counted(&n), group, member)
		if err == nil && n == 0 {
			return notFound(op, "member %s of group %s", member, group)
		}
		if err != nil {
			return err
		}
		// A member that carries a generation from a life of the database that was not restored is brought over by a newer one.
		err = one(ctx, tx, `UPDATE appliance_groups SET generation = (SELECT applied FROM members WHERE group_id = $1 AND name = $2) + 1
			WHERE id = $1 AND generation <= (SELECT applied FROM members WHERE group_id = $1 AND name = $2 AND dirty = 1)`, nil, group, member)
		if err != nil {
			return err
		}
		err = one(ctx, tx, `INSERT INTO asked_states (group_id, sha256, at) SELECT group_id, sha256, {now} FROM members WHERE group_id = $1 AND name = $2 AND sha256 <> ''
			ON CONFLICT (group_id, sha256) DO NOTHING`, nil, group, member)
		if err != nil {
			return err
		}
		return act(ctx, tx, actor, "resume", group+"/"+member, reason)
	})
}
