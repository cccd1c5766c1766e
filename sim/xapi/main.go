package xapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"slipway/orchestrator"
)

// Options are those of `slipway sim xapi`.
type Options struct {
	// Listen is HOST:PORT of the master. The other members of the pool listen on the following addresses when HOST is an IPv4 loopback
	// address (127.0.0.1, 127.0.0.2, ...: a client that is sent to the master keeps its port), else on the following ports.
	Listen   string
	User     string
	Password orchestrator.Secret
	TLS      bool
	Hosts    int
	Seed     uint64
	Faults   string // file, "" for none
	Latency  string // real or none
	State    string // as in Config; with TLS the certificate is kept beside it, with .pem at the end
	Logger   *slog.Logger

	Guests    Guests     // as in Config
	Templates []Template // as in Config

	OnPower      func(Power)                           // as in Config
	GuestAddress func(mac string) (ip string, ok bool) // as in Config
}

// Main runs a pool until the context ends. It prints one line per endpoint: the address, and with TLS the certificate's SHA-256 pin.
func Main(ctx context.Context, opts Options, stdout io.Writer) error {
	host, _, err := net.SplitHostPort(opts.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w: want HOST:PORT such as 127.0.0.1:8443", err)
	}
	cfg := Config{
		User: opts.User, Password: opts.Password, Hosts: opts.Hosts, Seed: opts.Seed, Latency: Latency(opts.Latency), Logger: opts.Logger, State: opts.State,
		HostAddress: host, SameAddress: !loopback4(host), SharedSR: true,
		OnPower: opts.OnPower, GuestAddress: opts.GuestAddress, Guests: opts.Guests, Templates: opts.Templates,
	}
	if opts.Faults != "" {
		if cfg.Faults, err = LoadFaults(opts.Faults); err != nil {
			return err
		}
	}
	var cert *tls.Certificate
	var pin string
	if opts.TLS {
		made, p, err := SelfSigned(host)
		if opts.State != "" {
			made, p, err = KeptCertificate(opts.State+".pem", host)
		}
		if err != nil {
			return err
		}
		cert, pin = &made, p
	}
	s, err := New(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	listeners, err := listenAll(ctx, opts.Listen, max(1, opts.Hosts))
	if err != nil {
		return err
	}
	scheme := "http"
	if cert != nil {
		scheme = "https"
	}
	for i, ln := range listeners {
		role := "master"
		if i > 0 {
			role = "member"
		}
		fmt.Fprintf(stdout, "%s %s://%s", role, scheme, ln.Addr())
		if pin != "" {
			fmt.Fprintf(stdout, " sha256:%s", pin)
		}
		fmt.Fprintln(stdout)
	}
	return s.serveAll(ctx, listeners, cert)
}

func loopback4(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Is4() && addr.IsLoopback()
}

// listenAll opens one endpoint per host of the pool; see Options.Listen.
func listenAll(ctx context.Context, address string, n int) ([]net.Listener, error) {
	var out []net.Listener
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", text)
	if err != nil {
		return nil, fmt.Errorf("listen: port %q: %w", text, err)
	}
	for i := range n {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(port)))
		if err != nil {
			for _, open := range out {
				err = errors.Join(err, open.Close())
			}
			return nil, err
		}
		out = append(out, ln)
		taken, ok := ln.Addr().(*net.TCPAddr)
		switch {
		case loopback4(host):
			host = netip.MustParseAddr(host).Next().String()
			if ok && i == 0 {
				port = taken.Port
			}
		case port != 0:
			port++
		}
	}
	return out, nil
}

func (s *Server) serveAll(ctx context.Context, listeners []net.Listener, cert *tls.Certificate) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(listeners))
	var wg sync.WaitGroup
	for i, ln := range listeners {
		wg.Go(func() {
			defer cancel() // one endpoint that fails ends them all
			if i == 0 {
				errs[i] = s.Serve(ctx, ln, cert)
			} else {
				errs[i] = s.ServeSlave(ctx, ln, cert, i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
