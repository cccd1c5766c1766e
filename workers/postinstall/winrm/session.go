package winrm

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bodgit/ntlmssp"

	"slipway/orchestrator"
)

// session is one connection to a guest, for one call of ours.
type session struct {
	config *Config
	login  Template
	user   string
	url    string
	tls    bool
	seen   pin // whose certificate was shown, over TLS

	again func(ctx context.Context) (*session, error) // another connection to the same guest

	transport *http.Transport
	ntlm      *ntlmssp.Client
	sealed    bool // every message goes out encrypted
}

// maxAnswer is more than WinRM's own limit for an envelope (500 KiB, and as much again for the encryption's frame).
const maxAnswer = 1 << 20

// maxHeader bounds an answer's header; Windows sends a few hundred bytes, and NTLM's challenge as much again.
const maxHeader = 64 << 10

// Errors that tell how far a request came.
var (
	errUnreachable = errors.New("nothing answers")                            // no connection: nothing happened
	errBusy        = errors.New("the guest answers, but WinRM is not up yet") // 404, 503: nothing happened
	errRefused     = errors.New("the guest does not let")                     // 401: nothing happened
	errLost        = errors.New("the connection broke off")                   // and is not dialled again: anything may have happened
)

// open connects and logs in.
func (i *Installer) open(ctx context.Context, g orchestrator.Guest, user string) (*session, error) {
	s := &session{
		config: &i.config, login: i.config.Templates(g.Pool, g.Image), user: user, tls: !i.config.HTTP,
		again: func(ctx context.Context) (*session, error) { return i.open(ctx, g, user) },
	}
	if s.login.Password.IsZero() {
		return nil, configErrorf("pool %q has no login for its template of %q: give it the password of the template's account %s", g.Pool, g.Image, user)
	}
	scheme := "http"
	v := &verifier{machine: g.Machine}
	if s.tls {
		scheme = "https"
		var err error
		if v.pins, err = pins(g, s.login.PinSHA256); err != nil {
			return nil, &configError{err}
		}
	}
	s.url = scheme + "://" + g.Address.String() + "/wsman"
	var dialled atomic.Bool
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if dialled.Swap(true) {
			return nil, errLost
		}
		limit, cancel := context.WithTimeoutCause(ctx, i.config.HandshakeTimeout, fmt.Errorf("no connection within %s", i.config.HandshakeTimeout))
		defer cancel()
		conn, err := i.config.Dial(limit, network, address)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUnreachable, err)
		}
		return conn, nil
	}
	s.transport = &http.Transport{
		Proxy:               nil, // a guest is never behind the proxy of the environment
		DialContext:         dial,
		MaxConnsPerHost:     1,
		DisableCompression:  true,
		TLSHandshakeTimeout: i.config.HandshakeTimeout,
		IdleConnTimeout:     time.Minute,
		// Beside the answer itself, which is bounded where it is read.
		MaxResponseHeaderBytes: maxHeader,
		// No HTTP/2: http.sys has no NTLM there.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		// Names and dates say nothing about a guest whose certificate is known: verifier accepts exactly the pins.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, VerifyConnection: v.check}, //nolint:gosec // pinned
	}
	if err := s.logIn(ctx, v); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func configErrorf(format string, args ...any) error { return &configError{fmt.Errorf(format, args...)} }

func (s *session) close() { s.transport.CloseIdleConnections() }

// logIn authenticates the connection (NTLM), or sees that the credentials are taken (Basic).
func (s *session) logIn(ctx context.Context, v *verifier) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.config.HandshakeTimeout, fmt.Errorf("no login within %s", s.config.HandshakeTimeout))
	defer cancel()
	if s.config.Basic {
		_, _, err := s.round(ctx, nil, "", s.basic())
		if v.seen != nil {
			s.seen = *v.seen
		}
		return s.refusal(err)
	}
	client, err := ntlmssp.NewClient(ntlmssp.SetUserInfo(s.user, s.login.Password.Reveal()), ntlmssp.SetVersion(ntlmssp.DefaultVersion()))
	if err != nil {
		return fmt.Errorf("begin NTLM: %w", err)
	}
	hello, err := client.Authenticate(nil, nil)
	if err != nil {
		return fmt.Errorf("begin NTLM: %w", err)
	}
	header, _, err := s.round(ctx, nil, "", negotiate(hello))
	if err == nil {
		return errors.New("the guest asks for no login")
	}
	var status *statusError
	if !errors.As(err, &status) || status.code != http.StatusUnauthorized {
		return err
	}
	challenge, err := s.challenge(header)
	if err != nil {
		return err
	}
	var binding *ntlmssp.ChannelBindings
	if v.seen != nil {
		s.seen = *v.seen
		// RFC 5929: what is in the middle of two channels cannot pass our login on.
		binding = &ntlmssp.ChannelBindings{ApplicationData: append([]byte(ntlmssp.TLSServerEndPoint+":"), v.binding...)}
	}
	proof, err := client.Authenticate(challenge, binding)
	if err != nil {
		return fmt.Errorf("the guest's NTLM challenge cannot be answered: %w", err)
	}
	if _, _, err = s.round(ctx, nil, "", negotiate(proof)); err != nil {
		return s.refusal(err)
	}
	s.ntlm, s.sealed = client, !s.tls
	if s.sealed && client.SecuritySession() == nil {
		return configErrorf("the guest's NTLM offers no message encryption: nothing is sent in the clear")
	}
	return nil
}

