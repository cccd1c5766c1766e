package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/pressly/goose/v3"

	"slipway/internal/testserver"
	"slipway/migrations"
	"slipway/orchestrator"
	"slipway/store"
	"slipway/store/queuelog"
	"slipway/workers/queue"
)

// seed puts a row into each table of the first release, in both dialects.
var seed = []string{
	`INSERT INTO pools (id, templates, updated_at) VALUES ('pool-a', '{"debian-12":"t"}', 3)`,
	`INSERT INTO hosts (pool, uuid, name, memory_mib, cpus, enabled) VALUES ('pool-a', 'h1', 'one', 4096, 8, 1)`,
	`INSERT INTO srs (pool, uuid, name, bytes, shared, hosts) VALUES ('pool-a', 's1', 'sr', 1000, 1, '["h1"]')`,
	`INSERT INTO machines (id, tenant, name, hostname, image, vcpus, memory_mib, disk_gib, firewall, ssh_keys, presence, state, seq, created_at, updated_at)
		VALUES ('m1', 'acme', 'web', 'web', 'debian-12', 1, 1024, 10, '[]', '[]', 'present', 'started', 2, 1, 2)`,
	`INSERT INTO runs (id, machine, process, state, status, step, row_hash, order_source, order_id, created_at, updated_at)
		VALUES ('r1', 'm1', 'install', 'started', 'ready', 'await_guest', 'h', 'panel', 'o1', 1, 2)`,
	`INSERT INTO machines (id, tenant, name, hostname, image, vcpus, memory_mib, disk_gib, firewall, ssh_keys, presence, state, created_at, updated_at)
		VALUES ('m2', 'acme', 'old', 'old', 'debian-12', 1, 1024, 10, '[]', '[]', 'present', 'uninstall_requested', 1, 2)`,
	`INSERT INTO runs (id, machine, process, state, status, step, row_hash, step_since, order_source, order_id, created_at, updated_at)
		VALUES ('r2', 'm2', 'uninstall', 'uninstall_requested', 'waiting', 'close_console', 'h', 5, 'panel', 'o2', 1, 2)`,
	`INSERT INTO attempts (run, machine, step, from_state, to_state, number, undo, started, ended, outcome, kind, message, detail, actor, handles)
		VALUES ('r1', 'm1', 'place', 'queued', 'placed', 1, 0, 1, 2, 'done', '', 'ü', '{}', 'a', '{}')`,
	`INSERT INTO outbox (type, machine, seq, time, order_source, order_id, data, published_at)
		VALUES ('slipway.run.accepted', 'm1', 1, 1, 'panel', 'o1', '{"run":"r1"}', 5), ('slipway.step.done', 'm1', 2, 2, 'panel', 'o1', '{}', 0)`,
	`INSERT INTO orders (source, id, tenant, body, machine, run, process, state, step, row_hash, deadline, event, actor, created_at)
		SELECT 'panel', 'o1', 'acme', '{}', 'm1', 'r1', 'install', 'queued', 'place', 'h', 0, id, 'intake', 1 FROM outbox WHERE seq = 1`,
	`INSERT INTO leases (name, holder, fence, until) VALUES ('outbox', 'a', 7, 9)`,
	`INSERT INTO reservations (machine, pool, host, sr, memory_mib, bytes, dhcp_group, firewall_group, console_group)
		VALUES ('m1', 'pool-a', 'h1', 's1', 1024, 10, 'd', 'f', 'c')`,
	`INSERT INTO addresses (address, pool, role, owner, machine, state) VALUES ('10.0.0.10', 'pool-a', 'private', 'slipway', 'm1', 'bound')`,
	`INSERT INTO macs (mac, pool, owner, machine, state) VALUES ('02:16:3e:00:00:01', 'pool-a', 'slipway', 'm1', 'bound')`,
	`INSERT INTO console_ports (console_group, port, owner, machine, state) VALUES ('c', 20000, 'slipway', 'm1', 'bound')`,
	`INSERT INTO appliance_groups (id, unit, generation, min_applied, capacity) VALUES ('d', 'dhcp', 4, 1, 0)`,
	`INSERT INTO members (group_id, name, applied) VALUES ('d', 'd1', 3)`,
	`INSERT INTO entries (group_id, machine, owner, generation, body) VALUES ('d', 'm1', 'slipway', 4, '{"mac":"02:16:3e:00:00:01"}')`,
	`INSERT INTO entries (group_id, machine, owner, generation, removed, body) VALUES ('d', 'm2', 'slipway', 4, 1, '{}')`,
	`INSERT INTO acts (at, actor, verb, subject, reason) VALUES (1, '0:root', 'resume', 'd', 'x')`,
}

