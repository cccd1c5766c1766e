package isc_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/templates"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
	"slipway/workers/dhcp/isc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a network with a real dhcpd behind a real agent, and real clients on the same bridge.
type site struct {
	t       *testing.T
	lab     *testnet.Lab
	server  *testnet.Namespace
	agent   *agent.Agent
	config  isc.Config
	dir     string
	script  string // what udhcpc runs
	clients int
	gen     int64
}

const (
	// strict gives addresses to known machines only, though there is a range: the range is what an unknown one would get.
	strict = "  range 10.30.200.1 10.30.200.50;\n  deny unknown-clients;\n"
	open   = "  range 10.30.200.1 10.30.200.50;\n"
)

func newSite(t *testing.T, inSubnet string) *site {
	t.Helper()
	s := &site{t: t, lab: testnet.New(t), dir: t.TempDir()}
	dhcpd := testenv.Need(t, "dhcpd")
	testenv.Need(t, "udhcpc")
	s.server = s.lab.Namespace("server")
	s.server.Bridge("br0")
	s.server.MustRun("ip", "addr", "add", "10.30.255.1/16", "dev", "br0")

	s.write("dhcpd.conf", "authoritative;\ndefault-lease-time 600;\nsubnet 10.30.0.0 netmask 255.255.0.0 {\n"+inSubnet+"}\ninclude \""+s.path("hosts.conf")+"\";\n")
	s.write("hosts.conf", "")
	s.write("leases", "")
	// A client of its own: it sets the address, and says what happened. (The script that comes with udhcpc writes /etc/resolv.conf.)
	s.script = s.write("client.sh", "#!/bin/sh\n[ -z \"$ip\" ] || ip addr replace \"$ip/16\" dev \"$interface\"\necho \"$1 $ip\"\n")
	s.write("start.sh", "#!/bin/sh\ngrep -q poison '"+s.path("hosts.conf")+"' && { echo poisoned >&2; exit 1; }\nexec \"$@\"\n")
	for _, script := range []string{s.script, s.path("start.sh")} {
		if err := os.Chmod(script, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.config = isc.Config{
		Main: s.path("dhcpd.conf"), Include: s.path("hosts.conf"), Dhcpd: dhcpd, PIDFile: s.path("pid"), ServeTimeout: 5 * time.Second,
		Start: s.server.Enter(s.path("start.sh"), dhcpd, "-q", "-cf", s.path("dhcpd.conf"), "-lf", s.path("leases"), "-pf", s.path("pid"), "br0"),
	}
	s.newAgent(s.config)
	t.Cleanup(s.stop)
	return s
}

func (s *site) newAgent(cfg isc.Config) {
	s.t.Helper()
	registry := agent.Registry{isc.Driver: func(agent.Settings) (agent.Unit, error) { return isc.New(cfg) }}
	var err error
	s.agent, err = agent.New(agent.Config{StateDir: s.path("state"), Units: map[string]agent.Settings{"dhcp": {Driver: isc.Driver}}}, registry, nil)
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string) string {
	s.t.Helper()
	write(s.t, s.path(name), text)
	return s.path(name)
}

// pid is the running dhcpd's, 0 when there is none.
func (s *site) pid() int {
	text, err := os.ReadFile(s.path("pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || strings.TrimSpace(string(comm)) != "dhcpd" {
		return 0
	}
	return pid
}

func (s *site) stop() {
	if pid := s.pid(); pid > 1 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		testnet.Until(s.t, 5*time.Second, "dhcpd to end", func() bool {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || strings.Contains(string(text), ") Z ")
		})
	}
}

func (s *site) request(hosts ...orchestrator.DHCPHost) apply.Request {
	s.t.Helper()
	rendered, _, err := isc.Render(templates.FS, hosts, subnets)
	if err != nil {
		s.t.Fatal(err)
	}
	s.gen++
	return apply.Request{Unit: "dhcp", Fence: 1, Generation: s.gen, Files: rendered, SHA256: apply.Sum(rendered), Rows: len(hosts)}
}

func (s *site) apply(req apply.Request, want apply.Code) apply.Answer {
	s.t.Helper()
	answer := s.agent.Apply(s.t.Context(), req)
	if answer.Code != want {
		s.t.Fatalf("generation %d: %+v, want %s", req.Generation, answer, want)
	}
	return answer
}

// client is a machine on the bridge with this MAC.
func (s *site) client(mac string) *testnet.Namespace {
	s.t.Helper()
	s.clients++
	ns := s.lab.Namespace("client")
	port := fmt.Sprintf("port%d", s.clients)
	s.lab.Link(s.server, port, ns, "eth0")
	s.server.MustRun("ip", "link", "set", port, "master", "br0")
	ns.MustRun("ip", "link", "set", "eth0", "address", mac)
	return ns
}

// lease asks for one, as a booting machine does; the zero Addr when nobody gives any.
func (s *site) lease(ns *testnet.Namespace) netip.Addr {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	out, err := ns.Run(ctx, "udhcpc", "-f", "-q", "-n", "-t", "3", "-T", "1", "-i", "eth0", "-s", s.script)
	if ctx.Err() != nil {
		s.t.Fatalf("udhcpc: %v: %s", err, out)
	}
	return bound(out, "bound")
}

// bound is the last address that the client's script told for the event.
func bound(out, event string) netip.Addr {
	var last netip.Addr
	for line := range strings.SplitSeq(out, "\n") {
		if rest, ok := strings.CutPrefix(line, event+" "); ok {
			last, _ = netip.ParseAddr(strings.TrimSpace(rest))
		}
	}
	return last
}

func TestClientGetsItsAddressByMAC(t *testing.T) {
	s := newSite(t, strict)
	one, two := host(1), host(2)
	answer := s.apply(s.request(one, two), apply.Applied)
	if !answer.Reloaded || answer.Rows != 2 {
		t.Errorf("%+v", answer)
	}
	for _, h := range []orchestrator.DHCPHost{one, two} {
		if got := s.lease(s.client(h.MAC)); got != h.Address {
			t.Errorf("%s got %s, want %s", h.MAC, got, h.Address)
		}
	}
	if got := s.lease(s.client("02:00:00:00:ff:ff")); got.IsValid() {
		t.Errorf("a machine without a host block got %s", got)
	}
	pid := s.pid()
	s.gen-- // the same generation again
	s.apply(s.request(one, two), apply.Unchanged)
	if s.pid() != pid {
		t.Error("dhcpd was restarted for nothing")
	}
}

// TestUnknownClientWouldGetTheRange shows that the client and the range of the test above are real.
func TestUnknownClientWouldGetTheRange(t *testing.T) {
	s := newSite(t, open)
	s.apply(s.request(host(1)), apply.Applied)
	if got := s.lease(s.client("02:00:00:00:ff:ff")); !netip.MustParsePrefix("10.30.200.0/24").Contains(got) {
		t.Errorf("got %s", got)
	}
}

func TestLeasesSurviveARestart(t *testing.T) {
	s := newSite(t, open)
	known := host(1)
	s.apply(s.request(known), apply.Applied)
	type running struct {
		name    string
		process *testnet.Process
		addr    netip.Addr
	}
	var clients []running
	for name, mac := range map[string]string{"fixed": known.MAC, "from the range": "02:00:00:00:ff:ff"} {
		p := s.client(mac).Start("udhcpc", "-f", "-i", "eth0", "-s", s.script, "-T", "1", "-t", "10")
		testnet.Until(t, 15*time.Second, name+" client to be bound", func() bool { return bound(p.Output(), "bound").IsValid() })
		clients = append(clients, running{name, p, bound(p.Output(), "bound")})
	}
	recorded := regexp.MustCompile(`(?s)lease 10\.30\.200\.\S+ \{\n  starts [^;]+;`)
	granted := recorded.Find(s.leases())
	if granted == nil {
		t.Fatalf("the range's lease is not on record: %s", s.leases())
	}
	before := s.pid()
	s.apply(s.request(known, host(2)), apply.Applied)
	if after := s.pid(); after == before || after == 0 {
		t.Fatalf("dhcpd was process %d and is %d", before, after)
	}
	if leases := s.leases(); !bytes.Contains(leases, granted) { // dhcpd grants a free address again, so that renewing proves nothing of it
		t.Errorf("what was granted before the restart is not on record after it:\n%s", leases)
	}
	for _, c := range clients {
		c.process.Signal(syscall.SIGUSR1) // renew
		testnet.Until(t, 15*time.Second, c.name+" client to renew", func() bool { return bound(c.process.Output(), "renew").IsValid() })
		if got := bound(c.process.Output(), "renew"); got != c.addr {
			t.Errorf("%s: had %s and has %s", c.name, c.addr, got)
		}
		if out := c.process.Output(); strings.Count(out, "bound ") != 1 {
			t.Errorf("%s: lost its lease in between: %s", c.name, out)
		}
	}
}

// leases are on record.
func (s *site) leases() []byte {
	s.t.Helper()
	text, err := os.ReadFile(s.path("leases"))
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

func TestIdleServerAnswersANewHostWithinTwoSeconds(t *testing.T) {
	s := newSite(t, strict)
	s.apply(s.request(host(1)), apply.Applied)
	fresh := host(2)
	client := s.client(fresh.MAC)
	begin := time.Now()
	s.apply(s.request(host(1), fresh), apply.Applied)
	applied := time.Since(begin)
	got := s.lease(client)
	took := time.Since(begin)
	t.Logf("applied after %s, leased after %s", applied, took)
	if got != fresh.Address || took > 2*time.Second {
		t.Errorf("got %s after %s", got, took)
	}
}

func TestBrokenCandidateLeavesTheOldOneServing(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want apply.Code
		says string
	}{
		"refused by dhcpd -t":  {"host x { hardware ethernet zz; }\n", apply.Culprit, "numeric"},
		"refused at the start": {"# poison\n", apply.Restored, "poisoned"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, strict)
			old := host(1)
			s.apply(s.request(old), apply.Applied)
			before := s.pid()
			broken := s.request(old, host(2))
			broken.Files[0].Content = tc.text + broken.Files[0].Content
			broken.SHA256 = apply.Sum(broken.Files)
			answer := s.apply(broken, tc.want)
			if answer.Generation != 1 || !strings.Contains(answer.Message, tc.says) {
				t.Errorf("%+v", answer)
			}
			if tc.want == apply.Culprit && (answer.Line != 1 || answer.File != isc.FileName || s.pid() != before) {
				t.Errorf("%+v, dhcpd was process %d and is %d", answer, before, s.pid())
			}
			if got := s.lease(s.client(old.MAC)); got != old.Address {
				t.Errorf("the old host got %s", got)
			}
			if got := s.lease(s.client(host(2).MAC)); got.IsValid() {
				t.Errorf("the refused host got %s", got)
			}
		})
	}
}

