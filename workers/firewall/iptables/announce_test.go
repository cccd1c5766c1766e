package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
)

// The addresses of the link between the upstream and the firewalls, on which the public addresses are.
const (
	upstream      = "203.0.113.1"
	floating      = "203.0.113.9"
	insideGateway = "10.0.0.1"
)

// announced is the range of labConfig's public prefix that is delivered by ARP.
var announcedRange = orchestrator.AddressRange{First: netip.MustParseAddr("203.0.113.10"), Last: netip.MustParseAddr("203.0.113.99")}

// link is an upstream and firewalls that share one link, with the guests behind them:
//
//	upstream ── wire ── one, two ── hub ── guest
type link struct {
	t        *testing.T
	upstream *testnet.Namespace
	guest    *testnet.Namespace
	members  []*member
	seen     *arpLog
}

// member is one firewall of the link.
type member struct {
	*firewall
	mac string // of its interface towards the upstream
}

func newLink(t *testing.T, members int) *link {
	t.Helper()
	lab := testnet.New(t)
	l := &link{t: t, upstream: lab.Namespace("upstream"), guest: lab.Namespace("guest")}
	wire, hub := lab.Namespace("wire"), lab.Namespace("hub")
	lab.Link(l.upstream, "eth0", wire, "upstream")
	lab.Link(l.guest, "eth0", hub, "guest")
	l.upstream.MustRun("ip", "address", "add", upstream+"/24", "dev", "eth0")
	l.guest.MustRun("ip", "address", "add", privateA+"/24", "dev", "eth0")
	l.guest.MustRun("ip", "address", "add", privateB+"/24", "dev", "eth0")
	l.guest.MustRun("ip", "route", "add", "default", "via", insideGateway)
	wirePorts, hubPorts := []string{"upstream"}, []string{"guest"}
	for n := range members {
		fw := lab.Namespace(fmt.Sprintf("firewall-%d", n+1))
		port := fmt.Sprintf("fw%d", n+1)
		lab.Link(fw, "wan", wire, port)
		lab.Link(fw, "inside", hub, port)
		wirePorts, hubPorts = append(wirePorts, port), append(hubPorts, port)
		fw.MustRun("ip", "address", "add", fmt.Sprintf("203.0.113.%d/24", n+2), "dev", "wan")
		fw.MustRun("ip", "address", "add", fmt.Sprintf("10.0.0.%d/24", n+2), "dev", "inside")
		setting(t, fw, "ip_forward", "1")
		for _, name := range []string{"all", "default", "wan", "inside"} {
			setting(t, fw, "conf/"+name+"/rp_filter", "0")
		}
		m := &member{firewall: newFirewall(t, fw, "nft")}
		fw.Do(func() {
			if wan, err := net.InterfaceByName("wan"); err != nil {
				t.Error(err)
			} else {
				m.mac = wan.HardwareAddr.String()
			}
		})
		m.env.ARP = &Delivery{Ranges: []orchestrator.AddressRange{announcedRange}, Members: members}
		config := AnnounceConfig{Interface: "wan"}
		if members > 1 {
			config.ActiveWhen = addr(floating)
		}
		m.configure(&config)
		l.members = append(l.members, m)
	}
	wire.Bridge("wire", wirePorts...)
	hub.Bridge("hub", hubPorts...)
	for _, private := range []string{privateA, privateB} {
		serve(t, l.guest, private+":80")
		serve(t, l.guest, private+":81")
	}
	l.move(0)
	l.seen = listenARP(t, l.upstream, "eth0")
	return l
}

