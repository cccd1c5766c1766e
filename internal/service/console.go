package service

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"time"

	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/store"
	"slipway/workers/console/gateway"
	"slipway/workers/hypervisor/xapi"
)

// openConsole makes the gateway that the configuration describes; nil when it describes none.
func openConsole(cfg *config.Config, s orchestrator.Store, display orchestrator.Display, v orchestrator.Vault, log *slog.Logger) (*gateway.Gateway, error) {
	c := cfg.Console
	if c.IsZero() {
		return nil, nil
	}
	at, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("console.url: is no URL")
	}
	if c.Insecure {
		log.Warn("console.insecure: screens and keys of customers' machines may cross the network in the clear", "listen", c.Listen, "vnc", c.VNC, "url", c.URL)
	}
	if c.PlainPorts {
		log.Warn("console.plain_ports: screens and keys cross the network in the clear at the machines' own ports, as with xvp", "ports", c.Ports)
	}
	var proxies []netip.Prefix
	for _, p := range c.Proxies {
		proxies = append(proxies, netip.Prefix(p))
	}
	return gateway.New(gateway.Config{
		Store: s, Display: display, Vault: v, Log: log, URL: at, Proxies: proxies, TokenLife: c.TokenLife, SessionAge: c.SessionAge,
	})
}

// serveConsole serves the gateway's listeners until ctx ends or one of them fails.
func serveConsole(ctx context.Context, g *gateway.Gateway, cfg *config.Config, s gateway.PortsStore, holder string, log *slog.Logger) error {
	c := cfg.Console
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var settings *tls.Config
	if c.Cert != "" {
		pair := &renewed{cert: c.Cert, key: c.Key, log: log}
		if err := pair.read(); err != nil {
			return err
		}
		settings = &tls.Config{GetCertificate: pair.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	for _, l := range []struct {
		what, address string
		serve         func(context.Context, net.Listener) error
	}{{"listen", c.Listen, g.ServeHTTP}, {"vnc", c.VNC, g.ServeVNC}} {
		if l.address == "" {
			continue
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.address)
		if err != nil {
			cancel(fmt.Errorf("%s: %w", l.what, err))
			break
		}
		if settings != nil {
			listener = tls.NewListener(listener, settings)
		}
		serving.Go(func() {
			if err := l.serve(ctx, listener); err != nil {
				cancel(fmt.Errorf("%s: %w", l.what, err))
			}
		})
	}
	if c.Ports != "" {
		serving.Go(func() {
			if err := g.ServePorts(ctx, portsConfig(cfg, s, holder, settings)); err != nil {
				cancel(fmt.Errorf("ports: %w", err))
			}
		})
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// renewed is a certificate that is read again when its file has changed: who renews it does not have to end anybody's screen. Safe for
// concurrent use.
type renewed struct {
	cert string
	key  config.Secret
	log  *slog.Logger

	mu      sync.Mutex
	pair    *tls.Certificate
	of      time.Time // the file's, as it was read
	checked time.Time
}

// read takes what is there now. The last good pair stays when it is no pair.
func (r *renewed) read() error {
	info, err := os.Stat(r.cert)
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	key, err := r.key.Read()
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	chain, err := os.ReadFile(r.cert)
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, []byte(key.Reveal()))
	if err != nil {
		return fmt.Errorf("cert and key: %w", err)
	}
	r.pair, r.of = &pair, info.ModTime()
	return nil
}

func (r *renewed) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	const every = 10 * time.Second
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.checked) >= every {
		r.checked = now
		if info, err := os.Stat(r.cert); err != nil || !info.ModTime().Equal(r.of) {
			if err := r.read(); err != nil { // half of the two may be there: it is tried again
				r.log.Warn("the console's new certificate cannot be used; the old one stays", "error", err)
			}
		}
	}
	return r.pair, nil
}

// RunConsole is a gateway alone: a process that needs the database, the pools and the vault's key, and drives no run.
func RunConsole(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	if cfg.Console.IsZero() {
		return orchestrator.FieldErrors{{Field: "console.listen", Problem: "is missing", Fix: "say where the gateway shall listen, such as 127.0.0.1:6080, and console.url"}}
	}
	v, err := openVault(cfg)
	if err != nil {
		return err
	}
	s, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // nothing is written at the end
	holder := holderName()
	if err := joinVault(ctx, s, v, holder, log); err != nil {
		return err
	}
	defer leaveVault(s, holder, log)
	holding := keepVault(ctx, s, v, holder, log)
	defer holding()
	pools, err := openHypervisor(cfg, func(string) {}, log)
	if err != nil {
		return err
	}
	defer closePools(ctx, pools, log)
	g, err := openConsole(cfg, s, pools, v, log)
	if err != nil {
		return err
	}
	log.Info("showing consoles", "listen", cfg.Console.Listen, "vnc", cfg.Console.VNC, "url", cfg.Console.URL)
	err = serveConsole(ctx, g, cfg, s, holderName(), log)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("console.%w", err)
}

func openStore(ctx context.Context, cfg *config.Config) (orchestrator.Store, error) {
	dsn, err := DatabaseURL(cfg)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return s, nil
}

func closePools(ctx context.Context, pools *xapi.Backend, log *slog.Logger) {
	if err := pools.Close(context.WithoutCancel(ctx)); err != nil {
		log.Debug("log out of the pools", "error", err)
	}
}

// postConsole issues a link to a machine's screen.
func (s *Service) postConsole(r *http.Request) (any, error) {
	if s.console == nil {
		fields := orchestrator.FieldErrors{{Field: "console", Problem: "is not configured: this site shows no screens", Fix: "set console.listen and console.url, and start serve again"}}
		return nil, &api.Error{Code: api.CodeRefused, Message: fields.Error(), Fields: fields, Next: "slipway check, when they are set"}
	}
	var ask api.ConsoleAsk
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "user", Problem: "is missing", Fix: "name the viewer"}}
	}
	m, err := s.find(r)
	if err != nil {
		return nil, err
	}
	var from netip.Addr
	if ask.From != "" {
		if from, err = netip.ParseAddr(ask.From); err != nil {
			return nil, orchestrator.FieldErrors{{Field: "from", Problem: "is no address", Fix: "give the viewer's address, or leave it out"}}
		}
	}
	link, err := s.console.Issue(r.Context(), m.ID, ask.User, from, actor(r.Context()))
	if err != nil {
		return nil, err
	}
	return api.ConsoleLink{Machine: m.ID, Name: m.Name, URL: link.URL.Reveal(), Expires: link.Expires}, nil
}

// deleteConsole revokes every link and session of a machine.
func (s *Service) deleteConsole(r *http.Request) (any, error) {
	ask, err := decodeAct(r)
	if err != nil {
		return nil, err
	}
	m, err := s.find(r)
	if err != nil {
		return nil, err
	}
	n, err := s.Store.RevokePasses(r.Context(), m.ID, actor(r.Context()), ask.Reason)
	if err != nil {
		return nil, err
	}
	return api.ConsoleRevoked{Machine: m.ID, Revoked: n}, nil
}
