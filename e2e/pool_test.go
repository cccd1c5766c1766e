package e2e

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"slipway/internal/testnet"
	"slipway/orchestrator"
	simxapi "slipway/sim/xapi"
	"slipway/workers/hypervisor/xapi"
)

// pool is a simulated pool: its toolstack answers over TLS in the management network, and to the test itself on loopback.
type pool struct {
	t        *testing.T
	id       string
	sim      *simxapi.Server // nil when it is a process of its own
	apart    *toolstack      // that process
	at       func(prefix netip.Prefix, third, fourth byte) netip.Addr
	host     string // its address in the management network
	address  string // host:port there
	password string
	pin      string
	private  netip.Prefix // the third byte: 0 infrastructure, 4 to 7 machines, 15 unknown clients
	public   netip.Prefix // none of a routed pool, whose private prefix the internet knows the way to
	delivery orchestrator.Delivery
	network  string
	images   map[string]string // by image, its part of the configuration
	local    *xapi.Client
}

// image is what pools have unless a story says otherwise.
const image = "debian-12"

// newPool plans the n-th pool; start makes it answer.
func newPool(t *testing.T, n int, strategy orchestrator.Strategy, arp bool) *pool {
	p := &pool{
		t: t, delivery: orchestrator.DeliveryRouted, id: fmt.Sprintf("pool-%c", 'a'+n), host: managerAddress, address: fmt.Sprintf("%s:%d", managerAddress, 443+n), password: rand.Text()[:12],
		private: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 30, byte(16 * n), 0}), 20),
		public:  netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(16 * n), 0}), 20),
		at: func(prefix netip.Prefix, third, fourth byte) netip.Addr {
			base := prefix.Addr().As4()
			return netip.AddrFrom4([4]byte{base[0], base[1], base[2] + third, fourth})
		},
	}
	if arp {
		p.delivery = orchestrator.DeliveryARP
	}
	if strategy == orchestrator.Routed {
		p.private, p.public = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(16 * n), 0}), 20), netip.Prefix{}
	}
	return p
}

// outside is the prefix that the internet reaches the pool's machines by.
func (p *pool) outside() netip.Prefix {
	if p.public.IsValid() {
		return p.public
	}
	return p.private
}

// machines is the range of a prefix that is given out.
func (p *pool) machines(prefix netip.Prefix) string {
	return p.at(prefix, 4, 1).String() + "-" + p.at(prefix, 7, 250).String()
}

// simulated is what the pool is, in whatever process it runs.
func (p *pool) simulated(memory int64) simxapi.Config {
	var templates []simxapi.Template
	for _, name := range slices.Sorted(maps.Keys(p.images)) {
		templates = append(templates, simxapi.Template{Name: name, Image: name, DiskGiB: 10})
	}
	return simxapi.Config{
		User: "root", Password: orchestrator.NewSecret(p.password), Hosts: 2, Seed: uint64(p.private.Addr().As4()[2]), HostAddress: managerAddress, SameAddress: true,
		SharedSR: true, Templates: templates, HostMemory: cmp.Or(memory, 2<<40), SRSize: 64 << 40, Logger: slog.New(slog.DiscardHandler),
	}
}

// start serves the pool until the test ends.
func (p *pool) start(manager *testnet.Namespace, power func(simxapi.Power), address func(mac string) (string, bool), memory int64) {
	p.t.Helper()
	cert, pin, err := simxapi.SelfSigned(managerAddress)
	if err != nil {
		p.t.Fatal(err)
	}
	p.pin = pin
	config := p.simulated(memory)
	config.OnPower, config.GuestAddress = power, address
	p.sim, err = simxapi.New(config)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	p.t.Cleanup(func() {
		cancel()
		p.sim.Close()
		serving.Wait()
	})
	serve := func(listener net.Listener, err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
		serving.Go(func() {
			if err := p.sim.Serve(ctx, listener, &cert); err != nil && ctx.Err() == nil {
				p.t.Errorf("%s stopped: %v", p.id, err)
			}
		})
	}
	var listener net.Listener
	manager.Do(func() { listener, err = net.Listen("tcp4", p.address) })
	serve(listener, err)
	listener, err = net.Listen("tcp4", "127.0.0.1:0")
	serve(listener, err)
	p.connect(listener.Addr().String())
}

// connect gives the test a client of its own, and finds the network that machines are put into.
func (p *pool) connect(address string) {
	p.t.Helper()
	var err error
	p.local, err = xapi.New(xapi.Config{Addresses: []string{"https://" + address}, User: "root",
		Password: orchestrator.NewSecret(p.password), PinSHA256: []string{p.pin}, Originator: "test"})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = p.local.Close(context.Background()) })
	var networks map[string]struct {
		UUID string   `json:"uuid"`
		PIFs []string `json:"PIFs"`
	}
	if err := p.local.Call(p.t.Context(), "network.get_all_records", &networks); err != nil {
		p.t.Fatal(err)
	}
	for _, n := range networks {
		if len(n.PIFs) > 0 {
			p.network = n.UUID
		}
	}
}

// config is the pool's section.
func (p *pool) config() string {
	network := "strategy: routed"
	if p.public.IsValid() {
		network = fmt.Sprintf("public: {prefix: %s, gateway: %s, ranges: [%s], delivery: %s}", p.public, p.at(p.public, 0, 1), p.machines(p.public), p.delivery)
	}
	images := ""
	for _, name := range slices.Sorted(maps.Keys(p.images)) {
		images += fmt.Sprintf("\n      %s: %s", name, p.images[name])
	}
	return fmt.Sprintf(`
  - id: %[1]s
    network: %[2]s
    xenapi: {addresses: ["https://%[3]s"], user: root, password: {file: %[1]s.password}, pin_sha256: "%[4]s"}
    images:%[5]s
    private: {prefix: %[6]s, gateway: %[7]s, ranges: [%[8]s]}
    %[9]s
    dhcp: [dhcp]
    firewall: [firewall]
    console: [console]
    console_ports: 20000-20999
    installer: [%[10]s]
`, p.id, p.network, p.address, p.pin, images, p.private, p.at(p.private, 0, 1), p.machines(p.private), network, installerAddress)
}