// configure gives the firewall another section for announcements.
func (m *member) configure(config *AnnounceConfig) {
	m.t.Helper()
	cfg := m.unit.cfg
	cfg.Announce = config
	cfg = withWatcher(cfg)
	unit, err := NewUnit(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.unit = unit
}

// move gives the floating addresses to a member, as VRRP does.
func (l *link) move(to int) {
	l.t.Helper()
	for _, a := range []struct{ dev, address string }{{"wan", floating}, {"inside", insideGateway}} {
		for _, m := range l.members {
			_, _ = m.ns.Run(l.t.Context(), "ip", "address", "del", a.address+"/32", "dev", a.dev) // only one has it
		}
		l.members[to].ns.MustRun("ip", "address", "add", a.address+"/32", "dev", a.dev)
	}
	l.guest.MustRun("ip", "neighbour", "flush", "all") // VRRP announces its own addresses; here nobody does
}

// place puts both files where the agent would, after Check.
func (m *member) place(entries ...orchestrator.FirewallEntry) {
	m.t.Helper()
	files, _, err := Render(templates, m.env, entries)
	if err != nil {
		m.t.Fatal(err)
	}
	texts := map[string]string{}
	for _, f := range files {
		texts[f.Name] = f.Content
	}
	if err := m.judge(texts); err != nil {
		m.t.Fatalf("check: %v", err)
	}
	for name, target := range m.unit.Targets() {
		if err := os.WriteFile(target.Path, []byte(texts[name]), 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *member) judge(texts map[string]string) error {
	m.t.Helper()
	dir := m.t.TempDir()
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	return m.in(func(ctx context.Context) error { return m.unit.Check(ctx, dir) })
}

// carry makes the entries live and proves it.
func (m *member) carry(entries ...orchestrator.FirewallEntry) {
	m.t.Helper()
	m.place(entries...)
	if err := m.reload(agent.Change{}); err != nil {
		m.t.Fatalf("reload: %v", err)
	}
	if err := m.prove(); err != nil {
		m.t.Fatalf("prove: %v", err)
	}
	if err := m.in(m.unit.Observe); err != nil {
		m.t.Fatalf("observe: %v", err)
	}
}

// follow runs the service until stop is called.
func (m *member) follow() (stop func()) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	ended := make(chan error, 1)
	go m.ns.Do(func() { ended <- m.unit.Follow(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			m.t.Errorf("follow: %v", err)
		}
	})
	m.t.Cleanup(stop)
	return stop
}

// announces are the addresses of our routes.
func (m *member) announces() []string {
	m.t.Helper()
	var list []string
	for line := range strings.Lines(m.ns.MustRun("ip", "route", "show", "table", "main", "proto", fmt.Sprint(routeProtocol))) {
		list = append(list, strings.Fields(line)[1])
	}
	return list
}

// addresses is everything of this machine's addresses and routes.
func (m *member) addresses() string {
	m.t.Helper()
	return m.ns.MustRun("ip", "-4", "-brief", "address") + m.ns.MustRun("ip", "-4", "route", "show", "table", "all")
}

// neighbour is the hardware address by which the upstream knows an address.
func (l *link) neighbour(a string) string {
	l.t.Helper()
	if words := strings.Fields(l.upstream.MustRun("ip", "neighbour", "show", "to", a, "dev", "eth0")); len(words) > 1 && words[0] == a {
		return words[slices.Index(words, "lladdr")+1]
	}
	return ""
}

func (l *link) silent(to string) {
	l.t.Helper()
	_, err := dial(l.t, l.upstream, "", to, silence)
	var timeout net.Error
	if err == nil || !(errors.As(err, &timeout) && timeout.Timeout()) && !errors.Is(err, unix.EHOSTUNREACH) {
		l.t.Fatalf("%s: %v, want silence", to, err)
	}
}

func (l *link) answers(to string) *session {
	l.t.Helper()
	s, err := dial(l.t, l.upstream, "", to, patience)
	if err != nil {
		l.t.Fatalf("%s: %v, want an answer", to, err)
	}
	return s
}

// arpLog is every ARP packet that an interface has received.
type arpLog struct {
	mu      sync.Mutex
	packets []arpPacket
}

type arpPacket struct {
	op         byte
	mac        string
	from, asks string
}

func (p arpPacket) gratuitous() bool { return p.op == 1 && p.from == p.asks }

func listenARP(t *testing.T, ns *testnet.Namespace, dev string) *arpLog {
	t.Helper()
	var fd int
	var err error
	ns.Do(func() {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ARP))); err != nil {
			return
		}
		var i *net.Interface
		if i, err = net.InterfaceByName(dev); err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: i.Index})
		}
	})
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	}
	if err != nil {
		t.Fatal(err)
	}
	log := &arpLog{}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(fd)
		frame := make([]byte, 100)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, from, err := unix.Recvfrom(fd, frame, 0)
			if ll, ok := from.(*unix.SockaddrLinklayer); err != nil || n < 42 || ok && ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			ip := func(at int) string { return netip.AddrFrom4([4]byte(frame[at : at+4])).String() }
			log.mu.Lock()
			log.packets = append(log.packets, arpPacket{frame[21], net.HardwareAddr(frame[22:28]).String(), ip(28), ip(38)})
			log.mu.Unlock()
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return log
}

// count tells how many packets match.
func (l *arpLog) count(match func(arpPacket) bool) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.packets {
		if match(p) {
			n++
		}
	}
	return n
}

func (l *arpLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.packets = nil
}

// gratuitous counts the announcements of an address by a member.
func (l *arpLog) gratuitous(m *member, a string) int {
	return l.count(func(p arpPacket) bool { return p.gratuitous() && p.mac == m.mac && p.from == a })
}

