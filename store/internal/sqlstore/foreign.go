package sqlstore

import (
	"context"
	"slices"
	"strconv"

	"slipway/orchestrator"
)

const sightingColumns = `kind, scope, value, role, source, object, name, place, peer`

func sightingFields(s *orchestrator.Sighting) []any {
	return []any{&s.Kind, &s.Scope, &s.Value, &s.Role, &s.Source, &s.Object, &s.Name, &s.Place, &s.Peer}
}

func collectSightings(out *[]orchestrator.Sighting) func(Row) error {
	return func(row Row) error {
		var s orchestrator.Sighting
		err := row.Scan(sightingFields(&s)...)
		*out = append(*out, s)
		return err
	}
}

// Sightings implements orchestrator.Strangers.
func (s *Store) Sightings(ctx context.Context) ([]orchestrator.Sighting, error) {
	var all []orchestrator.Sighting
	err := s.view(ctx, "store.Sightings", Stmt{SQL: `SELECT ` + sightingColumns + ` FROM sightings ORDER BY scope, kind, value, source, object`, Scan: collectSightings(&all)})
	return all, err
}

// Foreign implements orchestrator.Strangers.
func (s *Store) Foreign(ctx context.Context) ([]orchestrator.ForeignValue, error) {
	var all []orchestrator.ForeignValue
	take := func(kind string) func(Row) error {
		return func(row Row) error {
			v := orchestrator.ForeignValue{Kind: kind}
			err := row.Scan(&v.Scope, &v.Value, &v.Note)
			all = append(all, v)
			return err
		}
	}
	err := s.view(ctx, "store.Foreign",
		Stmt{SQL: `SELECT pool, address, note FROM addresses WHERE owner = 'foreign' ORDER BY pool, address`, Scan: take(orchestrator.SightedAddress)},
		Stmt{SQL: `SELECT pool, mac, '' FROM macs WHERE owner = 'foreign' ORDER BY pool, mac`, Scan: take(orchestrator.SightedMAC)},
		Stmt{SQL: `SELECT console_group, CAST(port AS TEXT), '' FROM console_ports WHERE owner = 'foreign' ORDER BY console_group, port`, Scan: take(orchestrator.SightedPort)})
	return all, err
}

// Reserve implements orchestrator.Strangers.
func (s *Store) Reserve(ctx context.Context, source string, found []orchestrator.Sighting, dry bool, actor, reason string) (orchestrator.Scanned, error) {
	const op = "store.Reserve"
	for _, f := range found {
		if f.Source != source {
			return orchestrator.Scanned{}, orchestrator.Errorf(op, orchestrator.Permanent, "a sighting of %q in a scan of %q", f.Source, source)
		}
	}
	var scanned orchestrator.Scanned
	if dry {
		ctx, cancel := s.bound(ctx)
		defer cancel()
		err := s.db.View(ctx, func(tx Tx) error {
			h, err := readHoldings(ctx, tx, source)
			if err == nil {
				scanned = h.judge(found)
			}
			return err
		})
		return scanned, s.fail(op, err)
	}
	err := s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		if err := s.lockLedger(ctx, tx); err != nil {
			return err
		}
		h, err := readHoldings(ctx, tx, source)
		if err != nil {
			return err
		}
		scanned = h.judge(found)
		var stmts []Stmt
		for _, v := range scanned.Verdicts {
			stmts = append(stmts, h.reserve(v)...)
		}
		if len(stmts) == 0 {
			return nil
		}
		if _, err := tx.Run(ctx, stmts...); err != nil {
			return err
		}
		return act(ctx, tx, actor, "reserve-foreign", source, reason)
	})
	return scanned, err
}

