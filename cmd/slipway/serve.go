package main

import (
	"context"
	"errors"
	"fmt"

	"slipway/internal/config"
	"slipway/internal/service"
	"slipway/orchestrator"
)

type serveCmd struct{}

func (serveCmd) Run(e *env) error {
	cfg, err := e.load()
	if err != nil {
		return err
	}
	s, err := service.New(e.ctx, cfg, service.Options{Log: e.log, Version: version()})
	if err != nil {
		return e.unfit(err)
	}
	defer s.Close()
	if err := s.Run(e.ctx); err != nil && !errors.Is(err, context.Canceled) {
		return e.unfit(err)
	}
	return nil
}

// unfit is why a verb that works by the configuration cannot: what that names is not there or not as it should be, or a server is away.
func (e *env) unfit(err error) error {
	var refused orchestrator.FieldErrors // what is configured does not fit what is stored
	code := exitFailure
	switch {
	case errors.Is(err, config.ErrUnusable), errors.As(err, &refused):
		code = exitRefused
	case errors.Is(err, orchestrator.ErrStoreAway):
		code = exitAway
	}
	return hinted{error: err, next: "slipway check --config " + e.Config, code: code}
}

// load reads the configuration; its faults name key and fix.
func (e *env) load() (*config.Config, error) {
	cfg, err := config.Load(e.Config)
	if err != nil {
		return nil, hinted{error: fmt.Errorf("configuration %w", err), next: "$EDITOR " + e.Config + "; an example is deploy/slipway.example.yaml", code: exitRefused}
	}
	return cfg, nil
}

type migrateCmd struct{}

func (migrateCmd) Run(e *env) error {
	cfg, err := e.load()
	if err != nil {
		return err
	}
	dsn, err := service.DatabaseURL(cfg)
	if err == nil {
		err = service.Migrate(e.ctx, cfg, dsn)
	}
	if err != nil {
		return e.unfit(err)
	}
	_, err = fmt.Fprintln(e.stdout, "the database has this version's schema")
	return err
}
