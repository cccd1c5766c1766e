// Package rfc2136 registers machines at a name server by DNS UPDATE (RFC 2136), signed with TSIG (RFC 8945).
//
// Beside each record stands its mark: a TXT record at _slipway.NAME that says "machine=ID". Record and mark are made in one UPDATE whose
// prerequisites are that neither name is in use, and removed in one whose prerequisite is the mark, so that the server itself decides between
// ours and another's, in one act, whatever happens in between. The mark is at a name of its own because a prerequisite compares a whole RRset: a
// TXT record that the customer adds to the host must not hide it. (Names that begin with _ are no host names: RFC 8552.)
//
// All messages go over TCP: a UDP update that is sent twice is not told from two, and a zone that can be updated is served over TCP anyway
// (RFC 7766). Answers without a valid signature are not believed.
package rfc2136

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"slipway/orchestrator"
)

// Config is what a Client needs.
type Config struct {
	Servers map[string]Server // by pool
	// Dial reaches the servers; nil is an ordinary dialer.
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Timeout time.Duration    // of one exchange; default 10 s
	Now     func() time.Time // default time.Now; signatures hold for five minutes around it
}

// Server is the primary of a pool's zones.
type Server struct {
	Address   string // host:port
	KeyName   string
	Algorithm string              // one of Algorithms; "" is hmac-sha256
	Secret    orchestrator.Secret // base64
	TTL       time.Duration       // of the records; default 5 min
}

// Algorithms are those that RFC 8945 does not advise against.
func Algorithms() []string {
	return []string{"hmac-sha256", "hmac-sha224", "hmac-sha384", "hmac-sha512"}
}

// Client implements orchestrator.Names. Safe for concurrent use; every call has a connection of its own.
type Client struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	timeout time.Duration
	now     func() time.Time
	servers map[string]server
}

type server struct {
	address, key, algorithm string
	secrets                 map[string]string // of the one key, as the library wants it
	ttl                     uint32
}

var _ orchestrator.Names = (*Client)(nil)

// New checks the keys and connects to nothing.
func New(c Config) (*Client, error) {
	client := &Client{dial: c.Dial, timeout: cmp.Or(c.Timeout, 10*time.Second), now: c.Now, servers: map[string]server{}}
	if client.dial == nil {
		client.dial = (&net.Dialer{}).DialContext
	}
	if client.now == nil {
		client.now = time.Now
	}
	for pool, s := range c.Servers {
		algorithm := cmp.Or(s.Algorithm, Algorithms()[0])
		if !slices.Contains(Algorithms(), algorithm) {
			return nil, fmt.Errorf("pool %s: algorithm %q is not one of %s", pool, algorithm, strings.Join(Algorithms(), ", "))
		}
		if _, ok := dns.IsDomainName(s.KeyName); !ok || s.KeyName == "" {
			return nil, fmt.Errorf("pool %s: %q is not a key's name", pool, s.KeyName)
		}
		if key, err := base64.StdEncoding.DecodeString(s.Secret.Reveal()); err != nil || len(key) < 16 {
			return nil, fmt.Errorf("pool %s: the key is not 16 bytes or more in base64: make one with `tsig-keygen -a %s`", pool, algorithm)
		}
		name := dns.CanonicalName(s.KeyName)
		client.servers[pool] = server{
			address: s.Address, key: name, algorithm: dns.Fqdn(algorithm),
			secrets: map[string]string{name: s.Secret.Reveal()}, ttl: uint32(cmp.Or(s.TTL, 5*time.Minute).Seconds()),
		}
	}
	return client, nil
}

func (c *Client) server(op, pool string) (server, error) {
	s, ok := c.servers[pool]
	if !ok {
		return s, orchestrator.Errorf(op, orchestrator.Permanent, "pool %s has no name server in the configuration any more", pool)
	}
	return s, nil
}

// exchange sends a signed message and returns the signed answer. An rcode that says how prerequisites stand is the caller's to read; every
// other one but success is an error.
func (c *Client) exchange(ctx context.Context, op string, s server, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer in %s: %w", c.timeout, context.DeadlineExceeded))
	defer cancel()
	lost := orchestrator.Transient // a question is asked again
	if m.Opcode == dns.OpcodeUpdate {
		lost = orchestrator.Unknown
	}
	conn, err := c.dial(ctx, "tcp", s.address)
	if err != nil {
		return nil, away(ctx, op, s, orchestrator.Transient, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	m.SetTsig(s.key, s.algorithm, 300, c.now().Unix())
	wire := &dns.Conn{Conn: conn, TsigSecret: s.secrets}
	if err := wire.WriteMsg(m); err != nil {
		return nil, away(ctx, op, s, lost, err)
	}
	answer, err := wire.ReadMsg()
	if answer == nil || answer.Id != m.Id || !answer.Response {
		return nil, away(ctx, op, s, lost, cmp.Or(err, errors.New("the answer is not to what was asked")))
	}
	return c.judge(op, s, m, answer, err, lost)
}

// away is an exchange that did not happen, or of which nobody knows.
func away(ctx context.Context, op string, s server, kind orchestrator.Kind, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
		if errors.Is(cause, context.Canceled) {
			kind = orchestrator.Canceled
		}
	}
	return orchestrator.Errorf(op, kind, "name server %s: %w", s.address, err)
}

// judge reads signature and rcode.
func (c *Client) judge(op string, s server, m, answer *dns.Msg, signature error, lost orchestrator.Kind) (*dns.Msg, error) {
	refuse := func(kind orchestrator.Kind, format string, args ...any) (*dns.Msg, error) {
		return nil, orchestrator.Errorf(op, kind, "name server %s: %s", s.address, fmt.Sprintf(format, args...))
	}
	key := strings.TrimSuffix(s.key, ".")
	tsig := answer.IsTsig()
	if tsig != nil {
		switch tsig.Error {
		case dns.RcodeBadKey, dns.RcodeBadSig, dns.RcodeBadTrunc:
			return refuse(orchestrator.Permanent, "it does not take key %s (%s): name, algorithm and secret must be the same on both sides", key, dns.RcodeToString[int(tsig.Error)])
		case dns.RcodeBadTime:
			return refuse(orchestrator.Transient, "its clock and this worker's are more than five minutes apart (BADTIME)")
		}
	}
	signed := tsig != nil && signature == nil
	zone := strings.TrimSuffix(m.Question[0].Name, ".")
	switch answer.Rcode {
	case dns.RcodeSuccess, dns.RcodeYXDomain, dns.RcodeYXRrset, dns.RcodeNXRrset, dns.RcodeNameError:
		if !signed {
			return refuse(lost, "its answer is not signed with key %s and is not believed", key)
		}
		return answer, nil
	case dns.RcodeServerFailure:
		return refuse(orchestrator.Transient, "SERVFAIL for %s: its log says why", zone)
	case dns.RcodeRefused:
		return refuse(orchestrator.Permanent, "REFUSED for %s: let key %s update and read the zone", zone, key)
	case dns.RcodeNotAuth:
		return refuse(orchestrator.Permanent, "NOTAUTH for %s: it is not the zone's primary, or does not take key %s", zone, key)
	case dns.RcodeNotZone:
		return refuse(orchestrator.Permanent, "NOTZONE: a name is not in zone %s", zone)
	case dns.RcodeFormatError, dns.RcodeNotImplemented:
		return refuse(orchestrator.Permanent, "%s for %s: it takes no updates", dns.RcodeToString[answer.Rcode], zone)
	default:
		return refuse(orchestrator.Transient, "rcode %d for %s", answer.Rcode, zone)
	}
}
