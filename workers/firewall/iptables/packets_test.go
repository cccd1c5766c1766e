package iptables

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/testnet"
)

func TestPacketsOfTheCustomersPhase(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		serve(t, l.outside, client+":7000")
		l.apply(nil,
			customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80), allow("tcp", stranger+"/32", 22)),
			customer(idB, privateB, publicB, allow("tcp", "0.0.0.0/0", 80), allow("icmp", "0.0.0.0/0"), allow("tcp", publicA+"/32", 22)))

		if s := l.open(l.outside, client, publicA+":80"); s.seen != client {
			t.Errorf("the guest sees %s, not the client", s.seen)
		}
		l.closed(l.outside, client, publicA+":81")
		l.closed(l.outside, client, publicA+":22")
		l.open(l.outside, stranger, publicA+":22")

		// The guest's own traffic, and nobody's without a rule.
		if s := l.open(l.guests[privateA], "", client+":7000"); s.seen != publicA {
			t.Errorf("the guest leaves as %s, not as %s", s.seen, publicA)
		}
		l.closed(l.guests[privateC], "", client+":7000") // no machine has this address
		l.closed(l.outside, client, publicC+":80")

		// icmp: B answers, A does not.
		l.outside.MustRun("busybox", "ping", "-c", "1", "-W", "5", publicB)
		if out, err := l.outside.Run(t.Context(), "busybox", "ping", "-c", "1", "-W", "1", publicA); err == nil {
			t.Errorf("A answers: %s", out)
		}

		// Whoever knows the way to the private addresses, on a site that forwards everything, gets no further.
		l.iptables("-P", "FORWARD", "ACCEPT")
		l.outside.MustRun("ip", "route", "add", "10.0.0.0/24", "via", "198.51.100.254")
		l.open(l.outside, client, privateA+":80")
		l.closed(l.outside, client, privateA+":81")
		l.closed(l.outside, client, privateC+":80")

		// The firewall itself reaches the machines by their public addresses.
		l.open(l.ns, "", publicA+":80")
	})
}

func TestHairpin(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		l.apply(nil,
			customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80)),
			customer(idB, privateB, publicB, allow("tcp", "0.0.0.0/0", 80), allow("tcp", publicA+"/32", 22)),
			customer(idC, privateC, publicC))
		a, c := l.guests[privateA], l.guests[privateC]
		for range 3 { // a redirect by the firewall would change the way of the second
			s := l.open(a, "", publicB+":80")
			if s.seen != publicA {
				t.Errorf("B sees %s, want %s", s.seen, publicA)
			}
			if err := s.echo(patience); err != nil {
				t.Fatal(err)
			}
		}
		if way := a.MustRun("ip", "route", "get", publicB); strings.Contains(way, "redirected") || !strings.Contains(way, "via 10.0.0.1 ") {
			t.Errorf("the guest was told another way: %s", way)
		}
		if s := l.open(a, "", publicA+":80"); s.seen != publicA {
			t.Errorf("A sees itself as %s", s.seen)
		}
		l.closed(a, "", publicB+":81")
		l.open(a, "", publicB+":22") // let in by A's public address
		l.closed(c, "", publicB+":22")
	})
}

func TestInstallersPhase(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		serve(t, l.outside, client+":7000")
		l.apply(nil, installing(idA, privateA, publicA, client+"/32", 22))
		s := l.open(l.outside, client, publicA+":22")
		l.closed(l.outside, client, publicA+":80")
		l.closed(l.outside, stranger, publicA+":22")
		if out := l.open(l.guests[privateA], "", client+":7000"); out.seen != publicA {
			t.Errorf("the guest installs from %s", out.seen)
		}

		l.apply([]string{privateA, publicA}, customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80)))
		l.closed(l.outside, client, publicA+":22")
		l.open(l.outside, stranger, publicA+":80")
		if err := s.echo(silence); err == nil {
			t.Error("the installer's connection outlives its rule")
		}
	})
}

func TestSpoofedSourcesAreDropped(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		l.apply(nil, customer(idA, privateA, publicA, allow("udp", "0.0.0.0/0", 9000)), customer(idB, privateB, publicB), customer(idC, privateC, publicC))
		a := l.guests[privateA]
		for _, spoofed := range []string{"10.0.0.99", "192.0.2.9", publicB} {
			a.MustRun("ip", "addr", "add", spoofed+"/32", "dev", "lo")
		}
		// The last datagram is honest; what comes before it was let through.
		received := hear(t, l.outside, client+":9000")
		for _, from := range []string{"10.0.0.99", "192.0.2.9", publicB, privateA} {
			say(t, a, from, client+":9000")
		}
		if diff := cmp.Diff([]string{publicA}, received(publicA)); diff != "" {
			t.Errorf("sources that left (-want +got):\n%s", diff)
		}

		// From outside nobody is a guest.
		l.outside.MustRun("ip", "addr", "add", privateC+"/32", "dev", "lo")
		received = hear(t, a, privateA+":9000")
		for _, from := range []string{privateC, client} {
			say(t, l.outside, from, publicA+":9000")
		}
		if diff := cmp.Diff([]string{client}, received(client)); diff != "" {
			t.Errorf("sources that came in (-want +got):\n%s", diff)
		}
	})
}

