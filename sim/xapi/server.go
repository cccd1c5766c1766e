package xapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"slipway/orchestrator"
)

// Latency says how the simulated pool spends time.
type Latency string

const (
	// None: every operation is done at once, in the order of a real pool's effects. Calls still wait for conflicting operations.
	None Latency = "none"
	// Real: operations take the time that a small real pool takes, waiting calls back off 1 to 20 s at random, events are collected.
	Real Latency = "real"
)

// Config describes a simulated pool. The zero value of every field is usable except Password.
type Config struct {
	User     string // "" is "root"
	Password orchestrator.Secret
	Hosts    int     // members, 1 to 64; 0 is 1. The first is the master.
	Seed     uint64  // references, uuids and MACs: the same seed and calls give the same pool
	Latency  Latency // "" is None
	Faults   []Fault // injected from the start; see AddFault
	Logger   *slog.Logger
	Now      func() time.Time // nil is time.Now
	// State is a file that keeps the pool over the death of its process; "" keeps nothing. A server that finds one goes on with its pool, as a
	// toolstack does that was killed: see Restart, whose hosts are enabled again after a second here. The rest of the configuration must be the
	// same. OnPower is told how each VM stands before anything else.
	State string

	HostMemory     int64      // bytes per host; 0 is 256 GiB
	HostCPUs       int64      // physical CPUs per host; 0 is 32
	HostAddress    string     // address of the first host, the next ones follow; "" is 10.0.0.1. It is part of console locations and HOST_IS_SLAVE.
	SameAddress    bool       // every host has HostAddress: they all listen on one endpoint
	SharedSR       bool       // one shared SR instead of a local one per host
	SRSize         int64      // bytes per SR; 0 is 4 TiB
	SRs            int        // how many SRs (per host when local); 0 is 1, -1 none
	Networks       []string   // managed networks with a PIF on every host; nil is "Pool-wide network associated with eth0"
	Templates      []Template // nil is DefaultTemplates(); an empty slice is none
	DefaultOS      bool       // also the default templates without a disk, and a tools SR: what a fresh pool has
	RestrictVIF    bool       // the licence feature VIF_locking is missing
	BallooningFree bool       // the licence allows dynamic memory ranges (restrict_dmc is false)

	// OnPower is told each change of a VM's power state, one at a time and in order, outside of any lock.
	OnPower func(Power)
	// OnKey is told each key that a viewer presses on the console of the VM of that name (an X keysym). It must not block.
	OnKey func(vm string, keysym uint32)
	// Guests runs the VMs for real; nil keeps books only. With it, guest metrics are what the agent in a guest reports, and there are none
	// before it does.
	Guests Guests
	// GuestAddress gives the address of the guest behind a MAC, as soon as it has one; it is asked while VMs run. Nil: guests report
	// through Server.ReportGuest only.
	GuestAddress func(mac string) (ip string, ok bool)
}

// Template is a template with one disk, ready to be cloned.
type Template struct {
	Name    string
	Image   string // other_config:slipway_image; "" leaves the key out
	DiskGiB int64
}

// ImageKey is the other_config key by which slipway finds the template of an image.
const ImageKey = "slipway_image"

// DefaultTemplates are the templates of a pool that does not configure any.
func DefaultTemplates() []Template {
	return []Template{
		{Name: "Debian 12", Image: "debian-12", DiskGiB: 4},
		{Name: "Debian 13", Image: "debian-13", DiskGiB: 4},
		{Name: "Ubuntu 22.04", Image: "ubuntu-22.04", DiskGiB: 8},
		{Name: "Ubuntu 24.04", Image: "ubuntu-24.04", DiskGiB: 8},
	}
}

// Power is a change of a VM's power state.
type Power struct {
	VM    string // uuid
	Name  string
	State string // Running, Paused, Halted, Suspended
	Boot  bool   // a new boot: started or rebooted
	VIFs  []VIF
}

// VIF is one network interface of a VM.
type VIF struct{ Device, MAC, Network string } // Network is a name_label

// Server is a simulated pool. Its methods may be called from any goroutine.
type Server struct {
	cfg Config
	log *slog.Logger
	now func() time.Time

	mu        sync.Mutex
	db        *database
	pool      *object
	hosts     []*object
	sessions  map[string]*session
	waiters   map[*waiter]bool
	changed   chan struct{} // closed and replaced when an operation ends: waiting calls look again
	holds     map[string]chan struct{}
	holding   map[string]int
	delays    map[string]time.Duration
	faults    []*armedFault
	calls     map[string]int         // per method, for Calls
	screens   map[chan struct{}]stay // open consoles, by what is closed when they end
	domid     int64
	booting   map[*object]bool // VMs that have a host but do not run yet
	rebooting map[*object]bool // VMs whose real guest ends in order to start again

	guests guestBook
	power  powerQueue
	state  *stateFile // nil: nothing is kept. Guarded by mu.

	base   context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // goroutines of this server

	closing sync.Mutex // orders the start of goroutines before or after Close

	operations     context.Context // of the calls; ends with Restart. Guarded by mu.
	stopOperations context.CancelFunc
}

