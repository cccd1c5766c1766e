package gateway_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/workers/console/gateway"
)

// FuzzHTTP is a browser, or whoever says so, that asks for anything: nobody without a pass gets a cookie or a screen, and every answer
// keeps the page to itself.
func FuzzHTTP(f *testing.F) {
	b := newBefore(f, &screens{})
	handler := b.gateway.Handler()
	f.Add("GET", "/m/"+oneID+"/", "", "", "", []byte(nil))
	f.Add("POST", "/m/"+oneID+"/session", "http://"+b.base.Host, "", "", []byte(`{"token":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`))
	f.Add("GET", "/m/"+oneID+"/session", "https://evil.example", "slipway_console=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "203.0.113.1, ::1", []byte(nil))
	f.Add("GET", "/m/"+oneID+"/socket", "", "slipway_console=x", "", []byte(nil))
	f.Add("GET", "/assets/novnc/core/rfb.js", "null", "", "", []byte(nil))
	f.Add("GET", "/assets/../page/console.html", "", "", "unknown", []byte(nil))
	f.Fuzz(func(t *testing.T, method, path, origin, cookie, forwarded string, body []byte) {
		r, err := http.NewRequest(method, "http://"+b.base.Host+"/", bytes.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path, r.RemoteAddr = path, "198.51.100.7:1234"
		for name, value := range map[string]string{"Origin": origin, "Cookie": cookie, "X-Forwarded-For": forwarded, "Upgrade": "websocket", "Connection": "Upgrade"} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Header().Get("Set-Cookie") != "" || w.Code == http.StatusSwitchingProtocols {
			t.Errorf("%s %q is answered by %d with a cookie %q", method, path, w.Code, w.Header().Get("Set-Cookie"))
		}
		if w.Code == http.StatusOK && strings.HasSuffix(path, "/session") {
			t.Errorf("%s %q opens a session to nobody", method, path)
		}
		if !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s %q: the answer may load anything", method, path)
		}
	})
}

// FuzzSocket is a browser with a pass whose WebSocket says anything: it ends when its viewer does, and leaves no screen open.
func FuzzSocket(f *testing.F) {
	display := &screens{}
	pipes := &pipes{conns: make(chan net.Conn)}
	b := newBefore(f, display, func(c *gateway.Config) { c.OpenTimeout = time.Second })
	serving := pipes.serve(b.gateway)
	f.Cleanup(func() { _ = serving.Close() })
	cookie := b.pass(f)
	frame := func(text string) []byte { return append([]byte{0x82, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...) }
	f.Add(frame("RFB 003.008\n\x01\x01"))
	f.Add(frame("RFB 003.003\n\x01"))
	f.Add(append(frame("RFB 003.008\n\x01\x01"), 0x88, 0x80, 0, 0, 0, 0))
	f.Add([]byte{0x89, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0})
	f.Add([]byte{0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 'R'})
	f.Add([]byte{0x01, 0x05, 'h', 'e', 'l', 'l', 'o'})
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := pipes.dial()
		var reading sync.WaitGroup
		answer := make(chan int, 1)
		reading.Go(func() {
			r := bufio.NewReader(conn)
			response, err := http.ReadResponse(r, nil)
			if err != nil {
				answer <- 0
				return
			}
			answer <- response.StatusCode
			_, _ = io.Copy(io.Discard, r)
		})
		_, _ = conn.Write(upgrade(b.base.Host, cookie, ""))
		if status := <-answer; status != http.StatusSwitchingProtocols {
			t.Errorf("the pass opens with %d", status)
		}
		_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second)) // it may have hung up, and takes nothing more
		_, _ = conn.Write(sent)
		_ = conn.Close()
		reading.Wait()
		deadline := time.Now().Add(30 * time.Second)
		for display.open.Load() != 0 || b.shown(t) != 0 {
			if time.Now().After(deadline) {
				t.Fatal("the viewer has gone, and the screen is still open")
			}
			<-time.After(time.Millisecond)
		}
	})
}

// pipes is a listener without a network.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.conns <- there
	return here
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return addressed{c}, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.done)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// serve answers what is dialled until it is closed.
func (p *pipes) serve(g *gateway.Gateway) *http.Server {
	p.done = make(chan struct{})
	server := &http.Server{Handler: g.Handler(), ReadHeaderTimeout: 30 * time.Second}
	go func() { _ = server.Serve(p) }()
	return server
}

// addressed is a pipe's end that comes from somewhere.
type addressed struct{ net.Conn }

func (addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(198, 51, 100, 7), Port: 1} }
