package service

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"slipway/orchestrator"
)

// A port that listens and one that refuses are the kernel's; what else may come back is made up.
func TestTryPort(t *testing.T) {
	t.Parallel()
	listening, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listening.Close() })
	shut, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = shut.Close()
	real := new(net.Dialer).DialContext
	fails := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}
	}
	for name, c := range map[string]struct {
		dial func(context.Context, string, string) (net.Conn, error)
		at   net.Addr
		want orchestrator.PortAnswer
		kind orchestrator.Kind
	}{
		"listens": {dial: real, at: listening.Addr(), want: orchestrator.PortOpen},
		"refuses": {dial: real, at: shut.Addr(), want: orchestrator.PortRefused},
		"nothing comes back": {at: shut.Addr(), want: orchestrator.PortSilent, dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
		}},
		"a router knows nobody":      {dial: fails(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), at: shut.Addr(), want: orchestrator.PortSilent},
		"there is no way":            {dial: fails(os.NewSyscallError("connect", syscall.ENETUNREACH)), at: shut.Addr(), want: orchestrator.PortSilent},
		"the probe cannot be made":   {dial: fails(os.NewSyscallError("socket", syscall.EMFILE)), at: shut.Addr(), kind: orchestrator.Transient},
		"something odd has happened": {dial: fails(errors.New("odd")), at: shut.Addr(), kind: orchestrator.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := Prober{Dial: c.dial, Timeout: 100 * time.Millisecond}
			if name == "listens" || name == "refuses" {
				p.Timeout = 10 * time.Second
			}
			answer, err := p.TryPort(t.Context(), "pool-a", netip.MustParseAddrPort(c.at.String()))
			if answer != c.want || orchestrator.KindOf(err) != c.kind {
				t.Errorf("%q, %v", answer, err)
			}
		})
	}
	t.Run("the caller gives up", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if answer, err := (Prober{Dial: real}).TryPort(ctx, "pool-a", netip.MustParseAddrPort(listening.Addr().String())); answer != "" || !errors.Is(err, context.Canceled) {
			t.Errorf("%q, %v", answer, err)
		}
	})
}