// claims counts whatever a member says about addresses that are announced.
func (l *arpLog) claims(m *member) int {
	return l.count(func(p arpPacket) bool { return p.mac == m.mac && announcedRange.Contains(addr(p.from)) })
}

// One firewall alone: an install makes the upstream find the machine, its uninstall leaves everything as it was.
func TestAnnouncedAddressIsFoundByTheUpstream(t *testing.T) {
	t.Parallel()
	l := newLink(t, 1)
	fw := l.members[0]
	fw.ns.MustRun("ip", "route", "add", "local", "203.0.113.200/32", "dev", "lo") // somebody's own of the same kind
	fw.ns.MustRun("ip", "route", "add", "blackhole", "198.51.100.0/24", "proto", "static")
	before := fw.addresses()
	l.silent(publicA + ":80")

	fw.carry(customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80)), customer(idC, "10.0.0.200", "203.0.113.150"))
	testnet.Until(t, patience, "gratuitous ARP", func() bool { return l.seen.gratuitous(fw, publicA) > 0 })
	if s := l.answers(publicA + ":80"); s.seen != upstream {
		t.Errorf("the guest sees %s", s.seen)
	}
	l.silent(publicA + ":81")
	if diff := cmp.Diff([]string{publicA}, fw.announces()); diff != "" {
		t.Errorf("an address outside of the ranges is announced, or one inside is not: %s", diff)
	}
	serve(t, l.upstream, upstream+":7000")
	if s, err := dial(t, l.guest, privateA, upstream+":7000", patience); err != nil || s.seen != publicA {
		t.Errorf("the upstream sees %v, %v", s, err)
	}
	t.Run("nothing of the firewall's own is reached by it", func(t *testing.T) {
		serve(t, fw.ns, "0.0.0.0:9000")
		if _, err := dial(t, l.upstream, "", "203.0.113.2:9000", patience); err != nil {
			t.Fatalf("the service does not answer at all: %v", err)
		}
		l.silent(publicA + ":9000")
		fw.iptables("-t", "nat", "-F", "SLIPWAY-DNAT") // whatever was not translated
		l.silent(publicA + ":9000")
		fw.carry(customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80)))
	})

	fw.carry()
	if diff := cmp.Diff(before, fw.addresses()); diff != "" {
		t.Errorf("after the uninstall (-before +after):\n%s", diff)
	}
	l.upstream.MustRun("ip", "neighbour", "flush", "all")
	l.seen.forget()
	l.silent(publicA + ":80")
	if n := l.seen.claims(fw); n > 0 {
		t.Errorf("the firewall still claims the address: %d packets", n)
	}
}

// Of two firewalls with the same state only the active one speaks. When the role moves, the old one is silent from that moment, although
// nothing of ours tells it, and the new one announces what it has taken over.
func TestTakeover(t *testing.T) {
	t.Parallel()
	l := newLink(t, 2)
	one, two := l.members[0], l.members[1]
	entries := []orchestrator.FirewallEntry{customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80)), customer(idB, privateB, publicB, allow("tcp", "0.0.0.0/0", 80))}
	for _, m := range l.members {
		m.carry(entries...)
	}
	two.follow()
	l.answers(publicA + ":80")
	l.answers(publicB + ":80")
	if l.neighbour(publicA) != one.mac || len(two.announces()) != 0 || l.seen.claims(two) != 0 {
		t.Fatalf("%s is at %s; the standby announces %v and has sent %d packets", publicA, l.neighbour(publicA), two.announces(), l.seen.claims(two))
	}

	l.seen.forget()
	l.move(1)
	if left := one.announces(); len(left) != 0 {
		t.Errorf("without its floating address the first still announces %v", left)
	}
	testnet.Until(t, patience, "the second to announce all", func() bool { return l.seen.gratuitous(two, publicA) > 0 && l.seen.gratuitous(two, publicB) > 0 })
	if mac := l.neighbour(publicA); mac != two.mac {
		t.Errorf("the upstream goes to %s, not to %s, for %s", mac, two.mac, publicA)
	}
	l.answers(publicA + ":80")
	testnet.Until(t, patience, "the announcements to be repeated", func() bool { return l.seen.gratuitous(two, publicA) > 1 && l.seen.gratuitous(two, publicB) > 1 })

	one.follow()
	for _, m := range l.members { // an install after the takeover
		m.carry(entries[0])
	}
	for _, m := range l.members {
		m.carry(entries...)
	}
	l.answers(publicB + ":80")
	if diff := cmp.Diff([]string{publicA, publicB}, two.announces()); diff != "" || len(one.announces()) != 0 || l.seen.claims(one) != 0 {
		t.Errorf("%s; the standby announces %v and has sent %d packets", diff, one.announces(), l.seen.claims(one))
	}

	l.move(0) // and back, both following
	testnet.Until(t, patience, "the first to announce again", func() bool { return l.seen.gratuitous(one, publicA) > 0 })
	if left := two.announces(); len(left) != 0 {
		t.Errorf("the second still announces %v", left)
	}
	l.answers(publicA + ":80")
}

