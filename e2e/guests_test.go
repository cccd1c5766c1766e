package e2e

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"slipway/internal/testnet"
	"slipway/sim/guest"
	simxapi "slipway/sim/xapi"
)

// guests are simulated machines in the machines' network, all behind one interface: each has the address that dhcpd's file gives its MAC,
// and is reached through the real firewall.
type guests struct {
	s   *site
	ns  *testnet.Namespace
	ctx context.Context

	mu     sync.Mutex
	booted map[string]*booted // by MAC
	boots  map[string]int     // VMs that ever ran with a MAC
}

type booted struct {
	guest   *guest.Guest
	address string
}

func newGuests(s *site) *guests {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g := &guests{s: s, ns: s.lab.Namespace("guests"), ctx: ctx, booted: map[string]*booted{}, boots: map[string]int{}}
	s.attach(g.ns)
	for _, p := range s.pools {
		g.ns.MustRun("ip", "address", "add", p.at(p.private, 1, 1).String()+"/20", "dev", "eth0")
		g.ns.MustRun("ip", "route", "add", "local", p.at(p.private, 4, 0).String()+"/22", "dev", "lo")
	}
	g.ns.MustRun("ip", "route", "add", "default", "via", s.pools[0].at(s.pools[0].private, 0, 1).String())
	s.t.Cleanup(func() {
		cancel()
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, b := range g.booted {
			b.guest.Stop()
			_ = b.guest.Close() // a read-only handle on its folder
		}
	})
	return g
}

// power boots and stops guests with their VMs.
func (g *guests) power(change simxapi.Power) {
	if len(change.VIFs) == 0 {
		return
	}
	mac := strings.ToLower(change.VIFs[0].MAC)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch b := g.booted[mac]; {
	case change.State == "Running" && b == nil:
		if err := g.boot(mac); err != nil {
			g.s.t.Errorf("guest %s does not boot: %v", mac, err)
		}
	case change.State == "Halted" && b != nil:
		delete(g.booted, mac)
		b.guest.Stop()
		_ = b.guest.Close()
	}
}

func (g *guests) boot(mac string) error {
	dir := filepath.Join(g.s.dir, "guests", strings.ReplaceAll(mac, ":", ""))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	machine, err := guest.New(guest.Config{Dir: dir, HostKey: []byte(g.s.template), AuthorizedKeys: []string{g.s.loginLine}})
	if err != nil {
		return err
	}
	address, _ := g.leased(mac) // without an address it listens nowhere that anybody finds
	var listener net.Listener
	g.ns.Do(func() { listener, err = net.Listen("tcp4", net.JoinHostPort(address, "22")) })
	if err != nil {
		_ = machine.Close()
		return err
	}
	if err := machine.Start(g.ctx, listener); err != nil {
		_ = listener.Close()
		_ = machine.Close()
		return err
	}
	g.booted[mac] = &booted{guest: machine, address: address}
	g.boots[mac]++
	return nil
}

var hostBlock = regexp.MustCompile(`hardware ethernet ([0-9a-f:]+);\s*fixed-address ([0-9.]+);`)

// leased is the address that dhcpd's file gives a MAC.
func (g *guests) leased(mac string) (string, bool) {
	text, err := os.ReadFile(g.s.dhcp.path(hostsFile))
	if err != nil {
		return "", false
	}
	for _, m := range hostBlock.FindAllStringSubmatch(string(text), -1) {
		if m[1] == mac {
			return m[2], true
		}
	}
	return "", false
}

// address is what the guest agent would report.
func (g *guests) address(mac string) (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.booted[strings.ToLower(mac)]
	if b == nil || b.address == "" {
		return "", false
	}
	return b.address, true
}

// bootedOnce expects that no simulated guest was started a second time.
func (s *site) bootedOnce() {
	s.t.Helper()
	s.guests.mu.Lock()
	defer s.guests.mu.Unlock()
	for mac, n := range s.guests.boots {
		if n != 1 {
			s.t.Errorf("the guest with MAC %s was booted %d times", mac, n)
		}
	}
}
