package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	cryptossh "golang.org/x/crypto/ssh"

	"slipway/internal/api"
	"slipway/internal/testenv"
	"slipway/internal/testguest"
	"slipway/internal/testnet"
	"slipway/internal/testserver"
	"slipway/orchestrator"
	simxapi "slipway/sim/xapi"
	"slipway/workers/console/rfb"
)

// realGuests boots a real guest for each VM that starts: namespaces, an overlay root, the real sshd, its address from the real dhcpd.
type realGuests struct {
	t       *testing.T
	s       *site
	changes chan simxapi.Power
	guests  map[string]*testguest.Guest
	boots   int
}

// follow boots and stops guests until done is closed: in the test's own goroutine, as its helpers want it.
func (g *realGuests) follow(ctx context.Context, done <-chan struct{}) {
	g.t.Helper()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			g.t.Fatalf("not done in time: %v", context.Cause(ctx))
		case change := <-g.changes:
			mac := strings.ToLower(change.VIFs[0].MAC)
			switch guest := g.guests[mac]; {
			case change.State == "Running" && guest == nil:
				g.boots++
				ns := g.s.lab.Namespace("guest-" + mac)
				g.s.attach(ns)
				g.guests[mac] = testguest.Start(g.t, testguest.Config{
					Namespace: ns, Interface: "eth0", MAC: mac, TemplateHostKey: secretOf(g.s.template), AuthorizedKeys: []string{g.s.loginLine},
				})
			case change.State == "Halted" && guest != nil:
				delete(g.guests, mac)
				guest.Stop()
			}
		}
	}
}

var acknowledged = regexp.MustCompile(`DHCPACK on ([0-9.]+) to ([0-9a-f:]+)`)

// address is what a guest agent would report: the last that dhcpd says it has given.
func (g *realGuests) address(mac string) (string, bool) {
	last := ""
	for _, m := range acknowledged.FindAllStringSubmatch(g.s.dhcp.read(dhcpdLog), -1) {
		if m[2] == strings.ToLower(mac) {
			last = m[1]
		}
	}
	return last, last != ""
}

// machineNetwork is what else of this machine a test could change.
func machineNetwork(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, argv := range [][]string{{"ip", "-brief", "link"}, {"ip", "-brief", "address"}, {"ip", "route"}, {"ip", "netns"}, {"sysctl", "net.ipv4.ip_forward"}} {
		out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
		fmt.Fprintf(&b, "%v %v\n%s", argv, err, out)
	}
	return b.String()
}

// An order that a panel publishes becomes a machine in use; ordered away, nothing of it is left.
// Its public address is on the internet's own link, and the firewall answers ARP for it.
func TestOrderBecomesMachineOnRealParts(t *testing.T) { orderBecomesMachine(t, orchestrator.NAT) }

// The same where machines have the addresses that the internet knows: nothing is translated, and the installer comes in by the address
// that the guest itself reports.
func TestOrderBecomesRoutedMachineOnRealParts(t *testing.T) {
	orderBecomesMachine(t, orchestrator.Routed)
}

