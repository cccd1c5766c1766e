package gateway_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/uninstall"
	"slipway/store"
	"slipway/workers/console/gateway"
	"slipway/workers/console/rfb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// screens are the displays of a pool: each an RFB server that shows its machine's id in its name and echoes what it is sent.
type screens struct {
	mu     sync.Mutex
	fail   error
	answer func(net.Conn) // instead of a screen
	open   atomic.Int32
	last   net.Conn
}

func (s *screens) OpenDisplay(_ context.Context, ref orchestrator.MachineRef) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, s.fail
	}
	here, there := net.Pipe()
	s.last = there
	s.open.Add(1)
	answer := s.answer
	go func() {
		defer s.open.Add(-1)
		defer there.Close()
		if answer != nil {
			answer(there)
			return
		}
		v, err := rfb.Greet(context.Background(), there, rfb.None)
		if err != nil {
			return
		}
		if v.Admit(context.Background(), rfb.ServerInit{Width: 64, Height: 48, Name: "\x1b]0;hostile\x07" + ref.Machine}) == nil {
			_, _ = io.Copy(there, there)
		}
	}()
	return here, nil
}

func (s *screens) set(fail error, answer func(net.Conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.answer = fail, answer
}

// cut breaks the screen that was opened last.
func (s *screens) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.last.Close()
}

// bench is a gateway before one finished machine.
type bench struct {
	*testing.T
	site    *orchestratortest.Site
	screens *screens
	gateway *gateway.Gateway
	machine orchestrator.Machine
	base    string
	vnc     string
	trail   *trail
}

func newBench(t *testing.T, change ...func(*gateway.Config)) *bench {
	t.Helper()
	path := "sqlite:" + filepath.Join(t.TempDir(), "store.db")
	if err := store.Migrate(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{T: t, screens: &screens{}}
	b.site = orchestratortest.NewSite(t, 1, s, func(w *orchestratortest.World, d orchestrator.Desired) []*orchestrator.Process {
		return []*orchestrator.Process{
			install.New(install.Ports{Hypervisor: w, Desired: d, Installer: w, Prober: orchestratortest.Prober{World: w}, Vault: orchestratortest.Vault{},
				Names: w, Monitoring: w}),
			uninstall.New(uninstall.Ports{Hypervisor: w, Desired: d, Names: w, Monitoring: w}),
		}
	})
	b.site.Begin(install.Name)
	b.site.Settle()
	b.machine = b.site.Machine()
	if b.machine.State != "production_ready" {
		t.Fatalf("the machine is %s", b.machine.State)
	}
	web, vnc := listen(t), listen(t)
	at, err := url.Parse("http://" + web.Addr().String() + "/under/path/")
	if err != nil {
		t.Fatal(err)
	}
	b.trail = &trail{Store: s}
	cfg := gateway.Config{Store: b.trail, Display: b.screens, Vault: orchestratortest.Vault{}, URL: at, CheckEvery: 20 * time.Millisecond}
	for _, c := range change {
		c(&cfg)
	}
	if b.gateway, err = gateway.New(cfg); err != nil {
		t.Fatal(err)
	}
	b.base, b.vnc = strings.TrimRight(at.String(), "/"), vnc.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := b.gateway.ServeHTTP(ctx, web); err != nil {
			t.Error("web:", err)
		}
	})
	serving.Go(func() {
		if err := b.gateway.ServeVNC(ctx, vnc); err != nil {
			t.Error("vnc:", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		b.eventually("every screen is closed", func() bool { return b.screens.open.Load() == 0 })
	})
	return b
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (b *bench) eventually(what string, is func() bool) {
	b.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			b.Errorf("not in time: %s", what)
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}

// link issues one and gives its token.
func (b *bench) link(from netip.Addr) string {
	b.Helper()
	link, err := b.gateway.Issue(b.Context(), b.machine.ID, "ann", from, "1000:op")
	if err != nil {
		b.Fatal(err)
	}
	page, token, _ := strings.Cut(link.URL.Reveal(), "#")
	if page != b.base+"/m/"+b.machine.ID+"/" || len(token) != 43 || !strings.Contains(fmt.Sprint(link), "[redacted]") {
		b.Fatalf("link %s with a token of %d characters, printed as %v", page, len(token), link)
	}
	return token
}

// browser is a client with a cookie jar.
type browser struct {
	*bench
	http   *http.Client
	origin string
}

func (b *bench) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.Fatal(err)
	}
	transport := &http.Transport{}
	b.Cleanup(transport.CloseIdleConnections)
	at, err := url.Parse(b.base)
	if err != nil {
		b.Fatal(err)
	}
	return &browser{b, &http.Client{Jar: jar, Transport: transport, Timeout: 10 * time.Second}, at.Scheme + "://" + at.Host}
}

