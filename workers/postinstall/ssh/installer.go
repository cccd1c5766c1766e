package ssh

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
	"slipway/workers/postinstall"
)

//go:embed runner.sh
var runner string

// Config is what an Installer needs.
type Config struct {
	Catalogue *postinstall.Catalogue
	// Key is the installer's own; its public half is in every template.
	Key ssh.Signer
	// TemplateKeys returns the host keys of the template that a pool has for an image, as authorized_keys style lines. It is called
	// concurrently.
	TemplateKeys func(pool, image string) []string
	// Dial opens connections; nil is an ordinary net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	HandshakeTimeout  time.Duration // dial, key exchange and login together; 0 is 20 s
	CommandTimeout    time.Duration // one call, the connection included; 0 is 90 s
	KeepaliveInterval time.Duration // 0 is 5 s
	KeepaliveTimeout  time.Duration // how long a guest may take to answer one; 0 is 15 s
}

// Installer is orchestrator.Installer over SSH. It holds no connection between calls and may be used concurrently.
type Installer struct{ config Config }

var _ orchestrator.Installer = (*Installer)(nil)

// New checks the configuration and fills in its defaults.
func New(config Config) (*Installer, error) {
	switch {
	case config.Catalogue == nil:
		return nil, errors.New("ssh installer: no catalogue: load one with postinstall.Load")
	case config.Key == nil:
		return nil, errors.New("ssh installer: no key: give it the private half of the key that the templates carry")
	case config.TemplateKeys == nil:
		return nil, errors.New("ssh installer: no template host keys: give it the keys of each pool's templates")
	}
	if config.Dial == nil {
		config.Dial = new(net.Dialer).DialContext
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&config.HandshakeTimeout, 20 * time.Second},
		{&config.CommandTimeout, 90 * time.Second},
		{&config.KeepaliveInterval, 5 * time.Second},
		{&config.KeepaliveTimeout, 15 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return &Installer{config: config}, nil
}

// Ports lists what an image's installer needs to reach, its login port first. An image that no entry serves is Permanent.
func (i *Installer) Ports(image string) ([]uint16, error) {
	entry, err := i.config.Catalogue.Entry(image)
	return slices.Clone(entry.Ports), err
}

// Serves lists where every finished guest of the image answers.
func (i *Installer) Serves(image string) ([]uint16, error) {
	entry, err := i.config.Catalogue.Entry(image)
	return slices.Clone(entry.Serves), err
}

// Probe logs in and out again. The evidence names the server's version and whose host key it showed.
func (i *Installer) Probe(ctx context.Context, g orchestrator.Guest) (string, error) {
	const op = "ssh.Probe"
	entry, err := i.config.Catalogue.Entry(g.Image)
	if err != nil {
		return "", err
	}
	ctx, cancel := i.limit(ctx)
	defer cancel()
	c, err := i.connect(ctx, op, g, entry.User)
	if err != nil {
		return "", err
	}
	defer c.close()
	return fmt.Sprintf("%s at %s let %s in and showed the %s's host key %s",
		said(c.ServerVersion()), g.Address, entry.User, c.seen.owner, ssh.FingerprintSHA256(c.seen.key)), nil
}

// EnsureJob uploads the job's bundle and starts it, each unless that has happened. A job of another id that still runs in the guest is
// Transient: no two change a machine at a time.
func (i *Installer) EnsureJob(ctx context.Context, g orchestrator.Guest, job orchestrator.Job) error {
	const op = "ssh.EnsureJob"
	entry, err := i.config.Catalogue.Entry(g.Image)
	if err != nil {
		return err
	}
	bundle, err := entry.Bundle(job.ID, postinstall.Params{
		Machine: g.Machine, Hostname: job.Hostname, AuthorizedKeys: job.SSHKeys, HostKey: job.HostKeySecret,
	})
	if err != nil {
		return err
	}
	return i.ensure(ctx, op, g, entry, bundle)
}

func (i *Installer) ensure(ctx context.Context, op string, g orchestrator.Guest, entry postinstall.Entry, bundle postinstall.Bundle) error {
	packed, err := archive(bundle)
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	ctx, cancel := i.limit(ctx)
	defer cancel()
	c, err := i.connect(ctx, op, g, entry.User)
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := i.command(ctx, op, c, g, entry, bytes.NewReader(packed), "upload", bundle.Job); err != nil {
		return err
	}
	_, err = i.command(ctx, op, c, g, entry, nil, "start", bundle.Job)
	return err
}

// ObserveJob asks how a job stands and reads at most 64 KiB of its log from offset on.
func (i *Installer) ObserveJob(ctx context.Context, g orchestrator.Guest, job string, offset int64) (orchestrator.JobStatus, error) {
	const op = "ssh.ObserveJob"
	if err := postinstall.CheckJobID(job); err != nil {
		return orchestrator.JobStatus{}, orchestrator.E(op, orchestrator.Permanent, err)
	}
	if offset < 0 {
		return orchestrator.JobStatus{}, orchestrator.Errorf(op, orchestrator.Permanent, "offset %d of job %s is negative", offset, job)
	}
	out, err := i.once(ctx, op, g, nil, "observe", job, strconv.FormatInt(offset, 10))
	if err != nil {
		return orchestrator.JobStatus{}, observing(err)
	}
	status, err := parseStatus(out, offset)
	return status, odd(op, g, err)
}

// Inspect runs the checks of the last job that succeeded.
func (i *Installer) Inspect(ctx context.Context, g orchestrator.Guest) (orchestrator.Inspection, error) {
	const op = "ssh.Inspect"
	out, err := i.once(ctx, op, g, nil, "inspect")
	if err != nil {
		return orchestrator.Inspection{}, observing(err)
	}
	inspection, err := parseInspection(out)
	return inspection, odd(op, g, err)
}

// odd is an answer that the runner does not give.
func odd(op string, g orchestrator.Guest, err error) error {
	if err == nil {
		return nil
	}
	return orchestrator.Errorf(op, orchestrator.Transient, "machine %s: %w", g.Machine, err)
}

// Leave takes the installer's own key and its jobs out of the guest: the last thing that it can ever do there, save for what ChangeGuest does
// by the script that stays. A guest that has shown the machine's own host key and refuses the installer's key, or lets it do nothing but
// that, has been left before: nil.
func (i *Installer) Leave(ctx context.Context, g orchestrator.Guest) error {
	// The type and the key without a comment, as they stand in every line that carries it.
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(i.config.Key.PublicKey())))
	entry, err := i.config.Catalogue.Entry(g.Image)
	if err != nil {
		return err
	}
	_, err = i.once(ctx, "ssh.Leave", g, io.MultiReader(strings.NewReader(key+"\n"), bytes.NewReader(entry.Maintenance)), "leave")
	if g.Own && (errors.Is(err, errRefused) || errors.Is(err, errOnlyMaintained)) {
		return nil
	}
	return err
}