func TestDeadServerIsStartedByTheNextApply(t *testing.T) {
	s := newSite(t, strict)
	req := s.request(host(1))
	s.apply(req, apply.Applied)
	s.stop()
	s.apply(req, apply.Applied)
	if got := s.lease(s.client(host(1).MAC)); got != host(1).Address {
		t.Errorf("got %s", got)
	}
}

// TestServiceManagerRestarts: a command line of the site's stops and starts dhcpd, as systemctl does.
func TestServiceManagerRestarts(t *testing.T) {
	s := newSite(t, strict)
	s.apply(s.request(host(1)), apply.Applied)
	before := s.pid()
	manager := s.write("manager.sh", "#!/bin/sh\nkill \"$(cat '"+s.path("pid")+"')\"\nwhile ! grep -q ') Z ' /proc/$(cat '"+s.path("pid")+"')/stat 2>/dev/null && [ -e /proc/$(cat '"+
		s.path("pid")+"') ]; do sleep 0.01; done\nrm '"+s.path("pid")+"'\nexec \"$@\"\n")
	if err := os.Chmod(manager, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := s.config
	cfg.Restart, cfg.Start = append([]string{manager}, cfg.Start...), nil
	s.newAgent(cfg)
	s.apply(s.request(host(1), host(2)), apply.Applied)
	if now := s.pid(); now == before || now == 0 {
		t.Errorf("dhcpd was process %d and is %d", before, now)
	}
	if got := s.lease(s.client(host(2).MAC)); got != host(2).Address {
		t.Errorf("got %s", got)
	}
}

// TestUnboundPortIsNoProof: a dhcpd that runs and does not have the port does not serve.
func TestUnboundPortIsNoProof(t *testing.T) {
	s := newSite(t, strict)
	s.apply(s.request(host(1)), apply.Applied)
	cfg := s.config
	cfg.Port, cfg.ServeTimeout = 6767, 300*time.Millisecond
	unit, err := isc.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"prove": unit.Prove(t.Context()), "reload": unit.Reload(t.Context(), agent.Change{})} {
		if err == nil || !strings.Contains(err.Error(), "has not bound UDP port 6767") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestLateProofIsRefused: a dhcpd that has not been restarted since its file came does not pass for one that has.
func TestLateProofIsRefused(t *testing.T) {
	s := newSite(t, strict)
	s.apply(s.request(host(1)), apply.Applied)
	unit, err := isc.New(s.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := unit.Prove(t.Context()); err != nil {
		t.Fatalf("after an apply: %v", err)
	}
	s.write("hosts.new", "host other { }\n")
	testnet.Until(t, 5*time.Second, "the file to be newer than the process by more than the clock's grain", func() bool {
		if err := os.Rename(s.path("hosts.new"), s.path("hosts.conf")); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		now := time.Now()
		if err := os.Chtimes(s.path("hosts.conf"), now, now); err != nil {
			t.Fatal(err)
		}
		err := unit.Prove(t.Context())
		return err != nil && strings.Contains(err.Error(), "before its hosts file")
	})
}

// TestServerThatOnlySaysSoIsNotBelieved: a start that succeeds and starts nothing, and a start that leaves the old process alone.
func TestServerThatOnlySaysSoIsNotBelieved(t *testing.T) {
	s := newSite(t, strict)
	s.apply(s.request(host(1)), apply.Applied)
	before := s.pid()
	cfg := s.config
	cfg.Start, cfg.Restart, cfg.ServeTimeout = nil, []string{"/bin/true"}, 300*time.Millisecond
	s.newAgent(cfg)
	if answer := s.apply(s.request(host(1), host(2)), apply.Broken); answer.Generation != 1 || s.pid() != before || !strings.Contains(answer.Message, "the one from before") {
		t.Errorf("%+v", answer)
	}
	cfg.Restart, cfg.Start = nil, []string{"/bin/true"}
	s.newAgent(cfg)
	if answer := s.apply(s.request(host(1), host(2)), apply.Broken); !strings.Contains(answer.Message, "does not run") || s.pid() != 0 {
		t.Errorf("%+v", answer)
	}
}
