package xapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"slipway/orchestrator"
)

// Defaults of Config's zero values.
const (
	DefaultConcurrency = 20
	DefaultCallTimeout = 60 * time.Second
	DefaultOriginator  = "slipway"

	maxDial = 5 * time.Second // to reach one member; a dead one must not eat the whole call
)

// Config says how to reach one pool.
type Config struct {
	// Addresses are the URLs of pool members, in any order: "https://192.0.2.10". List them all: a client that knows only the master
	// loses the pool together with it. Only scheme, host and port are used.
	Addresses []string
	User      string
	Password  orchestrator.Secret

	// How the members prove who they are; one of three must be chosen for https.
	CAFile    string   // PEM bundle that signs the members' certificates
	PinSHA256 []string // SHA-256 of the members' certificates (DER), hex, colons allowed; one for each member
	// Insecure accepts any certificate, and plain http: whoever sits on the path reads the pool's password. For laboratories; every
	// client that is made so says it in the log.
	Insecure bool

	// Originator names us in xapi's session list ("slipway" when empty). xapi keeps 500 sessions per originator and drops the oldest, so
	// it must be ours alone.
	Originator string
	// Concurrency bounds the calls in flight to this pool (20 when 0). The event loop's blocking call is not counted.
	Concurrency int
	// CallTimeout bounds one Call with its renewals and redirects (60 s when 0); an earlier deadline of the context wins.
	CallTimeout time.Duration
	// Logger gets renewals, redirects and failovers; nil discards them.
	Logger *slog.Logger
}

// check fills the zero values and gives the parsed addresses.
func (c *Config) check() ([]*url.URL, error) {
	if len(c.Addresses) == 0 {
		return nil, errors.New("addresses: none given; list the URL of each pool member")
	}
	var members []*url.URL
	for _, text := range c.Addresses {
		u, err := c.checkAddress(text)
		if err != nil {
			return nil, err
		}
		members = append(members, u)
	}
	if c.User == "" {
		return nil, errors.New("user: empty; name the account that slipway uses on this pool")
	}
	if c.Password.IsZero() {
		return nil, errors.New("password: empty")
	}
	if c.Concurrency < 0 || c.CallTimeout < 0 {
		return nil, errors.New("concurrency and call_timeout: must not be negative")
	}
	if c.Concurrency == 0 {
		c.Concurrency = DefaultConcurrency
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = DefaultCallTimeout
	}
	if c.Originator == "" {
		c.Originator = DefaultOriginator
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return members, nil
}

// checkAddress never quotes the text it refuses when that may hold a password.
func (c *Config) checkAddress(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("addresses: an entry is no URL; write https://HOST or https://HOST:PORT")
	}
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("addresses: %s carries an account; put it into user and password", u.Host)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("addresses: %s has scheme %q; use https", u.Host, u.Scheme)
	case u.Scheme == "http" && !c.Insecure:
		return nil, fmt.Errorf("addresses: %s is plain http, which shows the password to the network; use https, or set insecure for a laboratory", u.Host)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/jsonrpc"}, nil
}

func (c *Config) tls(https bool) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	chosen := 0
	for _, set := range []bool{c.CAFile != "", len(c.PinSHA256) > 0, c.Insecure} {
		if set {
			chosen++
		}
	}
	if chosen > 1 {
		return nil, errors.New("ca_file, pin_sha256, insecure: choose one")
	}
	switch {
	case c.CAFile != "":
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s holds no PEM certificate", c.CAFile)
		}
	case len(c.PinSHA256) > 0:
		pins, err := parsePins(c.PinSHA256)
		if err != nil {
			return nil, err
		}
		// xapi's certificates are self-signed: there is no chain and often no right name to verify, the pin is the proof.
		out.InsecureSkipVerify = true
		out.VerifyConnection = func(state tls.ConnectionState) error { return checkPin(pins, state) }
	case c.Insecure:
		out.InsecureSkipVerify = true
		c.Logger.Warn("insecure: the pool's certificate is not checked; whoever sits on the path can read its password", "addresses", c.Addresses)
	case https:
		return nil, errors.New("https needs a proof of who answers: set ca_file or pin_sha256 (or insecure, for a laboratory)")
	}
	return out, nil
}

func parsePins(texts []string) ([][sha256.Size]byte, error) {
	var pins [][sha256.Size]byte
	for i, text := range texts {
		raw, err := hex.DecodeString(strings.ToLower(strings.ReplaceAll(text, ":", "")))
		if err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("pin_sha256: entry %d is not 64 hex digits; see: openssl x509 -fingerprint -sha256", i+1)
		}
		pins = append(pins, [sha256.Size]byte(raw))
	}
	return pins, nil
}

func checkPin(pins [][sha256.Size]byte, state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server showed no certificate")
	}
	sum := sha256.Sum256(state.PeerCertificates[0].Raw)
	for _, pin := range pins {
		if subtle.ConstantTimeCompare(sum[:], pin[:]) == 1 {
			return nil
		}
	}
	return fmt.Errorf("%w: it has SHA-256 %x, which is not pinned", errImpostor, sum)
}

// withHost is the same member URL on another host: scheme and port are kept, because a pool behind NAT or a proxy answers on ours and
// the master names itself by its bare management address.
func withHost(u *url.URL, host string) (*url.URL, error) {
	if host == "" || strings.ContainsAny(host, "/@?# \t\r\n%") {
		return nil, fmt.Errorf("master address %q is no host", printable(host))
	}
	if strings.Contains(host, ":") && net.ParseIP(host) == nil {
		return nil, fmt.Errorf("master address %q is no host", printable(host))
	}
	out := *u
	switch {
	case u.Port() != "":
		out.Host = net.JoinHostPort(host, u.Port())
	case strings.Contains(host, ":"):
		out.Host = "[" + host + "]"
	default:
		out.Host = host
	}
	return &out, nil
}
