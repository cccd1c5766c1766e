package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

// cookieOf opens a link as a browser does.
func cookieOf(tb testing.TB, base, link string) string {
	tb.Helper()
	_, token, _ := strings.Cut(link, "#")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Post(base+"/m/"+oneID+"/session", "application/json", strings.NewReader(`{"token":"`+token+`"}`))
	if err != nil {
		tb.Fatal(err)
	}
	defer response.Body.Close()
	for _, c := range response.Cookies() {
		return c.Name + "=" + c.Value
	}
	tb.Fatalf("no cookie: %s", response.Status)
	return ""
}

// ways are how a viewer gets to the same display: directly, at the gateway's VNC port, and in a browser.
func ways(tb testing.TB) []struct {
	name string
	open func() net.Conn
} {
	s := newSource(tb)
	g := newBefore(tb, s)
	cookie := g.pass(tb)
	dial := func(address string) net.Conn {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	ready := func(conn net.Conn, err error) net.Conn {
		if err == nil {
			err = conn.SetDeadline(time.Time{})
		}
		if err != nil {
			tb.Fatal(err)
		}
		return conn
	}
	return []struct {
		name string
		open func() net.Conn
	}{
		{"direct", func() net.Conn {
			conn := dial(s.Addr().String())
			_, err := rfb.Handshake(context.Background(), conn, orchestrator.Secret{})
			return ready(conn, err)
		}},
		{"vnc", func() net.Conn {
			conn := dial(g.vnc)
			_, err := rfb.HandshakeXVP(context.Background(), conn, "ann", "web-1", orchestrator.NewSecret("password"))
			return ready(conn, err)
		}},
		{"browser", func() net.Conn {
			ws, _, err := websocket.Dial(context.Background(), g.base.String()+"/m/"+oneID+"/socket", &websocket.DialOptions{
				HTTPHeader: http.Header{"Cookie": {cookie}, "Origin": {g.base.String()}}, Subprotocols: []string{"binary"},
			})
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() { _ = ws.CloseNow() })
			conn := websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
			_, err = rfb.Handshake(context.Background(), conn, orchestrator.Secret{})
			return ready(conn, err)
		}},
	}
}

// BenchmarkPicture is a screen that changes as fast as it can: MB/s of it through each way, one MiB an operation.
func BenchmarkPicture(b *testing.B) {
	for _, way := range ways(b) {
		b.Run(way.name, func(b *testing.B) {
			conn := way.open()
			buffer := make([]byte, 64<<10)
			b.SetBytes(1 << 20)
			b.ResetTimer()
			for done := 0; done < b.N; {
				n := min(b.N-done, 1<<24-1)
				if _, err := conn.Write([]byte{'T', byte(n >> 16), byte(n >> 8), byte(n), 0, 0, 0, 0}); err != nil {
					b.Fatal(err)
				}
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(conn, int64(n)<<20), buffer); err != nil {
					b.Fatal(err)
				}
				done += n
			}
		})
	}
}

// BenchmarkKey is a key and what it shows: the time until a small message has come back.
func BenchmarkKey(b *testing.B) {
	for _, way := range ways(b) {
		b.Run(way.name, func(b *testing.B) {
			conn := way.open()
			key, echo := []byte{4, 1, 0, 0, 0, 0, 0, 'a'}, make([]byte, smallMessage)
			b.ResetTimer()
			for range b.N {
				if _, err := conn.Write(key); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, echo); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIdle opens 1,000 consoles that nobody touches: what each holds in the process, beside the direct way, which is the display's
// and the viewer's own share.
func BenchmarkIdle(b *testing.B) {
	const consoles = 1000
	for _, way := range []string{"direct", "vnc", "browser"} {
		b.Run(way, func(b *testing.B) {
			for range b.N {
				s := newSource(b)
				g := newBefore(b, s)
				cookie := g.pass(b)
				before := held()
				var open []net.Conn
				for range consoles {
					open = append(open, g.idle(b, way, s.Addr().String(), cookie))
				}
				if way != "direct" {
					for g.shown(b) < consoles {
						runtime.Gosched()
					}
				}
				after := held()
				for name, value := range after {
					b.ReportMetric((value-before[name])/consoles, name+"/console")
				}
				for _, conn := range open {
					_ = conn.Close()
				}
			}
		})
	}
}

// held is what the process has: KB of heap and stacks after a collection, KB resident, goroutines.
func held() map[string]float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	held := map[string]float64{"heap_KB": float64(m.HeapAlloc+m.StackInuse) / 1024, "goroutines": float64(runtime.NumGoroutine())}
	status, err := os.ReadFile("/proc/self/status")
	if _, rest, ok := strings.Cut(string(status), "VmRSS:"); ok && err == nil {
		held["rss_KB"], _ = strconv.ParseFloat(strings.Fields(rest)[0], 64)
	}
	return held
}

// idle opens a console with nothing on the viewer's side but its socket.
func (b *before) idle(tb testing.TB, way, direct, cookie string) net.Conn {
	tb.Helper()
	address := map[string]string{"direct": direct, "vnc": b.vnc, "browser": b.base.Host}[way]
	conn, err := net.Dial("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	switch way {
	case "direct":
		_, err = rfb.Handshake(context.Background(), conn, orchestrator.Secret{})
	case "vnc":
		_, err = rfb.HandshakeXVP(context.Background(), conn, "ann", "web-1", orchestrator.NewSecret("password"))
	default:
		_, err = conn.Write(upgrade(b.base.Host, cookie, "RFB 003.008\n\x01\x01"))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return conn
}

// upgrade is a WebSocket's beginning, and a first frame.
func upgrade(host, cookie, frame string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "GET /m/%s/socket HTTP/1.1\r\nHost: %s\r\nOrigin: http://%s\r\nCookie: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: binary\r\n\r\n", oneID, host, host, cookie)
	if frame != "" {
		out.Write(append([]byte{0x82, 0x80 | byte(len(frame)), 0, 0, 0, 0}, frame...)) // binary, masked with nothing
	}
	return out.Bytes()
}

// shown counts the screens that are being looked at.
func (b *before) shown(tb testing.TB) int {
	tb.Helper()
	return b.metric(tb, "slipway_console_connections")
}

// metric adds up one of the gateway's.
func (b *before) metric(tb testing.TB, name string, labels ...string) int {
	tb.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(b.gateway.Collectors()...)
	families, err := r.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(labels) > 0 && m.GetLabel()[0].GetValue() != labels[0] {
				continue
			}
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return int(sum)
}
