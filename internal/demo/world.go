package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"

	cryptossh "golang.org/x/crypto/ssh"

	"slipway/orchestrator"
	"slipway/sim/guest"
	"slipway/sim/xapi"
	client "slipway/workers/hypervisor/xapi"
	"slipway/workers/postinstall"
)

// world is what the demo provisions onto: a XenAPI endpoint per pool, appliances that are directories, and guests that boot when their VM
// starts. A guest has the network that the appliances' files give it: its address is the one that its MAC has in the DHCP file, and it is
// reached from outside as the firewall's NAT rules say.
type world struct {
	dir         string
	log         *slog.Logger
	templateKey []byte // private host key of every template
	loginKey    string // public half of the installer's key
	customerKey string // what every order lets in
	catalogue   *postinstall.Catalogue

	pools []*pool

	mu      sync.Mutex
	guests  map[string]*running // by MAC
	booting func(*guest.Guest)  // see Site.Booting; may be nil
	keys    map[string][]uint32 // typed at screens, by the VM's name
	wg      sync.WaitGroup
}

type pool struct {
	id       string
	sim      *xapi.Server
	listener net.Listener
	pin      string
	password string
	private  netip.Prefix
	public   netip.Prefix
	network  string
}

type running struct {
	guest    *guest.Guest
	listener net.Listener
}

// keyPair makes an SSH key: the private half as OpenSSH PEM, the public as an authorized_keys line.
func keyPair() (private []byte, public string, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	block, err := cryptossh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, "", err
	}
	sshPub, err := cryptossh.NewPublicKey(pub)
	if err != nil {
		return nil, "", err
	}
	return pem.EncodeToMemory(block), string(cryptossh.MarshalAuthorizedKey(sshPub)), nil
}

// power boots and stops guests with their VMs.
func (w *world) power(ctx context.Context, p *pool, change xapi.Power) {
	if len(change.VIFs) == 0 {
		return
	}
	mac := change.VIFs[0].MAC
	switch change.State {
	case "Running":
		if err := w.boot(ctx, p, change.VM, mac); err != nil {
			w.log.Error("guest does not boot", "mac", mac, "error", err)
		}
	case "Halted":
		w.mu.Lock()
		r := w.guests[mac]
		delete(w.guests, mac)
		w.mu.Unlock()
		if r != nil {
			r.guest.Stop()
		}
	}
}

