package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"slipway/orchestrator"
)

// count compares what was ordered with what is there: the panel's events, the database's rows, the pools over XenAPI, the appliances' files,
// the running dhcpd, the kernel's rules, the ports of the consoles, and the guests behind the firewall.
func (c *crash) count() (lost, leaked, duplicated []string) {
	c.t.Helper()
	n := &tally{crash: c, alive: map[string]orchestrator.Machine{}}
	n.orders()
	n.machines()
	found := c.s.world()
	report := found.Compare(slices.Collect(maps.Values(n.known)))
	n.leaked, n.duplicated = append(n.leaked, report.Leaked...), append(n.duplicated, report.Duplicated...)
	running, blocks, consoles, translated := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, vm := range found.VMs {
		running[vm.Machine] = vm.Power == "Running"
	}
	for _, h := range found.Hosts {
		blocks[h.Name] = true
	}
	for _, line := range found.Consoles {
		consoles[line.VM] = true
	}
	for _, r := range found.Rules {
		if strings.Contains(r.Text, "-j DNAT") {
			translated[r.Comment] = true
		}
	}
	for id, m := range n.alive {
		for what, there := range map[string]bool{"VM that runs": running[id], "host block": blocks[id], "console line": consoles[m.VM], "translated address": translated[id]} {
			if !there {
				n.lose("machine %s (%s) has no %s", id, m.Name, what)
			}
		}
	}
	n.running()
	return n.lost, n.leaked, n.duplicated
}

type tally struct {
	*crash
	known, alive             map[string]orchestrator.Machine // in the database; of those, whose install was ordered and whose uninstall was not
	lost, leaked, duplicated []string
}

func (n *tally) lose(format string, args ...any) {
	n.lost = append(n.lost, fmt.Sprintf(format, args...))
}
func (n *tally) leak(format string, args ...any) {
	n.leaked = append(n.leaked, fmt.Sprintf(format, args...))
}
func (n *tally) twice(format string, args ...any) {
	n.duplicated = append(n.duplicated, fmt.Sprintf(format, args...))
}

// orders: each had one final event, that it is done, and was about one machine; each machine's events came in order and without a gap.
func (n *tally) orders() {
	ended := n.ended()
	about := map[string]map[string]bool{}
	highest := map[string]int{}
	for _, e := range n.desk.heard() {
		if e.Subject == "" {
			continue
		}
		if about[e.Data.Order] == nil {
			about[e.Data.Order] = map[string]bool{}
		}
		about[e.Data.Order][e.Subject] = true
		if e.Seq > highest[e.Subject]+1 {
			n.lose("machine %s: after event %d its panel heard event %d", e.Subject, highest[e.Subject], e.Seq)
		}
		highest[e.Subject] = max(highest[e.Subject], e.Seq)
	}
	for order := range n.final {
		events := ended[order]
		switch {
		case len(events) == 0:
			n.lose("order %s had no final event", order)
		case len(events) > 1:
			n.twice("order %s had %d different final events", order, len(events))
		case events[0].Type != "slipway.run.done":
			n.lose("order %s ended with %s", order, events[0].Type)
		}
		if len(about[order]) > 1 {
			n.twice("order %s has %d machines", order, len(about[order]))
		}
	}
}

// machines: the database has one for each install, finished or gone as was ordered, and a run for each order.
func (n *tally) machines() {
	n.known = map[string]orchestrator.Machine{}
	byName := map[string]orchestrator.Machine{}
	for _, m := range n.s.machines() {
		n.known[m.ID] = m
		if other, there := byName[m.Name]; there {
			n.twice("%s is machine %s and machine %s", m.Name, other.ID, m.ID)
		}
		byName[m.Name] = m
	}
	for order := range n.final {
		number, isInstall := strings.CutPrefix(order, "order-")
		if !isInstall {
			continue
		}
		m, there := byName["vm-"+number]
		delete(byName, "vm-"+number)
		leaves := n.final["leave-"+order]
		switch {
		case !there:
			n.lose("order %s has no machine in the database", order)
		case leaves && m.Presence != orchestrator.Absent:
			n.leak("machine %s (%s) was ordered away and is %s, %s", m.ID, m.Name, m.Presence, m.State)
		case !leaves && m.State != "production_ready":
			n.lose("machine %s (%s) is %s", m.ID, m.Name, m.State)
		case !leaves:
			n.alive[m.ID] = m
		}
	}
	for name, m := range byName {
		n.leak("machine %s (%s) was ordered by nobody", m.ID, name)
	}
	if !n.ask(`SELECT order_id, count(*) FROM runs GROUP BY order_id`, nil, func(rows pgx.Rows) error {
		var order string
		var runs int
		err := rows.Scan(&order, &runs)
		if runs > 1 {
			n.twice("order %s has %d runs", order, runs)
		}
		return err
	}) {
		n.t.Error("the database does not answer")
	}
}

// running asks what runs: dhcpd, the console host, the guests behind the firewall.
func (n *tally) running() {
	want := map[string]netip.Addr{}
	ports := map[int]bool{}
	for _, m := range n.alive {
		want[m.Placement.MAC] = m.Placement.Private
		ports[int(m.Placement.ConsolePort)] = true
	}
	offered := n.s.offers(slices.Sorted(maps.Keys(n.s.guests.boots)), slices.Sorted(maps.Keys(want)))
	for mac, address := range want {
		switch got := offered[mac]; {
		case !got.IsValid():
			n.lose("dhcpd offers nothing to %s, which has %s", mac, address)
		case got != address:
			n.lose("dhcpd offers %s to %s, which has %s", got, mac, address)
		}
		delete(offered, mac)
	}
	for mac, address := range offered {
		n.leak("dhcpd offers %s to %s, whose machine is gone", address, mac)
	}
	listened := n.s.consolePorts()
	for port := range ports {
		if !listened[port] {
			n.lose("nobody listens on console port %d", port)
		}
		delete(listened, port)
	}
	for port := range listened {
		n.leak("console port %d is open, and no machine has it", port)
	}
	n.guests()
}

