package xapi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

// openSocket asks for the console at a location as a viewer with a WebSocket does.
func (b *bench) openSocket(location string, header http.Header) (net.Conn, *http.Response, error) {
	b.t.Helper()
	_, query, _ := strings.Cut(location, "/console?")
	ws, answer, err := websocket.Dial(b.t.Context(), b.url+"/console?"+query, &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{"binary"}})
	if err != nil {
		return nil, answer, err
	}
	b.t.Cleanup(func() { _ = ws.CloseNow() })
	return websocket.NetConn(b.t.Context(), ws, websocket.MessageBinary), answer, nil
}

func TestConsoleInAWebSocket(t *testing.T) {
	keys := make(chan uint32, 1)
	b := newBench(t, func(cfg *Config) { cfg.OnKey = func(_ string, key uint32) { keys <- key } })
	vm, location := b.running()
	cookie := http.Header{"Cookie": {"session_id=" + b.session}}
	for name, c := range map[string]struct {
		location string
		header   http.Header
		status   int
	}{
		"nobody":          {location, nil, http.StatusUnauthorized},
		"bad session":     {location, http.Header{"Cookie": {"session_id=OpaqueRef:nope"}}, http.StatusUnauthorized},
		"unknown console": {"x/console?uuid=x", cookie, http.StatusInternalServerError},
		"no console":      {"x/console?", cookie, http.StatusInternalServerError},
	} {
		_, answer, err := b.openSocket(c.location, c.header)
		if err == nil || answer == nil || answer.StatusCode != c.status {
			t.Errorf("%s: %v, %+v", name, err, answer)
			continue
		}
		if want := `Basic realm="connect_console_ws"`; c.status == http.StatusUnauthorized && answer.Header.Get("WWW-Authenticate") != want {
			t.Errorf("%s: %v", name, answer.Header)
		}
	}
	conn, _, err := b.openSocket(location+"&session_id="+b.session, nil)
	if err != nil {
		t.Fatal(err)
	}
	if init, err := rfb.Handshake(t.Context(), conn, orchestrator.Secret{}); err != nil || init.Name != "on screen" || init.Width != rfbWidth {
		t.Fatalf("%+v, %v", init, err)
	}
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	full := []byte{3, 0, 0, 0, 0, 0, rfbWidth >> 8, rfbWidth & 0xff, rfbHeight >> 8, rfbHeight & 0xff}
	if _, err := conn.Write(append([]byte{4, 1, 0, 0, 0, 0, 0, 'a'}, full...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 4+12+4*rfbWidth*rfbHeight)); err != nil {
		t.Fatalf("the picture: %v", err)
	}
	if key := <-keys; key != 'a' {
		t.Errorf("key %#x", key)
	}
	b.must("VM.hard_shutdown", vm)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the screen of a VM that is off: %v", err)
	}
}

// TestConsoleFrames: what wsproxy makes of frames that are unusual.
func TestConsoleFrames(t *testing.T) {
	mask := "\x01\x02\x03\x04"
	for name, c := range map[string]struct {
		frames, want string
		broken       bool
	}{
		"masked":     {"\x82\x82" + mask + string([]byte{'a' ^ 1, 'b' ^ 2}), "ab", false},
		"unmasked":   {"\x82\x02ab", "ab", false},
		"text":       {"\x81\x02ab", "ab", false},
		"ping":       {"\x89\x02ab", "ab", false},
		"pieces":     {"\x02\x01a\x80\x00\x80\x01b", "ab", false},
		"long":       {"\x82\x7e\x01\x00" + strings.Repeat("x", 256), strings.Repeat("x", 256), false},
		"close":      {"\x82\x01a\x88\x02\x03\xe8\x82\x01b", "a", false},
		"too long":   {"\x82\x01a\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", "a", true},
		"half":       {"\x82\x05ab", "ab", false},
		"half head":  {"\x82", "", true},
		"half mask":  {"\x82\x81\x01", "", true},
		"empty only": {"\x82\x00", "", false},
	} {
		var got bytes.Buffer
		_, err := io.CopyBuffer(struct{ io.Writer }{&got}, newUnframed(c.frames), make([]byte, 1))
		if (err != nil) != c.broken || got.String() != c.want {
			t.Errorf("%s: %q, %v", name, got.String(), err)
		}
	}
}

func TestConsoleIsOfTheHostWhereTheVMIs(t *testing.T) {
	b := newBench(t, func(cfg *Config) { cfg.Hosts, cfg.SharedSR, cfg.HostAddress = 2, true, "127.0.0.1" })
	vm, location := b.running()
	hosts := b.must("host.get_all").([]any)
	stays := b.must("VM.get_resident_on", vm)
	at, other := hosts[0], hosts[1]
	if stays == other {
		at, other = other, at
	}
	_, query, _ := strings.Cut(location, "/console?")
	status := func() string {
		_, r := b.dial(fmt.Sprintf("CONNECT /console?%s HTTP/1.0\nCookie: session_id=%s\n\n", query, b.session))
		line, _ := b.head(r)
		return line
	}
	here := b.record("host", at)["address"] == "127.0.0.1"
	want := map[bool]string{true: "HTTP/1.1 200 OK", false: "HTTP/1.0 500 Internal Error"}
	if got := status(); got != want[here] {
		t.Errorf("before the migration: %q", got)
	}
	b.must("VM.pool_migrate", vm, other, map[string]any{})
	if got := status(); got != want[!here] {
		t.Errorf("after it: %q", got)
	}
}

func newUnframed(frames string) *unframed {
	return &unframed{r: bufio.NewReader(strings.NewReader(frames))}
}

// FuzzConsoleFrames: no bytes break the reader or make it give more than it took.
func FuzzConsoleFrames(f *testing.F) {
	f.Add([]byte("\x82\x82\x01\x02\x03\x04ab"))
	f.Add([]byte("\x82\x7e\x01\x00ab"))
	f.Fuzz(func(t *testing.T, frames []byte) {
		if got, _ := io.ReadAll(newUnframed(string(frames))); len(got) > len(frames) {
			t.Errorf("%d bytes of %d", len(got), len(frames))
		}
	})
}
