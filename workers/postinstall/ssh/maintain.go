package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
	"slipway/workers/postinstall"
)

var _ orchestrator.Maintainer = (*Installer)(nil)

// Exit codes of the script that stays in a finished machine.
const (
	exitOnlyMaintained = 93 // it was asked for something else
	exitMalformed      = 94
)

var errOnlyMaintained = errors.New("the machine is its customer's: it takes a change of keys or hostname, and nothing else")

// Maintainable implements orchestrator.Maintainer.
func (i *Installer) Maintainable(image string) (why string) {
	entry, err := i.config.Catalogue.Entry(image)
	switch {
	case err != nil:
		return fmt.Sprintf("image %q is not in the catalogue any more", image)
	case entry.Transport != postinstall.TransportSSH || len(entry.Maintenance) == 0:
		return fmt.Sprintf("slipway keeps no way into machines of image %q", image)
	}
	return ""
}

// ChangeGuest implements orchestrator.Maintainer: one call of the script that Leave has left. What it says at its end is what is so.
func (i *Installer) ChangeGuest(ctx context.Context, g orchestrator.Guest, change orchestrator.GuestChange) error {
	const op = "ssh.ChangeGuest"
	entry, err := i.config.Catalogue.Entry(g.Image)
	if err != nil {
		return err
	}
	request, want, err := maintenance(entry.Account, change)
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	ctx, cancel := i.limit(ctx)
	defer cancel()
	c, err := i.connect(ctx, op, g, entry.User)
	if errors.Is(err, errRefused) {
		return orchestrator.Errorf(op, orchestrator.Permanent,
			"machine %s: its customer, or an install before slipway kept a way in, has left none: change keys and hostname in the guest: %w", g.Machine, err)
	}
	if err != nil {
		return err
	}
	defer c.close()
	r, err := c.run(ctx, "slipway-maintain", io.Reader(bytes.NewReader(request)))
	switch {
	case err != nil:
		kind := orchestrator.Unknown
		if before := new(notStarted); errors.As(err, &before) {
			kind = orchestrator.Transient
		}
		return orchestrator.Errorf(op, kind, "machine %s: %w", g.Machine, err)
	case r.code == exitMalformed, r.code == exitOnlyMaintained, r.code == exitNotExecutable, r.code == exitNotFound:
		return orchestrator.Errorf(op, orchestrator.Permanent, "machine %s: the way in ended with exit code %d: %s", g.Machine, r.code, r.stderr)
	case r.code != 0:
		return orchestrator.Errorf(op, orchestrator.Transient, "machine %s: the way in ended with exit code %d: %s", g.Machine, r.code, r.stderr)
	case string(r.stdout) != want:
		return orchestrator.Errorf(op, orchestrator.Transient, "machine %s: the guest says %q, not %q", g.Machine, said(r.stdout), strings.TrimSpace(want))
	}
	return nil
}

var guestName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// maintenance is what the script reads, and what it says when all is as wanted. Everything is checked again here: it ends up on a machine as
// root.
func maintenance(account string, change orchestrator.GuestChange) (request []byte, want string, err error) {
	var b bytes.Buffer
	b.WriteString("slipway-maintain 1\n")
	if change.Hostname != "" {
		if !guestName.MatchString(change.Hostname) || len(change.Hostname) > 64 {
			return nil, "", fmt.Errorf("hostname: %q is no name of at most 64 letters, digits, dashes and dots", change.Hostname)
		}
		fmt.Fprintf(&b, "hostname %s\n", change.Hostname)
		want += "hostname " + change.Hostname + "\n"
	}
	lines := func(word string, keys []string, comments bool) error {
		for n, line := range keys {
			key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
			if err != nil || len(options) > 0 || len(rest) > 0 || strings.ContainsAny(line, "\n\r\x00") {
				return fmt.Errorf("%s: number %d is no public key on one line", word, n+1)
			}
			text := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
			if comment != "" && comments {
				text += " " + comment
			}
			fmt.Fprintf(&b, "%s %s\n", word, text)
		}
		return nil
	}
	if len(change.Keys) > 0 {
		fmt.Fprintf(&b, "account %s\n", account)
		if err := errors.Join(lines("drop", change.Drop, false), lines("key", change.Keys, true)); err != nil {
			return nil, "", err
		}
		want += fmt.Sprintf("keys %d\n", len(change.Keys))
	}
	b.WriteString("end\n")
	return b.Bytes(), want, nil
}
