package sqlstore

import (
	"context"
	"net/netip"

	"slipway/orchestrator"
)

// Ledger implements orchestrator.Operators.
func (s *Store) Ledger(ctx context.Context) (*orchestrator.Ledger, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	var ledger *orchestrator.Ledger
	err := s.db.View(ctx, func(tx Tx) error {
		l := newLedger()
		_, err := tx.Run(ctx, l.reads()...)
		ledger = l.Ledger
		return err
	})
	return ledger, s.fail("store.Ledger", err)
}

// loadLedger takes the ledger lock and reads everything, with the placements that these machines have already: one round trip.
func (s *Store) loadLedger(ctx context.Context, tx Tx, machines []string) (*orchestrator.Ledger, map[string]orchestrator.Placement, error) {
	var stmts []Stmt
	if lock, ok := s.db.LockLedger(); ok {
		stmts = append(stmts, lock)
	}
	l := newLedger()
	stmts = append(stmts, l.reads()...)
	placed := map[string]orchestrator.Placement{}
	stmts = append(stmts, Stmt{
		SQL:  `SELECT ` + machineColumns + ` FROM machines m WHERE m.id IN {list $1} AND m.pool <> ''`,
		Args: []any{list(machines)},
		Scan: func(row Row) error {
			var m orchestrator.Machine
			err := row.Scan(machineFields(&m)...)
			placed[m.ID] = m.Placement
			return err
		},
	})
	_, err := tx.Run(ctx, stmts...)
	return l.Ledger, placed, err
}

type ledgerLoad struct{ *orchestrator.Ledger }

func newLedger() ledgerLoad {
	return ledgerLoad{&orchestrator.Ledger{
		Pools: map[string]*orchestrator.PoolLedger{}, MACs: map[string]bool{}, Ports: map[string]map[uint16]bool{},
		Addresses: map[netip.Addr]bool{}, ForeignAddresses: map[netip.Addr]bool{}, ForeignMACs: map[string]bool{}, Groups: map[string]orchestrator.Group{}, Held: map[orchestrator.Subject]orchestrator.Hold{},
	}}
}

// reads are the statements that fill the ledger. Hosts and storage that are gone are left out.
func (l ledgerLoad) reads() []Stmt {
	return []Stmt{
		{SQL: `SELECT id, templates, (SELECT count(*) FROM reservations v WHERE v.pool = pools.id), unread, strange FROM pools`, Scan: l.pool},
		{SQL: `SELECT pool, uuid, name, memory_mib, cpus, enabled, reserved_mib FROM hosts WHERE gone = 0 ORDER BY pool, uuid`, Scan: l.host},
		{SQL: `SELECT pool, uuid, name, bytes, shared, hosts, reserved_bytes FROM srs WHERE gone = 0 ORDER BY pool, uuid`, Scan: l.sr},
		{SQL: `SELECT mac, owner FROM macs`, Scan: l.mac},
		{SQL: `SELECT console_group, port FROM console_ports`, Scan: l.port},
		{SQL: `SELECT address, owner FROM addresses`, Scan: l.address},
		{SQL: `SELECT ` + groupColumns + ` FROM appliance_groups g`, Scan: l.group},
		{SQL: `SELECT ` + holdColumns + ` FROM holds WHERE kind = '` + string(orchestrator.HoldMaintenance) + `' AND ` + inForce, Scan: l.hold},
	}
}

func (l ledgerLoad) pool(row Row) error {
	var id string
	var p orchestrator.PoolLedger
	err := row.Scan(&id, intoJSON(&p.Templates), &p.Machines, intoBool(&p.Unread), &p.Strange)
	l.Pools[id] = &p
	return err
}

func (l ledgerLoad) host(row Row) error {
	var pool string
	var h orchestrator.HostLedger
	if err := row.Scan(&pool, &h.UUID, &h.Name, &h.MemoryMiB, &h.CPUs, intoBool(&h.Enabled), &h.ReservedMiB); err != nil {
		return err
	}
	if p := l.Pools[pool]; p != nil {
		p.Hosts = append(p.Hosts, h)
	}
	return nil
}

func (l ledgerLoad) sr(row Row) error {
	var pool string
	var s orchestrator.SRLedger
	if err := row.Scan(&pool, &s.UUID, &s.Name, &s.Bytes, intoBool(&s.Shared), intoJSON(&s.Hosts), &s.ReservedBytes); err != nil {
		return err
	}
	if p := l.Pools[pool]; p != nil {
		p.SRs = append(p.SRs, s)
	}
	return nil
}

func (l ledgerLoad) mac(row Row) error {
	var mac, owner string
	err := row.Scan(&mac, &owner)
	l.MACs[mac] = true
	if owner == orchestrator.OwnerForeign {
		l.ForeignMACs[mac] = true
	}
	return err
}

func (l ledgerLoad) port(row Row) error {
	var group string
	var port uint16
	if err := row.Scan(&group, &port); err != nil {
		return err
	}
	if l.Ports[group] == nil {
		l.Ports[group] = map[uint16]bool{}
	}
	l.Ports[group][port] = true
	return nil
}

func (l ledgerLoad) address(row Row) error {
	var a netip.Addr
	var owner string
	err := row.Scan(intoAddr(&a), &owner)
	l.Addresses[a] = true
	if owner == orchestrator.OwnerForeign {
		l.ForeignAddresses[a] = true
	}
	return err
}

