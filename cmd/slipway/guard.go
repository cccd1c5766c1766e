package main

import (
	"fmt"
	"strings"

	"slipway/internal/api"
)

type guardCmd struct {
	Release guardReleaseCmd `cmd:"" help:"Let begin what the guard holds back in a POOL: it was meant."`
}

type guardReleaseCmd struct {
	Pool     string `arg:"" help:"The pool, as slipway maintenance list names it."`
	Process  string `arg:"" optional:"" help:"uninstall or suspend, where both are halted."`
	actFlags `embed:""`
}

func (c guardReleaseCmd) Run(e *env) error {
	var acted api.Acted
	if err := e.post("/v1/guard/release", api.Release{Subject: c.Pool, Process: c.Process, Reason: c.Reason, Yes: c.Yes}, &acted); err != nil {
		return err
	}
	return e.printActed(acted, strings.TrimSpace(fmt.Sprintf("slipway guard release %s %s", c.Pool, c.Process)))
}
