package service

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/workers/appliance"
	"slipway/workers/console/gateway"
)

// syncConsoles makes the pools' choice of a console backend known, and says where it is not what they have.
func syncConsoles(ctx context.Context, cfg *config.Config, s orchestrator.ConsoleBackends, log *slog.Logger) error {
	chosen := cfg.ConsoleBackends()
	if err := s.SyncConsoleBackends(ctx, chosen); err != nil {
		return err
	}
	known, err := s.ConsoleBackends(ctx)
	if err != nil {
		return err
	}
	for pool, wanted := range chosen {
		if now := backendOf(known, pool); now != wanted {
			log.Warn("pools.console_backend is not where the pool's consoles are; move them with slipway console migrate, or change the key", "pool", pool, "configured", wanted, "consoles", now)
		}
	}
	return nil
}

func backendOf(known map[string]orchestrator.ConsoleBackend, pool string) orchestrator.ConsoleBackend {
	if b := known[pool]; b != "" {
		return b
	}
	return orchestrator.ConsoleXVP
}

// consoleMembers joins a console group's members. The gateways come first, so that they have let go of a port before an xvp host binds it.
func consoleMembers(s gateway.Reports, members []appliance.Member, name string) []appliance.Member {
	follow := func(ctx context.Context, group string, generation int64) error {
		return gateway.AwaitGateways(ctx, s, group, generation)
	}
	return slices.Insert(members, 0, appliance.Member{Name: name, Follow: follow})
}

// portsConfig is what the gateway needs to have the machines' own ports.
func portsConfig(cfg *config.Config, s gateway.PortsStore, holder string, settings *tls.Config) gateway.PortsConfig {
	return gateway.PortsConfig{
		Store: s, Groups: cfg.Gateways(), Holder: holder,
		Listen: func(ctx context.Context, port uint16) (net.Listener, error) {
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(cfg.Console.Ports, strconv.Itoa(int(port))))
			if err != nil || settings == nil || cfg.Console.PlainPorts {
				return l, err
			}
			return tls.NewListener(l, settings), nil
		},
	}
}

// ConsolePlace is where a machine's console port is.
type ConsolePlace struct {
	Backend orchestrator.ConsoleBackend
	Host    string      // "" where nobody configured an address to look from
	secured *tls.Config // nil where the port speaks no TLS
}

// Dial connects to a port there.
func (p ConsolePlace) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	address := net.JoinHostPort(p.Host, strconv.Itoa(int(port)))
	if p.secured != nil {
		return (&tls.Dialer{Config: p.secured}).DialContext(ctx, "tcp", address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// consolePlaces finds the place of machines' consoles, as the store has it at that moment.
func consolePlaces(cfg *config.Config, s orchestrator.ConsoleBackends) func(context.Context, orchestrator.Placement) (ConsolePlace, error) {
	return func(ctx context.Context, at orchestrator.Placement) (ConsolePlace, error) {
		known, err := s.ConsoleBackends(ctx)
		if err != nil {
			return ConsolePlace{}, err
		}
		place := ConsolePlace{Backend: backendOf(known, at.Pool)}
		for _, g := range cfg.Groups {
			if g.ID == at.Console {
				place.Host = g.ConsoleAddress(place.Backend)
			}
		}
		if c := cfg.Console; place.Backend == orchestrator.ConsoleGateway && c.Cert != "" && !c.PlainPorts {
			place.secured = pinned(c.Cert)
		}
		return place, nil
	}
}

// consoleAddress is where customers reach a machine's console port at this moment; "" when nobody said, or the store does not.
func (s *Service) consoleAddress(ctx context.Context, at orchestrator.Placement) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	place, err := consolePlaces(s.Config, s.Store)(ctx, at)
	if err != nil {
		s.log.Warn("an event lacks the console's address", "group", at.Console, "error", err)
	}
	return place.Host
}

// pinned takes the gateways' own certificate and no other, whatever names are in it: customers come by a name, and we by the address.
func pinned(cert string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error { //nolint:gosec // compared here
		text, err := os.ReadFile(cert)
		if err != nil {
			return err
		}
		block, _ := pem.Decode(text)
		if block == nil || len(raw) == 0 || !bytes.Equal(block.Bytes, raw[0]) {
			return errors.New("the console port shows another certificate than console.cert")
		}
		return nil
	}}
}

// checkGateway tells what the gateways say of themselves.
func checkGateway(ctx context.Context, cfg *config.Config, g config.Group) (string, error) {
	s, err := openStore(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer s.Close() //nolint:errcheck // nothing was written
	reports, err := s.GatewayReports(ctx, g.ID)
	if err != nil {
		return "", err
	}
	if len(reports) == 0 {
		return "no gateway is running: serve with console.ports, or slipway console serve, is one", nil
	}
	ports := 0
	for _, r := range reports {
		if r.Problem != "" {
			return "", fmt.Errorf("%s: %s", r.Holder, r.Problem)
		}
		ports = max(ports, r.Ports)
	}
	return fmt.Sprintf("%d gateways listen on %d ports", len(reports), ports), nil
}