func (l ledgerLoad) group(row Row) error {
	var g orchestrator.Group
	err := row.Scan(groupFields(&g)...)
	l.Groups[g.ID] = g
	return err
}

func (l ledgerLoad) hold(row Row) error {
	var holds []orchestrator.Hold
	if err := collectHolds(&holds)(row); err != nil {
		return err
	}
	l.Held[holds[0].Subject] = holds[0]
	return nil
}

// BeginReading implements orchestrator.Operators.
func (s *Store) BeginReading(ctx context.Context) error {
	return s.update(ctx, "store.BeginReading", Stmt{SQL: `UPDATE pools SET unread = 1`})
}

// SyncPool implements orchestrator.Operators. A pool that shrank below what is promised keeps its promises and takes nothing new; whoever
// waits for room is due, for there may be more. The memory of a machine that was migrated counts where it runs.
func (s *Store) SyncPool(ctx context.Context, inv orchestrator.Inventory) error {
	var stmts []Stmt
	add := func(sql string, args ...any) { stmts = append(stmts, Stmt{SQL: sql, Args: args}) }
	if lock, ok := s.db.LockLedger(); ok {
		stmts = append(stmts, lock)
	}
	add(`INSERT INTO pools (id, templates, updated_at) VALUES ($1, $2, {now})
		ON CONFLICT (id) DO UPDATE SET templates = excluded.templates, updated_at = excluded.updated_at`, inv.Pool, text(inv.Templates))
	add(`UPDATE pools SET unread = 0, strange = (SELECT count(*) FROM {list $2} AS seen WHERE value NOT IN (SELECT id FROM machines)) WHERE id = $1`, inv.Pool, list(inv.Tagged))
	add(`UPDATE hosts SET gone = 1 WHERE pool = $1`, inv.Pool)
	for _, h := range inv.Hosts {
		add(`INSERT INTO hosts (pool, uuid, name, memory_mib, cpus, enabled) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (pool, uuid) DO UPDATE SET name = excluded.name, memory_mib = excluded.memory_mib, cpus = excluded.cpus, enabled = excluded.enabled, gone = 0`,
			inv.Pool, h.UUID, h.Name, h.MemoryMiB, h.CPUs, flag(h.Enabled))
	}
	add(`UPDATE srs SET gone = 1 WHERE pool = $1`, inv.Pool)
	for _, r := range inv.SRs {
		add(`INSERT INTO srs (pool, uuid, name, bytes, shared, hosts) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (pool, uuid) DO UPDATE SET name = excluded.name, bytes = excluded.bytes, shared = excluded.shared, hosts = excluded.hosts, gone = 0`,
			inv.Pool, r.UUID, r.Name, r.Bytes, flag(r.Shared), list(r.Hosts))
	}
	add(`DELETE FROM macs WHERE owner = 'foreign' AND pool = $1 AND mac NOT IN {list $2}
		AND NOT EXISTS (SELECT 1 FROM sightings s WHERE s.kind = 'mac' AND s.value = macs.mac)`, inv.Pool, list(inv.MACs))
	add(`INSERT INTO macs (mac, pool, owner, state) SELECT value, $2, 'foreign', 'foreign' FROM {list $1} AS seen WHERE true
		ON CONFLICT (mac) DO NOTHING`, list(inv.MACs), inv.Pool)
	stmts = append(stmts, wake(orchestrator.WakeCapacity))
	return s.update(ctx, "store.SyncPool", append(stmts, follow(inv)...)...)
}

// moreThanAny is memory (MiB) that no host has.
const moreThanAny = 1 << 40

// follow moves the reservations of machines to the hosts where their VMs run. A machine with a run under way is left to that run. The
// memory is in use there, so that the host's room is not asked: like one that shrank, it takes nothing new until there is some.
func follow(inv orchestrator.Inventory) []Stmt {
	var stmts []Stmt
	add := func(sql string, args ...any) { stmts = append(stmts, Stmt{SQL: sql, Args: args}) }
	for _, h := range inv.Hosts {
		if vms := inv.Residents[h.UUID]; len(vms) > 0 {
			add(`UPDATE machines SET host = $2, updated_at = {now} WHERE id IN (SELECT id FROM machines WHERE pool = $1 AND host <> $2 AND vm IN {list $3}
				AND id NOT IN (SELECT machine FROM runs WHERE status NOT IN ('done', 'canceled')) {skip})`, inv.Pool, h.UUID, list(vms))
		}
	}
	if len(stmts) == 0 {
		return nil
	}
	add(`UPDATE hosts SET memory_mib = memory_mib + CAST($2 AS BIGINT) WHERE pool = $1`, inv.Pool, int64(moreThanAny))
	add(`UPDATE reservations SET host = (SELECT m.host FROM machines m WHERE m.id = reservations.machine)
		WHERE pool = $1 AND EXISTS (SELECT 1 FROM machines m WHERE m.id = reservations.machine AND m.host <> reservations.host)`, inv.Pool)
	add(`UPDATE hosts SET memory_mib = memory_mib - CAST($2 AS BIGINT) WHERE pool = $1`, inv.Pool, int64(moreThanAny))
	return stmts
}
