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
	// start is how they boot.
	start bootGuest

	mu     sync.Mutex
	booted map[string]*booted // by MAC
	boots  map[string]int     // VMs that ever ran with a MAC
}

type booted struct {
	address string
	stop    func()
}

// bootGuest starts what answers at an address in the guests' namespace; "" is an address that nobody finds.
type bootGuest func(g *guests, mac, address string) (stop func(), err error)

func newGuests(s *site, start bootGuest) *guests {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g := &guests{s: s, ns: s.lab.Namespace("guests"), ctx: ctx, start: start, booted: map[string]*booted{}, boots: map[string]int{}}
	if g.start == nil {
		g.start = bootLinux
	}
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
			b.stop()
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
		b.stop()
	}
}

func (g *guests) boot(mac string) error {
	address, _ := g.leased(mac)
	stop, err := g.start(g, mac, address)
	if err != nil {
		return err
	}
	g.booted[mac] = &booted{address: address, stop: stop}
	g.boots[mac]++
	return nil
}

// listen opens a port where guests are.
func (g *guests) listen(address string) (l net.Listener, err error) {
	g.ns.Do(func() { l, err = net.Listen("tcp4", address) })
	return l, err
}

func bootLinux(g *guests, mac, address string) (func(), error) {
	dir := filepath.Join(g.s.dir, "guests", strings.ReplaceAll(mac, ":", ""))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	machine, err := guest.New(guest.Config{Dir: dir, HostKey: []byte(g.s.template), AuthorizedKeys: []string{g.s.loginLine}})
	if err != nil {
		return nil, err
	}
	listener, err := g.listen(net.JoinHostPort(address, "22"))
	if err != nil {
		_ = machine.Close()
		return nil, err
	}
	if err := machine.Start(g.ctx, listener); err != nil {
		_ = listener.Close()
		_ = machine.Close()
		return nil, err
	}
	return func() {
		machine.Stop()
		_ = machine.Close() // a read-only handle on its folder
	}, nil
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
