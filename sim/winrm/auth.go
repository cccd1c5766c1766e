package winrm

import (
	"bytes"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"
)

// connection is what NTLM proves: not a request, but a connection, is somebody's.
type connection struct {
	boot      *http.Server // what served it: a restart ends that, and with it all that came by it
	mu        sync.Mutex
	der       []byte // the certificate that was served, nil without TLS
	challenge *[8]byte
	user      string // "" until somebody has logged in
	in, out   *sealing
}

// authenticate says whose a request is; "" is an answer that has been given already.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request, c *connection) string {
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case s.answer() == Unauthorized:
	case scheme == "":
		if c.user != "" {
			return c.user
		}
	case strings.EqualFold(scheme, "Basic") && s.basicAllowed(c):
		if user, password, ok := r.BasicAuth(); ok && s.guest.knows(user, password) {
			return user
		}
	case strings.EqualFold(scheme, "Negotiate") || strings.EqualFold(scheme, "NTLM"):
		if message, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err == nil {
			return s.ntlm(w, c, scheme, message)
		}
	}
	s.unauthorized(w, c)
	return ""
}

func (s *Server) basicAllowed(c *connection) bool {
	return s.config.AllowBasic && (c.der != nil || s.config.AllowUnencrypted)
}

func (s *Server) unauthorized(w http.ResponseWriter, c *connection) {
	c.user, c.challenge, c.in, c.out = "", nil, nil, nil
	w.Header().Add("WWW-Authenticate", "Negotiate")
	if s.basicAllowed(c) {
		w.Header().Add("WWW-Authenticate", `Basic realm="WSMAN"`)
	}
	s.count(func(st *Stats) { st.Unauthorized++ })
	w.WriteHeader(http.StatusUnauthorized)
}

// ntlm carries out one leg of the handshake.
func (s *Server) ntlm(w http.ResponseWriter, c *connection, scheme string, message []byte) string {
	if flags, err := ntlmNegotiate(message); err == nil {
		answer, challenge := ntlmChallenge(flags, s.guest.name(), time.Now())
		c.user, c.challenge = "", &challenge
		w.Header().Set("WWW-Authenticate", scheme+" "+base64.StdEncoding.EncodeToString(answer))
		w.WriteHeader(http.StatusUnauthorized)
		return ""
	}
	response, err := parseAuthenticate(message)
	if err != nil || c.challenge == nil {
		s.unauthorized(w, c)
		return ""
	}
	challenge := *c.challenge
	c.challenge = nil
	password, ok := s.guest.password(response.user)
	if !ok {
		s.unauthorized(w, c)
		return ""
	}
	key, ok := response.check(password, challenge)
	// Windows' default hardening: a binding may be missing, but one that is there must be this channel's.
	if c.der != nil && len(response.bindings) > 0 && !bytes.Equal(response.bindings, make([]byte, 16)) {
		ok = ok && subtle.ConstantTimeCompare(response.bindings, bindings(c.der)) == 1
		s.count(func(st *Stats) { st.Bindings++ })
	}
	if !ok {
		s.unauthorized(w, c)
		return ""
	}
	in, err1 := newSealing(response.flags, key, "client-to-server")
	out, err2 := newSealing(response.flags, key, "server-to-client")
	if err1 != nil || err2 != nil {
		s.unauthorized(w, c)
		return ""
	}
	c.user, c.in, c.out = response.user, in, out
	return c.user
}
