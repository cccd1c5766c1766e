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
	var refused orchestrator.FieldErrors
	if errors.As(err, &refused) { // what is configured does not fit what is stored
		return hinted{error: err, next: "slipway check --config " + e.Config, code: exitRefused}
	}
	if err != nil {
		return hinted{error: err, next: "slipway check --config " + e.Config, code: exitFailure}
	}
	defer s.Close()
	if err := s.Run(e.ctx); err != nil && !errors.Is(err, context.Canceled) {
		return hinted{error: err, next: "slipway check --config " + e.Config, code: exitFailure}
	}
	return nil
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
	if err != nil {
		return err
	}
	if err := service.Migrate(e.ctx, cfg, dsn); err != nil {
		return hinted{error: err, next: "slipway check --config " + e.Config, code: exitFailure}
	}
	_, err = fmt.Fprintln(e.stdout, "the database has this version's schema")
	return err
}
