package gateway

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

const (
	followEvery = 500 * time.Millisecond
	reportEvery = 3 * time.Second
	// reportLife is how long a gateway that says nothing more is believed to listen: whoever moves ports away from it waits as long.
	reportLife = 15 * time.Second
)

// PortsStore is what Ports asks of the store.
type PortsStore interface {
	Groups(ctx context.Context) ([]orchestrator.Group, error)
	Entries(ctx context.Context, group string) (orchestrator.Group, []orchestrator.Entry, error)
	ReportGateway(ctx context.Context, r orchestrator.GatewayReport, life time.Duration) error
}

// PortsConfig is what Ports needs.
type PortsConfig struct {
	Store  PortsStore
	Groups []string // console groups; what they have for orchestrator.ConsoleGateway is shown
	Holder string   // names this gateway in its reports
	// Listen opens a port; TLS, where there is any, is its listener's.
	Listen func(ctx context.Context, port uint16) (net.Listener, error)
	// Every is how often the store is asked; default 500 ms.
	Every time.Duration
}

// console is what one port shows.
type console struct {
	group, machine string
	sealed         orchestrator.Sealed
}

// openPort is a port that is listened on. Its console changes when its entry does.
type openPort struct {
	listener net.Listener
	mu       sync.Mutex
	shows    console
}

func (p *openPort) now() console {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shows
}

func (p *openPort) set(c console) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shows = c
}

// follower keeps a gateway's ports as the entries of its groups are.
type follower struct {
	*Gateway
	cfg     PortsConfig
	known   map[string]int64              // group → generation that wanted is of
	wanted  map[string]map[uint16]console // by group
	open    map[uint16]*openPort
	failed  map[uint16]error
	serving sync.WaitGroup
	told    map[string]orchestrator.GatewayReport
	toldAt  time.Time
}

