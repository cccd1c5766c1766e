package ssh_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	xssh "golang.org/x/crypto/ssh"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/workers/postinstall/ssh"
)

// hostile is a guest that its customer, or whoever broke into it, has replaced: each connection is handed to a function of a test.
func hostile(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l := listen(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() { defer conn.Close(); serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// pour writes the same again and again until nobody takes it.
func pour(w io.Writer, block []byte) {
	for {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// drip writes a byte now and then until nobody takes it.
func drip(w io.Writer) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := w.Write([]byte("x")); err != nil {
			return
		}
	}
}

// commands lets the installer in and hands each command's channel to a function; what it returns is told as the command's end, nil as none.
func commands(t *testing.T, key xssh.Signer, do func(words string, ch xssh.Channel) (end *xssh.Request)) func(net.Conn) {
	t.Helper()
	config := &xssh.ServerConfig{PublicKeyCallback: func(xssh.ConnMetadata, xssh.PublicKey) (*xssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(key)
	return func(conn net.Conn) {
		_, channels, requests, err := xssh.NewServerConn(conn, config)
		if err != nil {
			return
		}
		go xssh.DiscardRequests(requests)
		for offer := range channels {
			ch, asked, err := offer.Accept()
			if err != nil {
				return
			}
			for r := range asked {
				if r.Type != "exec" || len(r.Payload) < 4 {
					continue
				}
				_ = r.Reply(true, nil)
				go xssh.DiscardRequests(asked)
				if end := do(string(r.Payload[4:]), ch); end != nil {
					_, _ = ch.SendRequest(end.Type, false, end.Payload)
					_ = ch.Close()
				}
				break
			}
		}
	}
}

func exit(code uint32) *xssh.Request {
	return &xssh.Request{Type: "exit-status", Payload: binary.BigEndian.AppendUint32(nil, code)}
}

const escapes = "\x1b]0;owned\a\x1b[2J\u202e\u009b31m\x00"

// Whatever a guest does to who installs it, the call ends within its limits, takes little memory, leaves no goroutine behind, and says which
// machine it was in words that a terminal may show.
func TestHostileGuests(t *testing.T) {
	b := setup(t, "debian-12", "root")
	private, line := keyPair(t)
	b.template = line
	key := signer(t, private)
	b.config.HandshakeTimeout, b.config.CommandTimeout = time.Minute, 2*time.Minute
	b.config.KeepaliveInterval, b.config.KeepaliveTimeout = 50*time.Millisecond, time.Minute
	observe := func(i *ssh.Installer, g orchestrator.Guest) error {
		_, err := i.ObserveJob(t.Context(), g, b.job.ID, 0)
		return err
	}
	probe := func(i *ssh.Installer, g orchestrator.Guest) error { _, err := i.Probe(t.Context(), g); return err }
	// A limit that is to be met is short, and every other one long: on a machine that has other work a handshake takes its time.
	handshake := func(_ *ssh.Installer, g orchestrator.Guest) error {
		config := b.config
		config.HandshakeTimeout = 500 * time.Millisecond
		i, err := ssh.New(config)
		if err != nil {
			t.Fatal(err)
		}
		return probe(i, g)
	}
	inspect := func(i *ssh.Installer, g orchestrator.Guest) error { _, err := i.Inspect(t.Context(), g); return err }
	ensure := func(i *ssh.Installer, g orchestrator.Guest) error { return i.EnsureJob(t.Context(), g, b.job) }
	says := func(out string, end *xssh.Request) func(net.Conn) {
		return commands(t, key, func(_ string, ch xssh.Channel) *xssh.Request {
			_, _ = io.WriteString(ch, out)
			return end
		})
	}
	const transient, unknown, permanent = orchestrator.Transient, orchestrator.Unknown, orchestrator.Permanent
	block := bytes.Repeat([]byte("x"), 32<<10)
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		ask   func(*ssh.Installer, orchestrator.Guest) error
		kind  orchestrator.Kind
		says  string
	}{
		"greets for ever":        {func(c net.Conn) { pour(c, []byte("220 hello\r\n")) }, handshake, transient, ""},
		"has a name without end": {func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-"); pour(c, block) }, handshake, transient, ""},
		"greets byte by byte":    {func(c net.Conn) { drip(c) }, handshake, transient, ""},
		"says nothing":           {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, handshake, transient, "no SSH handshake within 500ms"},
		"sends packets of garbage": {func(c net.Conn) {
			_, _ = io.WriteString(c, "SSH-2.0-x\r\n")
			pour(c, bytes.Repeat([]byte{0, 0, 1}, 100))
		}, handshake, transient, ""},
		"has a name with escapes":   {func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-"+escapes+"\r\n"); _, _ = io.Copy(io.Discard, c) }, handshake, transient, ""},
		"pours gigabytes":           {commands(t, key, func(_ string, ch xssh.Channel) *xssh.Request { pour(ch, block); return nil }), observe, transient, "said more than 1048576 bytes"},
		"complains in gigabytes":    {commands(t, key, func(_ string, ch xssh.Channel) *xssh.Request { pour(ch.Stderr(), block); return nil }), observe, transient, "said more than 1048576 bytes"},
		"pours while it is fed":     {commands(t, key, func(_ string, ch xssh.Channel) *xssh.Request { pour(ch, block); return nil }), ensure, unknown, "said more than 1048576 bytes"},
		"never ends":                {commands(t, key, func(string, xssh.Channel) *xssh.Request { return nil }), observe, transient, "did not finish within 3s"},
		"takes nothing, never ends": {commands(t, key, func(string, xssh.Channel) *xssh.Request { return nil }), ensure, unknown, "did not finish within 3s"},
		"ends and takes nothing":    {commands(t, key, func(string, xssh.Channel) *xssh.Request { return exit(0) }), ensure, "", ""},
		"drips":                     {commands(t, key, func(_ string, ch xssh.Channel) *xssh.Request { drip(ch); return nil }), observe, transient, "did not finish within 3s"},
		"ends without a code":       {commands(t, key, func(_ string, ch xssh.Channel) *xssh.Request { return &xssh.Request{Type: "nonsense"} }), observe, transient, "before the command's exit code came"},
		"dies of a signal with escapes": {says("", &xssh.Request{Type: "exit-signal", Payload: xssh.Marshal(struct {
			Signal      string
			Core        bool
			Words, Lang string
		}{escapes, true, escapes, escapes})}), observe, transient, "machine " + machineID},
		"has a code of 32 bits":   {says("state=exited exit=0 stage=x\n", exit(1<<32-1)), observe, transient, "exit code 4294967295"},
		"succeeds with nothing":   {says("", exit(0)), observe, transient, "is no job state"},
		"succeeds with escapes":   {says(escapes+"\n", exit(0)), observe, transient, "is no job state"},
		"has a state of its own":  {says("state=done exit=0 stage=x\n", exit(0)), observe, transient, "is no job state"},
		"has an exit code of 999": {says("state=exited exit=999 stage=x\n", exit(0)), observe, transient, "no exit code"},
		"fails with escapes": {commands(t, key, func(_ string, ch xssh.Channel) *xssh.Request {
			_, _ = io.WriteString(ch.Stderr(), escapes)
			return exit(64)
		}), observe, permanent, "exit code 64: ]0;owned"},
		"checks nothing": {says("identity=00000000000000000000000000000000\n", exit(0)), inspect, transient, "no checks"},
		"is somebody":    {says("identity="+escapes+"\nhostname=ok\n", exit(0)), inspect, transient, "no machine id"},
		"opens channels to us": {func(c net.Conn) {
			config := &xssh.ServerConfig{NoClientAuth: true, PublicKeyCallback: func(xssh.ConnMetadata, xssh.PublicKey) (*xssh.Permissions, error) { return nil, nil }}
			config.AddHostKey(key)
			conn, channels, requests, err := xssh.NewServerConn(c, config)
			if err != nil {
				return
			}
			go xssh.DiscardRequests(requests)
			go func() {
				for offer := range channels {
					_ = offer.Reject(xssh.ConnectionFailed, escapes+strings.Repeat("no", 10_000))
				}
			}()
			for {
				if _, _, err := conn.SendRequest("flood@example.net", false, block); err != nil {
					return
				}
				if _, _, err := conn.OpenChannel("forwarded-tcpip", block); err == nil {
					t.Error("a guest opened a channel to us")
				}
			}
		}, observe, transient, "open a session"},
	} {
		t.Run(name, func(t *testing.T) {
			address := hostile(t, tt.serve)
			g := b.ref
			g.Address, g.HostKey = address, ""
			config := b.config
			if strings.Contains(tt.says, "did not finish") {
				config.CommandTimeout = 3 * time.Second
			}
			i, err := ssh.New(config)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			grown := testenv.Heap(t, func() { err = tt.ask(i, g) })
			if took := time.Since(began); took > 50*time.Second { // no longer than the shortest limit that is not to be met
				t.Errorf("it took %s", took)
			}
			if orchestrator.KindOf(err) != tt.kind || !strings.Contains(fmt.Sprint(err), tt.says) || err != nil && !strings.Contains(err.Error(), machineID) {
				t.Errorf("kind %q: %v", orchestrator.KindOf(err), err)
			}
			if s := fmt.Sprint(err); len(s) > 2000 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%d bytes that a terminal would act on: %.200q", len(s), s)
			}
			if grown > 12*testenv.Mebibyte {
				t.Errorf("it took %d MiB", grown/testenv.Mebibyte)
			}
		})
	}
	// What it says of itself where that is wanted.
	t.Run("a stage with escapes", func(t *testing.T) {
		g := b.ref
		g.Address, g.HostKey = hostile(t, says("state=running exit=0 stage="+escapes+"packages "+strings.Repeat("y", 5000)+"\nlog", exit(0))), ""
		status, err := b.make(t).ObserveJob(t.Context(), g, b.job.ID, 7)
		if err != nil || !strings.HasPrefix(status.Stage, "]0;owned[2J31mpackages y") || len(status.Stage) > 310 || status.Offset != 10 {
			t.Errorf("%+v, %v", status, err)
		}
	})
}

// A guest that showed the machine's key and shows another one later is nobody that is talked to, and both keys are named.
func TestGuestWhoseKeyChanges(t *testing.T) {
	b := setup(t, "debian-12", "root")
	given, givenLine := keyPair(t)
	other, otherLine := keyPair(t)
	g := b.ref
	g.HostKey, g.Own = givenLine, true
	var mu sync.Mutex
	key := signer(t, given)
	ran := 0
	g.Address = hostile(t, func(c net.Conn) {
		mu.Lock()
		now := key
		mu.Unlock()
		commands(t, now, func(string, xssh.Channel) *xssh.Request {
			mu.Lock()
			ran++
			mu.Unlock()
			return exit(0)
		})(c)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := b.installer.Probe(ctx, g); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	key = signer(t, other)
	mu.Unlock()
	for what, ask := range map[string]func() error{
		"probe":  func() error { _, err := b.installer.Probe(ctx, g); return err },
		"look":   func() error { _, err := b.installer.ObserveJob(ctx, g, b.job.ID, 0); return err },
		"upload": func() error { return b.installer.EnsureJob(ctx, g, b.job) },
		"leave":  func() error { return b.installer.Leave(ctx, g) },
	} {
		err := ask()
		if orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), fingerprint(t, givenLine)) || !strings.Contains(err.Error(), fingerprint(t, otherLine)) || !strings.Contains(err.Error(), machineID) {
			t.Errorf("%s: %v", what, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if ran != 0 {
		t.Errorf("%d commands were sent to it", ran)
	}
}
