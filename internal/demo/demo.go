// Package demo shows the main job on simulators, over their real wires: orders on the queue become machines, one meets a fault and is
// retried by the operators' verb, and at the end the world is counted against the store.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"slipway/internal/api"
	"slipway/internal/audit"
	"slipway/internal/config"
	"slipway/internal/service"
	"slipway/orchestrator"
	"slipway/sim/xapi"
	"slipway/templates"
	"slipway/workers/intake/message"
	"slipway/workers/postinstall"
)

// Options of a demo.
type Options struct {
	Orders, Pools int
	Seed          uint64
	Timeout       time.Duration // default 5 min
	Keep          bool          // leave the directory behind
	Stdout        io.Writer
	Width         int // columns of a terminal, on which a board is redrawn; 0 is no terminal, and lines are printed
	Log           *slog.Logger

	// tamper, for tests, plants things in the world before it is counted.
	tamper func(context.Context, *world) error
}

// MaxOrders and MaxPools are what the demo's networks hold.
const (
	MaxOrders = 2000
	MaxPools  = 8
)

// Result is what the last line says.
type Result struct {
	Ordered, Ready int
	Report         audit.Report
}

// OK reports whether everything is as it should be.
func (r Result) OK() bool { return r.Ordered == r.Ready && r.Report.Clean() }

