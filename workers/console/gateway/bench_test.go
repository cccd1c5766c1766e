package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
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

// way is how a viewer gets to the display.
type way struct {
	name string
	open func() (net.Conn, error)
}

// ways are the ways to one display, which are all measured in one run: directly, at the gateway's VNC port, and in a browser, the latter two
// also inside TLS. The display itself is always inside TLS, since XenAPI's consoles are.
func ways(tb testing.TB, d *source) []way {
	g := newBefore(tb, d)
	web, vnc := g.secured(tb, d.settings)
	cookie, secure := g.pass(tb), &tls.Config{InsecureSkipVerify: true} //nolint:gosec // nobody is between
	ctx := context.Background()
	plain := func(address string) (net.Conn, error) { return net.Dial("tcp", address) }
	inside := func(address string) (net.Conn, error) {
		return (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", address)
	}
	viewer := func(dial func(string) (net.Conn, error), address string) func() (net.Conn, error) {
		return func() (net.Conn, error) {
			conn, err := dial(address)
			if err == nil {
				_, err = rfb.HandshakeXVP(ctx, conn, "ann", "web-1", orchestrator.NewSecret("password"))
			}
			return conn, err
		}
	}
	browser := func(base string) func() (net.Conn, error) {
		return func() (net.Conn, error) {
			ws, _, err := websocket.Dial(ctx, base+"/m/"+oneID+"/socket", &websocket.DialOptions{
				HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: secure}},
				HTTPHeader: http.Header{"Cookie": {cookie}, "Origin": {g.base.String()}}, Subprotocols: []string{"binary"},
			})
			if err != nil {
				return nil, err
			}
			conn := websocket.NetConn(ctx, ws, websocket.MessageBinary)
			_, err = rfb.Handshake(ctx, conn, orchestrator.Secret{})
			return conn, err
		}
	}
	return []way{
		{"direct", func() (net.Conn, error) {
			conn, err := inside(d.Addr().String())
			if err == nil {
				_, err = rfb.Handshake(ctx, conn, orchestrator.Secret{})
			}
			return conn, err
		}},
		{"vnc", viewer(plain, g.vnc)},
		{"vnc in TLS", viewer(inside, vnc)},
		{"browser", browser(g.base.String())},
		{"browser in TLS", browser("https://" + web)},
	}
}

// cost is what so many bytes took: the clock's time and this process's on the CPUs.
type cost struct {
	bytes      int
	clock, cpu time.Duration
}

func (c cost) rate() float64 { return float64(c.bytes) / 1e6 / c.clock.Seconds() } // MB/s

// inTurn opens every way and does the same on each again and again, so that whatever else the machine does falls on all alike. It returns
// what each took in all, the first time left out.
func inTurn(b *testing.B, to []way, rounds int, do func(net.Conn) (bytes int, err error)) []cost {
	b.Helper()
	open, costs := make([]net.Conn, len(to)), make([]cost, len(to))
	for i, w := range to {
		conn, err := w.open()
		if err == nil {
			err = conn.SetDeadline(time.Time{})
		}
		if err != nil {
			b.Fatalf("%s: %v", w.name, err)
		}
		defer conn.Close()
		open[i] = conn
	}
	for round := range 1 + rounds {
		for i, conn := range open {
			clock, cpu := time.Now(), cpuTime(b)
			bytes, err := do(conn)
			if err != nil {
				b.Fatalf("%s: %v", to[i].name, err)
			}
			if round > 0 {
				costs[i].bytes += bytes
				costs[i].clock += time.Since(clock)
				costs[i].cpu += cpuTime(b) - cpu
			}
		}
	}
	return costs
}

func cpuTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// report prints a line for each way, whose throughput stands beside the first's.
func report(b *testing.B, name string, to []way, costs []cost, more func(b *testing.B, c cost)) {
	for i, w := range to {
		b.Run(name+"/"+w.name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(costs[i].rate(), "MB/s")
			b.ReportMetric(100*costs[i].rate()/costs[0].rate(), "%_of_direct")
			more(b, costs[i])
		})
	}
}

// BenchmarkPicture is a screen that changes as fast as it can: as fast as the CPUs carry it, which display, gateway and viewer share here,
// and as fast as a Gigabit Ethernet carries it.
func BenchmarkPicture(b *testing.B) {
	const gigabit = 117 << 20 // bytes of TCP's in a second
	for _, link := range []struct {
		name           string
		pace           int
		rounds, amount int // MiB in each
	}{{"unbounded", 0, 30, 16}, {"gigabit", gigabit, 40, 8}} {
		to := ways(b, newSource(b, link.pace))
		costs := inTurn(b, to, link.rounds, func(conn net.Conn) (int, error) { return link.amount << 20, picture(conn, link.amount) })
		report(b, link.name, to, costs, func(b *testing.B, c cost) {
			b.ReportMetric(c.cpu.Seconds()/float64(c.bytes)*(1<<30), "CPU_s/GiB")
		})
	}
}

// picture has a source send so many MiB and takes them.
func picture(conn net.Conn, amount int) error {
	if _, err := conn.Write([]byte{'T', byte(amount >> 16), byte(amount >> 8), byte(amount), 0, 0, 0, 0}); err != nil {
		return err
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(conn, int64(amount)<<20), make([]byte, 64<<10))
	return err
}

// BenchmarkKey is a key and what it shows: the time until a small message has come back.
func BenchmarkKey(b *testing.B) {
	const rounds = 3000
	key, echo := []byte{4, 1, 0, 0, 0, 0, 0, 'a'}, make([]byte, smallMessage)
	to := ways(b, newSource(b, 0))
	costs := inTurn(b, to, rounds, func(conn net.Conn) (int, error) {
		if _, err := conn.Write(key); err != nil {
			return 0, err
		}
		return io.ReadFull(conn, echo)
	})
	for i, w := range to {
		b.Run(w.name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(costs[i].clock.Seconds()/rounds*1e3, "ms/echo")
			b.ReportMetric((costs[i].clock-costs[0].clock).Seconds()/rounds*1e3, "ms_more")
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
				s := newSource(b, 0)
				g := newBefore(b, s)
				cookie := g.pass(b)
				before := held()
				var open []net.Conn
				for range consoles {
					open = append(open, g.idle(b, way, s, cookie))
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
func (b *before) idle(tb testing.TB, way string, direct *source, cookie string) net.Conn {
	tb.Helper()
	var conn net.Conn
	var err error
	switch way {
	case "direct":
		if conn, err = direct.OpenDisplay(context.Background(), orchestrator.MachineRef{}); err == nil {
			_, err = rfb.Handshake(context.Background(), conn, orchestrator.Secret{})
		}
	case "vnc":
		if conn, err = net.Dial("tcp", b.vnc); err == nil {
			_, err = rfb.HandshakeXVP(context.Background(), conn, "ann", "web-1", orchestrator.NewSecret("password"))
		}
	default:
		if conn, err = net.Dial("tcp", b.base.Host); err == nil {
			_, err = conn.Write(upgrade(b.base.Host, cookie, "RFB 003.008\n\x01\x01"))
		}
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