func TestWhatCannotBeAnnounced(t *testing.T) {
	t.Parallel()
	l := newLink(t, 2)
	fw := l.members[0]
	text := func(entries ...orchestrator.FirewallEntry) map[string]string {
		files, _, err := Render(templates, fw.env, entries)
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{RulesFile: files[0].Content, AnnounceFile: files[1].Content}
	}
	good := text(customer(idA, privateA, publicA))
	if err := fw.judge(good); err != nil {
		t.Fatal(err)
	}
	with := func(announce string) map[string]string {
		return map[string]string{RulesFile: good[RulesFile], AnnounceFile: announce}
	}
	for name, test := range map[string]struct {
		texts map[string]string
		line  int
		words string
	}{
		"not translated": {with("members 2\n" + publicB + " " + idB + "\n"), 2, "do not translate"},
		"no members":     {with(publicA + " " + idA + "\n"), 1, "members N"},
		"empty":          {with(""), 1, "is missing"},
		"no address":     {with("members 2\n0.0.0.0/0 " + idA + "\n"), 2, "does not begin with an address"},
		"IPv6":           {with("members 2\n2001:db8::1 " + idA + "\n"), 2, "not IPv4"},
		"twice":          {with("members 2\n" + publicA + " " + idA + "\n" + publicA + " " + idA + "\n"), 3, "twice"},
		"no machine":     {with("members 2\n" + publicA + "\n"), 2, "machine's id"},
	} {
		var fault *agent.Fault
		if err := fw.judge(test.texts); !errors.As(err, &fault) || fault.File != AnnounceFile || fault.Line != test.line || !strings.Contains(fault.Message, test.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	fault := func(what, words string) {
		t.Helper()
		var fault *agent.Fault
		if err := fw.judge(good); !errors.As(err, &fault) || AnnouncedMachine(good[AnnounceFile], fault.Line) != idA || !strings.Contains(fault.Message, words) {
			t.Errorf("%s: %v", what, err)
		}
	}
	fw.ns.MustRun("ip", "address", "add", publicA+"/32", "dev", "wan")
	fault("somebody's address", "on an interface")
	fw.ns.MustRun("ip", "address", "del", publicA+"/32", "dev", "wan")
	fw.ns.MustRun("ip", "route", "add", publicA+"/32", "dev", "inside")
	fault("somebody's route", "a route to")
	fw.ns.MustRun("ip", "route", "del", publicA+"/32", "dev", "inside")

	unsupported := func(what, words string) {
		t.Helper()
		if err := fw.judge(good); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", what, err)
		}
	}
	setting(t, fw.ns, "conf/wan/arp_ignore", "1")
	unsupported("arp_ignore", "arp_ignore is 1")
	setting(t, fw.ns, "conf/wan/arp_ignore", "0")
	fw.configure(&AnnounceConfig{Interface: "nosuch", ActiveWhen: addr(floating)})
	unsupported("no interface", "nosuch")
	fw.configure(&AnnounceConfig{Interface: "lo", ActiveWhen: addr(floating)})
	unsupported("loopback", "no ARP")
	fw.configure(&AnnounceConfig{Interface: "wan"})
	unsupported("several and no role", "one of 2")
}

// A change that nobody proves goes with its announcements; without a section for them, what an earlier one had announced goes too.
func TestAnnouncementsGoWithTheirRules(t *testing.T) {
	t.Parallel()
	l := newLink(t, 1)
	fw := l.members[0]
	first := customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80))
	fw.carry(first)
	fw.unit.cfg.RevertAfter = time.Second // nothing of the unit runs
	fw.place(first, customer(idB, privateB, publicB))
	if err := fw.reload(agent.Change{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{publicA, publicB}, fw.announces()); diff != "" {
		t.Fatal(diff)
	}
	testnet.Until(t, patience, "the revert", func() bool { return slices.Equal(fw.announces(), []string{publicA}) })
	stop := fw.follow() // which finds the file of the change that was taken back
	l.answers(publicA + ":80")
	if diff := cmp.Diff([]string{publicA}, fw.announces()); diff != "" {
		t.Errorf("an address is announced whose rules are gone: %s", diff)
	}
	stop()
	fw.configure(nil)
	fw.place(first)
	if err := errors.Join(fw.reload(agent.Change{}), fw.prove()); err != nil || len(fw.announces()) != 0 {
		t.Errorf("%v, still announced: %v", err, fw.announces())
	}
}