// guests: each answers a customer at its public address, and was booted once.
func (n *tally) guests() {
	var answering sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan bool, 16)
	for _, m := range n.alive {
		answering.Go(func() {
			slots <- true
			defer func() { <-slots }()
			words, err := listening(n.s.customer, net.JoinHostPort(m.Placement.Public.String(), "22"), 10*time.Second)
			if err != nil || !strings.HasPrefix(words, "SSH-2.0-") {
				mu.Lock()
				n.lose("machine %s does not answer at %s: %q, %v", m.ID, m.Placement.Public, words, err)
				mu.Unlock()
			}
		})
	}
	answering.Wait()
	n.s.guests.mu.Lock()
	defer n.s.guests.mu.Unlock()
	for mac, boots := range n.s.guests.boots {
		if boots != 1 {
			n.twice("the guest with MAC %s was booted %d times", mac, boots)
		}
	}
	if on, want := len(n.s.guests.booted), len(n.alive); on > want {
		n.leak("%d guests run, %d should", on, want)
	}
}

// consolePorts are the TCP ports of the range for consoles that somebody listens on at the console host, by the kernel's own list.
func (s *site) consolePorts() map[int]bool {
	s.t.Helper()
	var text []byte
	var err error
	s.console.ns.Do(func() { text, err = os.ReadFile("/proc/thread-self/net/tcp") })
	if err != nil {
		s.t.Fatal(err)
	}
	open := map[int]bool{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // sl local_address rem_address st …; 0A is LISTEN (proc(5))
		if len(fields) < 4 || fields[3] != "0A" {
			continue
		}
		_, port, _ := strings.Cut(fields[1], ":")
		if n, err := strconv.ParseUint(port, 16, 16); err == nil && n >= 20000 && n <= 20999 {
			open[int(n)] = true
		}
	}
	return open
}

// offers asks the running dhcpd, as a relay (RFC 2131, 4.1), what it would give to each MAC. Those that must have something are asked last
// and until they do: whoever was asked before and got nothing gets nothing.
func (s *site) offers(all, must []string) map[string]netip.Addr {
	s.t.Helper()
	p := s.pools[0]
	relay, server := p.at(p.private, 1, 1), p.at(p.private, 0, 2)
	var conn *net.UDPConn
	var err error
	s.guests.ns.Do(func() {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(relay, 67)))
	})
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	offered := map[string]netip.Addr{}
	hear := func(until time.Time) {
		answer := make([]byte, 1500)
		for {
			if err := conn.SetReadDeadline(until); err != nil {
				return
			}
			size, err := conn.Read(answer)
			if err != nil {
				return
			}
			if mac, address, ok := offer(answer[:size]); ok {
				offered[mac] = address
			}
		}
	}
	ask := func(macs []string) {
		for _, mac := range macs {
			if offered[mac].IsValid() {
				continue
			}
			if _, err := conn.WriteToUDPAddrPort(discover(mac, relay), netip.AddrPortFrom(server, 67)); err != nil {
				s.t.Errorf("ask dhcpd about %s: %v", mac, err)
			}
			hear(time.Now().Add(time.Millisecond)) // neither side's buffer is to run over
		}
	}
	ask(all)
	ask(all) // a datagram may be lost
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		ask(must)
		hear(time.Now().Add(100 * time.Millisecond))
		if !slices.ContainsFunc(must, func(mac string) bool { return !offered[mac].IsValid() }) {
			break
		}
	}
	return offered
}

// The fixed part of a DHCP message (RFC 2131, figure 1) up to its options.
const (
	dhcpFixed = 240
	dhcpMagic = "\x63\x82\x53\x63" // its last four bytes
)

// discover is a DHCPDISCOVER of a MAC that came in by a relay.
func discover(mac string, relay netip.Addr) []byte {
	hardware, _ := net.ParseMAC(mac) // one that is none finds nobody
	b := make([]byte, dhcpFixed, 300)
	b[0], b[1], b[2] = 1, 1, 6 // BOOTREQUEST, Ethernet, its length
	copy(b[4:8], hardware[max(0, len(hardware)-4):])
	copy(b[24:28], relay.AsSlice())
	copy(b[28:34], hardware)
	copy(b[236:], dhcpMagic)
	return append(b, 53, 1, 1, 255) // DHCPDISCOVER, end
}

// offer is what a DHCPOFFER gives to whom.
func offer(b []byte) (mac string, address netip.Addr, ok bool) {
	if len(b) < dhcpFixed+3 || b[0] != 2 || !bytes.Equal(b[236:dhcpFixed], []byte(dhcpMagic)) {
		return "", netip.Addr{}, false
	}
	for options := b[dhcpFixed:]; len(options) > 2 && options[0] != 255; options = options[min(len(options), 2+int(options[1])):] {
		if options[0] == 53 && options[2] == 2 {
			return net.HardwareAddr(b[28:34]).String(), netip.AddrFrom4([4]byte(b[16:20])), true
		}
	}
	return "", netip.Addr{}, false
}
