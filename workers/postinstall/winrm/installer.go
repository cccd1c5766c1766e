package winrm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"time"

	"slipway/orchestrator"
	"slipway/workers/postinstall"
)

//go:embed runner.ps1
var runner string

// Ports of WinRM.
const (
	PortHTTPS = 5986
	PortHTTP  = 5985
)

// Template is how a pool's template of an image lets the installer in.
type Template struct {
	Password  orchestrator.Secret // of the account that the catalogue entry names
	PinSHA256 []string            // of the certificate of its HTTPS listener: hex, with or without colons and "sha256:"
}

// Config is what an Installer needs.
type Config struct {
	Catalogue *postinstall.Catalogue
	// Templates tells of the template that a pool has for an image. It is called concurrently.
	Templates func(pool, image string) Template
	// Dial opens connections; nil is an ordinary net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// HTTP leaves TLS out: NTLM on port 5985, every message encrypted with the session's keys (RC4; the certificate proves nothing then,
	// only the template's password does). Never needed when the template has an HTTPS listener.
	HTTP bool
	// Basic sends the template's password to the guest in place of NTLM; over HTTPS alone.
	Basic bool
	Log   *slog.Logger // nil is silence

	HandshakeTimeout time.Duration // dial and TLS, and again for the login; 0 is 20 s
	CommandTimeout   time.Duration // one call, the connection included; 0 is 100 s: PowerShell's first start in a guest is slow
	PollTimeout      time.Duration // how long the guest may hold a question for output; 0 is 20 s, less than a second is one
}

// Installer is orchestrator.Installer over WinRM. It holds no connection between calls and may be used concurrently.
type Installer struct{ config Config }

var _ orchestrator.Installer = (*Installer)(nil)

