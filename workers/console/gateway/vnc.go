package gateway

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

// ServeVNC takes VNC viewers on a listener until ctx ends: each names its machine (security type 22: a name, tenant/name or id) and
// answers a random challenge with its console password. TLS, where there is any, is the listener's.
func (g *Gateway) ServeVNC(ctx context.Context, l net.Listener) error {
	l = listener{l, g}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var viewers sync.WaitGroup
	defer viewers.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			g.cfg.Log.Warn("accept viewers", "error", err) // out of descriptors, mostly: they come back
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		viewers.Go(func() {
			defer conn.Close()
			_ = g.vnc(ctx, conn)
		})
	}
}

func (g *Gateway) vnc(ctx context.Context, conn net.Conn) error {
	from := remote(conn.RemoteAddr())
	v, err := rfb.Greet(ctx, conn, rfb.XVP)
	if err != nil {
		return g.left(err)
	}
	m, password := g.target(ctx, v.Target)
	source := sourceOf(from)
	if from.IsLoopback() || g.isProxy(from) { // a proxy's, which stands for everybody
		source = netip.Prefix{}
	}
	rightly, ok := g.locks.guess(source, m.ID)
	if !ok {
		g.metrics.refused.WithLabelValues("locked").Inc()
		g.cfg.Log.Warn("console passwords are being guessed", "from", from, "machine", m.ID)
		password = orchestrator.Secret{} // asked for all the same: a guesser is not told
	}
	right, err := v.Verify(ctx, password)
	if err != nil {
		return g.left(err)
	}
	if !right {
		g.metrics.refused.WithLabelValues("password").Inc()
		return v.Refuse(ctx, "Wrong machine or password, or too many wrong ones before: wait ten minutes.")
	}
	rightly()
	who := viewer{
		way: "vnc", user: printable(v.User), from: from, bye: func(error) { _ = conn.Close() },
		still: func(ctx context.Context) error {
			now, err := g.cfg.Store.Machine(ctx, m.ID)
			if err != nil {
				return err
			}
			if !bytes.Equal(now.ConsolePassword, m.ConsolePassword) {
				return orchestrator.E("console", orchestrator.Permanent, orchestrator.ErrPassRevoked)
			}
			return g.allowed(ctx, now)
		},
	}
	return g.show(ctx, conn, m, who, func(context.Context) (*rfb.Viewer, error) { return v, nil })
}

// target is the machine that a viewer named, and its password. What does not exist has none, and is asked for it like the others.
func (g *Gateway) target(ctx context.Context, name string) (orchestrator.Machine, orchestrator.Secret) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, err := g.cfg.Store.FindMachine(ctx, name)
	if err != nil || len(m.ConsolePassword) == 0 || m.Presence == orchestrator.Absent {
		return orchestrator.Machine{}, orchestrator.Secret{}
	}
	password, err := g.cfg.Vault.Open(m.ID, orchestrator.SealedConsole, m.ConsolePassword)
	if err != nil {
		g.cfg.Log.Error("a console password cannot be opened", "machine", m.ID, "error", err)
		return orchestrator.Machine{}, orchestrator.Secret{}
	}
	return m, password
}
