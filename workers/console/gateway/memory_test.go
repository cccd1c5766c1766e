package gateway_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
	"slipway/workers/console/gateway"
	"slipway/workers/console/rfb"
)

// oneMachine is a store with one machine, whose console is open; what goes on before the store costs nothing in it.
type oneMachine struct {
	machine orchestrator.Machine
	mu      sync.Mutex
	session orchestrator.PassHash
	token   orchestrator.PassHash
}

const oneID = "88888888-0000-4000-8000-000000000001"

func newOneMachine(tb testing.TB) *oneMachine {
	sealed, err := orchestratortest.Vault{}.Seal(oneID, orchestrator.SealedConsole, orchestrator.NewSecret("password"))
	if err != nil {
		tb.Fatal(err)
	}
	return &oneMachine{machine: orchestrator.Machine{ID: oneID, Tenant: "acme", Name: "web-1", State: "production_ready", Presence: orchestrator.Present, ConsolePassword: sealed,
		Placement: orchestrator.Placement{Pool: "p", Console: "c", ConsolePort: 20000}}}
}

func (s *oneMachine) IssueToken(_ context.Context, token orchestrator.PassHash, p orchestrator.ConsolePass, life time.Duration, _ string) (orchestrator.ConsolePass, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, p.Expires = token, time.Now().Add(life)
	return p, nil
}

func (s *oneMachine) RedeemToken(_ context.Context, token, session orchestrator.PassHash, machine string, _ netip.Addr, _ time.Duration) (orchestrator.ConsolePass, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token != s.token || machine != oneID {
		return orchestrator.ConsolePass{}, orchestrator.E("x", orchestrator.Permanent, orchestrator.ErrNotFound)
	}
	s.token, s.session = orchestrator.PassHash{}, session
	return orchestrator.ConsolePass{Machine: oneID, User: "ann"}, nil
}

func (s *oneMachine) Session(_ context.Context, session orchestrator.PassHash, machine string, _ netip.Addr) (orchestrator.ConsolePass, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if session != s.session || machine != oneID {
		return orchestrator.ConsolePass{}, orchestrator.E("x", orchestrator.Permanent, orchestrator.ErrNotFound)
	}
	return orchestrator.ConsolePass{Machine: oneID, User: "ann"}, nil
}

func (s *oneMachine) RevokePasses(context.Context, string, string, string) (int, error) {
	return 0, nil
}

func (s *oneMachine) EntryState(context.Context, string, string) (orchestrator.EntryState, error) {
	return orchestrator.EntryState{Found: true}, nil
}

func (s *oneMachine) Machine(_ context.Context, id string) (orchestrator.Machine, error) {
	if id != oneID {
		return orchestrator.Machine{}, orchestrator.E("x", orchestrator.Permanent, orchestrator.ErrNotFound)
	}
	return s.machine, nil
}

func (s *oneMachine) FindMachine(ctx context.Context, what string) (orchestrator.Machine, error) {
	if what == s.machine.Name {
		what = oneID
	}
	return s.Machine(ctx, what)
}

func (s *oneMachine) RecordAct(context.Context, string, string, string, string) error { return nil }

// source is a display inside TLS.
type source struct {
	net.Listener
	settings *tls.Config // of a server
	serving  sync.WaitGroup
}

// newSource is a display that echoes, or, told T, a number of MiB in 3 bytes and one of bytes in 4, at most 64 KiB, sends so much of its
// picture; at most pace bytes a second if there is one.
func newSource(tb testing.TB, pace int) *source {
	return serveDisplay(tb, pace, showPicture)
}

// serveDisplay has each connection's display shown.
func serveDisplay(tb testing.TB, pace int, show func(net.Conn) error) *source {
	tb.Helper()
	certified := httptest.NewTLSServer(nil)
	certified.Close()
	control := func(_, _ string, conn syscall.RawConn) (err error) {
		if pace > 0 {
			_ = conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, pace) })
		}
		return err
	}
	l, err := (&net.ListenConfig{Control: control}).Listen(context.Background(), "tcp", "127.0.0.1:0") // what it accepts is paced like it
	if err != nil {
		tb.Fatal(err)
	}
	s := &source{settings: &tls.Config{Certificates: certified.TLS.Certificates}} //nolint:gosec // the default is 1.2 at least
	s.Listener = tls.NewListener(l, s.settings)
	s.serving.Go(func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			s.serving.Go(func() {
				defer conn.Close()
				_ = show(conn)
			})
		}
	})
	tb.Cleanup(func() {
		_ = s.Close()
		s.serving.Wait()
	})
	return s
}