func TestSpoofedSourcesWithoutInsideInterfaces(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		l.env.InsideInterfaces = nil
		l.apply(nil, customer(idA, privateA, publicA))
		a := l.guests[privateA]
		a.MustRun("ip", "addr", "add", "10.0.0.99/32", "dev", "lo")
		received := hear(t, l.outside, client+":9000")
		say(t, a, "10.0.0.99", client+":9000")
		say(t, a, privateA, client+":9000")
		if diff := cmp.Diff([]string{publicA}, received(publicA)); diff != "" {
			t.Errorf("sources that left (-want +got):\n%s", diff)
		}
	})
}

func TestRemovedMachineIsCutOff(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		a := customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80))
		b := customer(idB, privateB, publicB, allow("tcp", "0.0.0.0/0", 80))
		l.apply(nil, a, b)
		gone, stays := l.open(l.outside, client, publicA+":80"), l.open(l.outside, client, publicB+":80")
		for _, s := range []*session{gone, stays} {
			if err := s.echo(patience); err != nil {
				t.Fatal(err)
			}
		}
		l.apply([]string{privateA, publicA}, b)
		if err := gone.echo(silence); err == nil {
			t.Error("the removed machine's connection lives")
		}
		if err := stays.echo(patience); err != nil {
			t.Errorf("its neighbour's connection: %v", err)
		}
		l.closed(l.outside, client, publicA+":80")
		rules := l.rules()
		for _, trace := range []string{idA, chainOf(idA), privateA, publicA} {
			if strings.Contains(rules, trace+" ") || strings.Contains(rules, trace+"/") || strings.Contains(rules, trace+"\n") {
				t.Errorf("%s is left:\n%s", trace, rules)
			}
		}
		if flows := l.ns.MustRun(l.cfg.Conntrack, "-L"); strings.Contains(flows, privateA+" ") || strings.Contains(flows, publicA+" ") {
			t.Errorf("its connection is still tracked:\n%s", flows)
		}
	})
}

// The guest's next packet must not bring a connection back that was cut: conntrack would take it for a new one of the guest's own.
func TestCutConnectionIsNotPickedUpAgain(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		var listener net.Listener
		var err error
		l.guests[privateA].Do(func() { listener, err = net.Listen("tcp4", privateA+":8080") })
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		l.apply(nil, customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 8080)))
		var caller net.Conn
		l.outside.Do(func() { caller, err = net.DialTimeout("tcp4", publicA+":8080", patience) })
		if err != nil {
			t.Fatal(err)
		}
		defer caller.Close()
		guest, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer guest.Close()

		l.apply([]string{privateA, publicA}, customer(idA, privateA, publicA))
		if _, err := guest.Write([]byte("still here?")); err != nil {
			t.Fatal(err)
		}
		_ = caller.SetReadDeadline(time.Now().Add(silence))
		if n, err := caller.Read(make([]byte, 100)); err == nil {
			t.Errorf("the guest's %d bytes arrived", n)
		}
	})
}