func (w *world) boot(ctx context.Context, p *pool, vm, mac string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.guests[mac] != nil {
		return nil
	}
	user, err := w.loginUser(ctx, p, vm)
	if err != nil {
		return err
	}
	dir := filepath.Join(w.dir, "guests", regexp.MustCompile(`[^0-9a-f]`).ReplaceAllString(mac, ""))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	g, err := guest.New(guest.Config{Dir: dir, User: user, HostKey: w.templateKey, AuthorizedKeys: []string{w.loginKey}, Log: w.log})
	if err != nil {
		return err
	}
	if w.booting != nil {
		w.booting(g)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := g.Start(ctx, listener); err != nil {
		_ = listener.Close()
		return err
	}
	w.guests[mac] = &running{guest: g, listener: listener}
	return nil
}

// loginUser is whom the VM's template lets in: the template's name is its image's key.
func (w *world) loginUser(ctx context.Context, p *pool, vm string) (string, error) {
	c, err := p.client()
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // the session ends with the simulator at the latest
	var ref client.Ref
	if err := c.Call(ctx, "VM.get_by_uuid", &ref, vm); err != nil {
		return "", err
	}
	var config map[string]string
	if err := c.Call(ctx, "VM.get_other_config", &config, ref); err != nil {
		return "", err
	}
	entry, err := w.catalogue.Entry(config["base_template_name"])
	return entry.User, err
}

// address is the one that the DHCP file gives a MAC: a guest without a host block gets none.
func (w *world) address(p *pool, mac string) (string, bool) {
	text, err := os.ReadFile(w.hostsFile(p))
	if err != nil {
		return "", false
	}
	m := regexp.MustCompile(`hardware ethernet ` + regexp.QuoteMeta(mac) + `;\s*fixed-address ([0-9.]+);`).FindSubmatch(text)
	if m == nil {
		return "", false
	}
	return string(m[1]), true
}

// dial goes the way a packet would: through the DNAT rule of the public address to the private one, and to the guest that has it.
func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	for _, p := range w.pools {
		if !p.public.Contains(target.Addr()) {
			continue
		}
		rules, err := os.ReadFile(w.rulesFile(p))
		if err != nil {
			return nil, unreachable(address)
		}
		m := regexp.MustCompile(`-d ` + regexp.QuoteMeta(target.Addr().String()) + `/32 .*-j DNAT --to-destination ([0-9.]+)`).FindSubmatch(rules)
		if m == nil {
			return nil, unreachable(address)
		}
		if !admits(string(rules), string(m[1]), target.Port()) {
			return nil, unreachable(address)
		}
		if target.Port() != 22 {
			return nil, refused(address)
		}
		w.mu.Lock()
		var to string
		for mac, r := range w.guests {
			if a, ok := w.address(p, mac); ok && a == string(m[1]) {
				to = r.listener.Addr().String()
			}
		}
		w.mu.Unlock()
		if to == "" {
			return nil, unreachable(address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, to)
	}
	return nil, unreachable(address)
}

// installer is where connections to guests come from, as the firewalls see them.
const installer = "203.0.113.7"

// admits follows a new TCP connection from the installer through the rules of the machine that has a private address.
func admits(rules, private string, port uint16) bool {
	m := regexp.MustCompile(`(?m)^-A SLIPWAY-TO -d ` + regexp.QuoteMeta(private) + `/32 .*-j (\S+)$`).FindStringSubmatch(rules)
	if m == nil {
		return false
	}
	accept := regexp.MustCompile(`(?m)^-A ` + regexp.QuoteMeta(m[1]) + ` (?:-s (\S+) )?-p tcp -m tcp --dport (\d+)(?::(\d+))? -j ACCEPT$`)
	for _, rule := range accept.FindAllStringSubmatch(rules, -1) {
		source := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if rule[1] != "" {
			source, _ = orchestrator.ParsePrefix(rule[1]) // the zero Prefix contains nobody
		}
		first, _ := strconv.Atoi(rule[2])
		last := first
		if rule[3] != "" {
			last, _ = strconv.Atoi(rule[3])
		}
		if source.Contains(netip.MustParseAddr(installer)) && first <= int(port) && int(port) <= last {
			return true
		}
	}
	return false
}

func (w *world) hostsFile(p *pool) string {
	return filepath.Join(w.dir, "appliances", "dhcp-"+p.id, "slipway-hosts.conf")
}
func (w *world) rulesFile(p *pool) string {
	return filepath.Join(w.dir, "appliances", "fw-"+p.id, "rules.v4")
}
func (w *world) consoleFile() string {
	return filepath.Join(w.dir, "appliances", "xvp", "slipway.conf")
}

// start makes the pools.
func (w *world) start(ctx context.Context, n int, seed uint64) error {
	for i := range n {
		password := rand.Text()[:12] // xvp takes no more than 16 bytes
		p := &pool{
			id: fmt.Sprintf("pool-%c", 'a'+i), password: password,
			private: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(16 * i), 0}), 20),
			public:  netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(16 * i), 0}), 20),
		}
		cert, pin, err := xapi.SelfSigned("127.0.0.1")
		if err != nil {
			return err
		}
		p.pin = pin
		p.sim, err = xapi.New(xapi.Config{
			User: "root", Password: orchestrator.NewSecret(password), Hosts: 2, Seed: seed + uint64(i), HostAddress: "127.0.0.1", SameAddress: true, SharedSR: true,
			Templates: templatesOf(images), HostMemory: 512 << 30, SRSize: 16 << 40, Logger: w.log,
			OnPower:      func(change xapi.Power) { w.power(ctx, p, change) },
			OnKey:        w.typed,
			GuestAddress: func(mac string) (string, bool) { return w.address(p, mac) },
		})
		if err != nil {
			return err
		}
		if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		w.pools = append(w.pools, p)
		w.wg.Go(func() {
			if err := p.sim.Serve(ctx, p.listener, &cert); err != nil && ctx.Err() == nil {
				w.log.Error("pool stopped", "pool", p.id, "error", err)
			}
		})
	}
	return nil
}

// typed keeps what viewers type at the machines' screens.
func (w *world) typed(vm string, keysym uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys[vm] = append(w.keys[vm], keysym)
}

func templatesOf(images []string) []xapi.Template {
	var list []xapi.Template
	for _, image := range images {
		list = append(list, xapi.Template{Name: image, Image: image, DiskGiB: 10})
	}
	return list
}

// stop ends guests and pools; ctx of start must have ended.
func (w *world) stop() {
	for _, p := range w.pools {
		p.sim.Close()
	}
	w.wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.guests {
		r.guest.Stop()
		_ = r.guest.Close() // a read-only handle on its folder
	}
}

// client opens a session of its own on the pool's wire.
func (p *pool) client() (*client.Client, error) {
	return client.New(client.Config{Addresses: []string{"https://" + p.listener.Addr().String()}, User: "root", Password: orchestrator.NewSecret(p.password),
		PinSHA256: []string{p.pin}, Originator: "slipway-demo"})
}
