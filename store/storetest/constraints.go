package storetest

import (
	"fmt"
	"strings"
	"testing"

	"slipway/orchestrator"
)

// constraints tries what must be impossible, past the store, in plain SQL.
func constraints(t *testing.T, h Harness) {
	b := setup(t, h)
	one, two := b.place(b.taken("a")), b.place(b.taken("a"))
	gone := b.place(b.taken("a"))
	gone.Machine.Presence = orchestrator.Absent
	b.commit(orchestrator.Commit{Run: gone.Run, Machine: &gone.Machine})
	p, q := one.Machine.Placement, two.Machine.Placement
	must(t, b.db.Exec(t.Context(), fmt.Sprintf(`UPDATE machines SET identity = 'twin' WHERE id = '%s'`, one.Machine.ID)))

	for name, sql := range map[string]string{
		"two owners of one address":            `INSERT INTO addresses (address, pool, role, owner, machine, state) VALUES ('{p.private}', 'pool-b', 'private', 'slipway', '{two}', 'reserved')`,
		"one address ours and foreign":         `INSERT INTO addresses (address, pool, role, owner, state) VALUES ('{p.private}', 'pool-b', 'private', 'foreign', 'foreign')`,
		"two private addresses of one machine": `INSERT INTO addresses (address, pool, role, owner, machine, state) VALUES ('192.0.2.77', 'pool-b', 'private', 'slipway', '{one}', 'reserved')`,
		"an address of a foreign machine":      `INSERT INTO addresses (address, pool, role, owner, machine, state) VALUES ('192.0.2.77', 'pool-b', 'private', 'foreign', '{one}', 'foreign')`,
		"an address of no machine":             `INSERT INTO addresses (address, pool, role, owner, state) VALUES ('192.0.2.77', 'pool-b', 'private', 'slipway', 'bound')`,
		"an owner that there is not":           `INSERT INTO addresses (address, pool, role, owner, state) VALUES ('192.0.2.77', 'pool-b', 'private', 'nobody', 'foreign')`,
		"two owners of one MAC":                `INSERT INTO macs (mac, pool, owner, machine, state) VALUES ('{p.mac}', 'pool-b', 'slipway', '{gone}', 'quarantine')`,
		"two MACs of one machine":              `INSERT INTO macs (mac, pool, owner, machine, state) VALUES ('02:00:00:00:00:09', 'pool-b', 'slipway', '{one}', 'bound')`,
		"an empty MAC":                         `INSERT INTO macs (mac, pool, owner, state) VALUES ('', 'pool-b', 'foreign', 'foreign')`,
		"two owners of one console port":       `INSERT INTO console_ports (console_group, port, owner, machine, state) VALUES ('xvp', {p.port}, 'slipway', '{gone}', 'quarantine')`,
		"a console port 0":                     `INSERT INTO console_ports (console_group, port, owner, state) VALUES ('xvp', 0, 'foreign', 'foreign')`,
		"one name twice in a tenant":           `UPDATE machines SET name = '{one.name}' WHERE id = '{two}'`,
		"one machine-id twice":                 `UPDATE machines SET identity = 'twin' WHERE id = '{two}'`,
		"two active runs of a machine":         `INSERT INTO runs (id, machine, process, state, status, step, row_hash, created_at, updated_at) VALUES ('r2', '{one}', 'uninstall', 's', 'parked', 's', '', 1, 1)`,
		"a run of no machine":                  `INSERT INTO runs (id, machine, process, state, status, step, row_hash, created_at, updated_at) VALUES ('r2', 'none', 'uninstall', 's', 'parked', 's', '', 1, 1)`,
		"a status that there is not":           `UPDATE runs SET status = 'odd' WHERE machine = '{one}'`,
		"a machine deleted":                    `DELETE FROM machines WHERE id = '{one}'`,
		"an address leaving: deleted":          `DELETE FROM addresses WHERE machine = '{one}'`,
		"an address leaving: to another":       `UPDATE addresses SET machine = '{gone}' WHERE address = '{p.private}'`,
		"an address leaving: to nobody":        `UPDATE addresses SET machine = NULL, owner = 'foreign', state = 'foreign' WHERE address = '{p.private}'`,
		"an address leaving: to rest":          `UPDATE addresses SET state = 'quarantine' WHERE address = '{p.private}'`,
		"an address leaving: renumbered":       `UPDATE addresses SET address = '192.0.2.78' WHERE address = '{p.private}'`,
		"a MAC leaving: deleted":               `DELETE FROM macs WHERE machine = '{one}'`,
		"a MAC leaving: to another":            `UPDATE macs SET machine = '{gone}' WHERE mac = '{p.mac}'`,
		"a MAC leaving: to rest":               `UPDATE macs SET state = 'quarantine' WHERE mac = '{p.mac}'`,
		"a console port leaving: deleted":      `DELETE FROM console_ports WHERE machine = '{one}'`,
		"a console port leaving: to another":   `UPDATE console_ports SET machine = '{gone}' WHERE port = {p.port}`,
		"a console port leaving: to rest":      `UPDATE console_ports SET state = 'quarantine' WHERE port = {p.port}`,
		"a console port leaving: its host":     `UPDATE console_ports SET console_group = 'other' WHERE port = {p.port}`,
		"room leaving":                         `DELETE FROM reservations WHERE machine = '{one}'`,
		"more memory than a host has":          `UPDATE reservations SET memory_mib = 7000 WHERE machine = '{one}'`,
		"more storage than there is":           `UPDATE reservations SET bytes = 1073741824000 WHERE machine = '{one}'`,
		"two events of one number":             `INSERT INTO outbox (type, machine, seq, time, order_source, order_id, data) VALUES ('x', '{one}', 1, 1, '', '', '{}')`,
		"an order twice":                       `INSERT INTO orders (source, id, tenant, body, run, process, state, step, row_hash, deadline, actor, created_at) VALUES ('panel', 'order-1', '', '', 'r9', '', '', '', '', 0, '', 1)`,
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			sql = strings.NewReplacer("{one}", one.Machine.ID, "{two}", two.Machine.ID, "{gone}", gone.Machine.ID, "{one.name}", one.Machine.Name,
				"{p.private}", p.Private.String(), "{q.private}", q.Private.String(), "{p.mac}", p.MAC, "{p.port}", fmt.Sprint(p.ConsolePort)).Replace(sql)
			err := b.db.Exec(t.Context(), sql)
			if err == nil {
				t.Fatalf("the database allowed it: %s", sql)
			}
			if said := strings.ToLower(err.Error()); strings.Contains(said, "syntax") || strings.Contains(said, "no such") || strings.Contains(said, "does not exist") {
				t.Errorf("refused for the wrong reason: %v", err)
			}
		})
	}

	t.Run("allowed", func(t *testing.T) {
		for name, sql := range map[string]string{
			"the name of a machine that is gone": fmt.Sprintf(`UPDATE machines SET name = '%s' WHERE id = '%s'`, gone.Machine.Name, two.Machine.ID),
			"a gone machine's address may rest":  fmt.Sprintf(`UPDATE addresses SET state = 'quarantine' WHERE machine = '%s'`, gone.Machine.ID),
			"an address may be bound":            fmt.Sprintf(`UPDATE addresses SET state = 'bound' WHERE machine = '%s'`, one.Machine.ID),
		} {
			if err := b.db.Exec(t.Context(), sql); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