func showPicture(conn net.Conn) error {
	v, err := rfb.Greet(context.Background(), conn, rfb.None)
	if err == nil {
		err = v.Admit(context.Background(), rfb.ServerInit{Width: 64, Height: 48})
	}
	if err != nil {
		return err
	}
	message := make([]byte, smallMessage)
	for {
		if _, err := io.ReadFull(conn, message); err != nil {
			return err
		}
		if message[0] != 'T' {
			if _, err := conn.Write(message); err != nil {
				return err
			}
			continue
		}
		picture := make([]byte, 64<<10) // of a full screen a hypervisor sends such pieces
		for range (int(message[1])<<16 | int(message[2])<<8 | int(message[3])) * (1 << 20) / len(picture) {
			if _, err := conn.Write(picture); err != nil {
				return err
			}
		}
		if _, err := conn.Write(picture[:binary.BigEndian.Uint32(message[4:])]); err != nil {
			return err
		}
	}
}

// smallMessage is a key's length on the wire, more or less.
const smallMessage = 8

func (s *source) OpenDisplay(ctx context.Context, _ orchestrator.MachineRef) (net.Conn, error) {
	return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", s.Addr().String()) //nolint:gosec // nobody is between
}

// before is a gateway that stands before a display, at two listeners.
type before struct {
	gateway *gateway.Gateway
	store   *oneMachine
	base    *url.URL
	vnc     string
}

func newBefore(tb testing.TB, display orchestrator.Display, change ...func(*gateway.Config)) *before {
	tb.Helper()
	web, err := net.Listen("tcp", "127.0.0.1:0")
	vnc, vncErr := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err, vncErr); err != nil {
		tb.Fatal(err)
	}
	b := &before{store: newOneMachine(tb), base: &url.URL{Scheme: "http", Host: web.Addr().String()}, vnc: vnc.Addr().String()}
	const many = 1 << 20
	cfg := gateway.Config{Store: b.store, Display: display, Vault: orchestratortest.Vault{}, URL: b.base,
		Limits: gateway.Limits{Total: many, PerAddress: many, PerMachine: many}}
	for _, c := range change {
		c(&cfg)
	}
	if b.gateway, err = gateway.New(cfg); err != nil {
		tb.Fatal(err)
	}
	b.serve(tb, web, vnc)
	return b
}

// serve has the gateway serve two listeners until the test's end.
func (b *before) serve(tb testing.TB, web, vnc net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := b.gateway.ServeHTTP(ctx, web); err != nil {
			tb.Error(err)
		}
	})
	serving.Go(func() {
		if err := b.gateway.ServeVNC(ctx, vnc); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(func() {
		cancel()
		serving.Wait()
	})
}

// secured serves two more listeners, inside TLS, and returns their addresses.
func (b *before) secured(tb testing.TB, settings *tls.Config) (web, vnc string) {
	tb.Helper()
	var listeners [2]net.Listener
	for i := range listeners {
		var err error
		if listeners[i], err = tls.Listen("tcp", "127.0.0.1:0", settings); err != nil {
			tb.Fatal(err)
		}
	}
	b.serve(tb, listeners[0], listeners[1])
	return listeners[0].Addr().String(), listeners[1].Addr().String()
}

// pass is the cookie of a session.
func (b *before) pass(tb testing.TB) string {
	tb.Helper()
	link, err := b.gateway.Issue(context.Background(), oneID, "ann", netip.Addr{}, "test")
	if err != nil {
		tb.Fatal(err)
	}
	return cookieOf(tb, b.base.String(), link.URL.Reveal())
}
