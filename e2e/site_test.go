package e2e

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/audit"
	"slipway/internal/guestimage"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	simxapi "slipway/sim/xapi"
	"slipway/store"
	"slipway/workers/postinstall"
	"slipway/workers/vault"
)

// The site's fixed addresses.
const (
	managerAddress  = "192.0.2.1" // serve, the pools' toolstacks
	firewallAddress = "192.0.2.2"
	dhcpAddress     = "192.0.2.3"
	consoleAddress  = "192.0.2.4"

	hypervisorAddress = "192.0.2.5"    // of the pool whose guests are real
	installerAddress  = "198.51.100.1" // where serve comes from when it goes to a public address
	customerAddress   = "198.51.100.2"
	gatewayAddress    = "198.51.100.254" // the firewall's, to which the public addresses, or those of routed pools, are routed
)

// site is a hosting company in network namespaces:
//
//	manager ── management ── firewall, dhcp, console      (192.0.2.0/24, SSH)
//	manager ── internet ── customer
//	               └────── firewall ── machines' network ── dhcp, guests
//
// serve runs in manager and reaches a guest through the firewall: by its public address and NAT, or, where pools are routed, by its own.
type site struct {
	t                       *testing.T
	dir, program            string
	lab                     *testnet.Lab
	manager, customer, lan  *testnet.Namespace
	fw                      *testnet.Namespace
	pools                   []*pool
	dhcp, firewall, console *appliance
	template, templateLine  string // the templates' host key, private and public
	login, loginLine        string // the installer's key
	vaultKey                string
	database, broker        string  // as serve reaches them; "" are SQLite and the embedded queue
	dsn                     string  // as the test reaches the database
	guests                  *guests // the simulated ones
	ports                   int
	hypervisor              *testnet.Namespace // of real guests
	patience                string             // seconds that a panel listens to silence
	consoleURL              string             // of the gateway, on this machine

	// What the search at the end looks into, beside what is there anyway.
	workers []*worker
	watched *watched
	answers []string
	given   map[string]string // secrets that the story was given, by name
	scanned bool              // it was looked for in the story
}

type siteConfig struct {
	pools    int
	strategy orchestrator.Strategy // of all pools' networks; "" is NAT
	// images are what each pool has, with their part of the configuration, "" for the template's host key; nil is debian-12.
	images map[string]string
	// templates is a directory that overrides the built-in ones; "" is none.
	templates string
	// boot starts a simulated guest for a VM; nil is a Linux one.
	boot bootGuest
	// arp puts the public addresses on the internet's own link, where the firewall must answer for them; nothing is routed to it.
	arp bool
	// power, when given, is told of every change of a VM's power, in the pool's own goroutine; nil boots simulated guests.
	power    func(simxapi.Power)
	address  func(mac string) (string, bool)
	consoles bool      // fetch consoles from the first pool instead of showing a picture
	postgres string    // DSN on this machine's loopback; "" is SQLite
	rabbitmq string    // URL likewise; "" is the embedded queue
	agents   *onBroker // reached over the broker; nil is by SSH
	lease    time.Duration
	// apart makes each pool a process of its own that can be killed and comes back with what it had; nil is this one.
	apart *delays
	// real are the images of guests that QEMU boots, in the pool of a hypervisor of its own; nil simulates guests. Those that can be logged in
	// to have one installer's key.
	real    map[string]guestimage.Image
	gateway bool // shows screens in browsers
	// bootTimeout is how long a guest may take; 0 is the default.
	bootTimeout time.Duration
	// hostMemory in bytes; 0 is plenty.
	hostMemory int64
	tenantRuns int // 0 is the default
	slots      int // runs that each worker drives at once; 0 is the default
}

