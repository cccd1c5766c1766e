package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"

	"slipway/orchestrator"
)

// ErrUnsupported is a firewall that cannot be driven until an operator changes it.
var ErrUnsupported = errors.New("this firewall cannot be driven")

// Probe tells whether this firewall can be driven; it is asked at registration and before every apply. The two backends of iptables
// keep rules of their own and the kernel obeys both, so what we read back with one would be half of the truth: a firewall with rules in
// the backend that iptables-restore does not write is ErrUnsupported, of kind Permanent.
func (u *Unit) Probe(ctx context.Context) error {
	const op = "iptables.Probe"
	version := ""
	for _, program := range []string{u.cfg.Save, u.cfg.Conntrack, u.cfg.Restore} {
		text, err := run(ctx, "", program, "-V")
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return orchestrator.Errorf(op, orchestrator.Permanent, "%w: %w; install the packages iptables and conntrack", ErrUnsupported, err)
		}
		if err != nil {
			return orchestrator.E(op, orchestrator.Transient, err)
		}
		version = text
	}
	other, otherName := u.cfg.NFTSave, "nft" // iptables before 1.8 names no backend and is legacy
	if strings.Contains(version, "nf_tables") {
		other, otherName = u.cfg.LegacySave, "legacy"
	}
	saved, err := run(ctx, "", u.cfg.Save)
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	for _, name := range tableNames {
		if strings.Contains(saved, "# Table `"+name+"' is incompatible") {
			return orchestrator.Errorf(op, orchestrator.Permanent, "%w: table %s was written by nft itself, which iptables cannot read; move its rules to another table", ErrUnsupported, name)
		}
	}
	text, err := run(ctx, "", other)
	if errors.Is(err, exec.ErrNotFound) {
		return nil // what is not installed has written nothing
	}
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	if line := firstRule(text); line != "" {
		return orchestrator.E(op, orchestrator.Permanent, fmt.Errorf(
			"%w: it has %s rules besides those of %s (%.100q); move them to one backend, e.g. with iptables-legacy-save | iptables-nft-restore, and flush the other",
			ErrUnsupported, otherName, u.cfg.Restore, printable(line)))
	}
	return nil
}

// firstRule is the first line of iptables-save that does something: a rule, a policy other than ACCEPT or a chain of somebody's.
func firstRule(text string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "-A ") {
			return line
		}
		if strings.HasPrefix(line, ":") {
			if fields := strings.Fields(line); len(fields) > 1 && fields[1] != "ACCEPT" {
				return line
			}
		}
	}
	return ""
}
