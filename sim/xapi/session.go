package xapi

import (
	"crypto/subtle"
	"slices"
)

// session is a login. Sessions of a slave's local login have no row.
type session struct {
	ref  string
	row  *object
	done chan struct{}   // closed at logout: blocked event calls end
	subs map[*class]bool // event.register; nil is none
	all  bool            // event.register(["*"])
	seen int64           // generation that event.next has reported
}

// sessionsPerOriginator is xapi's limit (xapi_globs.ml); above it the oldest ones are collected, a login never fails for it.
const sessionsPerOriginator = 500

func sessionHandlers() map[string]handler {
	return map[string]handler{
		"session.login_with_password":             login,
		"session.slave_local_login_with_password": localLogin,
		"session.slave_login": func(_ *call, args []any) (any, error) {
			return nil, fail("SESSION_AUTHENTICATION_FAILED", args[0].(string), "Pool credentials invalid")
		},
		"session.slave_local_login": func(*call, []any) (any, error) {
			return nil, fail("SESSION_AUTHENTICATION_FAILED", "localhost", "Pool credentials invalid")
		},
		"session.logout": func(c *call, _ []any) (any, error) {
			if c.session.row != nil {
				c.s.logout(c.session)
			}
			return nil, nil
		},
		"session.local_logout": func(c *call, _ []any) (any, error) {
			c.s.logout(c.session)
			return nil, nil
		},
		"session.get_all_subject_identifiers": func(*call, []any) (any, error) { return []any{}, nil },
		"session.logout_subject_identifier":   nothing,
		// As the local superuser xapi changes the password without looking at the old one. The simulator keeps its account.
		"session.change_password": nothing,
	}
}

func nothing(*call, []any) (any, error) { return nil, nil }

func (s *Server) authentic(user, password string) bool {
	u := subtle.ConstantTimeCompare([]byte(user), []byte(s.cfg.User))
	p := subtle.ConstantTimeCompare([]byte(password), []byte(s.cfg.Password.Reveal()))
	return u&p == 1
}

func login(c *call, args []any) (any, error) {
	s, user := c.s, args[0].(string)
	if !s.authentic(user, args[1].(string)) {
		return nil, fail("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
	}
	originator, _ := args[3].(string)
	now := s.today()
	row := s.db.create("session", map[string]any{
		"this_host": s.pool.str("master"), "last_active": now, "validation_time": now, "is_local_superuser": true,
		"auth_user_name": user, "originator": originator,
	})
	sess := &session{ref: row.ref, row: row, done: make(chan struct{})}
	s.sessions[row.ref] = sess
	s.collectSessions(originator)
	return row.ref, nil
}

func localLogin(c *call, args []any) (any, error) {
	s, user := c.s, args[0].(string)
	if !s.authentic(user, args[1].(string)) {
		return nil, fail("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
	}
	sess := &session{ref: "OpaqueRef:" + s.db.newUUID(), done: make(chan struct{})}
	s.sessions[sess.ref] = sess
	return sess.ref, nil
}

func (s *Server) logout(sess *session) {
	delete(s.sessions, sess.ref)
	if sess.row != nil {
		s.db.destroy(sess.row)
	}
	close(sess.done)
}

func (s *Server) collectSessions(originator string) {
	var same []*session
	for _, sess := range s.sessions {
		if sess.row != nil && sess.row.str("originator") == originator {
			same = append(same, sess)
		}
	}
	if len(same) <= sessionsPerOriginator {
		return
	}
	slices.SortFunc(same, func(a, b *session) int { return int(a.row.created - b.row.created) })
	for _, sess := range same[:len(same)-sessionsPerOriginator] {
		s.logout(sess)
	}
}

// Sessions counts the live sessions of an originator; a client that leaks them is found by this.
func (s *Server) Sessions(originator string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, sess := range s.sessions {
		if sess.row != nil && sess.row.str("originator") == originator {
			n++
		}
	}
	return n
}

// ExpireSessions ends every session, as a restart of the toolstack or a failover does: clients see SESSION_INVALID.
func (s *Server) ExpireSessions() {
	s.mu.Lock()
	defer s.unlock()
	for _, sess := range s.sessions {
		s.logout(sess)
	}
}
