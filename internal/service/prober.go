package service

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

// Prober looks from where serve runs, which is every pool's probe point until a pool names another.
type Prober struct {
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
	Vault orchestrator.Vault
	// Consoles finds a machine's console port; without it nobody can look.
	Consoles func(context.Context, orchestrator.Placement) (ConsolePlace, error)
	Timeout  time.Duration // of one connection; default 3 s
}

func (p Prober) timeout() time.Duration {
	if p.Timeout == 0 {
		return 3 * time.Second
	}
	return p.Timeout
}

// TryPort implements orchestrator.Prober. Only a reset counts as refused: that a host or a network is unreachable is said by a router on
// the way, or by nobody.
func (p Prober) TryPort(ctx context.Context, _ string, target netip.AddrPort) (orchestrator.PortAnswer, error) {
	dialCtx, cancel := context.WithTimeout(ctx, p.timeout())
	defer cancel()
	conn, err := p.Dial(dialCtx, "tcp", target.String())
	if err == nil {
		return orchestrator.PortOpen, conn.Close()
	}
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return orchestrator.PortRefused, nil
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.As(err, &timeout) && timeout.Timeout():
		return orchestrator.PortSilent, nil
	default:
		return "", orchestrator.Errorf("probe", orchestrator.Transient, "%s: %w", target, err)
	}
}

func (p Prober) console(ctx context.Context, m orchestrator.Machine) (ConsolePlace, error) {
	if p.Consoles == nil {
		return ConsolePlace{}, nil
	}
	return p.Consoles(ctx, m.Placement)
}

// NoConsole implements orchestrator.Prober.
func (p Prober) NoConsole(ctx context.Context, m orchestrator.Machine) error {
	place, err := p.console(ctx, m)
	if err != nil || place.Host == "" {
		return err // no address is configured to look from: the agent has proven that the port does not listen
	}
	dialCtx, cancel := context.WithTimeout(ctx, p.timeout())
	defer cancel()
	address := net.JoinHostPort(place.Host, strconv.Itoa(int(m.Placement.ConsolePort)))
	conn, err := (&net.Dialer{}).DialContext(dialCtx, "tcp", address)
	switch {
	case err == nil:
		_ = conn.Close()
		return orchestrator.Errorf("console", orchestrator.Transient, "%s still listens", address)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil
	default: // a host that is not reached says nothing about its ports
		return orchestrator.E("console", orchestrator.Transient, err)
	}
}

// Console implements orchestrator.Prober.
func (p Prober) Console(ctx context.Context, m orchestrator.Machine) error {
	const op = "console"
	place, err := p.console(ctx, m)
	if err != nil || place.Host == "" {
		return err // no address is configured to look from: the agent has proven that the port listens
	}
	password, err := p.Vault.Open(m.ID, orchestrator.SealedConsole, m.ConsolePassword)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*p.timeout())
	defer cancel()
	conn, err := place.Dial(ctx, m.Placement.ConsolePort)
	if err != nil {
		return orchestrator.E(op, orchestrator.Transient, err)
	}
	defer conn.Close()
	if _, err := rfb.Handshake(ctx, conn, password); err != nil {
		return err
	}
	return nil
}