func newSite(t *testing.T, c siteConfig) *site {
	t.Helper()
	s := &site{t: t, lab: testnet.New(t), dir: t.TempDir(), patience: "60"} // first the lab: without root the test is left out
	s.program = binary(t)
	s.template, s.templateLine = keyPair(t)
	s.login, s.loginLine = keyPair(t)
	if c.real != nil {
		c.images = map[string]string{}
	}
	for name, made := range c.real {
		if made.LoginKey != "" {
			s.login = made.LoginKey
			c.images[name] = fmt.Sprintf("{host_key: %q}", strings.TrimSpace(made.HostKey))
		} else {
			c.images[name] = ""
		}
	}
	for i := range c.pools {
		s.pools = append(s.pools, newPool(t, i, c.strategy, c.arp))
		s.pools[i].images = map[string]string{}
		if c.images == nil {
			c.images = map[string]string{image: ""}
		}
		for name, text := range c.images {
			s.pools[i].images[name] = cmp.Or(text, fmt.Sprintf("{host_key: %q}", s.templateLine))
		}
	}
	if c.real != nil {
		s.pools[0].host = hypervisorAddress
		s.pools[0].address = hypervisorAddress + ":443"
	}
	firewall, dhcp, console := s.networks(c.arp)
	xenapi := ""
	if c.consoles {
		xenapi = s.pools[0].address
	}
	s.firewall = newFirewall(t, firewall, firewallAddress, s.program, c.arp, c.agents)
	s.dhcp = newDHCP(t, dhcp, dhcpAddress, s.program, s.pools, c.agents)
	s.console = newConsoles(t, console, consoleAddress, s.program, xenapi, c.agents)
	if c.real != nil {
		s.hypervise(c.real)
	} else if c.power == nil {
		s.guests = newGuests(s, c.boot)
		c.power, c.address = s.guests.power, s.guests.address
	}
	for _, p := range s.pools {
		switch {
		case c.real != nil: // hypervise has
		case c.apart != nil:
			p.startApart(s, *c.apart)
		default:
			p.start(s.manager, c.power, c.address, c.hostMemory)
		}
	}
	if c.gateway {
		s.consoleURL = "http://" + carryOut(s.t, s.manager, "127.0.0.1:6080")
	}
	s.dsn, s.database = "sqlite:"+filepath.Join(s.dir, "slipway.db"), ""
	if c.postgres != "" {
		s.dsn, s.database = c.postgres, s.carry(c.postgres, "127.0.0.1:5432")
	}
	if c.rabbitmq != "" {
		s.broker = s.carry(c.rabbitmq, "127.0.0.1:5672")
	}
	s.configure(c)
	t.Cleanup(func() {
		if !s.scanned {
			s.scan()
		}
	})
	s.watch()
	return s
}

func keyPair(t *testing.T) (private, public string) {
	t.Helper()
	key, line, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.Reveal(), strings.TrimSpace(line)
}

// networks lays the cables.
func (s *site) networks(arp bool) (firewall, dhcp, console *testnet.Namespace) {
	l := s.lab
	s.manager, s.customer, s.lan = l.Namespace("manager"), l.Namespace("customer"), l.Namespace("lan")
	firewall, dhcp, console = l.Namespace("firewall"), l.Namespace("dhcp"), l.Namespace("console")
	s.fw = firewall
	internet := l.Namespace("internet")

	l.Link(s.manager, "m-fw", firewall, "mgmt")
	l.Link(s.manager, "m-dhcp", dhcp, "mgmt")
	l.Link(s.manager, "m-console", console, "mgmt")
	s.manager.Bridge("mgmt", "m-fw", "m-dhcp", "m-console")
	address := func(ns *testnet.Namespace, dev string, addresses ...string) {
		for _, a := range addresses {
			ns.MustRun("ip", "address", "add", a, "dev", dev)
		}
	}
	address(s.manager, "mgmt", managerAddress+"/24")
	address(firewall, "mgmt", firewallAddress+"/24")
	address(dhcp, "mgmt", dhcpAddress+"/24")
	address(console, "mgmt", consoleAddress+"/24")

	l.Link(s.manager, "wan", internet, "i-manager")
	l.Link(s.customer, "wan", internet, "i-customer")
	l.Link(firewall, "wan", internet, "i-firewall")
	internet.Bridge("internet", "i-manager", "i-customer", "i-firewall")
	address(s.manager, "wan", installerAddress+"/24")
	address(s.customer, "wan", customerAddress+"/24")
	address(firewall, "wan", gatewayAddress+"/24")

	l.Link(firewall, "lan", s.lan, "l-firewall")
	l.Link(dhcp, "lan", s.lan, "l-dhcp")
	s.lan.Bridge("lan", "l-firewall", "l-dhcp")
	for _, p := range s.pools {
		for _, ns := range []*testnet.Namespace{s.manager, s.customer} {
			if arp {
				ns.MustRun("ip", "route", "add", p.outside().String(), "dev", "wan")
			} else {
				ns.MustRun("ip", "route", "add", p.outside().String(), "via", gatewayAddress)
			}
		}
		address(firewall, "lan", p.at(p.private, 0, 1).String()+"/20")
		address(dhcp, "lan", p.at(p.private, 0, 2).String()+"/20")
	}
	setting(s.t, firewall, "ip_forward", "1")
	for _, name := range []string{"all", "default", "lan", "wan"} { // the kernel must not do the rules' work
		setting(s.t, firewall, "conf/"+name+"/rp_filter", "0")
	}
	return firewall, dhcp, console
}

