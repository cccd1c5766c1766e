package schema

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"slipway/orchestrator"
)

// A guard is something of the schema that the store rests on and that can be taken away without any statement failing: a table, an index, a
// named constraint, a trigger. A dump that was restored in part lacks some; then two machines could have one address, and nothing would say so.

// made finds what a migration makes, takes away and renames.
var made = regexp.MustCompile(`(?im)\b(CREATE|DROP)\s+(?:(?:UNIQUE|CONSTRAINT)\s+)?(TABLE|INDEX|TRIGGER)\s+(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(\w+)|\b(DROP\s+)?(CONSTRAINT)\s+(?:IF\s+EXISTS\s+)?(\w+)|\bALTER\s+TABLE\s+(\w+)\s+RENAME\s+TO\s+(\w+)`)

// comments are left out before.
var comments = regexp.MustCompile(`(?m)--.*$`)

// guards reads from the migrations what a database must have, as "trigger host_room".
func guards(files fs.FS) ([]string, error) {
	names, err := fs.Glob(files, "*.sql") // sorted
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		for _, m := range made.FindAllStringSubmatch(comments.ReplaceAllString(up, ""), -1) {
			verb, kind, what := m[1], m[2], m[3]
			switch {
			case m[5] != "":
				verb, kind, what = strings.TrimSpace(m[4]), m[5], m[6]
			case m[7] != "":
				delete(found, "table "+m[7])
				kind, what = "TABLE", m[8]
			}
			guard := strings.ToLower(kind) + " " + what
			if strings.EqualFold(verb, "DROP") {
				delete(found, guard)
			} else {
				found[guard] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// present lists what a database has, each in the words of guards. What is switched off or not yet proven is not there.
var present = map[Dialect]string{
	Postgres: `SELECT CASE WHEN relkind IN ('r', 'p') THEN 'table ' ELSE 'index ' END || relname FROM pg_class c
			LEFT JOIN pg_index i ON i.indexrelid = c.oid
			WHERE relnamespace = CAST(current_schema() AS regnamespace) AND (relkind IN ('r', 'p') OR relkind IN ('i', 'I') AND indisvalid)
		UNION SELECT 'constraint ' || conname FROM pg_constraint WHERE connamespace = CAST(current_schema() AS regnamespace) AND convalidated
		UNION SELECT 'trigger ' || tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
			WHERE relnamespace = CAST(current_schema() AS regnamespace) AND tgenabled IN ('O', 'A')`,
	SQLite: `SELECT type || ' ' || name FROM sqlite_master`,
}

// guarded refuses a database in which something of its version's schema is missing.
func guarded(ctx context.Context, dialect Dialect, files fs.FS, db *sql.DB) error {
	wanted, err := guards(files)
	if err != nil {
		return err
	}
	there, err := list(ctx, db, present[dialect])
	if err != nil {
		return err
	}
	if dialect == SQLite { // constraints are in the tables' text alone
		tables, err := list(ctx, db, `SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL`)
		if err != nil {
			return err
		}
		for text := range tables {
			for _, m := range made.FindAllStringSubmatch(comments.ReplaceAllString(text, ""), -1) {
				if m[5] != "" {
					there["constraint "+m[6]] = true
				}
			}
		}
	}
	missing := slices.DeleteFunc(wanted, func(guard string) bool { return there[guard] })
	if len(missing) == 0 {
		return nil
	}
	const shown = 5
	more := ""
	if n := len(missing) - shown; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return orchestrator.Errorf("store.Open", orchestrator.Permanent, "the database's schema was changed or restored in part: it lacks %s%s; restore it whole from a backup",
		strings.Join(missing[:min(shown, len(missing))], ", "), more)
}

func list(ctx context.Context, db *sql.DB, query string) (map[string]bool, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		found[name] = true
	}
	return found, rows.Err()
}
