// Package migrations holds the schema of both databases as goose migrations: numbered, forward only, never rewritten once released.
// Times are microseconds since 1970 (UTC), 0 is none; lists and maps are JSON text; both dialects have the same tables and columns, so
// that one set of statements serves both.
package migrations

import "embed"

// SQLite and Postgres are the migrations of each dialect, in the folder of its name.
var (
	//go:embed sqlite/*.sql
	SQLite embed.FS
	//go:embed postgres/*.sql
	Postgres embed.FS
)
