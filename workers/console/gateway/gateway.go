package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"slipway/orchestrator"
)

// Defaults of Config's zero values.
const (
	DefaultTokenLife  = time.Minute
	DefaultSessionAge = 8 * time.Hour
	DefaultCheckEvery = 5 * time.Second
	// DefaultOpenTimeout is how long a host may take to show a screen.
	DefaultOpenTimeout = 30 * time.Second
)

// Store is what the gateway asks of the store.
type Store interface {
	orchestrator.ConsolePasses
	orchestrator.Desired
	Machine(ctx context.Context, id string) (orchestrator.Machine, error)
	FindMachine(ctx context.Context, what string) (orchestrator.Machine, error)
	RecordAct(ctx context.Context, actor, verb, subject, reason string) error
}

// Config is what a gateway needs.
type Config struct {
	Store   Store
	Display orchestrator.Display
	Vault   orchestrator.Vault
	Log     *slog.Logger
	// URL is what browsers reach the gateway by: scheme, host and the path that a proxy has it under. It is also the only Origin that is
	// let in.
	URL *url.URL
	// Proxies are believed when they say in X-Forwarded-For for whom they ask.
	Proxies []netip.Prefix
	// TokenLife is how long a link waits for its user, SessionAge how long the session lasts that it opens.
	TokenLife, SessionAge time.Duration
	// CheckEvery is how often a connection asks whether it is still allowed.
	CheckEvery time.Duration
	// OpenTimeout is how long a viewer waits for a host to show a screen.
	OpenTimeout time.Duration
	Limits      Limits
	// Instance names this gateway in the audit trail.
	Instance string
}

// Gateway is safe for concurrent use.
type Gateway struct {
	cfg     Config
	limits  *limiter
	locks   *lockout
	metrics *metrics
	open    sync.WaitGroup // connections
}

// New makes a gateway; it listens to nothing yet.
func New(cfg Config) (*Gateway, error) {
	if cfg.URL == nil || cfg.URL.Host == "" || cfg.URL.Scheme != "https" && cfg.URL.Scheme != "http" {
		return nil, errors.New("console.url: is no http or https URL; give the one that browsers reach the console by, such as https://console.example.net")
	}
	if cfg.URL.RawQuery != "" || cfg.URL.Fragment != "" || cfg.URL.User != nil {
		return nil, errors.New("console.url: has more than scheme, host and path; leave out the rest")
	}
	base := *cfg.URL
	base.Path = strings.TrimRight(base.Path, "/")
	if base.Path != "" && path.Clean(base.Path) != base.Path || strings.ContainsAny(base.Path, "{}") {
		return nil, errors.New("console.url: its path has an empty or odd part; use plain names between single slashes")
	}
	if port := base.Port(); port == map[string]string{"https": "443", "http": "80"}[base.Scheme] { // browsers leave it out of their Origin
		base.Host = strings.TrimSuffix(base.Host, ":"+port)
	}
	cfg.URL = &base
	for _, d := range []struct {
		value *time.Duration
		or    time.Duration
	}{{&cfg.TokenLife, DefaultTokenLife}, {&cfg.SessionAge, DefaultSessionAge}, {&cfg.CheckEvery, DefaultCheckEvery}, {&cfg.OpenTimeout, DefaultOpenTimeout}} {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Gateway{cfg: cfg, limits: newLimiter(cfg.Limits), locks: newLockout(), metrics: newMetrics()}, nil
}

// Link opens one machine's screen for one user, once.
type Link struct {
	URL     orchestrator.Secret // with the token
	Expires time.Time
}

// Issue makes a link. user is whoever will look, by the name that the audit trail shall have; from is the only address that it opens for,
// if valid; actor is who asked. Errors: FieldErrors for a name that will not do, and those of IssueToken; Permanent when the machine's
// console is closed.
func (g *Gateway) Issue(ctx context.Context, machine, user string, from netip.Addr, actor string) (Link, error) {
	if problem := orchestrator.CheckViewer(user); problem != "" {
		return Link{}, orchestrator.FieldErrors{{Field: "user", Problem: problem, Fix: fmt.Sprintf("name the viewer in 1 to %d printable characters", orchestrator.MaxViewer)}}
	}
	m, err := g.cfg.Store.Machine(ctx, machine)
	if err != nil {
		return Link{}, err
	}
	if err := g.allowed(ctx, m); err != nil {
		return Link{}, err
	}
	token, hash := newPass()
	pass, err := g.cfg.Store.IssueToken(ctx, hash, orchestrator.ConsolePass{Machine: m.ID, User: user, Address: from}, g.cfg.TokenLife, actor)
	if err != nil {
		return Link{}, err
	}
	// Behind the #: browsers keep it to themselves, so that no proxy logs it and no other site is told.
	return Link{URL: orchestrator.NewSecret(g.Page(m.ID) + "#" + token), Expires: pass.Expires}, nil
}

// Page is a machine's page; a token behind a # opens it.
func (g *Gateway) Page(machine string) string { return g.cfg.URL.String() + "/m/" + machine + "/" }

// TokenLife is how long a link waits for its user.
func (g *Gateway) TokenLife() time.Duration { return g.cfg.TokenLife }

// errClosed is why a machine's console does not open while the machine is there.
var errClosed = errors.New("the machine's console is closed")

// allowed reports whether the machine has a console at all: its entry is in its console group.
func (g *Gateway) allowed(ctx context.Context, m orchestrator.Machine) error {
	if m.Presence == orchestrator.Absent {
		return orchestrator.Errorf("console", orchestrator.Permanent, "machine %s is removed: %w", m.ID, errClosed)
	}
	if m.Placement.Console == "" {
		return orchestrator.Errorf("console", orchestrator.Permanent, "machine %s has no place yet: %w", m.ID, errClosed)
	}
	entry, err := g.cfg.Store.EntryState(ctx, m.Placement.Console, m.ID)
	if err != nil {
		return err
	}
	if !entry.Found || entry.Removed {
		return orchestrator.Errorf("console", orchestrator.Permanent, "machine %s in state %s: %w", m.ID, m.State, errClosed)
	}
	return nil
}

// newPass makes 32 random bytes as text, and their hash.
func newPass() (string, orchestrator.PassHash) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:]), sha256.Sum256(b[:])
}

// hashOf reads a pass's text; anything else has a hash that nobody issued.
func hashOf(text string) (orchestrator.PassHash, bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != 32 {
		return orchestrator.PassHash{}, false
	}
	return sha256.Sum256(b), true
}

// audit writes a line of the operators' journal; a connection does not fail for it.
func (g *Gateway) audit(ctx context.Context, verb string, m orchestrator.Machine, user, reason string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := g.cfg.Store.RecordAct(ctx, "console:"+user, verb, m.ID, reason); err != nil {
		g.cfg.Log.Warn("the audit trail lacks a line", "verb", verb, "machine", m.ID, "error", err)
	}
}
