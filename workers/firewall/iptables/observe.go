package iptables

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
)

var _ agent.Observer = (*Unit)(nil)

// Observe implements agent.Observer: it compares as Prove does, and neither disarms the revert timer nor makes a file. A change that is
// still unproven is told as one.
func (u *Unit) Observe(ctx context.Context) error {
	const op = "iptables.Observe"
	want, err := u.target()
	if errors.Is(err, fs.ErrNotExist) {
		want, err = newRuleset(), nil
	}
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	live, _, err := u.live(ctx)
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	if found := differences(live, want); len(found) > 0 {
		return orchestrator.Errorf(op, orchestrator.Transient, "the running rules are not those of %s: %s", u.cfg.Rules, strings.Join(found, "; "))
	}
	announced, err := u.announced(live)
	if err == nil {
		err = u.unlike(announced)
	}
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	if _, err := os.Stat(filepath.Join(u.cfg.State, recordFile)); err == nil {
		return orchestrator.Errorf(op, orchestrator.Transient, "the revert timer of an unproven change is armed")
	}
	return nil
}

// ChainOf names the chain that holds a machine's rules.
func ChainOf(machine string) string { return chainOf(machine) }