func (s *session) refusal(err error) error {
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusUnauthorized {
		return fmt.Errorf("%w user %s in with the template's password (yet): HTTP 401", errRefused, s.user)
	}
	return err
}

func (s *session) basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(s.user+":"+s.login.Password.Reveal()))
}

func negotiate(message []byte) string {
	return "Negotiate " + base64.StdEncoding.EncodeToString(message)
}

func (s *session) challenge(header http.Header) ([]byte, error) {
	offered := false
	for _, h := range header.Values("WWW-Authenticate") {
		if text, ok := strings.CutPrefix(h, "Negotiate "); ok {
			message, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
			if err != nil {
				return nil, errors.New("the guest's NTLM challenge is no base64")
			}
			return message, nil
		}
		offered = offered || strings.EqualFold(strings.TrimSpace(h), "Negotiate")
	}
	if offered {
		return nil, fmt.Errorf("%w user %s in (yet): HTTP 401 without an NTLM challenge", errRefused, s.user)
	}
	return nil, fmt.Errorf("%w anybody in with NTLM: allow Negotiate in its WinRM service, or configure Basic over HTTPS", errRefused)
}

// statusError is an answer that is neither 200 nor a fault.
type statusError struct{ code int }

func (e *statusError) Error() string { return fmt.Sprintf("HTTP %d", e.code) }

// post sends an envelope and returns the one that comes back; a fault is an error.
func (s *session) post(ctx context.Context, envelope string) (*answer, error) {
	body, contentType, authorization := []byte(envelope), "application/soap+xml;charset=UTF-8", ""
	if s.config.Basic {
		authorization = s.basic()
	}
	if s.sealed {
		sealed, signature, err := s.ntlm.SecuritySession().Wrap(body)
		if err != nil {
			return nil, fmt.Errorf("encrypt the message: %w", err)
		}
		body, contentType = joinSealed(sealed, signature, len(envelope)), sealedType
	}
	header, text, err := s.round(ctx, body, contentType, authorization)
	var status *statusError
	if err != nil && !(errors.As(err, &status) && status.code == http.StatusInternalServerError && len(text) > 0) {
		return nil, s.refusal(err)
	}
	if s.sealed {
		if text, err = s.unseal(header, text); err != nil {
			return nil, err
		}
	}
	return parseAnswer(text)
}

// unseal: over HTTP an answer that is not sealed could be anybody's.
func (s *session) unseal(header http.Header, body []byte) ([]byte, error) {
	if !strings.Contains(header.Get("Content-Type"), sealedProtocol) {
		return nil, errors.New("the answer is not encrypted, though the session is")
	}
	sealed, signature, length, err := splitSealed(body)
	if err != nil {
		return nil, err
	}
	text, err := s.ntlm.SecuritySession().Unwrap(sealed, signature)
	if err != nil {
		return nil, fmt.Errorf("decrypt the answer: %w", err)
	}
	if len(text) != length {
		return nil, fmt.Errorf("the decrypted answer has %d bytes instead of %d", len(text), length)
	}
	return text, nil
}

// round is one HTTP exchange, which ends with the context.
func (s *session) round(ctx context.Context, body []byte, contentType, authorization string) (http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if contentType == "" {
		contentType = "application/soap+xml;charset=UTF-8"
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "slipway")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		return nil, nil, lost(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil {
		err = ctx.Err() // a body that was cut off at our own end may look whole
	}
	switch {
	case err != nil:
		return nil, nil, lost(ctx, err)
	case len(text) > maxAnswer:
		return nil, nil, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	}
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		return resp.Header, text, nil
	case code == http.StatusNotFound, code >= http.StatusInternalServerError && (code != http.StatusInternalServerError || len(text) == 0):
		return resp.Header, text, fmt.Errorf("%w: %w", errBusy, &statusError{resp.StatusCode})
	}
	return resp.Header, text, &statusError{resp.StatusCode}
}

// lost puts an exchange that broke off into words. A certificate that is not the guest's, and a guest that was never reached, stay what
// they are.
func lost(ctx context.Context, err error) error {
	var other *mismatch
	if errors.As(err, &other) || errors.Is(err, errUnreachable) || errors.Is(err, errLost) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: %w", errLost, cause)
	}
	return fmt.Errorf("%w: %w", errLost, orchestrator.Told(err))
}
