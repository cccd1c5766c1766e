package rfb

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"slipway/orchestrator"
)

var screen = ServerInit{Width: 640, Height: 480, Format: [16]byte{32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0}, Name: "web-1"}

// TestBothEnds lets this package's own client in, which real servers have judged.
func TestBothEnds(t *testing.T) {
	for _, tt := range []struct {
		name     string
		offer    uint8
		password string
		right    bool
	}{
		{"none", None, "", true},
		{"right password", VNC, "secret", true},
		{"wrong password", VNC, "wrong", false},
		{"no password is never right", VNC, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			here, there := net.Pipe()
			defer here.Close()
			done := make(chan error, 1)
			go func() {
				defer there.Close()
				done <- func() error {
					v, err := Greet(t.Context(), there, tt.offer)
					if err != nil {
						return err
					}
					want := orchestrator.NewSecret("secret")
					if tt.password == "" {
						want = orchestrator.Secret{}
					}
					right, err := v.Verify(t.Context(), want)
					if err != nil {
						return err
					}
					if !right {
						return v.Refuse(t.Context(), "no \x1b[2J entry")
					}
					return v.Admit(t.Context(), screen)
				}()
			}()
			init, err := Handshake(t.Context(), here, orchestrator.NewSecret(tt.password))
			if err := <-done; err != nil {
				t.Fatal("server:", err)
			}
			if tt.right && (err != nil || init.Width != 640 || init.Height != 480 || init.Format != screen.Format || init.Name != "web-1") {
				t.Errorf("let in: %+v, %v", init, err)
			}
			if !tt.right && (err == nil || !strings.Contains(err.Error(), "entry")) {
				t.Errorf("kept out with %v", err)
			}
		})
	}
}

// TestViewers speaks each version byte by byte (RFC 6143, 7.1).
func TestViewers(t *testing.T) {
	for _, tt := range []struct {
		name, version string
		offer         []uint8
		talk          func(s script)
		target        string
		fails         string
	}{
		{"3.3", "RFB 003.003\n", []uint8{VNC}, func(s script) { s.hear(0, 0, 0, 2) }, "", ""},
		{"3.5 is 3.3", "RFB 003.005\n", []uint8{None}, func(s script) { s.hear(0, 0, 0, 1) }, "", ""},
		{"3.3 cannot name a machine", "RFB 003.003\n", []uint8{XVP}, func(s script) { s.hear(0, 0, 0, 0); s.hear(0, 0, 0, 47) }, "", "knows none"},
		{"3.7", "RFB 003.007\n", []uint8{VNC}, func(s script) { s.hear(1, 2); s.send(2) }, "", ""},
		{"3.8", "RFB 003.008\n", []uint8{XVP, VNC}, func(s script) { s.hear(2, 22, 2); s.send(2) }, "", ""},
		{"names its machine", "RFB 003.008\n", []uint8{XVP}, func(s script) { s.hear(1, 22); s.send(22); s.send(3, 5); s.text("annweb-1") }, "web-1", ""},
		{"chooses what was not offered", "RFB 003.008\n", []uint8{VNC}, func(s script) { s.hear(1, 2); s.send(1) }, "", "security type 1"},
		{"another protocol", "GET / HTTP/1", []uint8{VNC}, func(script) {}, "", "speaks"},
		{"a later version", "RFB 004.001\n", []uint8{VNC}, func(script) {}, "", "speaks"},
		{"half a handshake", "RFB", []uint8{VNC}, func(script) {}, "", "protocol version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			here, there := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer here.Close()
				s := script{t, here}
				s.hear([]byte("RFB 003.008\n")...)
				s.text(tt.version)
				tt.talk(s)
			}()
			v, err := Greet(t.Context(), there, tt.offer...)
			there.Close()
			<-done
			if tt.fails == "" && (err != nil || v.Target != tt.target) {
				t.Errorf("target %q, %v", v.Target, err)
			}
			if tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)) {
				t.Errorf("%v, want %q", err, tt.fails)
			}
		})
	}
}

// TestEveryChallengeIsAnother: a challenge that repeats lets in whoever listened.
func TestEveryChallengeIsAnother(t *testing.T) {
	seen := map[string]bool{}
	for range 32 {
		here, there := net.Pipe()
		go func() {
			b := make([]byte, 16)
			_, _ = io.ReadFull(here, b)
			seen[string(b)] = true
			_, _ = here.Write(make([]byte, 16))
		}()
		v := &Viewer{conn: there, minor: 8, security: VNC}
		if right, err := v.Verify(t.Context(), orchestrator.NewSecret("secret")); right || err != nil {
			t.Fatalf("%v, %v", right, err)
		}
		here.Close()
		there.Close()
	}
	if len(seen) != 32 {
		t.Errorf("%d challenges of 32 differ", len(seen))
	}
}

// FuzzGreet is a viewer that sends anything.
func FuzzGreet(f *testing.F) {
	f.Add([]byte("RFB 003.008\n\x16\x03\x05annweb-1"), uint8(XVP))
	f.Add([]byte("RFB 003.003\n"), uint8(VNC))
	f.Add([]byte("RFB 003.007\n\x01"), uint8(None))
	f.Fuzz(func(t *testing.T, sent []byte, offer uint8) {
		here, there := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, here) }()
		go func() {
			_, _ = here.Write(sent)
			_ = here.Close()
		}()
		v, err := Greet(context.Background(), there, offer)
		there.Close()
		if err == nil && (len(v.User) > 255 || len(v.Target) > 255 || v.security != offer) {
			t.Errorf("%+v", v)
		}
	})
}

// FuzzServerInit is a console that shows anything.
func FuzzServerInit(f *testing.F) {
	b := binary.BigEndian.AppendUint32(make([]byte, 20), 5)
	f.Add(append(b, "web-1"...))
	f.Add(binary.BigEndian.AppendUint32(make([]byte, 20), 1<<20))
	f.Fuzz(func(t *testing.T, sent []byte) {
		here, there := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, here) }()
		go func() {
			_, _ = here.Write(append([]byte("RFB 003.008\n\x01\x01\x00\x00\x00\x00"), sent...))
			_ = here.Close()
		}()
		init, err := Handshake(context.Background(), there, orchestrator.Secret{})
		there.Close()
		if err == nil && (len(init.Name) > 3*maxName || strings.ContainsAny(init.Name, "\x1b\n\x00")) {
			t.Errorf("%q", init.Name)
		}
	})
}