// Free implements orchestrator.Strangers.
func (s *Store) Free(ctx context.Context, kind, scope, value, actor, reason string) error {
	const op = "store.Free"
	remove := map[string]Stmt{
		orchestrator.SightedAddress: {SQL: `DELETE FROM addresses WHERE address = $1 AND owner = 'foreign' RETURNING 1`, Args: []any{value}},
		orchestrator.SightedMAC:     {SQL: `DELETE FROM macs WHERE mac = $1 AND owner = 'foreign' RETURNING 1`, Args: []any{value}},
		orchestrator.SightedPort: {SQL: `DELETE FROM console_ports WHERE CAST(port AS TEXT) = $1 AND console_group = $2 AND owner = 'foreign' RETURNING 1`,
			Args: []any{value, scope}},
	}
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		if err := s.lockLedger(ctx, tx); err != nil {
			return err
		}
		stmt, ok := remove[kind]
		if !ok {
			return orchestrator.Errorf(op, orchestrator.Permanent, "%q is no kind of reservation", kind)
		}
		n := 0
		stmt.Scan = counted(&n)
		if _, err := tx.Run(ctx, stmt, forgetSightings(kind, scope, value), wake(orchestrator.WakeCapacity)); err != nil {
			return err
		}
		if n == 0 {
			return notFound(op, "%s %s is not reserved as foreign", kind, value)
		}
		return act(ctx, tx, actor, "free-foreign", kind+" "+value, reason)
	})
}

// forgetSightings drops what was seen of a value; only a port's belongs to its group alone.
func forgetSightings(kind, scope, value string) Stmt {
	if kind != orchestrator.SightedPort {
		scope = ""
	}
	return Stmt{SQL: `DELETE FROM sightings WHERE kind = $1 AND value = $2 AND (CAST($3 AS TEXT) = '' OR scope = $3)`, Args: []any{kind, value, scope}}
}

// holding is who has a value.
type holding struct{ owner, machine, state string }

// heldKey names a value of the ledger; group is a port's.
type heldKey struct{ kind, group, value string }

func keyOf(s orchestrator.Sighting) heldKey {
	if s.Kind == orchestrator.SightedPort {
		return heldKey{s.Kind, s.Scope, s.Value}
	}
	return heldKey{s.Kind, "", s.Value}
}

// seenKey names a sighting of one source.
type seenKey struct{ kind, scope, value, object string }

func seenAs(s orchestrator.Sighting) seenKey { return seenKey{s.Kind, s.Scope, s.Value, s.Object} }

// holdings is the ledger as a scan of one source looks at it.
type holdings struct {
	held  map[heldKey]holding
	known map[seenKey]orchestrator.Sighting
	order []orchestrator.Sighting // of known
}

func readHoldings(ctx context.Context, tx Tx, source string) (holdings, error) {
	h := holdings{held: map[heldKey]holding{}, known: map[seenKey]orchestrator.Sighting{}}
	take := func(kind string) func(Row) error {
		return func(row Row) error {
			k, v := heldKey{kind: kind}, holding{}
			err := row.Scan(&k.group, &k.value, &v.owner, &v.machine, &v.state)
			h.held[k] = v
			return err
		}
	}
	_, err := tx.Run(ctx,
		Stmt{SQL: `SELECT '', address, owner, COALESCE(machine, ''), state FROM addresses`, Scan: take(orchestrator.SightedAddress)},
		Stmt{SQL: `SELECT '', mac, owner, COALESCE(machine, ''), state FROM macs`, Scan: take(orchestrator.SightedMAC)},
		Stmt{SQL: `SELECT console_group, CAST(port AS TEXT), owner, COALESCE(machine, ''), state FROM console_ports`, Scan: take(orchestrator.SightedPort)},
		Stmt{SQL: `SELECT ` + sightingColumns + ` FROM sightings WHERE source = $1 ORDER BY scope, kind, value, object`, Args: []any{source}, Scan: collectSightings(&h.order)})
	for _, s := range h.order {
		h.known[seenAs(s)] = s
	}
	return h, err
}

// judge decides what becomes of each sighting.
func (h holdings) judge(found []orchestrator.Sighting) orchestrator.Scanned {
	own := h.ownObjects(found)
	out := orchestrator.Scanned{Verdicts: make([]orchestrator.Verdict, 0, len(found))}
	seen := map[seenKey]bool{}
	for _, f := range found {
		if seen[seenAs(f)] {
			continue
		}
		seen[seenAs(f)] = true
		held, taken := h.held[keyOf(f)]
		_, known := h.known[seenAs(f)]
		v := orchestrator.Verdict{Sighting: f, State: orchestrator.SightingNew, Machine: held.machine}
		switch {
		case taken && held.owner == orchestrator.OwnerForeign && known:
			v.State = orchestrator.SightingKnown
		case taken && held.owner != orchestrator.OwnerForeign && held.state != orchestrator.AddressQuarantine:
			v.State = orchestrator.SightingConflict
			if own[f.Object] == held.machine {
				v.State = orchestrator.SightingOwn
			}
		}
		out.Verdicts = append(out.Verdicts, v)
	}
	for _, s := range h.order {
		if !seen[seenAs(s)] && h.held[keyOf(s)].owner == orchestrator.OwnerForeign { // it may be a machine's by now
			out.Gone = append(out.Gone, s)
		}
	}
	return out
}

