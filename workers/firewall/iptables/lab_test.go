package iptables

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
)

// The addresses of the lab: two clients outside, three guests behind the firewall.
const (
	client, stranger = "198.51.100.1", "198.51.100.2"
	privateA         = "10.0.0.11"
	privateB         = "10.0.0.12"
	privateC         = "10.0.0.13"
	publicA          = "203.0.113.11"
	publicB          = "203.0.113.12"
	publicC          = "203.0.113.13"
)

const (
	patience = 10 * time.Second
	// silence is how long a dropped packet is waited for. An answer in the lab takes less than a millisecond.
	silence = 300 * time.Millisecond
)

// backends are run through all tests that touch the kernel.
var backends = []string{"nft", "legacy"}

// firewall is a unit in a namespace.
type firewall struct {
	t    testing.TB
	ns   *testnet.Namespace
	unit *Unit
	cfg  UnitConfig
	save string // program
	env  Config
}

func forBackends(t *testing.T, test func(t *testing.T, backend string)) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			test(t, backend)
		})
	}
}

func newFirewall(t testing.TB, ns *testnet.Namespace, backend string) *firewall {
	t.Helper()
	dir := t.TempDir()
	cfg := UnitConfig{
		Rules: filepath.Join(dir, RulesFile), State: filepath.Join(dir, "state"), RevertAfter: time.Minute,
		Save: testenv.Need(t, "iptables-"+backend+"-save"), Restore: testenv.Need(t, "iptables-"+backend+"-restore"),
		Conntrack:  testenv.Need(t, "conntrack"),
		LegacySave: testenv.Need(t, "iptables-legacy-save"), NFTSave: testenv.Need(t, "iptables-nft-save"),
	}
	f := &firewall{t: t, ns: ns, cfg: cfg, save: cfg.Save, env: labConfig()}
	cfg = withWatcher(cfg)
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	unit, err := NewUnit(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.unit = unit
	return f
}

// in calls the unit as the agent would, inside the namespace.
func (f *firewall) in(call func(ctx context.Context) error) error {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	var err error
	f.ns.Do(func() { err = call(ctx) })
	return err
}

// swap checks the rules for these entries and puts them where the agent would.
func (f *firewall) swap(entries ...orchestrator.FirewallEntry) {
	f.t.Helper()
	text, _ := mustRender(f.t, f.env, entries...)
	if err := f.check(text); err != nil {
		f.t.Fatalf("check: %v", err)
	}
	if err := os.WriteFile(f.cfg.Rules, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *firewall) check(text string) error {
	f.t.Helper()
	dir := f.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, RulesFile), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return f.in(func(ctx context.Context) error { return f.unit.Check(ctx, dir) })
}

func (f *firewall) reload(c agent.Change) error {
	f.t.Helper()
	return f.in(func(ctx context.Context) error { return f.unit.Reload(ctx, c) })
}

func (f *firewall) prove() error { f.t.Helper(); return f.in(f.unit.Prove) }

// apply makes the entries live and proves it.
func (f *firewall) apply(cut []string, entries ...orchestrator.FirewallEntry) {
	f.t.Helper()
	f.swap(entries...)
	var change agent.Change
	for _, a := range cut {
		change.Cut = append(change.Cut, addr(a))
	}
	if err := f.reload(change); err != nil {
		f.t.Fatalf("reload: %v", err)
	}
	if err := f.prove(); err != nil {
		f.t.Fatalf("prove: %v", err)
	}
}

var counters = regexp.MustCompile(`\[\d+:\d+\]`)

// rules is iptables-save without dates and counters.
func (f *firewall) rules() string {
	f.t.Helper()
	var b strings.Builder
	for line := range strings.Lines(f.ns.MustRun(f.save)) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(counters.ReplaceAllString(line, "[0:0]"))
		}
	}
	return b.String()
}

