package xapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"slipway/orchestrator"
)

const (
	// apiVersion is what we tell at login; xapi records it and decides nothing by it.
	apiVersion = "2.21"
	// maxHops bounds the members visited by one login and the repetitions of one call, whatever servers answer.
	maxHops = 8
	// maxLogin bounds one member's answer to a login: a slave whose master is away answers nothing else, but it does answer this.
	maxLogin = 10 * time.Second
	// maxLogout bounds the goodbye to a session that a failover left behind.
	maxLogout = 2 * time.Second
)

var errClosed = errors.New("the client is closed")

// login is one session on one member.
type login struct {
	ref    Ref
	member *url.URL
}

// session keeps one login alive: it renews it, follows redirects to the master, and fails over to other members.
type session struct {
	wire     *wire
	members  []*url.URL
	user     string
	password orchestrator.Secret
	origin   string
	timeout  time.Duration // of one login
	log      *slog.Logger

	gate    chan struct{} // of size one: who holds it owns what follows, so that a hundred failing calls make one renewal
	current *login
	left    *login // given up without a logout
	closed  bool

	// away is why the last login found nobody, nil since one has. While it stands one caller at a time looks again, and the others hear of it at
	// once: a pool that is silent must not have everybody wait for its silence.
	away atomic.Pointer[lostError]
}

func newSession(w *wire, members []*url.URL, cfg Config, origin string) *session {
	return &session{
		wire: w, members: members, user: cfg.User, password: cfg.Password, origin: origin,
		timeout: min(maxLogin, cfg.CallTimeout), log: cfg.Logger, gate: make(chan struct{}, 1),
	}
}

func (s *session) lock(ctx context.Context) error {
	select {
	case s.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &lostError{method: "session.login_with_password", err: context.Cause(ctx)}
	}
}

// look is lock for a caller who wants a login, and fails at once while somebody else finds out whether the pool is back.
func (s *session) look(ctx context.Context) error {
	select {
	case s.gate <- struct{}{}:
		return nil
	default:
	}
	if away := s.away.Load(); away != nil {
		return away
	}
	return s.lock(ctx)
}

func (s *session) unlock() { <-s.gate }

// call makes one call with a session as its first argument. It renews once, follows redirects and, when nothing was sent or the call
// only reads, tries another member once.
func (s *session) call(ctx context.Context, method string, result any, args []any) error {
	var bad *login
	var prefer *url.URL
	var renewed, moved bool
	for range maxHops {
		l, err := s.get(ctx, bad, prefer)
		if err != nil {
			return err
		}
		err = s.wire.post(ctx, l.member, l.ref, method, result, append([]any{l.ref}, args...))
		var lost *lostError
		switch {
		case err == nil:
			return nil
		case HasCode(err, codeSessionInvalid) && !renewed:
			renewed, bad, prefer = true, l, l.member
			s.log.InfoContext(ctx, "session ended, logging in again", "member", l.member.Host)
		case HasCode(err, codeHostIsSlave):
			master, badName := s.master(l.member, err)
			if badName != nil {
				return &lostError{method: method, err: badName}
			}
			bad, prefer = l, master
			s.log.InfoContext(ctx, "member is a slave, going to its master", "member", l.member.Host, "master", master.Host)
		case errors.As(err, &lost) && !lost.answered:
			if !errors.Is(ctx.Err(), context.Canceled) { // a caller who left says nothing about the member
				s.suspect(l)
			}
			if moved || ctx.Err() != nil || lost.sent && !repeatable(method) {
				return err
			}
			moved, bad, prefer = true, l, nil
			s.log.WarnContext(ctx, "member lost, trying the others", "member", l.member.Host, "err", err)
		default:
			return err
		}
	}
	return &lostError{method: method, err: fmt.Errorf("gave up after %d members or renewals", maxHops)}
}