// New makes a pool and its seeded content. Close frees it.
func New(cfg Config) (*Server, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	model, err := loadDatamodel()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, now: cfg.Now,
		db: newDatabase(model, cfg.Seed), sessions: map[string]*session{}, waiters: map[*waiter]bool{},
		changed: make(chan struct{}), holds: map[string]chan struct{}{}, holding: map[string]int{}, delays: map[string]time.Duration{}, calls: map[string]int{}, screens: map[chan struct{}]stay{}, booting: map[*object]bool{}, rebooting: map[*object]bool{},
	}
	for name, h := range handlers() {
		msg := model.messages[name]
		if msg == nil {
			return nil, fmt.Errorf("handler for %s, which is not in the datamodel", name)
		}
		msg.handler = h
	}
	for _, f := range cfg.Faults {
		if err := s.AddFault(f); err != nil {
			return nil, err
		}
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	s.operations, s.stopOperations = context.WithCancel(s.base)
	s.guests = guestBook{addresses: map[string]string{}, booted: make(chan struct{}, 1)}
	s.power.init(cfg.OnPower)
	if err := s.begin(); err != nil {
		s.cancel()
		return nil, fmt.Errorf("xapi simulator: state: %w", err)
	}
	if err := s.openGuests(); err != nil {
		s.cancel()
		return nil, err
	}
	s.goWork(func() { s.power.run(s.base) })
	if cfg.GuestAddress != nil {
		s.goWork(s.watchGuests)
	}
	return s, nil
}

func (c *Config) fill() error {
	if c.Password.IsZero() {
		return errors.New("xapi simulator: password: is empty: give the account one")
	}
	if c.User == "" {
		c.User = "root"
	}
	if c.State != "" && c.Guests != nil {
		return errors.New("xapi simulator: state: guests that run for real end with the simulator: choose one of the two")
	}
	if c.Hosts == 0 {
		c.Hosts = 1
	}
	if c.Hosts < 0 || c.Hosts > 64 {
		return fmt.Errorf("xapi simulator: hosts: %d: want 1 to 64", c.Hosts)
	}
	switch c.Latency {
	case "":
		c.Latency = None
	case None, Real:
	default:
		return fmt.Errorf("xapi simulator: latency: %q: want %q or %q", c.Latency, Real, None)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.HostMemory == 0 {
		c.HostMemory = 256 << 30
	}
	if c.HostCPUs == 0 {
		c.HostCPUs = 32
	}
	if c.HostAddress == "" {
		c.HostAddress = "10.0.0.1"
	}
	if c.SRSize == 0 {
		c.SRSize = 4 << 40
	}
	if c.SRs == 0 {
		c.SRs = 1
	}
	if c.Networks == nil {
		c.Networks = []string{"Pool-wide network associated with eth0"}
	}
	if c.Templates == nil {
		c.Templates = DefaultTemplates()
	}
	return nil
}

// begin makes the pool, or takes up the one that was kept.
func (s *Server) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer clear(s.db.dirty)
	if s.cfg.State == "" {
		s.seed()
		return nil
	}
	return s.resume(s.cfg.State)
}

// Close ends every waiting call and background work, and waits for it.
func (s *Server) Close() {
	s.closing.Lock()
	s.cancel()
	s.closing.Unlock()
	s.work.Wait()
	if s.cfg.Guests != nil {
		s.cfg.Guests.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != nil {
		_ = s.state.file.Close() // every line was written when it was made
		s.state = nil
	}
}

// goWork runs something that Close waits for; a server that closes starts nothing any more.
func (s *Server) goWork(f func()) {
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.base.Err() == nil {
		s.work.Go(f)
	}
}

// Serve answers on a listener until the context ends or the listener fails. A nil certificate means plain HTTP.
func (s *Server) Serve(ctx context.Context, ln net.Listener, cert *tls.Certificate) error {
	return s.serve(ctx, ln, cert, s.Handler())
}

// ServeSlave is Serve for a member that is not the master; see SlaveHandler.
func (s *Server) ServeSlave(ctx context.Context, ln net.Listener, cert *tls.Certificate, host int) error {
	return s.serve(ctx, ln, cert, s.SlaveHandler(host))
}

func (s *Server) serve(ctx context.Context, ln net.Listener, cert *tls.Certificate, h http.Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if cert != nil {
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	stopBase := context.AfterFunc(s.base, cancel)
	defer stopBase()
	err := srv.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	return err
}

// unlock keeps what changed, lets event.from see it, then frees the lock.
func (s *Server) unlock() {
	if len(s.db.dirty) > 0 {
		if s.state != nil {
			if err := s.keep(); err != nil { // nothing more is answered that could be forgotten
				s.log.Error("the pool's state cannot be kept", "error", err)
				s.cancel()
			}
		}
		for w := range s.waiters {
			if w.wants(s.db.dirty) {
				select {
				case w.wake <- struct{}{}:
				default:
				}
			}
		}
		s.endScreens()
		clear(s.db.dirty)
	}
	s.mu.Unlock()
}

// ended wakes the calls that wait for an object to become free. The lock is held.
func (s *Server) ended() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Calls counts the calls since the start, per method ("VM.clone"; asynchronous ones under the same name).
func (s *Server) Calls() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.calls)
}
