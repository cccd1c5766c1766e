// Package rest registers machines at an HTTP service: whatever a site puts before its own monitoring.
//
// The contract, with the body that schemas/monitoring.host.json describes:
//
//	PUT    BASE/hosts/ID  registers the host, or replaces what is registered under the id: 200, 201 or 204
//	GET    BASE/hosts/ID  answers what is registered: 200 and the body, which may have more fields; 404 when nothing is
//	DELETE BASE/hosts/ID  removes it: 200, 202, 204; 404 or 410 when nothing was there
//
// Each may be repeated. The token goes in the header Authorization, as a bearer's (RFC 6750). No redirect is followed.
package rest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"slipway/orchestrator"
)

// Config is what a Client needs.
type Config struct {
	URL   string              // BASE
	Token orchestrator.Secret // zero sends none
	Roots *x509.CertPool      // nil are the system's
	// Dial reaches the service; nil is an ordinary dialer.
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Timeout time.Duration // of one request with its answer; default 10 s
}

// Client implements orchestrator.Monitoring. Safe for concurrent use.
type Client struct {
	base    *url.URL
	token   orchestrator.Secret
	timeout time.Duration
	http    *http.Client
}

var _ orchestrator.Monitoring = (*Client)(nil)

// maxAnswer bounds what is read of an answer, maxTold what is told of it.
const (
	maxAnswer = 64 << 10
	maxTold   = 200
)

// New checks the URL and connects to nothing.
func New(c Config) (*Client, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, errors.New("is not a URL") // which may hold a secret and is not repeated
	}
	transport := &http.Transport{
		DialContext: c.Dial, TLSClientConfig: &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: maxAnswer,
	}
	return &Client{base: base, token: c.Token, timeout: cmp.Or(c.Timeout, 10*time.Second), http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// host is the body.
type host struct {
	ID       string `json:"id"`
	Tenant   string `json:"tenant"`
	Name     string `json:"name"`
	Hostname string `json:"hostname"`
	Pool     string `json:"pool"`
	Image    string `json:"image"`
	Address  string `json:"address"`
}

// EnsureHost implements orchestrator.Monitoring.
func (c *Client) EnsureHost(ctx context.Context, h orchestrator.MonitoredHost) error {
	const op = "monitoring.EnsureHost"
	body, err := json.Marshal(host{h.Machine, h.Tenant, h.Name, h.Hostname, h.Pool, h.Image, h.Address.String()})
	if err != nil {
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
	status, text, err := c.do(ctx, op, http.MethodPut, h.Machine, body)
	if err != nil || slices.Contains([]int{http.StatusOK, http.StatusCreated, http.StatusNoContent}, status) {
		return err
	}
	return c.refused(op, status, text)
}

// RemoveHost implements orchestrator.Monitoring.
func (c *Client) RemoveHost(ctx context.Context, machine string) error {
	const op = "monitoring.RemoveHost"
	status, text, err := c.do(ctx, op, http.MethodDelete, machine, nil)
	if err != nil || slices.Contains([]int{http.StatusOK, http.StatusAccepted, http.StatusNoContent, http.StatusNotFound, http.StatusGone}, status) {
		return err
	}
	return c.refused(op, status, text)
}

// ObserveHost implements orchestrator.Monitoring.
func (c *Client) ObserveHost(ctx context.Context, machine string) (orchestrator.MonitoredHost, error) {
	const op = "monitoring.ObserveHost"
	var none orchestrator.MonitoredHost
	status, text, err := c.do(ctx, op, http.MethodGet, machine, nil)
	switch {
	case err != nil:
		return none, err
	case status == http.StatusNotFound || status == http.StatusGone:
		return none, orchestrator.Errorf(op, orchestrator.Permanent, "host %s: %w", machine, orchestrator.ErrNotFound)
	case status != http.StatusOK:
		return none, c.refused(op, status, text)
	}
	var h host
	if err := json.Unmarshal(text, &h); err != nil {
		return none, orchestrator.Errorf(op, orchestrator.Permanent, "%s answers what is no host: %s", c.where(), c.told(text))
	}
	address, _ := netip.ParseAddr(h.Address) // what is none is not the one that was told
	return orchestrator.MonitoredHost{Machine: h.ID, Tenant: h.Tenant, Name: h.Name, Hostname: h.Hostname, Pool: h.Pool, Image: h.Image, Address: address}, nil
}

// do makes one request. Every status is the caller's to read.
func (c *Client) do(ctx context.Context, op, method, machine string, body []byte) (status int, text []byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer in %s: %w", c.timeout, context.DeadlineExceeded))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath("hosts", url.PathEscape(machine)).String(), bytes.NewReader(body))
	if err != nil {
		return 0, nil, orchestrator.Errorf(op, orchestrator.Permanent, "%s: the request cannot be made", c.where())
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if !c.token.IsZero() {
		request.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, c.lost(ctx, op, method, err)
	}
	defer response.Body.Close()
	text, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err == nil {
		err = ctx.Err() // a body that was cut off at our own end may look whole
	}
	switch {
	case err != nil:
		return 0, nil, c.lost(ctx, op, method, err)
	case len(text) > maxAnswer:
		return 0, nil, orchestrator.Errorf(op, orchestrator.Permanent, "%s answers with more than %d bytes", c.where(), maxAnswer)
	}
	return response.StatusCode, text, nil
}

// lost classifies a request without an answer: not sent, not to be sent, or nobody knows.
func (c *Client) lost(ctx context.Context, op, method string, err error) error {
	kind := orchestrator.Unknown
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		kind = orchestrator.Canceled
	case errors.As(err, &certificate), errors.As(err, &plain):
		kind = orchestrator.Permanent
	case method == http.MethodGet, errors.As(err, &dial) && dial.Op == "dial":
		kind = orchestrator.Transient
	}
	var wrapped *url.Error // has the whole URL in it
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return orchestrator.Errorf(op, kind, "%s: %w", c.where(), err)
}

// refused classifies an answer that is not what was hoped for.
func (c *Client) refused(op string, status int, text []byte) error {
	kind, hint := orchestrator.Permanent, ""
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		hint = " (it does not take the token)"
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500:
		kind = orchestrator.Transient
	case status >= 300 && status < 400:
		hint = " (a redirect, which is not followed: name the place itself)"
	}
	return orchestrator.Errorf(op, kind, "%s answers %d %s%s: %s", c.where(), status, http.StatusText(status), hint, c.told(text))
}

// where names the service without a user or a query.
func (c *Client) where() string { return "monitoring at " + c.base.Host }

// told is the beginning of an answer, for people; a service that repeats the token does not get it into the journal.
func (c *Client) told(text []byte) string {
	said := c.token.HideIn(string(text))
	if len(said) > maxTold {
		said = strings.ToValidUTF8(said[:maxTold], "") + "…"
	}
	return cmp.Or(said, "nothing more")
}
