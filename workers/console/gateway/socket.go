package gateway

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/coder/websocket"

	"slipway/workers/console/rfb"
)

// Close codes of a socket: the private range of RFC 6455. The page has the words.
const (
	closeRevoked     websocket.StatusCode = 4001 // or expired: a new link is needed
	closeMachineOff  websocket.StatusCode = 4002
	closeUnreachable websocket.StatusCode = 4003
	closeBusy        websocket.StatusCode = 4004
	closeEnded       websocket.StatusCode = 4005 // the screen went away: the machine restarts, moves or stops
	closeClosed      websocket.StatusCode = 4006 // the machine's console is closed
	closePlace       websocket.StatusCode = 4007 // the pool names no usable place for the screen
)

var closeCodes = map[string]websocket.StatusCode{
	codeExpired: closeRevoked, codeUsed: closeRevoked, codeRevoked: closeRevoked, codeUnknown: closeRevoked, codeAddress: closeRevoked,
	codeClosed: closeClosed, codeOff: closeMachineOff, codeUnreachable: closeUnreachable, codeAway: closeUnreachable, codeBusy: closeBusy, codePlace: closePlace,
}

const (
	maxClientMessage = 1 << 20          // bytes of one message of a viewer: its clipboard is the largest
	goodbye          = 5 * time.Second  // for a viewer's answer to a close
	pingEvery        = 30 * time.Second // a viewer that does not answer two of them has gone
)

// socket is a screen in a browser. A pass that does not open is answered before the upgrade; what the screen says against it comes as a
// close code, since a page cannot read anything else.
func (g *Gateway) socket(w http.ResponseWriter, r *http.Request) {
	if !g.sameOrigin(r) {
		g.refuse(w, codeOrigin, http.StatusForbidden)
		return
	}
	pass, err := g.session(r)
	if err != nil {
		g.refusePass(w, err)
		return
	}
	g.open.Add(1) // while the server still counts the request
	defer g.open.Done()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{"binary"}, InsecureSkipVerify: true, // sameOrigin has looked
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return // answered by Accept
	}
	defer ws.CloseNow() //nolint:errcheck // nothing is left to be done about it
	bye := func(err error) { closeSocket(r.Context(), ws, err) }
	from := g.client(r)
	if peer := remoteOf(r); from != peer { // the listener has counted the proxy, not the viewer
		release, ok := g.limits.connection(from)
		if !ok {
			g.metrics.refused.WithLabelValues("too_many").Inc()
			bye(errBusy)
			return
		}
		defer release()
	}
	m, err := g.cfg.Store.Machine(r.Context(), pass.Machine)
	if err != nil {
		bye(err)
		return
	}
	who := viewer{
		way: "browser", user: pass.User, from: from, bye: bye,
		still: func(ctx context.Context) error {
			if _, err := g.session(r.WithContext(ctx)); err != nil {
				return err
			}
			return g.allowed(ctx, m)
		},
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	conn := websocket.NetConn(ctx, ws, websocket.MessageBinary)
	ws.SetReadLimit(maxClientMessage) // NetConn has none
	defer conn.Close()
	pinging := make(chan struct{})
	go func() {
		defer close(pinging)
		defer cancel()
		ping(ctx, ws)
	}()
	err = g.show(ctx, conn, m, who, func(ctx context.Context) (*rfb.Viewer, error) {
		return rfb.Greet(ctx, conn, rfb.None)
	})
	bye(err)
	cancel()
	<-pinging
}

func remoteOf(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

// closeSocket tells the page why, and waits a moment for its answer. The library drains what the viewer sends meanwhile without any bound in
// time, so the connection itself gets one: nobody keeps a gateway from stopping by a frame that never ends.
func closeSocket(ctx context.Context, ws *websocket.Conn, err error) {
	if conn, ok := ctx.Value(connKey{}).(net.Conn); ok {
		_ = conn.SetDeadline(time.Now().Add(goodbye))
	}
	if err == nil {
		_ = ws.Close(websocket.StatusNormalClosure, "") // a second close is nothing
		return
	}
	code := reasonOf(err)
	status, ok := closeCodes[code]
	if !ok {
		status = closeEnded
	}
	_ = ws.Close(status, code)
}

// connKey finds a request's connection in its context.
type connKey struct{}

// ping ends when the viewer does not answer or ctx ends.
func ping(ctx context.Context, ws *websocket.Conn) {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		waiting, cancel := context.WithTimeout(ctx, pingEvery)
		err := ws.Ping(waiting)
		cancel()
		if err != nil {
			return
		}
	}
}

// viewer is who looks.
type viewer struct {
	way   string // "browser" or "vnc"
	user  string
	from  netip.Addr
	still func(context.Context) error // whether it is still allowed
	bye   func(error)                 // ends the connection and says why, nil when the viewer left
}

// String is the viewer as the audit trail has it.
func (v viewer) String() string {
	return v.user + " from " + v.from.String() + " by " + v.way
}