// Run provisions and counts. An error means that the demo itself could not go on.
func Run(ctx context.Context, o Options) (result Result, err error) {
	if o.Orders < 1 || o.Orders > MaxOrders || o.Pools < 1 || o.Pools > MaxPools {
		return result, fmt.Errorf("give 1 to %d orders and 1 to %d pools", MaxOrders, MaxPools)
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	dir, err := os.MkdirTemp("", "slipway-demo-")
	if err != nil {
		return result, err
	}
	if o.Keep {
		defer fmt.Fprintln(o.Stdout, "left behind:", dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}

	simCtx, endSim := context.WithCancel(ctx)
	w := &world{dir: dir, log: o.Log.With("part", "world"), guests: map[string]*running{}, keys: map[string][]uint32{}}
	defer w.stop()
	defer endSim()
	cfg, err := w.build(simCtx, o)
	if err != nil {
		return result, err
	}
	fmt.Fprintf(o.Stdout, "demo: %d orders over %d pools; store SQLite, queue embedded, everything in %s\n", o.Orders, o.Pools, dir)
	for _, line := range judges() {
		fmt.Fprintln(o.Stdout, "demo:", line)
	}

	s, err := service.New(ctx, cfg, service.Options{Log: o.Log, Dial: w.dial})
	if err != nil {
		return result, err
	}
	defer s.Close()
	serveCtx, endServe := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- s.Run(serveCtx) }()
	defer func() {
		endServe()
		err = errors.Join(err, <-served)
	}()

	// One start fails for good: its run parks and waits for an operator.
	if err := w.pools[0].sim.AddFault(xapi.Fault{Method: "VM.start_on", Nth: 2, Times: 1, Error: []string{"OPERATION_BLOCKED", "OpaqueRef:NULL", "maintenance"}}); err != nil {
		return result, err
	}
	began := time.Now()
	for i, order := range orders(o, w) {
		m, err := message.EncodeOrder(order)
		if err == nil {
			err = s.Queue.PublishOrder(ctx, m)
		}
		if err != nil {
			return result, fmt.Errorf("order %d: %w", i, err)
		}
	}
	client := api.NewClient(cfg.Socket)
	defer client.Close()
	b := &board{out: o.Stdout, terminal: o.Width > 0, width: o.Width, began: began, table: s.Processes["install"], last: map[string]string{}}
	runs, err := follow(ctx, client, o.Orders, b, served)
	if err != nil {
		return result, err
	}
	if o.tamper != nil {
		if err := o.tamper(ctx, w); err != nil {
			return result, err
		}
	}
	result.Ordered = o.Orders
	for _, r := range runs {
		if r.State == "production_ready" && r.Status == "done" {
			result.Ready++
		}
	}
	if result.Report, err = count(ctx, w, s); err != nil {
		return result, err
	}
	b.summary(runs, w)
	for _, line := range slices.Concat(result.Report.Leaked, result.Report.Duplicated) {
		fmt.Fprintln(o.Stdout, "demo: found", line)
	}
	fmt.Fprintf(o.Stdout, "demo: %d ordered, %d production_ready, %d leaked, %d duplicated\n", result.Ordered, result.Ready, len(result.Report.Leaked), len(result.Report.Duplicated))
	return result, nil
}

// build starts the simulators and writes the configuration that fits them.
func (w *world) build(ctx context.Context, o Options) (*config.Config, error) {
	var templatePublic string
	entries, err := fs.Sub(templates.FS, "postinstall")
	if err != nil {
		return nil, err
	}
	loginPrivate, loginPublic, err := keyPair()
	if err != nil {
		return nil, err
	}
	if w.templateKey, templatePublic, err = keyPair(); err != nil {
		return nil, err
	}
	if w.catalogue, err = postinstall.Load(entries); err != nil {
		return nil, err
	}
	w.loginKey = strings.TrimSpace(loginPublic)
	_, customer, err := keyPair() // nobody needs the private half: no customer logs in
	if err != nil {
		return nil, err
	}
	w.customerKey = strings.TrimSpace(customer)
	if err := w.start(ctx, o.Pools, o.Seed); err != nil {
		return nil, err
	}
	for _, p := range w.pools {
		if err := w.readNetwork(ctx, p); err != nil {
			return nil, err
		}
	}
	path, err := w.configure(loginPrivate, images, templatePublic)
	if err != nil {
		return nil, err
	}
	return config.Load(path)
}

// readNetwork asks the pool for the uuid of its first managed network, as an operator would look it up.
func (w *world) readNetwork(ctx context.Context, p *pool) error {
	client, err := p.client()
	if err != nil {
		return err
	}
	defer func() { _ = client.Close(context.WithoutCancel(ctx)) }() // the session ends with the simulator at the latest
	var networks map[string]struct {
		UUID string   `json:"uuid"`
		PIFs []string `json:"PIFs"`
	}
	if err := client.Call(ctx, "network.get_all_records", &networks); err != nil {
		return err
	}
	for _, n := range networks {
		if len(n.PIFs) > 0 {
			p.network = n.UUID
		}
	}
	if p.network == "" {
		return fmt.Errorf("%s has no network", p.id)
	}
	return nil
}

var images = []string{"debian-12", "ubuntu-24.04"}

var plans = []orchestrator.Plan{
	{VCPUs: 1, MemoryMiB: 1024, DiskGiB: 20}, {VCPUs: 2, MemoryMiB: 2048, DiskGiB: 40},
	{VCPUs: 4, MemoryMiB: 8192, DiskGiB: 80}, {VCPUs: 8, MemoryMiB: 16384, DiskGiB: 160},
}

// orders are of mixed plans and images; the seed chooses.
func orders(o Options, w *world) []orchestrator.Order {
	dice := rand.New(rand.NewPCG(o.Seed, 20))
	everybody := netip.MustParsePrefix("0.0.0.0/0")
	tcp := func(ports ...uint16) orchestrator.FirewallRule {
		r := orchestrator.FirewallRule{Protocol: "tcp", Source: everybody}
		for _, p := range ports {
			r.Ports = append(r.Ports, orchestrator.PortRange{First: p, Last: p})
		}
		return r
	}
	var list []orchestrator.Order
	for i := range o.Orders {
		order := orchestrator.Order{
			Source: "demo-panel", ID: fmt.Sprintf("order-%04d", i+1), Type: orchestrator.OrderInstall, Tenant: fmt.Sprintf("tenant-%d", i%4+1),
			Name: fmt.Sprintf("vm-%04d", i+1), Image: images[dice.IntN(len(images))], Plan: plans[dice.IntN(len(plans))],
			Firewall: []orchestrator.FirewallRule{tcp(22), tcp(80, 443)}, SSHKeys: []string{w.customerKey},
		}
		if dice.IntN(2) == 0 { // half of them leave the pool to the placement
			order.Pool = w.pools[dice.IntN(len(w.pools))].id
		}
		list = append(list, order)
	}
	return list
}

// follow watches the runs until all are done, and retries what parks: first observing, then with --yes, as an operator does.
func follow(ctx context.Context, client *api.Client, orders int, b *board, served chan error) ([]api.Run, error) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	retried := map[string]int{}
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("not all orders became machines in time: %w", context.Cause(ctx))
		case err := <-served:
			served <- err
			return nil, fmt.Errorf("serve ended early: %w", err)
		case <-ticker.C:
		}
		var runs []api.Run
		err := client.Get(ctx, fmt.Sprintf("/v1/runs?limit=%d", 2*MaxOrders), &runs)
		var away *api.AwayError
		if errors.As(err, &away) {
			continue // serve is still starting
		}
		if err != nil {
			return nil, err
		}
		slices.SortFunc(runs, func(x, y api.Run) int { return strings.Compare(x.Name, y.Name) })
		b.show(runs)
		over := 0
		for _, r := range runs {
			switch r.Status {
			case "done", "canceled":
				over++
			case "parked":
				if retried[r.Run]++; retried[r.Run] > 3 {
					return runs, fmt.Errorf("%s parked again and again: %s", r.Name, r.Reason)
				}
				if err := retry(ctx, client, r, b); err != nil {
					return nil, err
				}
			}
		}
		if over == orders {
			return runs, nil
		}
	}
}

