package xapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"slipway/orchestrator"
)

const (
	maxConsoleHead = 8 << 10          // of the answer to CONNECT
	maxConnect     = 15 * time.Second // from the dial to the end of that answer
)

type consoleRecord struct {
	Protocol string `json:"protocol"` // "rfb", "vt100" or "rdp"
	Location string `json:"location"` // https://<address of the host where the VM is>/console?uuid=…
}

// OpenDisplay implements orchestrator.Display: CONNECT to the console's location with the pool's session in a cookie, after which the
// connection is RFB (xapi's console.ml; only the host where the VM is answers). The location is read anew for each connection, since a
// migration changes it, and only a host of the pool is ever given the session.
func (b *Backend) OpenDisplay(ctx context.Context, ref orchestrator.MachineRef) (net.Conn, error) {
	p, err := b.refPool("OpenDisplay", ref)
	if err != nil {
		return nil, err
	}
	_, rec, found, err := p.owned(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, orchestrator.Errorf("xapi.OpenDisplay", orchestrator.Permanent, "pool %s has no VM %s: %w", p.id, ref.VM, orchestrator.ErrNotFound)
	}
	var console consoleRecord
	for _, screen := range rec.Consoles {
		if err := p.client.Call(ctx, "console.get_record", &console, screen); err != nil && !HasCode(err, codeHandleInvalid) { // gone: the VM stops
			return nil, err
		}
		if console.Protocol == "rfb" {
			break
		}
	}
	if console.Protocol != "rfb" || rec.Power != "Running" {
		return nil, orchestrator.Errorf("xapi.OpenDisplay", orchestrator.Transient, "%w: its VM is %s", orchestrator.ErrNotRunning, strings.ToLower(printable(rec.Power)))
	}
	var address string
	if err := p.client.Call(ctx, "host.get_address", &address, rec.Host); err != nil {
		return nil, err
	}
	target, err := p.client.consoleAt(console.Location, address)
	if err != nil {
		return nil, orchestrator.Errorf("xapi.OpenDisplay", orchestrator.Transient, "%w: %w", orchestrator.ErrDisplayPlace, err)
	}
	session, err := p.client.main.get(ctx, nil, nil)
	if err != nil {
		return nil, classify("xapi.OpenDisplay", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, maxConnect, fmt.Errorf("no answer within %s", maxConnect))
	defer cancel()
	conn, err := p.client.connect(ctx, target, session.ref)
	if err != nil {
		return nil, orchestrator.Errorf("xapi.OpenDisplay", orchestrator.Transient, "console at %s: %w", target.Host, err)
	}
	return conn, nil
}

// consoleAt is where to send CONNECT. The location must name the address of the host where the VM is, or none (xapi does that while the
// host has no address yet). A host that is configured under another port is reached there, like a master that names itself.
func (c *Client) consoleAt(location, address string) (*url.URL, error) {
	at, err := url.Parse(location)
	if err != nil || at.Path != "/console" || at.RawQuery == "" || at.User != nil {
		return nil, errors.New("the console's location is no URL of a console")
	}
	if at.Hostname() != "" && at.Hostname() != address {
		return nil, fmt.Errorf("the console's location names %q, and its VM is on the host at %q", printable(at.Hostname()), printable(address))
	}
	member := c.members[0]
	for _, m := range c.members {
		if m.Hostname() == address {
			member = m
		}
	}
	target, err := withHost(member, address)
	if err != nil {
		return nil, err
	}
	target.Path, target.RawQuery = "/console", at.RawQuery
	return target, nil
}

// connect asks for the console and gives the connection behind the answer's head. Errors never show the session.
func (c *Client) connect(ctx context.Context, target *url.URL, session Ref) (_ net.Conn, err error) {
	host := target.Host
	if target.Port() == "" {
		host = net.JoinHostPort(target.Hostname(), map[string]string{"https": "443", "http": "80"}[target.Scheme])
	}
	conn, err := (&net.Dialer{Timeout: maxDial, KeepAlive: 15 * time.Second}).DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	raw := conn
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			_ = raw.Close()
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
		}
	}()
	if target.Scheme == "https" {
		settings := c.secure.Clone()
		settings.ServerName = target.Hostname()
		secured := tls.Client(conn, settings)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secured
	}
	// HTTP/1.0 and no more headers than needed: that is what every viewer of these consoles sends.
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.0\r\nCookie: session_id=%s\r\n\r\n", target.RequestURI(), session); err != nil {
		return nil, err
	}
	head := &io.LimitedReader{R: conn, N: maxConsoleHead}
	reader := bufio.NewReaderSize(head, 4096)
	answer, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	switch {
	case err != nil && head.N <= 0:
		return nil, fmt.Errorf("the answer's head is longer than %d bytes", maxConsoleHead)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errors.New("it closed the connection without an answer")
	case err != nil:
		return nil, errors.New("the answer is no HTTP")
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("HTTP status %d", answer.StatusCode)
	}
	early, err := reader.Peek(reader.Buffered()) // the server speaks first: its greeting may have come along
	if err != nil {
		return nil, err
	}
	return &display{Conn: conn, early: append([]byte(nil), early...)}, nil
}

// display is a connection of which some bytes have been read already.
type display struct {
	net.Conn
	early []byte
}

func (d *display) Read(b []byte) (int, error) {
	if len(d.early) > 0 {
		n := copy(b, d.early)
		d.early = d.early[n:]
		return n, nil
	}
	return d.Conn.Read(b)
}