func orderBecomesMachine(t *testing.T, strategy orchestrator.Strategy) {
	testenv.NeedRoot(t)
	t.Parallel()
	identity, network := testguest.Identity(t), machineNetwork(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	url := testserver.RabbitMQ(t)
	g := &realGuests{t: t, changes: make(chan simxapi.Power, 64), guests: map[string]*testguest.Guest{}}
	s := newSite(t, siteConfig{
		pools: 1, strategy: strategy, arp: strategy == orchestrator.NAT, consoles: true, postgres: testserver.PostgreSQL(t), rabbitmq: url,
		power: func(p simxapi.Power) {
			if len(p.VIFs) > 0 {
				g.changes <- p
			}
		},
		address: func(mac string) (string, bool) { return g.address(mac) },
	})
	g.s = s
	foreign, routes := s.firewall.foreign(), s.fw.MustRun("ip", "-4", "route", "show", "table", "all")
	w := s.serve("worker")

	customer, customerLine := keyPair(t)
	o := install(1, customerLine)
	data := o["data"].(map[string]any)
	data["hostname"] = "web-1.acme.example"
	ordered := s.panel(ctx, url, o)
	g.follow(ctx, ordered.done)
	said := ordered.out.String()
	if code := ordered.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("the panel ended with %d:\n%s\n%s", code, said, s.cli("worker", "show", "vm-0001"))
	}
	// The panel prints an event a line: seq, type, fields.
	var seqs []string
	for _, m := range regexp.MustCompile(`(?m)^ *(\d+) slipway\.`).FindAllStringSubmatch(said, -1) {
		seqs = append(seqs, m[1])
	}
	for i, seq := range seqs {
		if seq != fmt.Sprint(i+1) {
			t.Errorf("the panel heard seq %s as event %d:\n%s", seq, i+1, said)
			break
		}
	}
	for _, want := range []string{"slipway.run.accepted", `state="placed"`, `state="guest_reachable"`, `state="post_installed"`, `slipway.run.done`, `state="production_ready"`} {
		if !strings.Contains(said, want) {
			t.Errorf("the panel did not hear %s:\n%s", want, said)
		}
	}

	var m api.Machine
	if err := json.Unmarshal([]byte(s.cli("worker", "-o", "json", "show", "vm-0001")), &m); err != nil {
		t.Fatal(err)
	}
	if m.State != "production_ready" || g.boots != 1 {
		t.Errorf("state %s, %d guests were booted", m.State, g.boots)
	}
	s.counted(1)
	addresses := []netip.Addr{m.Placement.Private}
	if strategy == orchestrator.NAT {
		addresses = append(addresses, m.Placement.Public)
	} else if m.Placement.Public.IsValid() {
		t.Errorf("a routed machine has the public address %s", m.Placement.Public)
	}
	outside := addresses[len(addresses)-1] // by which the world knows it
	public := outside.String()
	guest := g.guests[m.Placement.MAC]
	if guest == nil {
		t.Fatalf("no guest has MAC %s", m.Placement.MAC)
	}

	t.Run("a machine that nobody ordered gets no address", func(t *testing.T) {
		stranger := s.lab.Namespace("stranger")
		s.attach(stranger)
		out, err := stranger.Run(ctx, "udhcpc", "-f", "-q", "-n", "-t", "2", "-T", "1", "-i", "eth0", "-s", "/bin/true")
		if err == nil || strings.Contains(out, "obtained") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("port 22 answers a customer, as ordered", func(t *testing.T) {
		if words, err := listening(s.customer, net.JoinHostPort(public, "22"), 5*time.Second); err != nil || !strings.HasPrefix(words, "SSH-2.0-OpenSSH") {
			t.Errorf("%q, %v", words, err)
		}
	})
	t.Run("another port does not, though the guest listens", func(t *testing.T) {
		listen, stop := context.WithCancel(ctx)
		served := make(chan struct{})
		go func() {
			defer close(served)
			_, _ = guest.Run(listen, "/usr/bin/python3", "-c", "import socket\ns=socket.create_server(('',8080))\nwhile 1: s.accept()[0].send(b'hello')")
		}()
		defer func() { stop(); <-served }()
		testnet.Until(t, 10*time.Second, "port 8080 to answer in the machines' network", func() bool {
			words, err := listening(s.dhcp.ns, net.JoinHostPort(m.Placement.Private.String(), "8080"), time.Second)
			return err == nil && words == "hello"
		})
		var timeout net.Error
		if words, err := listening(s.customer, net.JoinHostPort(public, "8080"), 300*time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("a customer at port 8080 hears %q, %v, want silence", words, err)
		}
	})
	t.Run("the guest leaves with the address that it is reached by", func(t *testing.T) {
		var listener net.Listener
		var err error
		s.customer.Do(func() { listener, err = net.Listen("tcp4", customerAddress+":4000") })
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		seen := make(chan string, 1)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				seen <- err.Error()
				return
			}
			defer conn.Close()
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			seen <- host
		}()
		if out, err := guest.Run(ctx, "bash", "-c", "exec 3<>/dev/tcp/"+customerAddress+"/4000"); err != nil {
			_ = listener.Close()
			t.Errorf("%v: %s", err, out)
		}
		if got := <-seen; got != public {
			t.Errorf("the customer's network sees %s, want %s", got, public)
		}
	})
	t.Run("the guest is its own", func(t *testing.T) {
		if name, err := guest.Run(ctx, "hostname"); err != nil || name != "web-1.acme.example\n" {
			t.Errorf("hostname %q, %v", name, err)
		}
		if id, err := guest.ReadFile("/etc/machine-id"); err != nil || strings.TrimSpace(string(id)) != m.Identity || m.Identity == testguest.TemplateMachineID {
			t.Errorf("machine id %q, %v, recorded %q", id, err, m.Identity)
		}
		key, hostname := login(t, s, customer, net.JoinHostPort(public, "22"))
		if !strings.HasPrefix(m.HostKey, key) || key == s.templateLine {
			t.Errorf("it shows the customer the host key %s, recorded is %s", key, m.HostKey)
		}
		if hostname != "web-1.acme.example\n" {
			t.Errorf("the customer, logged in, is on %q", hostname)
		}
		if keys, err := guest.ReadFile("/root/.ssh/authorized_keys"); err != nil || strings.Contains("\n"+string(keys), "\n"+s.loginLine) {
			t.Errorf("the installer's key still opens everything: %q, %v", keys, err)
		}
	})
	t.Run("the console opens by the machine's password alone", func(t *testing.T) {
		var conn net.Conn
		var err error
		s.manager.Do(func() {
			conn, err = net.DialTimeout("tcp4", net.JoinHostPort(consoleAddress, fmt.Sprint(m.Placement.ConsolePort)), 5*time.Second)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := rfb.Handshake(ctx, conn, secretOf("guess")); err == nil {
			t.Error("a wrong password opens the console")
		}
	})

	leave := s.panel(ctx, url, newOrder("order-0002", "slipway.order.uninstall", map[string]any{"tenant": "acme", "machine": m.ID}))
	g.follow(ctx, leave.done)
	if code := leave.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("the panel ended with %d:\n%s", code, leave.out.String())
	}
	s.counted(0)
	if text := s.console.read(consoleFile); strings.Contains(text, m.VM) {
		t.Errorf("xvp.conf still has it:\n%s", text)
	}
	if rules := s.fw.MustRun("iptables-save"); strings.Contains(rules, m.ID) || regexp.MustCompile(regexp.QuoteMeta(public)+`(/32|\s)`).MatchString(rules) {
		t.Errorf("rules are left:\n%s", rules)
	}
	if diff := cmp.Diff(foreign, s.firewall.foreign()); diff != "" {
		t.Errorf("what is not ours in the firewall has changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(routes, s.fw.MustRun("ip", "-4", "route", "show", "table", "all")); diff != "" {
		t.Errorf("the firewall's routes have changed (-before +after):\n%s", diff)
	}
	if words, err := listening(s.customer, net.JoinHostPort(public, "22"), 300*time.Millisecond); err == nil {
		t.Errorf("its address still answers: %q", words)
	}
	var known []api.Address
	if err := w.api.Get(ctx, "/v1/addresses", &known); err != nil {
		t.Fatal(err)
	}
	resting := 0
	for _, a := range known {
		if slices.Contains(addresses, a.Address) && a.State == "quarantine" && time.Until(a.Until) > 23*time.Hour {
			resting++
		}
	}
	if resting != len(addresses) {
		t.Errorf("addresses: %+v, want %v in quarantine for a day", known, addresses)
	}
	if diff := cmp.Diff(identity, testguest.Identity(t)); diff != "" {
		t.Errorf("this machine has changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(network, machineNetwork(t)); diff != "" {
		t.Errorf("this machine's network has changed (-before +after):\n%s", diff)
	}
}

// login is a customer's: by his own key over the public address. It tells the host key that he was shown, and the host's name.
func login(t *testing.T, s *site, key, address string) (hostKey, hostname string) {
	t.Helper()
	signer, err := cryptossh.ParsePrivateKey([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	s.customer.Do(func() { conn, err = net.DialTimeout("tcp4", address, 5*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	transport, channels, requests, err := cryptossh.NewClientConn(conn, address, &cryptossh.ClientConfig{
		User: "root", Auth: []cryptossh.AuthMethod{cryptossh.PublicKeys(signer)},
		HostKeyCallback: func(_ string, _ net.Addr, shown cryptossh.PublicKey) error {
			hostKey = strings.TrimSpace(string(cryptossh.MarshalAuthorizedKey(shown)))
			return nil
		},
	})
	if err != nil {
		_ = conn.Close()
		t.Fatalf("the customer cannot log in: %v", err)
	}
	client := cryptossh.NewClient(transport, channels, requests)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.Output("hostname")
	if err != nil {
		t.Fatal(err)
	}
	return hostKey, string(out)
}