// TestUpgradeKeepsEverything migrates a database of the first release, with a row in each of its tables.
func TestUpgradeKeepsEverything(t *testing.T) {
	path, server := filepath.Join(t.TempDir(), "a.sqlite"), testserver.PostgreSQL(t)
	for name, d := range map[string]struct {
		dsn            string // as store.Open takes it
		driver, source string
		dialect        goose.Dialect
		files          fs.FS
		tables         string // lists them
	}{
		"sqlite": {
			"sqlite:" + path, "sqlite", "file:" + path + "?_pragma=foreign_keys(1)", goose.DialectSQLite3, migrations.SQLite,
			`SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose_%'`,
		},
		"postgres": {
			server, "pgx", server, goose.DialectPostgres, migrations.Postgres,
			`SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_name NOT LIKE 'goose_%'`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := sql.Open(d.driver, d.source)
			must(t, err)
			defer db.Close()
			files, err := fs.Sub(d.files, name)
			must(t, err)
			first, err := goose.NewProvider(d.dialect, db, files)
			must(t, err)
			_, err = first.UpTo(t.Context(), 1)
			must(t, err)
			for _, stmt := range seed {
				_, err := db.ExecContext(t.Context(), stmt)
				must(t, err)
			}
			_, err = db.ExecContext(t.Context(), `UPDATE machines SET host_key_secret = $1, console_password = $2`, []byte{1, 0, 255}, []byte{2})
			must(t, err)
			tables := column(t, db, d.tables)
			before, columns := map[string][]string{}, map[string]string{}
			for _, table := range tables {
				columns[table] = columnsOf(t, db, table)
				if before[table] = rows(t, db, table, columns[table]); len(before[table]) == 0 {
					t.Errorf("no row proves anything of table %s", table)
				}
			}
			if _, err := store.Open(t.Context(), d.dsn); err == nil || !strings.Contains(err.Error(), "slipway migrate") {
				t.Errorf("the old schema: %v", err)
			}

			must(t, store.Migrate(t.Context(), d.dsn))

			after := map[string][]string{}
			for _, table := range tables {
				after[table] = rows(t, db, table, columns[table])
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("rows, -before +after:\n%s", diff)
			}
			if begun := column(t, db, `SELECT begun_at FROM runs WHERE begun_at > 0`); !cmp.Equal(begun, []string{"5"}) {
				t.Errorf("the uninstall that was under way is to ask the guard: %v", begun)
			}
			if departed := column(t, db, `SELECT machine FROM departures`); !cmp.Equal(departed, []string{"m2"}) {
				t.Errorf("what was dropped before is not known to have departed: %v", departed)
			}
			goesOn(t, d.dsn)
		})
	}
}

// goesOn works with what the first release left.
func goesOn(t *testing.T, dsn string) {
	ctx := t.Context()
	s, err := store.Open(ctx, dsn)
	must(t, err)
	defer s.Close()
	claim, err := s.ClaimRun(ctx, "r1", "a", time.Minute)
	must(t, err)
	result := s.Commit(ctx, []orchestrator.Commit{{Run: claim.Run, Events: []orchestrator.Event{
		orchestrator.NewEvent("next", time.Now(), orchestrator.EventData{Machine: "m1"}),
	}}})
	must(t, result[0].Err)
	if n, err := s.Prune(ctx); n != 0 || err != nil {
		t.Errorf("%d events went, %v", n, err)
	}
	again, err := s.Accept(ctx, orchestrator.Acceptance{Order: orchestrator.Order{Source: "panel", ID: "o1"}, Run: orchestrator.Run{ID: uuid.NewString()}})
	if err != nil || !again.Repeated || again.Run != "r1" {
		t.Errorf("a known order: %+v, %v", again, err)
	}
	events, err := s.Unpublished(ctx, 10)
	must(t, err)
	if len(events) != 3 || events[0].Seq != 1 || events[2].Seq != 3 {
		t.Errorf("events %+v", events)
	}
	must(t, s.RecordAct(ctx, "0:root", "resume", "d", "y"))
	if head, err := orchestrator.VerifyTrail(ctx, s.Acts); err != nil || head.ID != 2 {
		t.Errorf("the trail with a line from before the chain: %v, %v", head, err)
	}
	kept, ok := queuelog.For(s)
	if !ok {
		t.Fatal("no queue")
	}
	must(t, kept.AppendOrder(ctx, queue.Message{ID: "1"}))
	must(t, kept.AppendEvents(ctx, []queue.Message{{ID: "1"}}))
	if leased, err := kept.LeaseOrders(ctx, 2, time.Minute); err != nil || len(leased) != 1 {
		t.Errorf("%+v, %v", leased, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func column(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	var values []string
	each(t, db, query, func(row []any) { values = append(values, fmt.Sprint(row[0])) })
	return values
}

// columnsOf are the columns that a table has.
func columnsOf(t *testing.T, db *sql.DB, table string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	none, err := db.QueryContext(ctx, `SELECT * FROM `+table+` LIMIT 0`)
	must(t, err)
	defer none.Close()
	names, err := none.Columns()
	must(t, err)
	must(t, none.Err())
	return strings.Join(names, ", ")
}

// rows are a table's, in an order of their own.
func rows(t *testing.T, db *sql.DB, table, columns string) []string {
	t.Helper()
	var values []string
	each(t, db, `SELECT `+columns+` FROM `+table+` ORDER BY 1, 2`, func(row []any) { values = append(values, fmt.Sprintf("%v", row)) })
	return values
}

func each(t *testing.T, db *sql.DB, query string, f func(row []any)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	found, err := db.QueryContext(ctx, query)
	must(t, err)
	defer found.Close()
	names, err := found.Columns()
	must(t, err)
	for found.Next() {
		row, into := make([]any, len(names)), make([]any, len(names))
		for i := range row {
			into[i] = &row[i]
		}
		must(t, found.Scan(into...))
		f(row)
	}
	must(t, found.Err())
}