// ownObjects tells the objects of which all values, two at least, are one machine's: a host block with its MAC and its address, a pair of
// translations. They are what stood there before the machine was imported. One value alone says nothing: it may be a coincidence.
func (h holdings) ownObjects(found []orchestrator.Sighting) map[string]string {
	values, owners := map[string][]heldKey{}, map[string][]string{}
	for _, f := range found {
		k, v := keyOf(f), h.held[keyOf(f)]
		if !slices.Contains(values[f.Object], k) {
			values[f.Object] = append(values[f.Object], k)
		}
		if !slices.Contains(owners[f.Object], v.machine) {
			owners[f.Object] = append(owners[f.Object], v.machine)
		}
	}
	own := map[string]string{}
	for object, machines := range owners {
		if len(machines) == 1 && machines[0] != "" && len(values[object]) > 1 {
			own[object] = machines[0]
		}
	}
	return own
}

// reserve makes a verdict so; none when nothing changes.
func (h holdings) reserve(v orchestrator.Verdict) []Stmt {
	s := v.Sighting
	if v.State == orchestrator.SightingKnown && h.known[seenAs(s)] == s || v.State == orchestrator.SightingConflict || v.State == orchestrator.SightingOwn {
		return nil
	}
	stmts := []Stmt{{
		SQL: `INSERT INTO sightings (` + sightingColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (source, object, kind, scope, value) DO UPDATE SET role = excluded.role, name = excluded.name, place = excluded.place, peer = excluded.peer`,
		Args: []any{s.Kind, s.Scope, s.Value, s.Role, s.Source, s.Object, s.Name, s.Place, s.Peer},
	}}
	if h.held[keyOf(s)].owner == orchestrator.OwnerForeign {
		return stmts
	}
	// What only rests has left its machine; the stranger has it now.
	switch s.Kind {
	case orchestrator.SightedAddress:
		stmts = append(stmts, Stmt{SQL: `INSERT INTO addresses (address, pool, role, owner, state, note) VALUES ($1, $2, $3, 'foreign', 'foreign', $4)
			ON CONFLICT (address) DO UPDATE SET pool = excluded.pool, role = excluded.role, owner = 'foreign', machine = NULL, state = 'foreign', until = 0, note = excluded.note
			WHERE addresses.state = 'quarantine'`, Args: []any{s.Value, s.Scope, s.Role, noteOf(s)}})
	case orchestrator.SightedMAC:
		stmts = append(stmts, Stmt{SQL: `INSERT INTO macs (mac, pool, owner, state) VALUES ($1, $2, 'foreign', 'foreign')
			ON CONFLICT (mac) DO UPDATE SET pool = excluded.pool, owner = 'foreign', machine = NULL, state = 'foreign', until = 0 WHERE macs.state = 'quarantine'`,
			Args: []any{s.Value, s.Scope}})
	case orchestrator.SightedPort:
		port, _ := strconv.Atoi(s.Value) // 0 is refused by the schema
		stmts = append(stmts, Stmt{SQL: `INSERT INTO console_ports (console_group, port, owner, state) VALUES ($1, $2, 'foreign', 'foreign')
			ON CONFLICT (console_group, port) DO UPDATE SET owner = 'foreign', machine = NULL, state = 'foreign', until = 0 WHERE console_ports.state = 'quarantine'`,
			Args: []any{s.Scope, int64(port)}})
	}
	return stmts
}

// noteOf is what `slipway ip` shows of a reservation that a scan made.
func noteOf(s orchestrator.Sighting) string {
	if s.Name == "" || s.Name == s.Object {
		return s.Object + " at " + s.Source
	}
	return s.Name + ": " + s.Object + " at " + s.Source
}