// A packet that conntrack knows nothing about is not translated, and would show the private address to the world.
func TestUntrackedPacketsStayInside(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		l.apply(nil, customer(idA, privateA, publicA))
		var raw net.PacketConn
		var err error
		l.outside.Do(func() { raw, err = net.ListenPacket("ip4:icmp", client) })
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		l.guests[privateA].Do(func() {
			var conn net.PacketConn
			if conn, err = net.ListenPacket("ip4:icmp", privateA); err != nil {
				return
			}
			defer conn.Close()
			for _, message := range [][]byte{ // type, code, checksum, id, sequence
				{0, 0, 0xff, 0xff, 0, 0, 0, 0}, // a reply that nobody asked for
				{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, // a request
			} {
				if _, err = conn.WriteTo(message, &net.IPAddr{IP: net.ParseIP(client)}); err != nil {
					return
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.SetReadDeadline(time.Now().Add(patience))
		if _, from, err := raw.ReadFrom(make([]byte, 100)); err != nil || from.String() != publicA {
			t.Errorf("the first packet comes from %v (%v), want the request from %s", from, err, publicA)
		}
	})
}

func TestRoutedMachine(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		const routed = "203.0.113.200"
		c := l.guests[privateC]
		c.MustRun("ip", "addr", "add", routed+"/32", "dev", "eth0")
		l.ns.MustRun("ip", "route", "add", routed, "dev", "inside")
		serve(t, c, routed+":80")
		serve(t, c, routed+":81")
		serve(t, l.outside, client+":7000")
		l.apply(nil, customer(idC, routed, "", allow("tcp", "0.0.0.0/0", 80)), customer(idA, privateA, publicA))
		l.open(l.outside, client, routed+":80")
		l.closed(l.outside, client, routed+":81")
		if s := l.open(c, routed, client+":7000"); s.seen != routed {
			t.Errorf("leaves as %s", s.seen)
		}
		if s := l.open(l.guests[privateA], "", routed+":80"); s.seen != publicA {
			t.Errorf("a machine behind NAT is seen as %s", s.seen)
		}
	})
}

func TestPrivateToPrivateIsNotTranslated(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		const resolver = "10.9.0.53" // the site's, in a private range behind another router
		l.outside.MustRun("ip", "addr", "add", resolver+"/32", "dev", "lo")
		l.outside.MustRun("ip", "route", "add", "10.0.0.0/24", "via", "198.51.100.254")
		serve(t, l.outside, resolver+":53")
		l.env.Private = append(l.env.Private, prefix("10.9.0.0/24"))
		l.env.Foreign = append(l.env.Foreign, prefix(resolver+"/32"))
		l.apply(nil, customer(idA, privateA, publicA))
		l.closed(l.guests[privateA], "", resolver+":53") // the site decides about what is its own
		l.iptables("-A", "FORWARD", "-d", resolver, "-j", "ACCEPT")
		if s := l.open(l.guests[privateA], "", resolver+":53"); s.seen != privateA {
			t.Errorf("the resolver sees %s, want %s", s.seen, privateA)
		}
	})
}

func TestForeignAddressesAreLeftToTheSite(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		const elsewhere = "192.0.2.50" // of the site's, beside the machines and in none of our ranges
		l.env.Foreign = append(l.env.Foreign, prefix(privateC+"/32"), prefix(elsewhere+"/32"))
		c := l.guests[privateC]
		c.MustRun("ip", "addr", "add", elsewhere+"/32", "dev", "eth0")
		l.ns.MustRun("ip", "route", "add", elsewhere, "dev", "inside")
		for _, to := range []string{privateC, elsewhere} {
			l.outside.MustRun("ip", "route", "add", to, "via", "198.51.100.254")
		}
		serve(t, c, elsewhere+":80")
		serve(t, l.outside, client+":7000")
		serve(t, l.outside, client+":7001")
		l.apply(nil, customer(idA, privateA, publicA))
		l.closed(l.outside, client, privateC+":80") // by the site's policy
		l.iptables("-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
		l.iptables("-A", "FORWARD", "-p", "tcp", "--dport", "80", "-j", "ACCEPT")
		l.iptables("-A", "FORWARD", "-p", "tcp", "--dport", "7000", "-j", "ACCEPT")
		l.open(l.outside, client, privateC+":80")
		l.open(l.outside, client, elsewhere+":80")
		l.closed(l.outside, client, privateC+":81")
		for _, from := range []string{privateC, elsewhere} {
			if s := l.open(c, from, client+":7000"); s.seen != from {
				t.Errorf("%s leaves as %s", from, s.seen)
			}
			l.closed(c, from, client+":7001")
		}
		l.closed(l.outside, client, publicA+":80") // ours are closed whatever the site accepts

		// The gateway outside has an address of the public range.
		const gateway = "203.0.113.1"
		l.outside.MustRun("ip", "addr", "add", gateway+"/32", "dev", "lo")
		l.apply(nil, customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80)))
		l.open(l.outside, gateway, publicA+":80")
		l.closed(l.outside, gateway, publicA+":81")
	})
}

// hear collects the sources of datagrams; the returned function waits for one from last and gives all up to it.
func hear(t *testing.T, ns *testnet.Namespace, address string) func(last string) []string {
	t.Helper()
	var conn net.PacketConn
	var err error
	ns.Do(func() { conn, err = net.ListenPacket("udp4", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return func(last string) (sources []string) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		for {
			_, from, err := conn.ReadFrom(make([]byte, 100))
			if err != nil {
				t.Fatalf("waiting for %s after %v: %v", last, sources, err)
			}
			host, _, _ := net.SplitHostPort(from.String())
			sources = append(sources, host)
			if host == last {
				return sources
			}
		}
	}
}

// say sends one datagram.
func say(t *testing.T, ns *testnet.Namespace, from, to string) {
	t.Helper()
	var err error
	ns.Do(func() {
		var conn net.PacketConn
		if conn, err = net.ListenPacket("udp4", from+":0"); err != nil {
			return
		}
		defer conn.Close()
		_, err = conn.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
	})
	if err != nil {
		t.Fatalf("%s to %s: %v", from, to, err)
	}
}