// New checks the configuration and fills in its defaults.
func New(config Config) (*Installer, error) {
	switch {
	case config.Catalogue == nil:
		return nil, errors.New("winrm installer: no catalogue: load one with postinstall.Load")
	case config.Templates == nil:
		return nil, errors.New("winrm installer: no templates: give it the login and the certificate pin of each pool's templates")
	case config.HTTP && config.Basic:
		return nil, errors.New("winrm installer: Basic over HTTP would show the password to the network: use HTTPS, or NTLM")
	}
	if config.Dial == nil {
		config.Dial = new(net.Dialer).DialContext
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&config.HandshakeTimeout, 20 * time.Second},
		{&config.CommandTimeout, 100 * time.Second},
		{&config.PollTimeout, 20 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	config.PollTimeout = max(config.PollTimeout, time.Second)
	if config.HTTP {
		config.Log.Warn("windows guests are installed over HTTP with NTLM message encryption: no certificate proves who they are", "port", PortHTTP)
	}
	return &Installer{config: config}, nil
}

// entry finds an image's entry; one that is reached in another way is Permanent.
func (i *Installer) entry(op, image string) (postinstall.Entry, error) {
	entry, err := i.config.Catalogue.Entry(image)
	if err == nil && entry.Transport != postinstall.TransportWinRM {
		err = orchestrator.Errorf(op, orchestrator.Permanent, "image %q is installed over %s, not over winrm", image, entry.Transport)
	}
	return entry, err
}

// Ports lists what an image's installer needs to reach, its login port first. An image that no entry serves is Permanent.
func (i *Installer) Ports(image string) ([]uint16, error) {
	entry, err := i.entry("winrm.Ports", image)
	return i.listeners(entry.Ports), err
}

// Serves lists where every finished guest of the image answers.
func (i *Installer) Serves(image string) ([]uint16, error) {
	entry, err := i.entry("winrm.Serves", image)
	return i.listeners(entry.Serves), err
}

// listeners are ports as the guests have them: without TLS WinRM listens elsewhere.
func (i *Installer) listeners(ports []uint16) []uint16 {
	ports = slices.Clone(ports)
	if n := slices.Index(ports, PortHTTPS); i.config.HTTP && n >= 0 {
		ports[n] = PortHTTP
	}
	return ports
}

// Probe logs in and asks whether Windows has finished its setup: until then accounts, names and the listener still change under our
// feet, and a guest that answers is not ready. The evidence names the system and whose certificate it showed.
func (i *Installer) Probe(ctx context.Context, g orchestrator.Guest) (string, error) {
	const op = "winrm.Probe"
	entry, err := i.entry(op, g.Image)
	if err != nil {
		return "", err
	}
	ctx, cancel := i.limit(ctx)
	defer cancel()
	s, err := i.open(ctx, g, entry.User)
	if err != nil {
		return "", i.failed(ctx, op, g, "", &notStarted{err})
	}
	defer s.close()
	r, err := i.ask(ctx, op, s, g, nil, "probe")
	if err != nil {
		return "", observing(err)
	}
	if err := setupDone(op, g, r); err != nil {
		return "", err
	}
	who := "sealed every message"
	if s.tls {
		who = "showed the " + s.seen.owner + "'s certificate"
	}
	return fmt.Sprintf("%s at %s, called %s, let %s in and %s", orchestrator.OneLine(r.System, maxWords), g.Address, orchestrator.OneLine(r.Name, maxWords), entry.User, who), nil
}

func setupDone(op string, g orchestrator.Guest, r reply) error {
	if r.Setup == "IMAGE_STATE_COMPLETE" {
		return nil
	}
	return orchestrator.Errorf(op, orchestrator.Transient, "machine %s at %s: Windows Setup still runs (%s)", g.Machine, g.Address, orchestrator.OneLine(r.Setup, maxWords))
}

// EnsureJob uploads the job's bundle and starts it, each unless that has happened. A job of another id that still runs in the guest is
// Transient: no two change a machine at a time.
func (i *Installer) EnsureJob(ctx context.Context, g orchestrator.Guest, job orchestrator.Job) error {
	const op = "winrm.EnsureJob"
	entry, err := i.entry(op, g.Image)
	if err != nil {
		return err
	}
	bundle, err := newBundle(entry, g, job, time.Now())
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	packed, sum, err := pack(bundle)
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	ctx, cancel := i.limit(ctx)
	defer cancel()
	s, err := i.open(ctx, g, entry.User)
	if err != nil {
		return i.failed(ctx, op, g, "", &notStarted{err})
	}
	defer s.close()
	r, err := i.ask(ctx, op, s, g, nil, "probe")
	if err != nil {
		return observing(err)
	}
	if err := setupDone(op, g, r); err != nil {
		return err
	}
	if _, err := i.ask(ctx, op, s, g, packed, "upload", job.ID, sum); err != nil {
		return err
	}
	_, err = i.ask(ctx, op, s, g, nil, "start", job.ID)
	return err
}

// ObserveJob asks how a job stands and reads at most 64 KiB of its log from offset on. A guest that cannot be asked is one that may be
// restarting, as its own job does: the job is running, and its stage says why nothing more is known. A guest that is not the expected
// one is Permanent.
func (i *Installer) ObserveJob(ctx context.Context, g orchestrator.Guest, job string, offset int64) (orchestrator.JobStatus, error) {
	const op = "winrm.ObserveJob"
	if err := postinstall.CheckJobID(job); err != nil {
		return orchestrator.JobStatus{}, orchestrator.E(op, orchestrator.Permanent, err)
	}
	if offset < 0 {
		return orchestrator.JobStatus{}, orchestrator.Errorf(op, orchestrator.Permanent, "offset %d of job %s is negative", offset, job)
	}
	r, err := i.once(ctx, op, g, "observe", job, strconv.FormatInt(offset, 10))
	if why := away(err); why != "" && ctx.Err() == nil {
		return orchestrator.JobStatus{State: orchestrator.JobRunning, Stage: "restart: " + why, Offset: offset}, nil
	}
	if err != nil {
		return orchestrator.JobStatus{}, observing(err)
	}
	status, err := r.status(offset)
	return status, odd(op, g, err)
}

// away says in what way a guest is not there; "" when the error is another.
func away(err error) string {
	switch {
	case errors.Is(err, errUnreachable):
		return "nothing answers at the guest's address"
	case errors.Is(err, errBusy):
		return "the guest answers, but WinRM is not up yet"
	case errors.Is(err, errRefused):
		return "WinRM is up, but lets nobody in yet"
	case errors.Is(err, errLost):
		return "the connection broke off"
	}
	return ""
}

// Inspect runs the checks of the last job that succeeded. The identity is the machine's SID, which sysprep makes anew.
func (i *Installer) Inspect(ctx context.Context, g orchestrator.Guest) (orchestrator.Inspection, error) {
	const op = "winrm.Inspect"
	r, err := i.once(ctx, op, g, "inspect")
	if err != nil {
		return orchestrator.Inspection{}, observing(err)
	}
	inspection, err := r.inspection()
	return inspection, odd(op, g, err)
}

// odd is an answer that the runner does not give.
func odd(op string, g orchestrator.Guest, err error) error {
	if err == nil {
		return nil
	}
	return orchestrator.Errorf(op, orchestrator.Transient, "machine %s at %s: %w", g.Machine, g.Address, err)
}

// Leave takes the installer's own account and its jobs out of the guest: the last thing it ever does there. A guest that has shown the
// machine's own certificate and refuses the account has been left before: nil. Over HTTP nothing shows whose refusal it is: Permanent.
func (i *Installer) Leave(ctx context.Context, g orchestrator.Guest) error {
	const op = "winrm.Leave"
	entry, err := i.entry(op, g.Image)
	if err != nil {
		return err
	}
	_, err = i.once(ctx, op, g, "leave", "-", entry.User)
	switch {
	case !g.Own || !errors.Is(err, errRefused):
		return err
	case i.config.HTTP:
		return orchestrator.Errorf(op, orchestrator.Permanent,
			"machine %s at %s refuses the account %s, and over HTTP nothing proves that it is the machine: see that the account is gone, or use HTTPS", g.Machine, g.Address, entry.User)
	}
	return nil
}

// once connects for a single verb.
func (i *Installer) once(ctx context.Context, op string, g orchestrator.Guest, words ...string) (reply, error) {
	entry, err := i.entry(op, g.Image)
	if err != nil {
		return reply{}, err
	}
	ctx, cancel := i.limit(ctx)
	defer cancel()
	s, err := i.open(ctx, g, entry.User)
	if err != nil {
		return reply{}, i.failed(ctx, op, g, "", &notStarted{err})
	}
	defer s.close()
	return i.ask(ctx, op, s, g, nil, words...)
}

// ask runs one verb of the runner. words are ours: verbs, a checked job id, numbers, a checked account.
func (i *Installer) ask(ctx context.Context, op string, s *session, g orchestrator.Guest, upload []byte, words ...string) (reply, error) {
	out, err := s.run(ctx, commandLine(), call(words, upload))
	if err != nil {
		return reply{}, i.failed(ctx, op, g, words[0]+": ", err)
	}
	r, err := parseReply(out.stdout)
	if err != nil {
		// The verb may have been carried out before its words were lost.
		return reply{}, orchestrator.Errorf(op, orchestrator.Unknown, "machine %s: %s ended with exit code %d: %w: %s", g.Machine, words[0], out.code, err, out.stderr)
	}
	if r.Code == 0 && out.code == 0 {
		return r, nil
	}
	kind := orchestrator.Transient
	if r.Code == exitUsage {
		kind = orchestrator.Permanent
	}
	return reply{}, orchestrator.Errorf(op, kind, "machine %s: %s ended with exit code %d: %s", g.Machine, words[0], out.code, orchestrator.OneLine(r.Error, maxWords))
}

// exitUsage is the runner's own exit code for a call that no repetition makes right.
const exitUsage = 64

// failed gives an error of the wire its kind: what is configured wrongly or is another machine is Permanent, what certainly did not
// begin Transient, and the rest Unknown.
func (i *Installer) failed(ctx context.Context, op string, g orchestrator.Guest, what string, err error) error {
	var other *mismatch
	var config *configError
	var before *notStarted
	kind := orchestrator.Unknown
	switch {
	case errors.As(err, &other), errors.As(err, &config):
		kind = orchestrator.Permanent
	case errors.Is(ctx.Err(), context.Canceled):
		kind = orchestrator.Canceled
	case errors.As(err, &before):
		kind = orchestrator.Transient
	}
	return orchestrator.Errorf(op, kind, "machine %s at %s: %s%w", g.Machine, g.Address, what, err)
}

// configError is one that only a change of the configuration ends.
type configError struct{ error }

func (e *configError) Unwrap() error { return e.error }

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
