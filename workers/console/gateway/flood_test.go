package gateway_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/workers/console/gateway"
	"slipway/workers/console/rfb"
)

// TestFlood: 10,000 connections from one address, half of them by VNC and half to the page's listener, that say nothing or half of
// something. All but the address's share are refused before a byte is read, others are served meanwhile, and afterwards nothing is left of
// it: no goroutine, no descriptor, no screen.
func TestFlood(t *testing.T) {
	const flood, share, together = 10_000, 32, 200
	display := &screens{}
	b := newFlooded(t, display, gateway.Limits{PerAddress: share, Total: 4 * share})
	settled := func(what string, more int, count func() int, before int) {
		t.Helper()
		until(t, what, func() bool { return count() <= before+more })
	}
	goroutines, descriptors := runtime.NumGoroutine(), openFiles(t)
	from := func(address string) *net.Dialer {
		return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: 30 * time.Second}
	}
	flooder, other := from("127.0.0.2"), from("127.0.0.3")
	var mu sync.Mutex
	refused := 0
	room := make(chan struct{}, together)
	var flooding sync.WaitGroup
	for n := range flood {
		room <- struct{}{}
		flooding.Go(func() {
			defer func() { <-room }()
			conn, err := flooder.DialContext(t.Context(), "tcp", []string{b.vnc, b.base.Host}[n%2])
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			if n%4 >= 2 {
				_, _ = io.WriteString(conn, "RFB")
			}
			if n%2 == 1 {
				_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			}
			if _, err := io.ReadFull(conn, make([]byte, 12)); err != nil {
				mu.Lock()
				refused++
				mu.Unlock()
			}
		})
		if n%1000 == 500 { // somebody else, in the middle of it
			conn, err := other.DialContext(t.Context(), "tcp", b.vnc)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := rfb.HandshakeXVP(t.Context(), conn, "ann", "web-1", orchestrator.NewSecret("password")); err != nil {
				t.Errorf("after %d: another address is not served: %v", n, err)
			}
			_ = conn.Close()
		}
	}
	flooding.Wait()
	if refused < flood/2 {
		t.Errorf("%d of %d connections from one address were refused", refused, flood)
	}
	if n := b.metric(t, "slipway_console_refused_total", "too_many"); n < refused/2 {
		t.Errorf("%d refusals are counted of %d", n, refused)
	}
	settled("every screen is closed", 0, func() int { return int(display.open.Load()) }, 0)
	settled("every connection is over", 0, func() int { return b.shown(t) }, 0)
	settled("its goroutines have ended", 10, runtime.NumGoroutine, goroutines)
	settled("its descriptors are closed", 10, func() int { return openFiles(t) }, descriptors)
}

// newFlooded is newBefore with limits.
func newFlooded(t *testing.T, display orchestrator.Display, limits gateway.Limits) *before {
	t.Helper()
	return newBefore(t, display, func(c *gateway.Config) { c.Limits = limits })
}

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-tick.C
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestHalves: handshakes that stop in the middle, that speak another version, and names as long as can be said, at both kinds of VNC port;
// each ends by itself, within the handshake's time, and is told what is the matter where the protocol has a place for it.
func TestHalves(t *testing.T) {
	b := newFlooded(t, &screens{}, gateway.Limits{})
	long := strings.Repeat("x", 255)
	for name, c := range map[string]struct {
		says string
		hang bool // nothing more is said, and the connection is kept
	}{
		"half a version":         {says: "RFB 003."},
		"another version":        {says: "RFB 009.000\n", hang: true},
		"no RFB at all":          {says: "GET / HTTP/1.1\r\n\r\n", hang: true},
		"half of the names":      {says: "RFB 003.008\n\x16\xff\xff" + long},
		"names as long as it is": {says: "RFB 003.008\n\x16\xff\xff" + long + long + strings.Repeat("\x00", 16), hang: true},
		"a megabyte for names":   {says: "RFB 003.008\n\x16\xff\xff" + strings.Repeat("y", 1<<20), hang: true},
		"half a response":        {says: "RFB 003.008\n\x16\x03\x05annweb-1\x00\x01"},
		"a type not offered":     {says: "RFB 003.008\n\x02", hang: true},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", b.vnc)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
			_, _ = io.WriteString(conn, c.says)
			if !c.hang {
				_ = conn.(*net.TCPConn).CloseWrite()
			}
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("it was not hung up on")
			}
		})
	}
	if n := b.shown(t); n != 0 {
		t.Errorf("%d screens are open", n)
	}
}

// TestHangingScreen: a host that takes the connection and says nothing, or stops in the middle of its greeting, is given up on; the viewer
// hears why, and it is counted.
func TestHangingScreen(t *testing.T) {
	display := &screens{}
	b := newBefore(t, display, func(c *gateway.Config) { c.OpenTimeout = 50 * time.Millisecond })
	for name, says := range map[string]string{"at once": "", "in its greeting": "RFB 003"} {
		t.Run(name, func(t *testing.T) {
			display.set(nil, func(c net.Conn) {
				_, _ = io.WriteString(c, says)
				_, _ = io.Copy(io.Discard, c)
			})
			before := b.metric(t, "slipway_console_refused_total", "unreachable")
			conn, err := net.Dial("tcp", b.vnc)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			_, err = rfb.HandshakeXVP(ctx, conn, "ann", "web-1", orchestrator.NewSecret("password"))
			if err == nil || !strings.Contains(err.Error(), "does not answer") {
				t.Errorf("the viewer was told %v", err)
			}
			if n := b.metric(t, "slipway_console_refused_total", "unreachable"); n != before+1 {
				t.Errorf("%d are counted after %d", n, before)
			}
			until(t, "the screen is closed", func() bool { return display.open.Load() == 0 })
		})
	}
}
