package rfb

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/orchestrator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The answers were computed by OpenSSL: openssl enc -des-ecb -nopad -K <password, the bits of each byte reversed>.
func TestResponse(t *testing.T) {
	for _, tc := range []struct{ password, challenge, want string }{
		{"password", "00000000000000000000000000000000", "ff97502e9422f089ff97502e9422f089"},
		{"password", "000102030405060708090a0b0c0d0e0f", "b866924125c8eebb9debc1db61c538e2"},
		{"a", "000102030405060708090a0b0c0d0e0f", "449407fb6f71bd517aca76866568a4e2"},
		{"12345678 and what nobody reads", "000102030405060708090a0b0c0d0e0f", "83dd2b4dbd04367f28578fdd5b142740"},
	} {
		challenge, err := hex.DecodeString(tc.challenge)
		if err != nil {
			t.Fatal(err)
		}
		got := Response([16]byte(challenge), orchestrator.NewSecret(tc.password))
		if hex.EncodeToString(got[:]) != tc.want {
			t.Errorf("%s: got %x, want %s", tc.password, got, tc.want)
		}
	}
}

// script is a server: what it sends, and what it must hear.
type script struct {
	t    *testing.T
	conn net.Conn
}

func (s script) send(b ...byte) { _, _ = s.conn.Write(b) }
func (s script) text(b string)  { _, _ = io.WriteString(s.conn, b) }

func (s script) number(n int) { s.send(binary.BigEndian.AppendUint32(nil, uint32(n))...) }

func (s script) hear(want ...byte) {
	got := make([]byte, len(want))
	if _, err := io.ReadFull(s.conn, got); err != nil || string(got) != string(want) {
		s.t.Errorf("heard %q, %v, want %q", got, err, want)
	}
}

// ask sends a challenge and reports whether the answer is that of the password "right".
func (s script) ask() bool {
	challenge := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	s.send(challenge[:]...)
	var got [16]byte
	if _, err := io.ReadFull(s.conn, got[:]); err != nil {
		s.t.Errorf("response: %v", err)
	}
	return got == Response(challenge, orchestrator.NewSecret("right"))
}

func (s script) init(name string) {
	s.hear(1)
	b := make([]byte, 24)
	binary.BigEndian.PutUint16(b, 800)
	binary.BigEndian.PutUint16(b[2:], 600)
	binary.BigEndian.PutUint32(b[20:], uint32(len(name)))
	s.send(append(b, name...)...)
}

// serve runs the server's half over a pipe; the caller has the other end.
func serve(t *testing.T, play func(script)) net.Conn {
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = server.Close() }()
		play(script{t, server})
	}()
	t.Cleanup(func() {
		_ = client.Close()
		<-done
	})
	return client
}

func TestHandshake(t *testing.T) {
	for name, tc := range map[string]struct {
		play func(script)
		want ServerInit
	}{
		"3.8 with VNC authentication": {func(s script) {
			s.text("RFB 003.008\n")
			s.hear([]byte("RFB 003.008\n")...)
			s.send(3, 1, 16, 2) // none is offered too: the password would prove nothing
			s.hear(2)
			if !s.ask() {
				t.Error("wrong response")
			}
			s.number(0)
			s.init("web-1")
		}, ServerInit{Version: "3.8", Security: VNC, Width: 800, Height: 600, Name: "web-1"}},
		"3.8 without": {func(s script) {
			s.text("RFB 003.008\n")
			s.hear([]byte("RFB 003.008\n")...)
			s.send(1, 1)
			s.hear(1)
			s.number(0)
			s.init("")
		}, ServerInit{Version: "3.8", Security: None, Width: 800, Height: 600, Name: ""}},
		"3.7 with": {func(s script) {
			s.text("RFB 003.007\n")
			s.hear([]byte("RFB 003.007\n")...)
			s.send(1, 2)
			s.hear(2)
			s.ask()
			s.number(0)
			s.init("x")
		}, ServerInit{Version: "3.7", Security: VNC, Width: 800, Height: 600, Name: "x"}},
		"3.7 without has no result": {func(s script) {
			s.text("RFB 003.007\n")
			s.hear([]byte("RFB 003.007\n")...)
			s.send(1, 1)
			s.hear(1)
			s.init("x")
		}, ServerInit{Version: "3.7", Security: None, Width: 800, Height: 600, Name: "x"}},
		"3.3 with": {func(s script) {
			s.text("RFB 003.003\n")
			s.hear([]byte("RFB 003.003\n")...)
			s.number(2)
			s.ask()
			s.number(0)
			s.init("x")
		}, ServerInit{Version: "3.3", Security: VNC, Width: 800, Height: 600, Name: "x"}},
		"3.3 without": {func(s script) {
			s.text("RFB 003.003\n")
			s.hear([]byte("RFB 003.003\n")...)
			s.number(1)
			s.init("x")
		}, ServerInit{Version: "3.3", Security: None, Width: 800, Height: 600, Name: "x"}},
		"3.5 is 3.3": {func(s script) {
			s.text("RFB 003.005\n")
			s.hear([]byte("RFB 003.003\n")...)
			s.number(1)
			s.init("x")
		}, ServerInit{Version: "3.3", Security: None, Width: 800, Height: 600, Name: "x"}},
		"a newer one is 3.8": {func(s script) {
			s.text("RFB 004.001\n")
			s.hear([]byte("RFB 003.008\n")...)
			s.send(1, 1)
			s.hear(1)
			s.number(0)
			s.init("bell\x07 \xff")
		}, ServerInit{Version: "3.8", Security: None, Width: 800, Height: 600, Name: "bell �"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Handshake(t.Context(), serve(t, tc.play), orchestrator.NewSecret("right"))
			if err != nil || got != tc.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tc.want)
			}
		})
	}
}

