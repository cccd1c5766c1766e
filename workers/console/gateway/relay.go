package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

const (
	idleBuffer   = 4 << 10 // each way of a console that nobody touches
	busyBuffer   = 64 << 10
	writeTimeout = time.Minute // a viewer that takes nothing for that long has gone
	fullRecord   = 16 << 10    // the most that one read of a TLS connection gives (RFC 8446, section 5.1)
	gatherTime   = time.Millisecond
)

var (
	errBusy        = errors.New("too many look at this machine already")
	errUnreachable = errors.New("the host's console does not answer")
	errEnded       = errors.New("the machine's screen went away")
)

// reasonOf is the code of why a connection was not made or ended.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errBusy):
		return codeBusy
	case errors.Is(err, errUnreachable):
		return codeUnreachable
	case errors.Is(err, errEnded):
		return "ended"
	}
	code, _ := codeOf(err)
	return code
}

// show lets a viewer look at a machine until one of them goes. greet speaks with the viewer up to the verdict, which depends on the screen.
// The error says why it ended otherwise than by the viewer's leaving.
func (g *Gateway) show(ctx context.Context, conn net.Conn, m orchestrator.Machine, who viewer, greet func(context.Context) (*rfb.Viewer, error)) error {
	release, ok := g.limits.machine(m.ID)
	if !ok {
		g.metrics.refused.WithLabelValues(codeBusy).Inc()
		return errBusy
	}
	defer release()
	v, err := greet(ctx)
	if err != nil {
		return g.left(err)
	}
	display, init, err := g.screen(ctx, m)
	if err != nil {
		g.metrics.refused.WithLabelValues(reasonOf(err)).Inc()
		g.cfg.Log.Info("a screen cannot be shown", "machine", m.ID, "viewer", who.String(), "error", err)
		_ = v.Refuse(ctx, words(reasonOf(err)))
		return err
	}
	defer display.Close()
	init.Name = m.Name
	if err := v.Admit(ctx, init); err != nil {
		return g.left(err)
	}
	open := g.metrics.open.WithLabelValues(who.way)
	open.Inc()
	defer open.Dec()
	g.audit(ctx, "console-open", m, who.user, who.String())
	begun := time.Now()
	err = g.relay(ctx, conn, display, who)
	why := "the viewer left"
	if err != nil {
		why = words(reasonOf(err))
		g.metrics.ended.WithLabelValues(reasonOf(err)).Inc()
	} else {
		g.metrics.ended.WithLabelValues("left").Inc()
	}
	g.audit(ctx, "console-close", m, who.user, fmt.Sprintf("%s; after %s: %s", who, time.Since(begun).Round(time.Second), why))
	return err
}

// left drops an error that only says that the viewer has gone.
func (g *Gateway) left(err error) error {
	if rfb.Left(err) {
		return nil
	}
	g.metrics.refused.WithLabelValues("protocol").Inc()
	g.cfg.Log.Debug("viewer", "error", err)
	return err
}

// screen opens the machine's display and speaks with it up to its picture.
func (g *Gateway) screen(ctx context.Context, m orchestrator.Machine) (net.Conn, rfb.ServerInit, error) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.OpenTimeout)
	defer cancel()
	if err := g.allowed(ctx, m); err != nil {
		return nil, rfb.ServerInit{}, err
	}
	display, err := g.cfg.Display.OpenDisplay(ctx, orchestrator.MachineRef{Pool: m.Placement.Pool, Machine: m.ID, VM: m.VM, LookOnly: true})
	if err != nil {
		if errors.Is(err, orchestrator.ErrNotRunning) || errors.Is(err, orchestrator.ErrDisplayPlace) {
			return nil, rfb.ServerInit{}, err
		}
		return nil, rfb.ServerInit{}, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	init, err := rfb.Handshake(ctx, display, orchestrator.Secret{})
	if err == nil {
		err = display.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = display.Close()
		return nil, rfb.ServerInit{}, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	return display, init, nil
}

// relay copies both ways until an end goes, still says no, or ctx ends; then it says goodbye to the viewer, which ends its connection. It
// returns nil when the viewer left.
func (g *Gateway) relay(ctx context.Context, conn, display net.Conn, who viewer) error {
	var once sync.Once
	var why error
	ended := make(chan struct{})
	end := func(err error) {
		once.Do(func() {
			why = err
			close(ended)
		})
	}
	var work sync.WaitGroup
	work.Go(func() {
		if read, _ := pass(conn, gathered{display}); read != nil {
			end(errEnded)
		}
		end(nil)
	})
	work.Go(func() {
		if _, write := pass(display, conn); write != nil {
			end(errEnded)
		}
		end(nil)
	})
	work.Go(func() { end(g.watch(ctx, ended, who.still)) })
	<-ended
	_ = display.Close()
	who.bye(why)
	work.Wait()
	return why
}

// watch asks again and again whether the viewer is still allowed. A database that is away ends nobody's session: whoever was let in goes
// on, and nobody new is let in.
func (g *Gateway) watch(ctx context.Context, ended <-chan struct{}, still func(context.Context) error) error {
	ticker := time.NewTicker(g.cfg.CheckEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return errEnded
		case <-ticker.C:
		}
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := still(asking)
		cancel()
		if err != nil && reasonOf(err) != codeAway {
			return err
		}
	}
}

// pass copies until one end fails, and says which. What comes in large pieces gets a larger buffer: most consoles are idle, and a picture
// is not to be cut into small frames.
func pass(to, from net.Conn) (read, write error) {
	b := make([]byte, idleBuffer)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if write = to.SetWriteDeadline(time.Now().Add(writeTimeout)); write == nil {
				_, write = to.Write(b[:n])
			}
			if write != nil {
				return nil, write
			}
		}
		if err != nil {
			return err, nil
		}
		if n == len(b) && n < busyBuffer {
			b = make([]byte, 4*n)
		}
	}
}

// gathered is a display that is read in pieces as large as the buffer: a full record is followed by more of a large picture, and that is
// waited for a moment, since a frame to the viewer for each record takes half as much CPU again. What is less than a record, such as a
// key's echo or a picture's end, waits for nothing.
type gathered struct{ net.Conn }

func (g gathered) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if err != nil || n < fullRecord || n == len(b) {
		return n, err
	}
	err = g.SetReadDeadline(time.Now().Add(gatherTime))
	for last := n; err == nil && last >= fullRecord && n < len(b); n += last {
		last, err = g.Conn.Read(b[n:])
	}
	if errors.Is(err, os.ErrDeadlineExceeded) { // nothing more for now; also a TLS connection can be read on after that
		err = nil
	}
	return n, errors.Join(err, g.SetReadDeadline(time.Time{}))
}

// words are what a VNC viewer shows its user; the page has its own.
func words(code string) string {
	switch code {
	case codeOff:
		return "The machine is switched off."
	case codePlace:
		return "The machine's pool does not say where its screen is. Ask your provider."
	case codeBusy:
		return "Too many people look at this machine already."
	case codeClosed, codeRevoked:
		return "This machine's console is closed."
	case codeExpired, codeUsed, codeUnknown, codeAddress:
		return "Ask for a new link."
	case "ended":
		return "The machine's screen went away; it may be restarting."
	default:
		return "The machine's host does not answer. Try again later."
	}
}

// printable makes hostile text fit for a log line.
func printable(s string) string {
	return strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, s), "?")
}