func setting(t *testing.T, ns *testnet.Namespace, name, value string) {
	t.Helper()
	var err error
	ns.Do(func() { err = os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

// attach gives a namespace an interface in the machines' network.
func (s *site) attach(ns *testnet.Namespace) {
	s.t.Helper()
	s.ports++
	port := fmt.Sprintf("l-%d", s.ports)
	s.lab.Link(s.lan, port, ns, "eth0")
	s.lan.MustRun("ip", "link", "set", port, "master", "lan")
}

// carry makes a server on this machine's loopback reachable in the manager's namespace, and returns its URL there.
func (s *site) carry(raw, at string) string {
	s.t.Helper()
	return carryInto(s.t, s.manager, raw, at)
}

// carryInto is carry for any namespace.
func carryInto(t *testing.T, ns *testnet.Namespace, raw, at string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var listener net.Listener
	ns.Do(func() { listener, err = net.Listen("tcp4", at) })
	if err != nil {
		t.Fatal(err)
	}
	target := u.Host
	carryAll(t, listener, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", target) })
	u.Host = at
	return u.String()
}

// carryOut makes an address of a namespace reachable on this machine's loopback, and returns where.
func carryOut(t *testing.T, ns *testnet.Namespace, target string) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	carryAll(t, listener, func(context.Context) (conn net.Conn, err error) {
		ns.Do(func() { conn, err = net.DialTimeout("tcp4", target, 5*time.Second) })
		return conn, err
	})
	return listener.Addr().String()
}

// carryAll joins each connection that comes in to one that it dials, until the test ends.
func carryAll(t *testing.T, listener net.Listener, dial func(context.Context) (net.Conn, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	var carrying sync.WaitGroup
	carrying.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			carrying.Go(func() { carryOne(ctx, conn, dial) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		cancel()
		carrying.Wait()
	})
}

func carryOne(ctx context.Context, near net.Conn, dial func(context.Context) (net.Conn, error)) {
	defer near.Close()
	far, err := dial(ctx)
	if err != nil {
		return
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })
	defer stop()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(near, far)
		_ = near.Close()
	})
	_, _ = io.Copy(far, near)
	_ = far.Close()
	back.Wait()
}

// configure writes what an operator would.
func (s *site) configure(c siteConfig) {
	s.t.Helper()
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	s.vaultKey = vault.NewKey().Reveal()
	secrets := map[string]string{
		"vault.key": s.vaultKey, "login.key": s.login,
		"firewall.key": s.firewall.key, "dhcp.key": s.dhcp.key, "console.key": s.console.key,
	}
	put("vault_key: {file: vault.key}\nlogin_key: {file: login.key}\nquarantine: 24h\nlease: %s", orDefault(c.lease, time.Minute))
	if c.slots > 0 {
		put("workers: %d", c.slots)
	}
	if s.database == "" {
		put("database: sqlite:slipway.db")
	} else {
		put("database: %q", s.database)
	}
	if s.broker != "" {
		u, err := url.Parse(s.broker)
		if err != nil {
			s.t.Fatal(err)
		}
		secrets["broker.password"], _ = u.User.Password()
		u.User = url.User(u.User.Username())
		put("queue: {kind: amqp, url: %q, password: {file: broker.password}}", u.String())
	}
	if c.tenantRuns != 0 {
		put("tenant_runs: %d", c.tenantRuns)
	}
	if c.bootTimeout > 0 {
		put("boot_timeout: %s", c.bootTimeout)
	}
	if c.templates != "" {
		put("templates: %q", c.templates)
	}
	if s.consoleURL != "" {
		put("console: {listen: \"127.0.0.1:6080\", url: %q}", s.consoleURL)
	}
	put("pools:")
	for _, p := range s.pools {
		secrets[p.id+".password"] = p.password
		b.WriteString(p.config())
	}
	member := func(a *appliance, name string) string {
		if c.agents != nil {
			secrets["agents.key"] = c.agents.key
			return fmt.Sprintf("{name: %s-1, address: %s, queue: {agent: %s, key: {file: agents.key}}}", name, a.address, name)
		}
		return fmt.Sprintf("{name: %s-1, address: %s, ssh: {address: \"%s:22\", user: slipway, key: {file: %s.key}, host_key: %q}}", name, a.address, a.address, name, strings.TrimSpace(a.hostKey))
	}
	put("groups:\n  - {id: dhcp, unit: dhcp, members: [%s]}", member(s.dhcp, "dhcp"))
	var foreign []string
	for _, p := range s.pools {
		foreign = append(foreign, p.at(p.private, 0, 0).String()+"/23")
	}
	put("  - {id: firewall, unit: firewall, inside: [lan], foreign: [%s], members: [%s]}", strings.Join(foreign, ", "), member(s.firewall, "firewall"))
	put("  - id: console\n    unit: console\n    members: [%s]\n    accounts:", member(s.console, "console"))
	for _, p := range s.pools {
		put("      %s: {user: root, password: {file: %s.password}, hosts: [\"%s xen-%s\"]}", p.id, p.id, p.host, p.id)
	}
	for name, text := range secrets {
		s.write(name, text)
	}
	s.write("slipway.yaml", b.String())
}

func orDefault(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// worker is one serve process.
type worker struct {
	*testnet.Process
	name   string
	api    *api.Client
	listen string // health and metrics, in the manager's namespace
}

// serve starts a worker and waits until it answers. Each has a name of its own; a name that was used before is a restart.
func (s *site) serve(name string) *worker {
	s.t.Helper()
	w := s.begin(name)
	testnet.Until(s.t, 30*time.Second, "serve "+name+" to answer", func() bool {
		select {
		case <-w.Done():
			s.t.Fatalf("serve %s ended: %s", name, w.Output())
		default:
		}
		_, err := w.runs(s.t.Context())
		return err == nil
	})
	return w
}

// begin starts a worker that may end at once.
func (s *site) begin(name string) *worker {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "slipway.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	config := name + ".yaml"
	listen := fmt.Sprintf("127.0.0.1:%d", 9100+len(s.workers))
	s.write(config, fmt.Sprintf("state_dir: %s\nsocket: %s.sock\nlisten: %s\n%s", name, name, listen, text))
	w := &worker{
		Process: s.manager.Start(s.program, "--config", filepath.Join(s.dir, config), "serve"),
		name:    name,
		api:     api.NewClient(filepath.Join(s.dir, name+".sock")),
		listen:  listen,
	}
	s.workers = append(s.workers, w)
	s.t.Cleanup(func() {
		s.ask(w)
		w.api.Close()
		if s.t.Failed() {
			s.t.Logf("serve %s (process %d) said:\n%s", name, w.PID(), lastLines(w.Output(), 60))
		}
	})
	return w
}

func lastLines(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// runs asks the worker.
func (w *worker) runs(ctx context.Context) (runs []api.Run, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = w.api.Get(ctx, "/v1/runs?limit=5000", &runs)
	return runs, err
}

// mustRuns waits for an answer while the worker starts or the database is away.
func (s *site) mustRuns(w *worker) (runs []api.Run) {
	s.t.Helper()
	testnet.Until(s.t, 30*time.Second, "the list of runs", func() bool {
		var err error
		runs, err = w.runs(s.t.Context())
		return err == nil
	})
	return runs
}

// done waits until so many runs are done, and none parked.
func (s *site) done(w *worker, n int, limit time.Duration) []api.Run {
	s.t.Helper()
	var last []api.Run
	deadline := time.Now().Add(limit)
	for {
		last = s.mustRuns(w)
		over := 0
		for _, r := range last {
			switch r.Status {
			case "done":
				over++
			case "parked", "canceled":
				s.t.Fatalf("run of %s is %s at %s: %s (%s)", r.Name, r.Status, r.Step, r.Reason, r.Kind)
			}
		}
		if over == n {
			return last
		}
		if time.Now().After(deadline) {
			for _, r := range last {
				if r.Status != "done" {
					s.t.Logf("%s: %s %s at %s, attempt %d: %s %s", r.Name, r.Status, r.State, r.Step, r.Attempt, r.Kind, r.Reason)
				}
			}
			s.t.Fatalf("after %s, %d of %d runs are done", limit, over, n)
		}
		pause(s.t, 100*time.Millisecond)
	}
}

// pause is the time between two looks at a fact.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal("the test was ended")
	}
}

// world reads what exists: VMs over XenAPI, and the files and tables of the appliances.
func (s *site) world() audit.World {
	s.t.Helper()
	var found audit.World
	for _, p := range s.pools {
		if err := found.ReadPool(s.t.Context(), p.id, p.local); err != nil {
			s.t.Fatal(err)
		}
	}
	found.ReadHosts(s.dhcp.read(hostsFile))
	found.ReadRules(s.fw.MustRun("iptables-save"))
	found.ReadConsoles(s.console.read(consoleFile))
	return found
}

// read asks the database itself.
func (s *site) read(ask func(context.Context, orchestrator.Store) error) {
	s.t.Helper()
	db, err := store.Open(s.t.Context(), s.dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := errors.Join(ask(s.t.Context(), db), db.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// machines are all that the store knows.
func (s *site) machines() (rows []orchestrator.Machine) {
	s.t.Helper()
	s.read(func(ctx context.Context, db orchestrator.Store) (err error) {
		rows, err = db.Machines(ctx)
		return err
	})
	return rows
}

// counted compares what exists with the store, and expects this many machines, each with all that it should have.
func (s *site) counted(machines int) {
	s.t.Helper()
	found := s.world()
	report := found.Compare(s.machines())
	for _, line := range append(report.Leaked, report.Duplicated...) {
		s.t.Error("found:", line)
	}
	jumps, translated := 0, machines
	if !s.pools[0].public.IsValid() {
		translated = 0
	}
	for _, r := range found.Rules {
		if strings.Contains(r.Text, "-j DNAT") {
			jumps++
		}
	}
	if jumps != translated {
		s.t.Errorf("%d DNAT rules in iptables-save, want %d", jumps, translated)
	}
	for what, n := range map[string]int{"VMs in the pools": len(found.VMs), "host blocks of dhcpd": len(found.Hosts), "VM lines of xvp.conf": len(found.Consoles)} {
		if n != machines {
			s.t.Errorf("%d %s, want %d", n, what, machines)
		}
	}
}

// listening tries a TCP port from a namespace: nil when it answers, and then the peer's first words.
func listening(ns *testnet.Namespace, address string, limit time.Duration) (words string, err error) {
	ns.Do(func() {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp4", address, limit); err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(limit))
		text := make([]byte, 64)
		n, readErr := conn.Read(text)
		if readErr != nil && !errors.Is(readErr, io.EOF) {
			err = readErr
		}
		words = string(text[:n])
	})
	return words, err
}

func secretOf(text string) orchestrator.Secret { return orchestrator.NewSecret(text) }

// said is whether the worker has logged it.
func (w *worker) said(words string) bool { return strings.Contains(w.Output(), words) }