func retry(ctx context.Context, client *api.Client, r api.Run, b *board) error {
	b.say("%s is parked at %s: %s", r.Name, r.Step, r.Reason)
	path := "/v1/retry/" + url.PathEscape(r.Machine)
	var acted api.Acted
	if err := client.Post(ctx, path, api.Act{}, &acted); err != nil {
		return err
	}
	b.say("$ slipway retry %s", r.Name)
	for _, line := range acted.Found {
		b.say("  found: %s", line)
	}
	for _, line := range acted.Plan {
		b.say("  will:  %s", line)
	}
	b.say("$ slipway retry %s --yes --reason 'the host is out of maintenance'", r.Name)
	return client.Post(ctx, path, api.Act{Yes: true, Reason: "the host is out of maintenance"}, &acted)
}

// count reads the pools over XenAPI and the appliances' files, and compares.
func count(ctx context.Context, w *world, s *service.Service) (audit.Report, error) {
	var found audit.World
	for _, p := range w.pools {
		client, err := p.client()
		if err != nil {
			return audit.Report{}, err
		}
		err = found.ReadPool(ctx, p.id, client)
		if err = errors.Join(err, client.Close(ctx)); err != nil {
			return audit.Report{}, err
		}
		for path, read := range map[string]func(string){w.hostsFile(p): found.ReadHosts, w.rulesFile(p): found.ReadRules} {
			text, err := os.ReadFile(path)
			if err != nil {
				return audit.Report{}, err
			}
			read(string(text))
		}
	}
	text, err := os.ReadFile(w.consoleFile())
	if err != nil {
		return audit.Report{}, err
	}
	found.ReadConsoles(string(text))
	machines, err := s.Store.Machines(ctx)
	if err != nil {
		return audit.Report{}, err
	}
	return found.Compare(machines), nil
}

// judges says which real tools judge the rendered files here.
func judges() []string {
	var lines []string
	for _, tool := range []string{"dhcpd", "iptables-restore"} {
		path := ""
		for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
			if info, err := os.Stat(filepath.Join(dir, tool)); err == nil && info.Mode().IsRegular() && path == "" {
				path = filepath.Join(dir, tool)
			}
		}
		switch {
		case path == "":
			lines = append(lines, tool+" is not installed here: its files are not judged by it")
		case tool == "iptables-restore" && os.Geteuid() != 0:
			lines = append(lines, tool+" judges for root only: its files are not judged by it")
		default:
			lines = append(lines, tool+" files are judged by "+path)
		}
	}
	return append(lines, "xvp.conf is judged by slipway's own parser: xvp has no check mode")
}
