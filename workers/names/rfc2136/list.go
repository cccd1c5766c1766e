package rfc2136

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"slipway/orchestrator"
)

// Registered is a name that carries a machine's mark.
type Registered struct {
	Zone, Name, Machine string
	Holds               []string // what the name has: addresses or names, without the final dot
}

// maxListed bounds how many records of a zone are read.
const maxListed = 2_000_000

// List reads a zone by AXFR (RFC 5936) and returns the names in it that carry a mark, whoever's. A server that does not let the key transfer
// the zone is kind Permanent.
func (c *Client) List(ctx context.Context, pool, zone string) ([]Registered, error) {
	const op = "dns.List"
	s, err := c.server(op, pool)
	if err != nil {
		return nil, err
	}
	refuse := func(kind orchestrator.Kind, err error) ([]Registered, error) {
		return nil, away(ctx, op, s, kind, fmt.Errorf("transfer of %s: %w", zone, err))
	}
	conn, err := c.dial(ctx, "tcp", s.address)
	if err != nil {
		return refuse(orchestrator.Transient, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	m := new(dns.Msg)
	m.SetAxfr(dns.Fqdn(zone))
	m.SetTsig(s.key, s.algorithm, 300, c.now().Unix())
	transfer := &dns.Transfer{Conn: &dns.Conn{Conn: conn}, TsigSecret: s.secrets, ReadTimeout: c.timeout}
	envelopes, err := transfer.In(m, s.address)
	if err != nil {
		_ = conn.Close()
		return refuse(orchestrator.Transient, err)
	}
	var marks []*dns.TXT
	held, read := map[string][]string{}, 0
	var failed error
	for e := range envelopes { // to the end, whatever comes: the library's goroutine ends by it
		switch {
		case failed != nil:
		case e.Error != nil:
			failed = e.Error
		case read > maxListed:
			failed = fmt.Errorf("has more than %d records", maxListed)
			_ = conn.Close()
		}
		if failed != nil {
			continue
		}
		read += len(e.RR)
		for _, rr := range e.RR {
			name := strings.TrimSuffix(dns.CanonicalName(rr.Header().Name), ".")
			switch rr := rr.(type) {
			case *dns.TXT:
				marks = append(marks, rr)
			case *dns.A:
				held[name] = append(held[name], rr.A.String())
			case *dns.AAAA:
				held[name] = append(held[name], rr.AAAA.String())
			case *dns.PTR:
				held[name] = append(held[name], strings.TrimSuffix(dns.CanonicalName(rr.Ptr), "."))
			}
		}
	}
	var rcode *dns.Error // the library's own: the server has answered, and not with a zone
	switch {
	case errors.As(failed, &rcode):
		return refuse(orchestrator.Permanent, failed)
	case failed != nil:
		return refuse(orchestrator.Transient, failed)
	}
	var all []Registered
	for _, t := range marks {
		if name, machine, ok := machineOf(t); ok {
			all = append(all, Registered{Zone: zone, Name: name, Machine: machine, Holds: held[name]})
		}
	}
	return all, nil
}