// foreign is what of rules is not ours.
func (f *firewall) foreign() string {
	f.t.Helper()
	var b strings.Builder
	for line := range strings.Lines(f.rules()) {
		if !strings.Contains(line, chainPrefix) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// iptables runs the command of the unit's backend. The legacy one has a lock for the whole machine, whatever the namespace.
func (f *firewall) iptables(args ...string) {
	f.t.Helper()
	f.ns.MustRun(append([]string{strings.TrimSuffix(f.save, "-save"), "-w", "5"}, args...)...)
}

func (f *firewall) armed() bool {
	record, err := f.unit.record()
	if err != nil {
		f.t.Fatal(err)
	}
	return record != nil && !record.Reverted
}

// lab is outside — firewall — hub with three guests. Every guest answers on tcp 22, 80 and 81.
type lab struct {
	*firewall
	t       testing.TB
	outside *testnet.Namespace
	guests  map[string]*testnet.Namespace // by private address
}

func newLab(t testing.TB, backend string) *lab {
	t.Helper()
	net := testnet.New(t)
	outside, fw, hub := net.Namespace("outside"), net.Namespace("firewall"), net.Namespace("hub")
	net.Link(outside, "eth0", fw, "outside")
	net.Link(fw, "inside", hub, "firewall")
	outside.MustRun("ip", "addr", "add", client+"/24", "dev", "eth0")
	outside.MustRun("ip", "addr", "add", stranger+"/24", "dev", "eth0")
	outside.MustRun("ip", "route", "add", "203.0.113.0/24", "via", "198.51.100.254")
	fw.MustRun("ip", "addr", "add", "198.51.100.254/24", "dev", "outside")
	fw.MustRun("ip", "addr", "add", "10.0.0.1/24", "dev", "inside")
	fw.MustRun("ip", "route", "add", "default", "via", client)
	setting(t, fw, "ip_forward", "1")
	for _, name := range []string{"all", "default", "inside", "outside"} { // the kernel must not do our work
		setting(t, fw, "conf/"+name+"/rp_filter", "0")
	}
	l := &lab{firewall: newFirewall(t, fw, backend), t: t, outside: outside, guests: map[string]*testnet.Namespace{}}
	l.iptables("-P", "FORWARD", "DROP")
	ports := []string{"firewall"}
	for i, private := range []string{privateA, privateB, privateC} {
		port := fmt.Sprintf("port%d", i)
		guest := net.Namespace("guest-" + private)
		net.Link(hub, port, guest, "eth0")
		guest.MustRun("ip", "addr", "add", private+"/24", "dev", "eth0")
		guest.MustRun("ip", "route", "add", "default", "via", "10.0.0.1")
		ports = append(ports, port)
		l.guests[private] = guest
		for _, tcp := range []string{"22", "80", "81"} {
			serve(t, guest, private+":"+tcp)
		}
	}
	hub.Bridge("br0", ports...)
	return l
}

func setting(t testing.TB, ns *testnet.Namespace, name, value string) {
	t.Helper()
	var err error
	ns.Do(func() { err = os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

// serve answers every connection with the address it came from, then echoes.
func serve(t testing.TB, ns *testnet.Namespace, address string) {
	t.Helper()
	var listener net.Listener
	var err error
	ns.Do(func() { listener, err = net.Listen("tcp4", address) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	conns := make(chan net.Conn, 100)
	go func() {
		defer close(done)
		defer close(conns)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns <- conn
			go func() {
				host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
				_, _ = fmt.Fprintln(conn, host)
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
		for conn := range conns {
			_ = conn.Close()
		}
	})
}

// session is a TCP connection and what the server said about it.
type session struct {
	net.Conn
	lines *bufio.Reader
	seen  string // our address, as the server sees it
}

// dial connects from an address of a namespace ("" is any) and hears the server's greeting.
func dial(t testing.TB, ns *testnet.Namespace, from, to string, limit time.Duration) (*session, error) {
	t.Helper()
	dialer := net.Dialer{Timeout: limit}
	if from != "" {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr(from), 0))
	}
	var conn net.Conn
	var err error
	ns.Do(func() { conn, err = dialer.Dial("tcp4", to) })
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	s := &session{Conn: conn, lines: bufio.NewReader(conn)}
	line, err := s.lines.ReadString('\n')
	s.seen = strings.TrimSpace(line)
	return s, err
}

func (l *lab) open(ns *testnet.Namespace, from, to string) *session {
	l.t.Helper()
	s, err := dial(l.t, ns, from, to, patience)
	if err != nil {
		l.t.Fatalf("%s to %s: %v, want an answer", from, to, err)
	}
	return s
}

func (l *lab) closed(ns *testnet.Namespace, from, to string) {
	l.t.Helper()
	_, err := dial(l.t, ns, from, to, silence)
	var timeout net.Error
	if err == nil || !errors.As(err, &timeout) || !timeout.Timeout() {
		l.t.Fatalf("%s to %s: %v, want silence", from, to, err)
	}
}

// echo sends a line and waits for it to come back.
func (s *session) echo(limit time.Duration) error {
	_ = s.SetDeadline(time.Now().Add(limit))
	if _, err := io.WriteString(s, "ping\n"); err != nil {
		return err
	}
	_, err := s.lines.ReadString('\n')
	return err
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
