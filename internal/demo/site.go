package demo

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"

	"slipway/internal/audit"
	"slipway/internal/config"
	"slipway/internal/service"
	"slipway/sim/guest"
	"slipway/sim/xapi"
)

// Site is the demo's world by itself, for tests that bring their own worker: pools, guests, and appliances that are directories.
type Site struct {
	// Path is the configuration that fits the site, Config what it says. Every secret lies beside it in a file that ends in .key or .password.
	Path   string
	Config *config.Config
	world  *world
	end    context.CancelFunc
}

// NewSite makes a site in a directory. Close it after the worker.
func NewSite(ctx context.Context, dir string, pools int, seed uint64, log *slog.Logger) (*Site, error) {
	ctx, end := context.WithCancel(ctx)
	s := &Site{Path: filepath.Join(dir, "slipway.yaml"), world: &world{dir: dir, log: log, guests: map[string]*running{}, keys: map[string][]uint32{}}, end: end}
	var err error
	if s.Config, err = s.world.build(ctx, Options{Pools: pools, Seed: seed}); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends everything.
func (s *Site) Close() {
	s.end()
	s.world.stop()
}

// Dial reaches the site's guests as its appliances let it.
func (s *Site) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return s.world.dial(ctx, network, address)
}

// Booting has a function look at each guest before it starts, in the order of their boots; it may have the guest misbehave.
func (s *Site) Booting(f func(g *guest.Guest)) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.world.booting = f
}

// Fault arms a failure in a pool, from 0.
func (s *Site) Fault(pool int, f xapi.Fault) error { return s.world.pools[pool].sim.AddFault(f) }

// Audit reads the site and compares it with the worker's store.
func (s *Site) Audit(ctx context.Context, worker *service.Service) (audit.Report, error) {
	return count(ctx, s.world, worker)
}
