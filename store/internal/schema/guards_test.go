package schema

import (
	"slices"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestGuardsAreReadFromMigrations(t *testing.T) {
	files := fstest.MapFS{
		"0001_a.sql": {Data: []byte(`-- +goose Up
-- CREATE TABLE not_this (x int);
CREATE TABLE a (id text CONSTRAINT a_id PRIMARY KEY, n int CONSTRAINT a_n CHECK (n > 0)); -- CONSTRAINT nor_this
CREATE UNIQUE INDEX a_by_n ON a (n);
CREATE INDEX a_old ON a (id);
CREATE TRIGGER a_guard BEFORE DELETE ON a BEGIN SELECT 1; END;
-- +goose Down
CREATE TABLE nor_that (x int);
`)},
		"0002_b.sql": {Data: []byte(`-- +goose Up
DROP INDEX IF EXISTS a_old;
ALTER TABLE a DROP CONSTRAINT a_n;
create table if not exists c (id text);
DROP TABLE IF EXISTS b;
ALTER TABLE c RENAME TO b;
`)},
	}
	got, err := guards(files)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"constraint a_id", "index a_by_n", "table a", "table b", "trigger a_guard"}, got); diff != "" {
		t.Error(diff)
	}
	for _, dialect := range []Dialect{SQLite, Postgres} {
		files, err := filesOf(dialect)
		if err != nil {
			t.Fatal(err)
		}
		got, err := guards(files)
		if err != nil {
			t.Fatal(err)
		}
		for _, guard := range []string{"table machines", "index machine_name", "constraint run_lease", "trigger sr_room"} {
			if !slices.Contains(got, guard) {
				t.Errorf("%s: %s is not among %q", dialect, guard, got)
			}
		}
	}
}