func (br *browser) at(path string) string { return br.base + "/m/" + br.machine.ID + "/" + path }

// ask makes a request and gives the status, and the code of a refusal.
func (br *browser) ask(method, url, body string, header ...string) (int, string, http.Header) {
	br.Helper()
	r, err := http.NewRequestWithContext(br.Context(), method, url, strings.NewReader(body))
	if err != nil {
		br.Fatal(err)
	}
	if br.origin != "" {
		r.Header.Set("Origin", br.origin)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w, err := br.http.Do(r)
	if err != nil {
		br.Fatal(err)
	}
	defer w.Body.Close()
	text, err := io.ReadAll(w.Body)
	if err != nil {
		br.Fatal(err)
	}
	var refusal struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(text, &refusal)
	return w.StatusCode, refusal.Code, w.Header
}

func (br *browser) redeem(token string, header ...string) (int, string) {
	br.Helper()
	status, code, _ := br.ask(http.MethodPost, br.at("session"), `{"token":"`+token+`"}`, header...)
	return status, code
}

// socket opens the screen.
func (br *browser) socket() (*websocket.Conn, net.Conn) {
	br.Helper()
	ws, _, err := websocket.Dial(br.Context(), br.at("socket"), &websocket.DialOptions{
		HTTPClient: br.http, HTTPHeader: http.Header{"Origin": {br.origin}}, Subprotocols: []string{"binary"},
	})
	if err != nil {
		br.Fatal(err)
	}
	return ws, websocket.NetConn(br.Context(), ws, websocket.MessageBinary)
}

// closed waits for the socket's end and gives its code.
func (br *browser) closed(ws *websocket.Conn) websocket.StatusCode {
	br.Helper()
	ctx, cancel := context.WithTimeout(br.Context(), 20*time.Second)
	defer cancel()
	for {
		if _, _, err := ws.Read(ctx); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

func TestBrowser(t *testing.T) {
	b := newBench(t)
	br := b.browser()
	token := b.link(netip.Addr{})
	if status, code, _ := br.ask(http.MethodGet, br.at("session"), ""); status != http.StatusUnauthorized || code != "unknown" {
		t.Errorf("without a cookie: %d %q", status, code)
	}
	status, _, header := br.ask(http.MethodPost, br.at("session"), `{"token":"`+token+`"}`)
	if status != http.StatusOK {
		t.Fatalf("the link did not open: %d", status)
	}
	cookie := header.Get("Set-Cookie")
	for _, want := range []string{"HttpOnly", "SameSite=Strict", "Path=/under/path/m/" + b.machine.ID + "/", "Max-Age=28800"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("the cookie %q lacks %s", strings.Split(cookie, "=")[0], want)
		}
	}
	if status, code := b.browser().redeem(token); status != http.StatusUnauthorized || code != "used" {
		t.Errorf("the second time: %d %q", status, code)
	}
	for range 2 { // the second is a reconnect with the same cookie
		ws, conn := br.socket()
		init, err := rfb.Handshake(t.Context(), conn, orchestrator.Secret{})
		if err != nil || init.Security != rfb.None || init.Width != 64 || init.Name != b.machine.Name {
			t.Fatalf("%+v, %v: the machine's own name is wanted, not what its screen says", init, err)
		}
		if _, err := conn.Write([]byte("a key")); err != nil {
			t.Fatal(err)
		}
		echo := make([]byte, 5)
		if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "a key" {
			t.Fatalf("%q, %v", echo, err)
		}
		_ = ws.Close(websocket.StatusNormalClosure, "")
	}
	b.audited("console-open", 2)
	b.audited("console-close", 2)
}

// audited waits for lines of the audit trail.
func (b *bench) audited(verb string, n int) {
	b.Helper()
	b.eventually(fmt.Sprintf("%d lines %s", n, verb), func() bool { return b.acts(verb) == n })
}

func TestPassesAreBound(t *testing.T) {
	b := newBench(t, func(c *gateway.Config) { c.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	expect := func(what string, status int, code string, wantStatus int, wantCode string) {
		t.Helper()
		if status != wantStatus || code != wantCode {
			t.Errorf("%s: %d %q, want %d %q", what, status, code, wantStatus, wantCode)
		}
	}
	br := b.browser()
	status, code := br.redeem(b.link(netip.Addr{}), "Origin", "https://evil.example")
	expect("another origin", status, code, http.StatusForbidden, "origin")
	status, code = br.redeem(b.link(netip.Addr{}), "Origin", "", "Sec-Fetch-Site", "cross-site")
	expect("a browser that hides its origin", status, code, http.StatusForbidden, "origin")
	status, code = br.redeem("no token")
	expect("no token", status, code, http.StatusUnauthorized, "unknown")
	status, code = br.redeem(strings.Repeat("A", 43))
	expect("a guessed token", status, code, http.StatusUnauthorized, "unknown")
	status, code, _ = br.ask(http.MethodPost, br.at("session"), strings.Repeat("x", 1<<20))
	expect("a megabyte", status, code, http.StatusBadRequest, "unknown")
	token := b.link(netip.Addr{})
	status, code, _ = br.ask(http.MethodPost, b.base+"/m/00000000-0000-4000-8000-000000000000/session", `{"token":"`+token+`"}`)
	expect("for another machine", status, code, http.StatusUnauthorized, "unknown")

	bound := b.link(netip.MustParseAddr("198.51.100.7"))
	status, code = br.redeem(bound)
	expect("from elsewhere", status, code, http.StatusForbidden, "address")
	status, code = br.redeem(bound, "X-Forwarded-For", "198.51.100.7, 203.0.113.1")
	expect("with an address that the client made up before the proxy's", status, code, http.StatusForbidden, "address")
	status, code = br.redeem(bound, "X-Forwarded-For", "203.0.113.1, 198.51.100.7")
	expect("from there, as the proxy says", status, code, http.StatusOK, "")
	status, code, _ = br.ask(http.MethodGet, br.at("session"), "")
	expect("its session elsewhere", status, code, http.StatusForbidden, "address")

	if _, err := b.gateway.Issue(t.Context(), b.machine.ID, "ann\n", netip.Addr{}, "1000:op"); !errors.As(err, new(orchestrator.FieldErrors)) {
		t.Errorf("a user with a line break: %v", err)
	}
}

func TestUntrustedForwardedForIsIgnored(t *testing.T) {
	b := newBench(t)
	bound := b.link(netip.MustParseAddr("198.51.100.7"))
	if status, code := b.browser().redeem(bound, "X-Forwarded-For", "198.51.100.7"); status != http.StatusForbidden || code != "address" {
		t.Errorf("anybody may say where he is: %d %q", status, code)
	}
}

// TestRevoked: what is open is closed, and what is issued opens nothing, once the machine's console goes.
func TestRevoked(t *testing.T) {
	b := newBench(t)
	br := b.browser()
	if status, _ := br.redeem(b.link(netip.Addr{})); status != http.StatusOK {
		t.Fatal(status)
	}
	unused := b.link(netip.Addr{})
	ws, conn := br.socket()
	if _, err := rfb.Handshake(t.Context(), conn, orchestrator.Secret{}); err != nil {
		t.Fatal(err)
	}
	viewer := b.view(b.machine.Name, "CONSOLE-PASSWORD")
	if viewer.err != nil {
		t.Fatal(viewer.err)
	}
	b.site.Uninstall(b.machine.ID)
	b.site.Settle()
	if code := br.closed(ws); code != 4001 {
		t.Errorf("the browser was told %d", code)
	}
	_ = viewer.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := viewer.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the viewer reads %v", err)
	}
	if status, code := b.browser().redeem(unused); status != http.StatusUnauthorized || code != "revoked" {
		t.Errorf("a link of before: %d %q", status, code)
	}
	if _, err := b.gateway.Issue(t.Context(), b.machine.ID, "ann", netip.Addr{}, "1000:op"); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("a link to a machine that is gone: %v", err)
	}
}

// TestScreenThatFails: each way in which a host can fail has its word, and leaves nothing open.
func TestScreenThatFails(t *testing.T) {
	b := newBench(t)
	br := b.browser()
	if status, _ := br.redeem(b.link(netip.Addr{})); status != http.StatusOK {
		t.Fatal(status)
	}
	for name, c := range map[string]struct {
		fail   error
		answer func(net.Conn)
		code   websocket.StatusCode
		words  string
	}{
		"off":             {fail: orchestrator.Errorf("x", orchestrator.Transient, "%w", orchestrator.ErrNotRunning), code: 4002, words: "switched off"},
		"unreachable":     {fail: orchestrator.Errorf("x", orchestrator.Transient, "HTTP status 500"), code: 4003, words: "does not answer"},
		"nowhere":         {fail: orchestrator.Errorf("x", orchestrator.Transient, "%w: it names a private host", orchestrator.ErrDisplayPlace), code: 4007, words: "does not say where"},
		"no RFB":          {answer: func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n") }, code: 4003, words: "does not answer"},
		"half a greeting": {answer: func(c net.Conn) { _, _ = io.WriteString(c, "RFB 003") }, code: 4003, words: "does not answer"},
		"a name of 1 MB": {answer: func(c net.Conn) {
			_, _ = io.WriteString(c, "RFB 003.008\n")
			_, _ = io.ReadFull(c, make([]byte, 12))
			_, _ = c.Write([]byte{1, 1})
			_, _ = io.ReadFull(c, make([]byte, 1))
			_, _ = c.Write([]byte{0, 0, 0, 0})
			_, _ = io.ReadFull(c, make([]byte, 1))
			_, _ = c.Write(append(make([]byte, 20), 0, 16, 0, 0))
			_, _ = c.Write(bytes.Repeat([]byte("x"), 1<<20))
		}, code: 4003, words: "does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			b.screens.set(c.fail, c.answer)
			defer b.screens.set(nil, nil)
			ws, conn := br.socket()
			go func() { _, _ = io.WriteString(conn, "RFB 003.008\n\x01\x01") }()
			if code := br.closed(ws); code != c.code {
				t.Errorf("the browser was told %d, want %d", code, c.code)
			}
			v := b.view(b.machine.Name, "CONSOLE-PASSWORD")
			if v.err == nil || !strings.Contains(v.err.Error(), c.words) {
				t.Errorf("the viewer was told %v", v.err)
			}
		})
	}
	t.Run("goes away", func(t *testing.T) {
		ws, conn := br.socket()
		if _, err := rfb.Handshake(t.Context(), conn, orchestrator.Secret{}); err != nil {
			t.Fatal(err)
		}
		b.screens.cut()
		if code := br.closed(ws); code != 4005 {
			t.Errorf("the browser was told %d", code)
		}
	})
}

type viewing struct {
	conn net.Conn
	init rfb.ServerInit
	err  error
}

// view is a VNC viewer that names its machine (security type 22).
func (b *bench) view(target, password string) viewing {
	b.Helper()
	conn, err := net.Dial("tcp", b.vnc)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	init, err := rfb.HandshakeXVP(b.Context(), conn, "ann", target, orchestrator.NewSecret(password))
	return viewing{conn, init, err}
}

func TestViewer(t *testing.T) {
	b := newBench(t)
	for _, target := range []string{b.machine.Name, b.machine.Tenant + "/" + b.machine.Name, b.machine.ID} {
		if v := b.view(target, "CONSOLE-PASSWORD"); v.err != nil || v.init.Name != b.machine.Name {
			t.Errorf("%s: %+v, %v", target, v.init, v.err)
		}
	}
	nobody, wrong := b.view("no such machine", "CONSOLE-PASSWORD"), b.view(b.machine.Name, "wrong")
	if nobody.err == nil || wrong.err == nil || nobody.err.Error() != wrong.err.Error() {
		t.Errorf("a guesser learns which machines there are: %v, %v", nobody.err, wrong.err)
	}
	for range 28 { // this address is a proxy's, and stands for many: the machine counts
		b.view(b.machine.Name, "wrong")
	}
	if v := b.view(b.machine.Name, "CONSOLE-PASSWORD"); v.err != nil {
		t.Errorf("the right password after 29 wrong ones: %v", v.err)
	}
	b.view(b.machine.Name, "wrong")
	if v := b.view(b.machine.Name, "CONSOLE-PASSWORD"); v.err == nil {
		t.Error("the right password after 30 wrong ones")
	}
}

// TestEndlessFrame: a viewer that announces a terabyte and sends half a handshake keeps nothing from ending. The bench waits for it.
func TestEndlessFrame(t *testing.T) {
	b := newBench(t)
	br := b.browser()
	if status, _ := br.redeem(b.link(netip.Addr{})); status != http.StatusOK {
		t.Fatal(status)
	}
	at, err := url.Parse(br.at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", at.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nOrigin: %s\r\nCookie: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
		at.Path, at.Host, br.origin, br.http.Jar.Cookies(at)[0])
	frame := append([]byte{0x82, 0xff}, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0) // binary, masked, 2^40 bytes
	_, _ = conn.Write(append(frame, "RFB 003.009\n"...))
	b.eventually("it is refused", func() bool {
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		_, err := conn.Read(make([]byte, 4096))
		return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
	})
}

// TestTooMany: one address takes its share of the connections and no more, whether it says anything or not.
func TestTooMany(t *testing.T) {
	b := newBench(t, func(c *gateway.Config) { c.Limits = gateway.Limits{PerAddress: 8, PerMachine: 2} })
	br := b.browser()
	if status, _ := br.redeem(b.link(netip.Addr{})); status != http.StatusOK {
		t.Fatal(status)
	}
	var open []*websocket.Conn
	for range 2 {
		ws, conn := br.socket()
		if _, err := rfb.Handshake(t.Context(), conn, orchestrator.Secret{}); err != nil {
			t.Fatal(err)
		}
		open = append(open, ws)
	}
	third, _ := br.socket()
	if code := br.closed(third); code != 4004 {
		t.Errorf("the third screen of a machine: %d", code)
	}
	for _, ws := range open {
		_ = ws.Close(websocket.StatusNormalClosure, "")
	}
	br.http.CloseIdleConnections()

	var silent []net.Conn
	dropped := 0
	for range 40 {
		conn, err := net.Dial("tcp", b.vnc)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, conn)
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(conn, make([]byte, 12)); err != nil { // the greeting
			dropped++
		}
	}
	if dropped < 32 {
		t.Errorf("%d of 40 connections were dropped, 8 may stay", dropped)
	}
	for _, conn := range silent {
		_ = conn.Close()
	}
	b.eventually("there is room again", func() bool { return b.view(b.machine.Name, "CONSOLE-PASSWORD").err == nil })
}

func TestPageIsOurs(t *testing.T) {
	b := newBench(t)
	br := b.browser()
	status, _, header := br.ask(http.MethodGet, br.at(""), "")
	if status != http.StatusOK || !strings.Contains(header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'") || header.Get("Cache-Control") != "no-store" {
		t.Errorf("page: %d %v", status, header)
	}
	for _, name := range []string{"console.js", "console.css", "icon.svg", "novnc/core/rfb.js", "novnc/core/input/keysym.js", "novnc/core/input/keysymdef.js", "novnc/vendor/pako/lib/zlib/inflate.js", "novnc/LICENSE.txt"} {
		status, _, header := br.ask(http.MethodGet, b.base+"/assets/"+name, "")
		if status != http.StatusOK || header.Get("ETag") == "" {
			t.Errorf("%s: %d", name, status)
		}
		if status, _, _ := br.ask(http.MethodGet, b.base+"/assets/"+name, "", "If-None-Match", header.Get("ETag")); status != http.StatusNotModified {
			t.Errorf("%s again: %d", name, status)
		}
	}
	for _, name := range []string{"gateway.go", "novnc-1.7.0.tgz", "../console.js", "console.html/"} {
		if status, _, _ := br.ask(http.MethodGet, b.base+"/assets/"+name, ""); status == http.StatusOK {
			t.Errorf("%s is served", name)
		}
	}
}

// TestGarbage: a viewer that sends anything ends as a refused viewer.
func TestGarbage(t *testing.T) {
	b := newBench(t)
	for n := range 16 {
		conn, err := net.Dial("tcp", b.vnc)
		if err != nil {
			t.Fatal(err)
		}
		noise := make([]byte, 1<<uint(n))
		_, _ = rand.Read(noise)
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = conn.Write(noise)
		if n < 4 { // half a version: nothing more comes
			_ = conn.(*net.TCPConn).CloseWrite()
		}
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	if v := b.view(b.machine.Name, "CONSOLE-PASSWORD"); v.err != nil {
		t.Error(v.err)
	}
}

// acts counts lines of the audit trail as the gateway writes them.
func (b *bench) acts(verb string) int {
	b.trail.mu.Lock()
	defer b.trail.mu.Unlock()
	n := 0
	for _, line := range b.trail.lines {
		if strings.HasPrefix(line, verb+" "+b.machine.ID+" console:ann ann from 127.0.0.1 by browser") {
			n++
		}
	}
	return n
}

// trail listens to what goes into the audit trail.
type trail struct {
	gateway.Store
	mu    sync.Mutex
	lines []string
}

func (t *trail) RecordAct(ctx context.Context, actor, verb, subject, reason string) error {
	t.mu.Lock()
	t.lines = append(t.lines, strings.Join([]string{verb, subject, actor, reason}, " "))
	t.mu.Unlock()
	return t.Store.RecordAct(ctx, actor, verb, subject, reason)
}
