// Package ipam speaks to a naming and address service of somebody else's over HTTP: the contract of docs/ipam.md. It is one
// orchestrator.Addresses; what a service says is checked by the domain, not here.
//
// Another backend is another implementation of orchestrator.Addresses that passes ipamtest.Exercise.
package ipam

import (
	"bytes"
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
	"os"
	"strings"
	"time"

	"slipway/orchestrator"
)

// Bounds of one call. A list is read in pages, each of which is one call.
const (
	DefaultTimeout = 10 * time.Second
	maxBody        = 1 << 20
	maxPages       = 1000
	maxListed      = 1 << 18 // reservations of a pool: four times what a /16 has
	listTime       = 30      // so many calls' time for a whole list
)

// Config says where the service is.
type Config struct {
	Name  string // in messages
	URL   string // https, or http on loopback; paths of the contract are appended
	Token orchestrator.Secret
	// CAFile signs the service's certificate; "" is the system's.
	CAFile  string
	Timeout time.Duration // of one call; 0 is DefaultTimeout
}

// Client is the service. Safe for concurrent use.
type Client struct {
	cfg  Config
	base *url.URL
	http *http.Client
}

var _ orchestrator.Addresses = (*Client)(nil)

// New checks the configuration and connects to nothing.
func New(cfg Config) (*Client, error) {
	base, err := ParseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		text, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca_file: %s holds no certificate", cfg.CAFile)
		}
	}
	transport := &http.Transport{
		TLSClientConfig: conf, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		TLSHandshakeTimeout: cfg.Timeout, DialContext: (&net.Dialer{Timeout: cfg.Timeout}).DialContext,
	}
	return &Client{cfg: cfg, base: base, http: &http.Client{
		Transport: transport, Timeout: cfg.Timeout,
		// A redirect would carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// ParseURL refuses what a token must not be sent to.
func ParseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("is not a URL; write one such as https://ipam.example.net")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("has more than scheme, host and path; the token goes beside it")
	case u.Scheme == "http":
		if a, err := netip.ParseAddr(u.Hostname()); err != nil || !a.IsLoopback() {
			return nil, errors.New("is not encrypted; use https, or http on 127.0.0.1")
		}
	}
	return u, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// wire is a reservation in the contract's words.
type wire struct {
	Key      string     `json:"key"`
	Machine  string     `json:"machine"`
	Private  netip.Addr `json:"private"`
	Public   netip.Addr `json:"public,omitzero"`
	Hostname string     `json:"hostname,omitempty"`
	State    string     `json:"state"`
}

const confirmed = "confirmed"

func (w wire) domain() orchestrator.Reservation {
	return orchestrator.Reservation{Key: w.Key, Machine: w.Machine, Private: w.Private, Public: w.Public, Hostname: w.Hostname, Confirmed: w.State == confirmed}
}

// Reserve implements orchestrator.Addresses.
func (c *Client) Reserve(ctx context.Context, pool string, r orchestrator.ReservationRequest) (orchestrator.Reservation, error) {
	body := map[string]any{"machine": r.Machine, "tenant": r.Tenant, "name": r.Name, "hostname": r.Hostname, "public": r.Public}
	var answer wire
	if err := c.call(ctx, http.MethodPut, c.path(pool, r.Key), body, &answer); err != nil {
		return orchestrator.Reservation{}, err
	}
	if answer.Key != r.Key || answer.Machine != r.Machine {
		return orchestrator.Reservation{}, c.errorf(orchestrator.Permanent, "answered for key %.60q of machine %.60q, it was asked for %q of %q", c.told(answer.Key), c.told(answer.Machine), r.Key, r.Machine)
	}
	return answer.domain(), nil
}

// Confirm implements orchestrator.Addresses.
func (c *Client) Confirm(ctx context.Context, pool, key string) error {
	return c.known(c.call(ctx, http.MethodPost, c.path(pool, key)+"/confirm", nil, nil))
}

// Release implements orchestrator.Addresses.
func (c *Client) Release(ctx context.Context, pool, key string) error {
	return c.known(c.call(ctx, http.MethodDelete, c.path(pool, key), nil, nil))
}

// Reservations implements orchestrator.Addresses.
func (c *Client) Reservations(ctx context.Context, pool string) ([]orchestrator.Reservation, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, listTime*c.cfg.Timeout, fmt.Errorf("its list of reservations did not end within %s", listTime*c.cfg.Timeout))
	defer cancel()
	var list []orchestrator.Reservation
	after := ""
	for range maxPages {
		var page struct {
			Reservations []wire `json:"reservations"`
			Next         string `json:"next"`
		}
		if err := c.call(ctx, http.MethodGet, c.path(pool, "")+"?after="+url.QueryEscape(after), nil, &page); err != nil {
			return nil, err
		}
		if len(list)+len(page.Reservations) > maxListed {
			return nil, c.errorf(orchestrator.Permanent, "its list has more than %d reservations", maxListed)
		}
		for _, r := range page.Reservations {
			list = append(list, r.domain())
		}
		if page.Next == "" {
			return list, nil
		}
		if page.Next <= after {
			return nil, c.errorf(orchestrator.Permanent, "its list of reservations goes round and round at %.60q", c.told(page.Next))
		}
		after = page.Next
	}
	return nil, c.errorf(orchestrator.Permanent, "its list of reservations has more than %d pages", maxPages)
}

