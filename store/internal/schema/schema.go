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

func provider(dialect Dialect, db *sql.DB) (*goose.Provider, error) {
	var options []goose.ProviderOption
	files, err := fs.Sub(migrations.SQLite, "sqlite")
	if dialect == Postgres {
		files, err = fs.Sub(migrations.Postgres, "postgres")
		if err != nil {
			return nil, err
		}
		// Several serve processes may start at once: one migrates, the others wait for it.
		locker, err := lock.NewPostgresSessionLocker()
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	if err != nil {
		return nil, err
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

// Check refuses a database whose schema is not the program's own.
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
	return nil
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
