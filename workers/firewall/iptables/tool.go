package iptables

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
	"unicode"
)

// toolTimeout bounds one run of a tool, with its own wait for the xtables lock (waitSeconds) inside. 10,000 machines take nft 2.3 s to
// restore and 2.2 s to print.
const (
	toolTimeout = time.Minute
	waitSeconds = "10"
)

// run runs a program without a shell and returns its standard output. A failure carries the program's last words.
func run(ctx context.Context, stdin string, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, toolTimeout, fmt.Errorf("%s took longer than %s", program, toolTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = environment()
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return stdout.String(), &toolError{program: program, stderr: printable(stderr.String()), err: err}
	}
	return stdout.String(), nil
}

// environment is what programs get of ours: nothing that could hold a secret or change their language.
func environment() []string { return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"} }

// toolError is a program that ended with a failure, or did not start.
type toolError struct {
	program, stderr string
	err             error
}

func (e *toolError) Error() string {
	return fmt.Sprintf("%s: %v: %s", e.program, e.err, strings.ReplaceAll(e.stderr, "\n", "; "))
}

func (e *toolError) Unwrap() error { return e.err }

// printable keeps the lines and drops the other control characters; at most 2,000 bytes.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(strings.TrimSpace(s), "?"))
	if len(s) > 2000 {
		s = strings.ToValidUTF8(s[:2000], "")
	}
	return s
}

// live reads our part of the running rules.
func (u *Unit) live(ctx context.Context) (ruleset, string, error) {
	text, err := run(ctx, "", u.cfg.Save)
	if err != nil {
		return nil, "", err
	}
	return parseSave(text), text, nil
}

// become makes the running rules those of want, in one restore.
func (u *Unit) become(ctx context.Context, want ruleset) error {
	live, _, err := u.live(ctx)
	if err != nil {
		return err
	}
	return u.load(ctx, want, plan(live, want))
}

// load makes the rules those of want by a plan, with the announcements around it: those that go before the rules, those that come after
// them. So an address is never announced that is not translated.
func (u *Unit) load(ctx context.Context, want ruleset, todo string) error {
	announced, err := u.announced(want)
	if err != nil {
		return err
	}
	if err := u.withdraw(announced); err != nil {
		return err
	}
	if err := u.restore(ctx, todo); err != nil {
		return err
	}
	return u.announce(ctx, want)
}

// restore runs a plan; "" is nothing to do.
func (u *Unit) restore(ctx context.Context, text string) error {
	if text == "" {
		return nil
	}
	_, err := run(ctx, text, u.cfg.Restore, "--noflush", "-w", waitSeconds)
	return err
}