func (c *Client) path(pool, key string) string {
	p := c.base.JoinPath("v1", "pools", url.PathEscape(pool), "reservations")
	if key != "" {
		p = p.JoinPath(url.PathEscape(key))
	}
	return p.String()
}

// errNotFound is a 404 in the contract's words.
var errNotFound = errors.New("not found")

func (c *Client) known(err error) error {
	if errors.Is(err, errNotFound) {
		return nil
	}
	return err
}

// refusal is the body of every answer that is no success.
type refusal struct {
	Error   string `json:"error"` // "exhausted", "refused", "not_found"
	Message string `json:"message"`
}

// call makes one exchange. An answer that is not in the contract's words comes from something between (a proxy's page, a wrong server):
// kind Transient, for it passes when that is mended.
func (c *Client) call(ctx context.Context, method, address string, body, into any) error {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return c.errorf(orchestrator.Permanent, "%w", err)
		}
		reader = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, fmt.Errorf("no whole answer within %s", c.cfg.Timeout))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, address, reader)
	if err != nil {
		return c.errorf(orchestrator.Permanent, "%w", err)
	}
	request.Header.Set("Authorization", "Bearer "+c.cfg.Token.Reveal())
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.errorf(orchestrator.Transient, "%w", c.why(ctx, err))
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err == nil {
		err = ctx.Err() // a body that was cut off at our own end may look whole
	}
	switch {
	case err != nil:
		return c.errorf(orchestrator.Transient, "read its answer: %w", c.why(ctx, err))
	case len(text) > maxBody:
		return c.errorf(orchestrator.Transient, "its answer is longer than %d bytes", maxBody)
	case response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden:
		return c.errorf(orchestrator.Transient, "it does not take our token: %.60s", c.told(response.Status))
	case response.StatusCode/100 == 2 && into == nil:
		return nil
	}
	if kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		return c.errorf(orchestrator.Transient, "%.60s with %.60q instead of JSON", c.told(response.Status), c.told(kind))
	}
	if response.StatusCode/100 == 2 {
		if err := json.Unmarshal(text, into); err != nil {
			return c.errorf(orchestrator.Transient, "its answer is not the contract's: %w", err)
		}
		return nil
	}
	var r refusal
	if err := json.Unmarshal(text, &r); err != nil || r.Error == "" {
		return c.errorf(orchestrator.Transient, "%.60s, and not in the contract's words", c.told(response.Status))
	}
	switch {
	case r.Error == "exhausted":
		return c.errorf(orchestrator.Exhausted, "it has no address left: %.200s", c.told(r.Message))
	case r.Error == "not_found":
		return c.errorf(orchestrator.Permanent, "%w: %.200s", errNotFound, c.told(r.Message))
	case response.StatusCode/100 == 4 && response.StatusCode != http.StatusTooManyRequests && response.StatusCode != http.StatusRequestTimeout:
		return c.errorf(orchestrator.Permanent, "it refuses: %.60s: %.200s", c.told(r.Error), c.told(r.Message))
	default:
		return c.errorf(orchestrator.Transient, "%.60s: %.200s", c.told(response.Status), c.told(r.Message))
	}
}

// why leaves the URL out, which net/http repeats, and tells our own deadline from others.
func (c *Client) why(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var u *url.Error
	if errors.As(err, &u) {
		if u.Timeout() {
			return fmt.Errorf("no whole answer within %s", c.cfg.Timeout)
		}
		return u.Err
	}
	return err
}

// told is foreign text for a message; a service that repeats the token does not get it into the journal.
func (c *Client) told(text string) string { return c.cfg.Token.HideIn(text) }

func (c *Client) errorf(kind orchestrator.Kind, format string, args ...any) error {
	return orchestrator.Errorf("ipam "+c.cfg.Name, kind, format, args...)
}