// get gives the login in use, making one when there is none or when it is still the bad one.
func (s *session) get(ctx context.Context, bad *login, prefer *url.URL) (*login, error) {
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	if s.closed {
		return nil, &lostError{method: "session.login_with_password", err: errClosed}
	}
	if s.current != nil && s.current != bad {
		return s.current, nil
	}
	if s.current != nil {
		s.left, s.current = s.current, nil
	}
	if prefer == nil && s.left != nil && s.left != bad {
		prefer = s.left.member
	}
	made, err := s.login(ctx, prefer)
	if err != nil {
		if lost := new(lostError); errors.As(err, &lost) && !errors.Is(ctx.Err(), context.Canceled) {
			s.away.Store(lost)
		}
		return nil, err
	}
	s.away.Store(nil)
	s.current = made
	s.leave(ctx, made)
	return made, nil
}

// suspect drops a login whose member stopped answering, so that the next call begins with a login, which is short, instead of another
// long silence.
func (s *session) suspect(l *login) {
	select {
	case s.gate <- struct{}{}:
		defer s.unlock()
	default:
		return // somebody is renewing it already
	}
	if s.current == l {
		s.left, s.current = l, nil
	}
}

// leave ends the session that a renewal replaced, should it still exist: leaked sessions push out other people's.
func (s *session) leave(ctx context.Context, made *login) {
	old := s.left
	s.left = nil
	if old == nil || old.ref == made.ref {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, maxLogout)
	defer cancel()
	_ = s.wire.post(ctx, made.member, old.ref, "session.logout", nil, []any{old.ref}) // mostly it is gone already
}

// login walks the members until one lets us in. Each is asked once.
func (s *session) login(ctx context.Context, prefer *url.URL) (*login, error) {
	queue := slices.Clone(s.members)
	if prefer != nil {
		queue = slices.Insert(queue, 0, prefer)
	}
	asked := map[string]bool{}
	var failures []error
	for len(queue) > 0 && len(asked) < maxHops {
		member := queue[0]
		queue = queue[1:]
		if asked[member.Host] {
			continue
		}
		asked[member.Host] = true
		ref, err := s.loginAt(ctx, member)
		switch {
		case err == nil:
			return &login{ref: ref, member: member}, nil
		case ctx.Err() != nil:
			return nil, &lostError{method: "session.login_with_password", err: errors.Join(append(failures, err)...)}
		case HasCode(err, codeHostIsSlave):
			master, badName := s.master(member, err)
			if badName != nil {
				failures = append(failures, badName)
				continue
			}
			failures = append(failures, fmt.Errorf("%s is a slave of %s", member.Host, master.Host))
			queue = slices.Insert(queue, 0, master)
		case HasCode(err, "SESSION_AUTHENTICATION_FAILED"):
			return nil, err // the pool has one answer to that; asking every member only locks the account
		default:
			failures = append(failures, fmt.Errorf("%s: %w", member.Host, err))
		}
	}
	return nil, &lostError{method: "session.login_with_password", err: fmt.Errorf("no member of the pool let us in: %w", errors.Join(failures...))}
}

func (s *session) loginAt(ctx context.Context, member *url.URL) (Ref, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var ref Ref
	args := []any{s.user, s.password.Reveal(), apiVersion, s.origin}
	if err := s.wire.post(ctx, member, "", "session.login_with_password", &ref, args); err != nil {
		return "", err
	}
	if !ref.valid() {
		return "", &lostError{method: "session.login_with_password", sent: true, answered: true, err: errors.New("the answer is no session reference")}
	}
	return ref, nil
}

// master finds the member that HOST_IS_SLAVE names: a configured address on that host, else the slave's scheme and port on it.
func (s *session) master(slave *url.URL, err error) (*url.URL, error) {
	var e *Error
	if !errors.As(err, &e) {
		return nil, err
	}
	for _, m := range s.members {
		if m.Hostname() == e.Param(0) && m.Host != slave.Host {
			return m, nil
		}
	}
	return withHost(slave, e.Param(0))
}

// close logs out and refuses what comes after.
func (s *session) close(ctx context.Context) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	s.closed = true
	var err error
	for _, l := range []*login{s.current, s.left} {
		if l == nil {
			continue
		}
		if e := s.wire.post(ctx, l.member, l.ref, "session.logout", nil, []any{l.ref}); e != nil && !HasCode(e, codeSessionInvalid) {
			err = errors.Join(err, e)
		}
	}
	s.current, s.left = nil, nil
	return err
}
