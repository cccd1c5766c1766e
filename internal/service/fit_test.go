package service_test

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"slipway/internal/config"
	"slipway/internal/service"
	"slipway/orchestrator"
	"slipway/workers/vault"
)

// A configuration, a schema or a version that what is stored does not fit ends the start with what is wrong, and nothing is changed; so does it
// in `slipway check`.
func TestStartRefusesWhatDoesNotFit(t *testing.T) {
	s := site(t)
	w, stop := work(t, s, io.Discard)
	put(t, w, order())
	until(t, "the machine has its place", func() bool {
		machines, err := w.Store.Machines(t.Context())
		return err == nil && len(machines) == 1 && machines[0].Placement.Pool != ""
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	made := strings.TrimPrefix(s.Config.Database, "sqlite:")
	prefix := func(text string) config.Prefix { return config.Prefix(netip.MustParsePrefix(text)) }
	for _, tc := range []struct {
		name     string
		spoil    func(*config.Config)
		database string // SQL
		says     []string
		unseen   bool // by check, which does not know
	}{
		{name: "a pool is gone", says: []string{"pools", "no longer has pool-a", "acme/web-1", "put the pool back"}, spoil: func(c *config.Config) { c.Pools[0].ID = "pool-z" }},
		{name: "another network", says: []string{"pools.pool-a.private.prefix", "is 10.99.0.0/24", "acme/web-1"}, spoil: func(c *config.Config) { c.Pools[0].Private = moved(c.Pools[0].Private, prefix("10.99.0.0/24")) }},
		{name: "another public network", says: []string{"pools.pool-a.public.prefix", "is 203.0.113.0/24"}, spoil: func(c *config.Config) { c.Pools[0].Public = moved(c.Pools[0].Public, prefix("203.0.113.0/24")) }},
		{name: "a group is gone", says: []string{"groups", "no longer has dhcp-pool-a", "acme/web-1"}, spoil: func(c *config.Config) {
			for i := range c.Groups {
				if c.Groups[i].ID == "dhcp-pool-a" {
					c.Groups[i].ID = "dhcp-z"
				}
			}
			c.Pools[0].DHCP = []string{"dhcp-z"}
		}},
		{name: "another vault key", says: []string{"vault_key", "does not hold key"}, spoil: func(c *config.Config) {
			c.VaultKey.File = filepath.Join(t.TempDir(), "vault.key")
			if err := os.WriteFile(c.VaultKey.File, []byte(vault.NewKey().Reveal()), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "a newer database", database: `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`, says: []string{"is at version 9999", "run a newer slipway"}},
		{name: "a migration that was left out", database: `DELETE FROM goose_db_version WHERE version_id = 3`, says: []string{"detected 1 missing", "version 3"}, unseen: true},
		{name: "a trigger that was dropped", database: `DROP TRIGGER sr_room`, says: []string{"lacks trigger sr_room", "restore it whole from a backup"}},
		{name: "an index that was dropped", database: `DROP INDEX run_active; DROP INDEX machine_name`, says: []string{"lacks index machine_name, index run_active;"}},
		{name: "a process of another version", database: `UPDATE runs SET process = 'teleport'`, says: []string{`1 runs of process "teleport" are under way`, "run the version that began them"}, unseen: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg, err := config.Load(s.Path)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "slipway.db")
			copyOf(t, made, path)
			cfg.Database = "sqlite:" + path
			if tc.spoil != nil {
				tc.spoil(cfg)
			}
			if tc.database != "" {
				query(t, path, tc.database)
			}
			before := contents(t, path)
			w, err := service.New(t.Context(), cfg, service.Options{Log: slog.New(slog.DiscardHandler), Dial: s.Dial})
			if err == nil {
				w.Close()
				t.Fatal("it started")
			}
			found := []error{err}
			if !tc.unseen {
				for f := range service.Check(t.Context(), cfg, slog.New(slog.DiscardHandler)) {
					if f.What == "database" {
						found = append(found, f.Err)
					}
				}
			}
			for _, err := range found {
				for _, word := range tc.says {
					if err == nil || !strings.Contains(err.Error(), word) {
						t.Errorf("%q is not in: %v", word, err)
					}
				}
			}
			if after := contents(t, path); !slices.Equal(before, after) {
				t.Errorf("rows before:\n%s\nand after:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
		})
	}
	t.Run("as it was", func(t *testing.T) {
		w, err := service.New(t.Context(), s.Config, service.Options{Log: slog.New(slog.DiscardHandler), Dial: s.Dial})
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
	})
}

// moved is a subnet elsewhere.
func moved(s config.Subnet, to config.Prefix) config.Subnet {
	first := netip.Prefix(to).Addr().Next()
	at := func(n int) netip.Addr {
		a := first
		for range n {
			a = a.Next()
		}
		return a
	}
	s.Prefix, s.Gateway, s.Reserved = to, config.Addr(first), nil
	s.Ranges = []config.Range{config.Range(orchestrator.AddressRange{First: at(9), Last: at(99)})}
	return s
}

func copyOf(t *testing.T, from, to string) {
	t.Helper()
	for _, end := range []string{"", "-wal"} {
		text, err := os.ReadFile(from + end)
		if errors.Is(err, os.ErrNotExist) && end != "" {
			continue // it ended in order
		}
		if err == nil {
			err = os.WriteFile(to+end, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// query runs SQL and gives the rows of its answer as text.
func query(t *testing.T, path, text string) (rows []string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	answer, err := db.QueryContext(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	columns, err := answer.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for answer.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := answer.Scan(into...); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, fmt.Sprintf("%v", values))
	}
	if err := answer.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// contents is every row of every table, and the schema.
func contents(t *testing.T, path string) (all []string) {
	t.Helper()
	for _, table := range query(t, path, `SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name`) {
		name := strings.Trim(table, "[]")
		for _, row := range query(t, path, `SELECT * FROM `+name+` ORDER BY 1, 2`) {
			all = append(all, name+" "+row)
		}
	}
	return append(all, query(t, path, `SELECT sql FROM sqlite_master ORDER BY name`)...)
}
