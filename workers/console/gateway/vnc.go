package gateway

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

// ServeVNC takes VNC viewers on a listener until ctx ends: each names its machine (security type 22: a name, tenant/name or id) and
// answers a random challenge with its console password. TLS, where there is any, is the listener's.
func (g *Gateway) ServeVNC(ctx context.Context, l net.Listener) error {
	return g.accept(ctx, listener{l, g}, g.vnc)
}

// accept serves a listener's viewers, each on a goroutine of its own, until ctx ends or the listener is closed, and waits for them.
func (g *Gateway) accept(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn) error) error {
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
			_ = serve(ctx, conn)
		})
	}
}

func (g *Gateway) vnc(ctx context.Context, conn net.Conn) error {
	v, err := rfb.Greet(ctx, conn, rfb.XVP)
	if err != nil {
		return g.left(err)
	}
	m, password := g.target(ctx, v.Target)
	return g.letIn(ctx, conn, v, m, password, viewer{
		way: "vnc", user: printable(v.User), from: remote(conn.RemoteAddr()), bye: func(error) { _ = conn.Close() },
		still: func(ctx context.Context) error {
			now, err := g.cfg.Store.Machine(ctx, m.ID)
			if err != nil {
				return err
			}
			if err := g.same(m.ID, now.ConsolePassword, password); err != nil {
				return err
			}
			return g.allowed(ctx, now)
		},
	})
}

// letIn asks for the machine's password and shows its screen to who has it. Without a machine it asks all the same: a guesser is not told.
func (g *Gateway) letIn(ctx context.Context, conn net.Conn, v *rfb.Viewer, m orchestrator.Machine, password orchestrator.Secret, who viewer) error {
	rightly, ok := g.locks.guess(g.sourceFor(who.from), m.ID)
	if !ok {
		g.metrics.refused.WithLabelValues("locked").Inc()
		g.cfg.Log.Warn("console passwords are being guessed", "from", who.from, "machine", m.ID)
		password = orchestrator.Secret{} // asked for all the same, too
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