func greet(s script, version string) {
	s.text("RFB 003.00" + version + "\n")
	s.hear([]byte("RFB 003.00" + version + "\n")...)
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		play    func(script)
		kind    orchestrator.Kind
		refused bool
		want    string
	}{
		"wrong password on 3.8": {func(s script) {
			greet(s, "8")
			s.send(1, 2)
			s.hear(2)
			if s.ask() {
				t.Error("the response to a wrong password is right")
			}
			s.number(1)
			s.number(13)
			s.text("Access denied")
		}, orchestrator.Permanent, true, "refused the password: Access denied"},
		"wrong password on 3.3": {func(s script) {
			greet(s, "3")
			s.number(2)
			s.ask()
			s.number(1)
		}, orchestrator.Permanent, true, "refused the password"},
		"too many attempts": {func(s script) {
			greet(s, "7")
			s.send(1, 2)
			s.hear(2)
			s.ask()
			s.number(2)
		}, orchestrator.Permanent, true, "refused the password"},
		"refusal whose reason is lost": {func(s script) {
			greet(s, "8")
			s.send(1, 2)
			s.hear(2)
			s.ask()
			s.number(1)
		}, orchestrator.Permanent, true, "refused the password"},
		"refusal with a reason of 4 GB": {func(s script) {
			greet(s, "8")
			s.send(1, 2)
			s.hear(2)
			s.ask()
			s.number(1)
			s.number(-1)
		}, orchestrator.Permanent, true, "refused the password"},
		"no security types": {func(s script) {
			greet(s, "8")
			s.send(0)
			s.number(9)
			s.text("too\nmany!")
		}, orchestrator.Permanent, false, "the console is closed: toomany!"},
		"3.3 closed": {func(s script) {
			greet(s, "3")
			s.number(0)
			s.number(4)
			s.text("full")
		}, orchestrator.Permanent, false, "the console is closed: full"},
		"unknown types": {func(s script) {
			greet(s, "8")
			s.send(2, 16, 19)
		}, orchestrator.Permanent, false, "offers security types [16 19]"},
		"3.3 unknown type": {func(s script) {
			greet(s, "3")
			s.number(16)
		}, orchestrator.Permanent, false, "wants security type 16"},
		"a web server":   {func(s script) { s.text("HTTP/1.1 400 Bad Request\r\n") }, orchestrator.Permanent, false, "is no console"},
		"too old":        {func(s script) { s.text("RFB 002.000\n") }, orchestrator.Permanent, false, "3.3 is the oldest"},
		"closed at once": {func(s script) { s.text("R") }, orchestrator.Transient, false, "protocol version: unexpected EOF"},
		"closed midway":  {func(s script) { greet(s, "8"); s.send(2, 1) }, orchestrator.Transient, false, "security type"},
		"a name of 4 GB": {func(s script) {
			greet(s, "3")
			s.number(1)
			s.hear(1)
			s.send(make([]byte, 20)...)
			s.number(-1)
		}, orchestrator.Permanent, false, "the console's name has 4294967295 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Handshake(t.Context(), serve(t, tc.play), orchestrator.NewSecret("wrong"))
			if err == nil || orchestrator.KindOf(err) != tc.kind || errors.Is(err, ErrRefused) != tc.refused || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v (%s), want %q (%s)", err, orchestrator.KindOf(err), tc.want, tc.kind)
			}
			if err != nil && strings.Contains(err.Error(), "wrong") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

// A server that says nothing holds nobody longer than the context allows, whether by its deadline or by a cancel.
func TestMuteServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	mute := func(s script) { _, _ = io.Copy(io.Discard, s.conn) }
	if _, err := Handshake(ctx, serve(t, mute), orchestrator.Secret{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: got %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	halfway := func(s script) {
		greet(s, "8")
		stop()
		_, _ = io.Copy(io.Discard, s.conn)
	}
	if _, err := Handshake(ctx, serve(t, halfway), orchestrator.Secret{}); !errors.Is(err, context.Canceled) || orchestrator.KindOf(err) != orchestrator.Canceled {
		t.Errorf("cancel: got %v", err)
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add([]byte("RFB 003.008\n\x01\x02aaaaaaaaaaaaaaaa\x00\x00\x00\x00"))
	f.Add([]byte("RFB 003.003\n\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, server []byte) {
		conn := serve(t, func(s script) {
			heard := make(chan struct{})
			go func() {
				defer close(heard)
				_, _ = io.Copy(io.Discard, s.conn)
			}()
			s.send(server...)
			_ = s.conn.Close()
			<-heard
		})
		if init, err := Handshake(t.Context(), conn, orchestrator.NewSecret("x")); err == nil && init.Version == "" {
			t.Error("a handshake without a version")
		}
	})
}
