// Package schema brings a database to the schema that this program was built with.
package schema

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"slipway/migrations"
	"slipway/orchestrator"
)

// Dialect is one of the databases that there are migrations for.
type Dialect = goose.Dialect

// The dialects.
const (
	SQLite   = goose.DialectSQLite3
	Postgres = goose.DialectPostgres
)

func filesOf(dialect Dialect) (fs.FS, error) {
	if dialect == Postgres {
		return fs.Sub(migrations.Postgres, "postgres")
	}
	return fs.Sub(migrations.SQLite, "sqlite")
}

func provider(dialect Dialect, db *sql.DB) (*goose.Provider, error) {
	var options []goose.ProviderOption
	files, err := filesOf(dialect)
	if err != nil {
		return nil, err
	}
	if dialect == Postgres {
		// Several serve processes may start at once: one migrates, the others wait for it.
		locker, err := lock.NewPostgresSessionLocker()
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	return goose.NewProvider(dialect, db, files, options...)
}

// Up applies what is missing.
func Up(ctx context.Context, dialect Dialect, db *sql.DB) error {
	p, err := provider(dialect, db)
	if err != nil {
		return err
	}
	if err := notNewer(ctx, p); err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// Check refuses a database whose schema is not the program's own, or not whole.
func Check(ctx context.Context, dialect Dialect, db *sql.DB) error {
	p, err := provider(dialect, db)
	if err != nil {
		return err
	}
	if err := notNewer(ctx, p); err != nil {
		return err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current < target {
		return orchestrator.Errorf("store.Open", orchestrator.Permanent, "the database's schema is at version %d, this slipway needs %d: run `slipway migrate`", current, target)
	}
	files, err := filesOf(dialect)
	if err != nil {
		return err
	}
	return guarded(ctx, dialect, files, db)
}

func notNewer(ctx context.Context, p *goose.Provider) error {
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if current > target {
		return orchestrator.Errorf("store.Open", orchestrator.Permanent, "the database's schema is at version %d, this slipway knows %d at most: run a newer slipway", current, target)
	}
	return nil
}
