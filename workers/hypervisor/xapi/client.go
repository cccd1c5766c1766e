package xapi

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"slipway/orchestrator"
)

// Client talks to one pool. It is safe for concurrent use; it logs in with its first call. Close it: xapi keeps forgotten sessions for a
// day and drops other people's to make room.
type Client struct {
	cfg     Config
	wire    *wire
	members []*url.URL
	secure  *tls.Config
	main    *session
	slots   chan struct{}
}

// New checks the configuration; it connects to nothing.
func New(cfg Config) (*Client, error) {
	cfg.Addresses = slices.Clone(cfg.Addresses)
	members, err := cfg.check()
	if err != nil {
		return nil, orchestrator.E("xapi.New", orchestrator.Permanent, err)
	}
	https := slices.ContainsFunc(members, func(u *url.URL) bool { return u.Scheme == "https" })
	secure, err := cfg.tls(https)
	if err != nil {
		return nil, orchestrator.E("xapi.New", orchestrator.Permanent, err)
	}
	w := &wire{http: &http.Client{Transport: transport(secure, cfg.Concurrency), CheckRedirect: noRedirect}, hide: cfg.Password.Reveal()}
	return &Client{
		cfg: cfg, wire: w, members: members, secure: secure,
		main:  newSession(w, members, cfg, cfg.Originator),
		slots: make(chan struct{}, cfg.Concurrency),
	}, nil
}

// transport is net/http's with our bounds: no proxy from the environment (the body carries a password), no HTTP/2 (xapi speaks 1.1), no
// compression (a small answer must not unpack into a large one).
func transport(secure *tls.Config, concurrency int) *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: maxDial, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        secure,
		TLSHandshakeTimeout:    maxDial,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    concurrency + 1,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// noRedirect leaves HTTP redirects unfollowed: the master is named by HOST_IS_SLAVE, and a redirect would carry the session away.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Call makes one call; the session is put in front of args. result is a pointer for the answer's JSON, or nil. Fields that result lacks
// are ignored: every xapi release adds some.
//
// It renews an ended session once, follows HOST_IS_SLAVE, and goes to another member when this one is unreachable; a call that may have
// reached xapi is repeated only if it just reads. Kinds: that of xapi's code, with *Error reachable by errors.As; Unknown when the answer
// to a call that changes something was lost; Away when nothing was sent, or a read found no answer; Transient when it found one that is none.
func (c *Client) Call(ctx context.Context, method string, result any, args ...any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.CallTimeout, fmt.Errorf("no answer within %s", c.cfg.CallTimeout))
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return classify("xapi", &lostError{method: method, err: fmt.Errorf("waiting for one of %d slots: %w", c.cfg.Concurrency, context.Cause(ctx))})
	}
	return classify("xapi", c.main.call(ctx, method, result, args))
}

// Close logs out and drops the connections. Calls made later fail. Follow has its own session and ends with its context.
func (c *Client) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxLogin)
	defer cancel()
	err := c.main.close(ctx)
	c.wire.http.CloseIdleConnections()
	return classify("xapi.Close", err)
}