// once connects for a single command.
func (i *Installer) once(ctx context.Context, op string, g orchestrator.Guest, stdin io.Reader, words ...string) ([]byte, error) {
	entry, err := i.config.Catalogue.Entry(g.Image)
	if err != nil {
		return nil, err
	}
	ctx, cancel := i.limit(ctx)
	defer cancel()
	c, err := i.connect(ctx, op, g, entry.User)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return i.command(ctx, op, c, g, entry, stdin, words...)
}

// command runs one verb of the runner as root. words are ours: verbs, a checked job id, numbers.
func (i *Installer) command(ctx context.Context, op string, c *conn, g orchestrator.Guest, entry postinstall.Entry, stdin io.Reader, words ...string) ([]byte, error) {
	line := "exec "
	if entry.Become == postinstall.BecomeSudo {
		line += "sudo -n "
	}
	line += "/bin/bash -c " + quote(runner) + " slipway " + strings.Join(words, " ")
	r, err := c.run(ctx, line, stdin)
	if err != nil {
		kind := orchestrator.Unknown
		if before := new(notStarted); errors.As(err, &before) {
			kind = orchestrator.Transient
		}
		return nil, orchestrator.Errorf(op, kind, "machine %s: %s: %w", g.Machine, words[0], err)
	}
	if r.code == 0 {
		return r.stdout, nil
	}
	if r.code == exitOnlyMaintained {
		return nil, orchestrator.Errorf(op, orchestrator.Permanent, "machine %s: %s: %w", g.Machine, words[0], errOnlyMaintained)
	}
	kind := orchestrator.Transient
	switch r.code {
	case exitUsage, exitNotExecutable, exitNotFound:
		kind = orchestrator.Permanent
	}
	return nil, orchestrator.Errorf(op, kind, "machine %s: %s ended with exit code %d: %s", g.Machine, words[0], r.code, r.stderr)
}

// Exit codes that no repetition changes: the runner's own and the shell's.
const (
	exitUsage         = 64
	exitNotExecutable = 126
	exitNotFound      = 127
)

// observing turns a lost answer into "later": a look changes nothing.
func observing(err error) error {
	var e *orchestrator.Error
	if errors.As(err, &e) && e.Kind == orchestrator.Unknown {
		return orchestrator.E(e.Op, orchestrator.Transient, e.Err)
	}
	return err
}

func (i *Installer) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, i.config.CommandTimeout, fmt.Errorf("the guest did not finish within %s", i.config.CommandTimeout))
}
