// Package store opens the database that a configuration names.
package store

import (
	"context"
	"strings"

	"slipway/orchestrator"
	"slipway/store/postgres"
	"slipway/store/sqlite"
)

// Counting is what every store here offers beside orchestrator.Store: how many transactions it committed and how often it asked the
// database since it was opened.
type Counting interface {
	Counters() (commits, roundTrips int64)
}

// Open opens a store whose schema is up to date. dsn is "sqlite:PATH" (or "file:PATH"), or "postgres://…" as libpq understands it. A wrong
// name or schema is kind Permanent; a database that cannot be reached is Transient and wraps orchestrator.ErrStoreAway.
func Open(ctx context.Context, dsn string) (orchestrator.Store, error) {
	if path, ok := sqlitePath(dsn); ok {
		s, err := sqlite.Open(ctx, path)
		if err != nil {
			return nil, err // not s: a nil pointer would make the interface non-nil
		}
		return s, nil
	}
	if !isPostgres(dsn) {
		return nil, unknown(dsn)
	}
	s, err := postgres.Open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Migrate makes a database's schema that of this program; it goes forward only. It may be called at every start.
func Migrate(ctx context.Context, dsn string) error {
	if path, ok := sqlitePath(dsn); ok {
		return sqlite.Migrate(ctx, path)
	}
	if !isPostgres(dsn) {
		return unknown(dsn)
	}
	return postgres.Migrate(ctx, dsn)
}

func sqlitePath(dsn string) (string, bool) {
	for _, scheme := range []string{"sqlite:", "file:"} {
		if path, ok := strings.CutPrefix(dsn, scheme); ok && path != "" {
			return strings.TrimPrefix(path, "//"), true
		}
	}
	return "", false
}

func isPostgres(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// unknown does not repeat the name: it may hold a password.
func unknown(dsn string) error {
	scheme, _, ok := strings.Cut(dsn, ":")
	if !ok {
		scheme = ""
	}
	return orchestrator.Errorf("store.Open", orchestrator.Permanent, "%q is not a database we know: use sqlite:PATH or postgres://USER@HOST/NAME", scheme)
}