// ServePorts listens on the console port of every machine that the entries of the groups give to the gateways, until ctx ends: VNC viewers
// that name no machine (security type 2) are shown the port's. What changes in the store is followed within a second and reported there.
// A port that somebody else has is tried again at every turn, and keeps nobody else's from being served.
func (g *Gateway) ServePorts(ctx context.Context, cfg PortsConfig) error {
	cfg.Every = cmp.Or(cfg.Every, followEvery)
	f := &follower{
		Gateway: g, cfg: cfg, known: map[string]int64{}, wanted: map[string]map[uint16]console{}, open: map[uint16]*openPort{},
		failed: map[uint16]error{}, told: map[string]orchestrator.GatewayReport{},
	}
	defer f.serving.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer f.leave(ctx)
	ticker := time.NewTicker(cfg.Every)
	defer ticker.Stop()
	for {
		err := f.read(ctx)
		f.listen(ctx)
		if err == nil {
			err = f.report(ctx)
		}
		if err != nil && ctx.Err() == nil {
			f.Gateway.cfg.Log.Warn("follow the console groups", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// read asks the store what has changed. A store that is away leaves the ports as they are.
func (f *follower) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	groups, err := f.cfg.Store.Groups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if !slices.Contains(f.cfg.Groups, g.ID) {
			continue
		}
		if known, ok := f.known[g.ID]; ok && known == g.Generation {
			continue
		}
		now, entries, err := f.cfg.Store.Entries(ctx, g.ID)
		if err != nil {
			return err
		}
		f.wanted[g.ID], f.known[g.ID] = consolesOf(entries), now.Generation
	}
	return nil
}

// consolesOf are the entries that are the gateways'. One that does not decode is nobody's: intake wrote it, and verify will find no console.
func consolesOf(entries []orchestrator.Entry) map[uint16]console {
	out := map[uint16]console{}
	for _, e := range entries {
		if e.Removed || e.Owner == orchestrator.OwnerForeign || e.Backend != orchestrator.ConsoleGateway {
			continue
		}
		var body orchestrator.ConsoleEntry
		if json.Unmarshal(e.Body, &body) != nil || body.Port == 0 {
			continue
		}
		sealed, err := base64.StdEncoding.DecodeString(body.Password)
		if err != nil {
			continue
		}
		out[body.Port] = console{group: e.Group, machine: e.Machine, sealed: sealed}
	}
	return out
}

// listen closes what is wanted no more before it opens what is new.
func (f *follower) listen(ctx context.Context) {
	all := map[uint16]console{}
	f.failed = map[uint16]error{}
	for _, group := range slices.Sorted(maps.Keys(f.wanted)) {
		for port, c := range f.wanted[group] {
			if other, taken := all[port]; taken {
				f.failed[port] = fmt.Errorf("groups %s and %s both have it", other.group, group)
				continue
			}
			all[port] = c
		}
	}
	for port, p := range f.open {
		if c, still := all[port]; still {
			p.set(c)
			continue
		}
		_ = p.listener.Close()
		delete(f.open, port)
	}
	for port, c := range all {
		if f.open[port] != nil {
			continue
		}
		l, err := f.cfg.Listen(ctx, port)
		if err != nil {
			f.failed[port] = err
			continue
		}
		p := &openPort{listener: l, shows: c}
		f.open[port] = p
		f.serving.Go(func() { // those who look when it is closed are asked by relay whether they still may
			_ = f.accept(ctx, listener{p.listener, f.Gateway}, func(ctx context.Context, conn net.Conn) error { return f.port(ctx, conn, p.now()) })
		})
	}
	f.metrics.ports.WithLabelValues("open").Set(float64(len(f.open)))
	f.metrics.ports.WithLabelValues("failed").Set(float64(len(f.failed)))
}

// report tells the store how far this gateway is, when that has changed and now and then.
func (f *follower) report(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	due := time.Since(f.toldAt) >= reportEvery
	for _, group := range f.cfg.Groups {
		r := orchestrator.GatewayReport{Group: group, Holder: f.cfg.Holder, Generation: f.known[group]}
		var failed []uint16
		for port := range f.wanted[group] {
			switch {
			case f.failed[port] != nil:
				failed = append(failed, port)
			case f.open[port] != nil:
				r.Ports++
			}
		}
		if len(failed) > 0 {
			first := slices.Min(failed)
			r.Problem = fmt.Sprintf("%d ports are not listened on, such as %d: %v", len(failed), first, f.failed[first])
		}
		if !due && r == f.told[group] {
			continue
		}
		if r.Problem != "" && r.Problem != f.told[group].Problem {
			f.Gateway.cfg.Log.Warn("console ports", "group", group, "problem", r.Problem)
		}
		if err := f.cfg.Store.ReportGateway(ctx, r, reportLife); err != nil {
			return err
		}
		f.told[group] = r
	}
	if due {
		f.toldAt = time.Now()
	}
	return nil
}

// leave closes every port and withdraws the reports, so that nobody waits for this gateway.
func (f *follower) leave(ctx context.Context) {
	for _, p := range f.open {
		_ = p.listener.Close()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, group := range f.cfg.Groups {
		if err := f.cfg.Store.ReportGateway(ctx, orchestrator.GatewayReport{Group: group, Holder: f.cfg.Holder}, 0); err != nil {
			f.Gateway.cfg.Log.Debug("a gateway's report was not withdrawn; it ends by itself", "group", group, "error", err)
		}
	}
}

// port is a viewer at a machine's own port.
func (g *Gateway) port(ctx context.Context, conn net.Conn, c console) error {
	v, err := rfb.Greet(ctx, conn, rfb.VNC)
	if err != nil {
		return g.left(err)
	}
	m, password := g.behind(ctx, c)
	return g.letIn(ctx, conn, v, m, password, viewer{
		way: "port", user: "password", from: remote(conn.RemoteAddr()), bye: func(error) { _ = conn.Close() },
		still: func(ctx context.Context) error {
			entry, err := g.cfg.Store.EntryState(ctx, c.group, c.machine)
			if err != nil {
				return err
			}
			var body orchestrator.ConsoleEntry
			if err := json.Unmarshal(entry.Body, &body); err == nil {
				sealed, _ := base64.StdEncoding.DecodeString(body.Password)
				if err := g.same(c.machine, sealed, password); err != nil {
					return err
				}
			}
			return g.allowed(ctx, m)
		},
	})
}

// same is nil when what is sealed now is the password that a viewer has given, under whatever key.
func (g *Gateway) same(machine string, sealed orchestrator.Sealed, given orchestrator.Secret) error {
	now, err := g.cfg.Vault.Open(machine, orchestrator.SealedConsole, sealed)
	if err != nil {
		return err
	}
	if now != given {
		return orchestrator.E("console", orchestrator.Permanent, orchestrator.ErrPassRevoked)
	}
	return nil
}

// behind is a port's machine and password: the entry's, which is what everybody was told is live.
func (g *Gateway) behind(ctx context.Context, c console) (orchestrator.Machine, orchestrator.Secret) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, err := g.cfg.Store.Machine(ctx, c.machine)
	if err != nil {
		g.cfg.Log.Warn("the machine of a console port cannot be read", "machine", c.machine, "error", err)
		return orchestrator.Machine{}, orchestrator.Secret{}
	}
	password, err := g.cfg.Vault.Open(c.machine, orchestrator.SealedConsole, c.sealed)
	if err != nil {
		g.cfg.Log.Error("a console password cannot be opened", "machine", c.machine, "error", err)
		return orchestrator.Machine{}, orchestrator.Secret{}
	}
	return m, password
}

// Reports is what AwaitGateways asks of the store.
type Reports interface {
	GatewayReports(ctx context.Context, group string) ([]orchestrator.GatewayReport, error)
}

var errNoGateway = errors.New("no gateway has reported in the last " + reportLife.String() + ": start serve with console.ports, or slipway console serve")

// AwaitGateways returns once every gateway that is running has come to a generation of a group: none of them listens any more on what that
// generation takes from them. What a gateway cannot listen on is its report's to tell; it holds up no group. It is an appliance.Member's
// Follow.
func AwaitGateways(ctx context.Context, store Reports, group string, generation int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errNoGateway)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	behind := ""
	for {
		reports, err := store.GatewayReports(ctx, group)
		if err == nil && len(reports) > 0 {
			behind = ""
			for _, r := range reports {
				if r.Generation < generation {
					behind = r.Holder
				}
			}
			if behind == "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			if behind != "" {
				return fmt.Errorf("gateway %s has not come to generation %d", behind, generation)
			}
			return errors.Join(context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// sourceFor is whom wrong passwords from an address are counted for; the zero Prefix, a proxy's or this machine's own, is nobody's.
func (g *Gateway) sourceFor(from netip.Addr) netip.Prefix {
	if from.IsLoopback() || g.isProxy(from) {
		return netip.Prefix{}
	}
	return sourceOf(from)
}