func TestAnnouncementsComeBackAfterABoot(t *testing.T) {
	t.Parallel()
	l := newLink(t, 1)
	fw := l.members[0]
	fw.carry(customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80)))
	for _, table := range []string{"filter", "nat"} { // what a boot leaves of it
		fw.iptables("-t", table, "-F")
	}
	fw.ns.MustRun("ip", "route", "flush", "table", "main", "proto", fmt.Sprint(routeProtocol))
	if err := fw.in(fw.unit.Boot); err != nil {
		t.Fatal(err)
	}
	stop := fw.follow()
	testnet.Until(t, patience, "the announcement", func() bool { return slices.Equal(fw.announces(), []string{publicA}) })
	l.answers(publicA + ":80")
	stop()
	l.answers(publicA + ":80") // a service that ends takes nothing with it
}

func TestRenderAnnouncements(t *testing.T) {
	t.Parallel()
	cfg := labConfig()
	cfg.ARP = &Delivery{Ranges: []orchestrator.AddressRange{announcedRange}, Members: 2}
	files, _, err := Render(templates, cfg, []orchestrator.FirewallEntry{
		customer(idC, privateC, "203.0.113.150"), customer(idB, privateB, publicB), customer(idA, privateA, publicA), // the first is outside of the ranges
	})
	if err != nil || len(files) != 2 || files[1].Name != AnnounceFile {
		t.Fatalf("%v, %v", files, err)
	}
	want := "# Written by slipway: addresses that this firewall answers ARP for; what is changed here by hand is replaced.\nmembers 2\n" +
		publicA + " " + idA + "\n" + publicB + " " + idB + "\n"
	if diff := cmp.Diff(want, files[1].Content); diff != "" {
		t.Error(diff)
	}
	for line, machine := range []string{"", "", "", idA, idB, ""} {
		if got := AnnouncedMachine(want, line); got != machine {
			t.Errorf("line %d is about %q, want %q", line, got, machine)
		}
	}
	for _, rule := range []string{":SLIPWAY-INPUT - [0:0]\n", "-A SLIPWAY-INPUT -d 203.0.113.1/32 -j RETURN\n", "-A SLIPWAY-INPUT -m iprange --dst-range 203.0.113.10-203.0.113.99 -j DROP\n"} {
		if !strings.Contains(files[0].Content, rule) {
			t.Errorf("the rules lack %q", rule)
		}
	}
	cfg.ARP = &Delivery{Ranges: []orchestrator.AddressRange{{First: addr("192.0.2.1"), Last: addr("192.0.2.9")}}}
	if _, _, err := Render(templates, cfg, nil); err == nil || !strings.Contains(err.Error(), "arp.members") || !strings.Contains(err.Error(), "arp.ranges[0]") {
		t.Errorf("%v", err)
	}
}

func TestARPAnnouncement(t *testing.T) {
	t.Parallel()
	want := []byte("\x00\x01\x08\x00\x06\x04\x00\x01" + "\x02\x00\x00\x00\x00\x2a" + "\xcb\x00\x71\x0b" + "\x00\x00\x00\x00\x00\x00" + "\xcb\x00\x71\x0b")
	if got := arpAnnouncement(net.HardwareAddr{2, 0, 0, 0, 0, 0x2a}, addr(publicA)); !bytes.Equal(got, want) {
		t.Errorf("% x", got)
	}
}

func TestManyAddressesAreAnnounced(t *testing.T) {
	t.Parallel()
	l := newLink(t, 2)
	fw := l.members[0]
	wanted := map[netip.Addr]bool{}
	for a, n := addr("100.64.0.1"), 0; n < 5000; a, n = a.Next(), n+1 {
		wanted[a] = true
	}
	began := time.Now()
	err := fw.in(func(context.Context) error { _, err := fw.unit.add(wanted); return err })
	if err != nil || len(fw.announces()) != len(wanted) {
		t.Fatalf("%v, %d of %d", err, len(fw.announces()), len(wanted))
	}
	t.Logf("%d addresses in %s", len(wanted), time.Since(began))
	l.move(1)
	if left := fw.announces(); len(left) != 0 {
		t.Errorf("%d of them outlive the floating address", len(left))
	}
}
