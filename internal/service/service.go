// Package service puts a worker together: what `slipway serve` runs, and the demo and the end-to-end tests as well.
package service

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	cryptossh "golang.org/x/crypto/ssh"

	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/orchestrator/importing"
	"slipway/orchestrator/install"
	"slipway/orchestrator/uninstall"
	"slipway/store"
	"slipway/templates"
	"slipway/workers/appliance"
	"slipway/workers/console/gateway"
	"slipway/workers/driver"
	"slipway/workers/hypervisor"
	"slipway/workers/hypervisor/xapi"
	"slipway/workers/intake"
	"slipway/workers/ipam"
	"slipway/workers/monitoring/rest"
	"slipway/workers/names/rfc2136"
	"slipway/workers/outbox"
	"slipway/workers/queue"
	"slipway/workers/vault"
)

// Options are what the command line or a test adds to the configuration.
type Options struct {
	Log *slog.Logger
	// Dial reaches guests; nil is an ordinary dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Version is shown by /healthz.
	Version string
}

// Service is one worker.
type Service struct {
	Config *config.Config
	Estate *orchestrator.Estate
	Store  orchestrator.Store
	Queue  queue.Queue
	Intake *intake.Intake
	Vault  orchestrator.Vault
	Engine *orchestrator.Engine
	Xapi   *xapi.Backend

	Processes map[string]*orchestrator.Process

	log        *slog.Logger
	options    Options
	holder     string
	started    time.Time
	duty       *duty
	beats      chan struct{} // makes the next one come now
	gate       *driver.Gate
	committer  *driver.Committer
	driver     *driver.Driver
	addresses  ipam.Pools // by pool; those that give out their addresses by a service
	carriers   *carriers
	controller *appliance.Controller
	publisher  *outbox.Publisher
	notifier   *notifier
	auditor    *auditor
	console    *gateway.Gateway // nil when there is none
	vault      *vault.Vault
	past       past
	names      *rfc2136.Client
	monitoring *rest.Client
	dial       func(ctx context.Context, network, address string) (net.Conn, error)
	installer  orchestrator.Installer
}

// New builds a worker: it makes its queues on the broker and opens the database (migrating it), in this order, and connects to nothing else
// yet. A broker that is away is waited for later; one whose queues are somebody else's ends the start. Close it, also after Run.
func New(ctx context.Context, cfg *config.Config, o Options) (_ *Service, err error) {
	s := &Service{Config: cfg, log: o.Log, options: o, holder: holderName(), started: time.Now(), duty: newDuty(), beats: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.vault, err = openVault(cfg); err != nil {
		return nil, config.Unusable(err)
	}
	s.Vault = s.vault
	if err := findNotify(cfg.Notify); err != nil {
		return nil, err
	}
	tree := templates.Open(cfg.Templates)
	catalogue, err := loadCatalogue(cfg)
	if err != nil {
		return nil, config.Unusable(fmt.Errorf("templates: %w", err))
	}
	s.Estate = cfg.Estate(catalogue.Images())
	if err := s.Estate.Validate(); err != nil {
		return nil, err
	}
	if s.names, err = openNames(cfg); err != nil {
		return nil, config.Unusable(err)
	}
	if s.monitoring, err = openMonitoring(cfg); err != nil {
		return nil, config.Unusable(err)
	}
	dsn, err := DatabaseURL(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Queue.Kind != "embedded" {
		broker, err := openBroker(ctx, cfg, o.Log)
		if err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
		s.Queue = broker
	}
	warnInsecure(cfg, dsn, o.Log)
	if err := Migrate(ctx, cfg, dsn); err != nil {
		return nil, err
	}
	if s.Store, err = store.Open(ctx, dsn); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if err := fit(ctx, cfg, s.Store); err != nil {
		return nil, fmt.Errorf("what is stored does not fit: %w", err)
	}
	if err := syncConsoles(ctx, cfg, s.Store, o.Log); err != nil {
		return nil, fmt.Errorf("console_backend: %w", err)
	}
	if s.Queue == nil {
		if s.Queue, err = openQueue(cfg, s.Store, o.Log); err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
	}
	if s.Xapi, err = openHypervisor(cfg, s.wake, o.Log); err != nil {
		return nil, config.Unusable(err)
	}
	if s.console, err = openConsole(cfg, s.Store, s.Xapi, s.Vault, o.Log); err != nil {
		return nil, err
	}
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	installer, err := openInstallers(cfg, catalogue, dial, o.Log)
	if err != nil {
		return nil, config.Unusable(err)
	}

	s.dial, s.installer = dial, installer

	if s.addresses, err = openIPAM(cfg); err != nil {
		return nil, config.Unusable(err)
	}
	down := uninstall.New(uninstall.Ports{Hypervisor: s.Xapi, Desired: s.Store, Names: s.names, Monitoring: monitor(s.monitoring)})
	prober := Prober{Dial: dial, Vault: s.Vault, Consoles: consolePlaces(cfg, s.Store)}
	up := install.New(install.Ports{
		Names: s.names, Monitoring: monitor(s.monitoring),
		Hypervisor: s.Xapi, Desired: s.Store, Installer: installer, Vault: s.Vault, Addresses: s.addresses, Rooms: s.Store,
		Prober: prober, Boot: cfg.BootTimeout,
	})
	in := importing.New(importing.Ports{Hypervisor: s.Xapi, Importer: s.Xapi, Desired: s.Store, Prober: prober})
	processes := append([]*orchestrator.Process{up, down, in}, s.alterations(installer, prober)...)
	s.Processes = map[string]*orchestrator.Process{}
	for _, p := range processes {
		s.Processes[p.Name] = p
	}
	if err := knows(ctx, s.Processes, s.Store); err != nil {
		return nil, err
	}
	if err := joinVault(ctx, s.Store, s.vault, s.holder, o.Log); err != nil {
		return nil, err
	}
	desired, members := cfg.DomainGroups()
	if err := s.Store.SyncGroups(ctx, desired, members); err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	s.committer = driver.NewCommitter(s.Store)
	s.gate = &driver.Gate{Store: s.Store}
	guard := &driver.Guard{Store: s.Store, Gate: s.gate, Limits: cfg.Guard.Limits(), Window: cfg.Guard.Window, Log: o.Log}
	s.Engine, err = orchestrator.NewEngine(orchestrator.EngineConfig{
		Processes: processes, Estate: s.Estate, Commit: s.committer.Commit, Attempts: s.Store.Attempts, ConsoleAddress: s.consoleAddress, Actor: s.holder, Gate: s.gate, Guard: guard, Log: o.Log,
	})
	if err != nil {
		return nil, err
	}
	s.driver = driver.New(driver.Config{Claims: s.Store, Engine: s.Engine, Holder: s.holder, Log: o.Log, Slots: cfg.Workers, Pools: cfg.InFlight(), Lease: cfg.Lease})
	short := min(cfg.Lease, 15*time.Second) // what stands still for all when a worker dies
	s.carriers = &carriers{cfg: cfg, log: o.Log}
	groups, err := s.applianceGroups(tree)
	if err != nil {
		return nil, config.Unusable(err)
	}
	s.controller = appliance.New(appliance.Config{Store: s.Store, Groups: groups, Holder: s.holder, Log: o.Log, Woken: s.driver.Nudge, Lease: short})
	s.notifier = newNotifier(cfg.Notify, o.Log)
	s.auditor = &auditor{service: s}
	s.publisher = outbox.New(outbox.Config{Store: s.Store, Publish: s.publish, Parked: s.notifier.tell, Holder: s.holder, Log: o.Log, Lease: short})
	var consoles intake.Consoles // stays nil without a gateway
	if s.console != nil {
		consoles = s.console
	}
	s.Intake = intake.New(intake.Config{
		Consoles: consoles,
		Backlog:  s.Store, TenantRuns: cfg.TenantRuns,
		Store: s.Store, Estate: s.Estate, Vault: s.Vault, Processes: s.Processes, Log: o.Log, Installable: installable(catalogue), Changeable: changeable(installer), Administered: administered(catalogue),
		Accepted: func() { s.driver.Nudge(); s.publisher.Nudge() },
	})
	return s, nil
}

// Migrate makes the state directory and brings the database to this version's schema.
func Migrate(ctx context.Context, cfg *config.Config, dsn string) error {
	if err := os.MkdirAll(cfg.StateDir, 0o750); err != nil {
		return config.Unusable(fmt.Errorf("state_dir: %w", err))
	}
	if err := store.Migrate(ctx, dsn); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return nil
}

// Close lets go of everything that New opened.
func (s *Service) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if s.Xapi != nil {
		if err := s.Xapi.Close(ctx); err != nil {
			s.log.Debug("log out of the pools", "error", err)
		}
	}
	if s.carriers != nil {
		if err := s.carriers.Close(); err != nil {
			s.log.Debug("close the way to the agents", "error", err)
		}
	}
	if s.monitoring != nil {
		s.monitoring.Close()
	}
	if s.Queue != nil {
		if err := s.Queue.Close(); err != nil {
			s.log.Debug("close queue", "error", err)
		}
	}
	if s.Store != nil {
		leaveVault(s.Store, s.holder, s.log)
		if err := s.Store.Close(); err != nil {
			s.log.Debug("close database", "error", err)
		}
	}
}

// Run works until ctx ends. It stops in two steps: nothing new is taken in, and what is in hand gets grace to reach its next commit.
func (s *Service) Run(ctx context.Context) error {
	const grace = 10 * time.Second
	socket, health, err := s.listen(ctx)
	if err != nil {
		return config.Unusable(err) // before the pools count as unread, which holds up the workers that are there
	}
	if err := s.Store.BeginReading(ctx); err != nil {
		_ = socket.Close()
		if health != nil {
			_ = health.Close()
		}
		return fmt.Errorf("database: %w", err)
	}
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer endWork()
	commits, endCommits := context.WithCancel(context.WithoutCancel(ctx))
	defer endCommits()

	var committing, working, serving sync.WaitGroup
	committing.Go(func() { s.committer.Run(commits) })

	var failed error
	var once sync.Once
	ctx, cancel := context.WithCancel(ctx) // also ends when a part of the worker fails
	defer cancel()
	working.Go(func() { s.driver.Run(work, ctx.Done()) })
	fail := func(what string, err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			once.Do(func() { failed = fmt.Errorf("%s: %w", what, err) })
			cancel()
		}
	}
	serving.Go(func() { fail("hypervisor", s.Xapi.Run(ctx)) })
	serving.Go(func() { s.attend(ctx) })
	onDuty := func(part func(context.Context)) {
		serving.Go(func() {
			_ = s.duty.during(ctx, func(ctx context.Context) error { part(ctx); return nil })
		})
	}
	onDuty(s.controller.Run)
	onDuty(s.publisher.Run)
	onDuty(s.housekeep)
	onDuty(s.admit)
	onDuty(s.sweepAddresses)
	onDuty(func(ctx context.Context) { s.auditor.run(ctx, s.Config.Audit.Every) })
	serving.Go(func() { s.notifier.run(ctx) })
	serving.Go(func() {
		fail("queue", s.duty.during(ctx, func(ctx context.Context) error {
			return s.Queue.Orders(ctx, s.Config.Queue.Prefetch, s.Intake.Handle)
		}))
	})
	serving.Go(func() { fail("socket", s.serveAPI(ctx, socket)) })
	if s.console != nil && s.Config.Console.Listen != "" {
		serving.Go(func() { fail("console", serveConsole(ctx, s.console, s.Config, s.Store, s.holder, s.log)) })
	}
	if health != nil {
		serving.Go(func() { fail("listen", s.serveHealth(ctx, health)) })
	}
	s.log.Info("serving", "holder", s.holder, "pools", len(s.Estate.Pools), "queue", s.Config.Queue.Kind)

	<-ctx.Done()
	timer := time.AfterFunc(grace, endWork)
	serving.Wait()
	working.Wait()
	timer.Stop()
	endCommits()
	committing.Wait()
	s.leave(ctx)
	s.log.Info("stopped")
	return failed
}

// InPools is how many runs this worker drives now in each pool.
func (s *Service) InPools() map[string]int { return s.driver.InPools() }

// wake makes those who wait for a key due; called by the hypervisor's event loops.
func (s *Service) wake(key string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	n, err := s.Store.Wake(ctx, key)
	if err != nil {
		s.log.Debug("wake", "key", key, "error", err)
		return
	}
	if n > 0 {
		s.driver.Nudge()
	}
}

// housekeep ends quarantines and maintenances whose time has come and removes old events, and keeps an eye on each pool: one that is down
// stalls nobody else.
func (s *Service) housekeep(ctx context.Context) {
	const every = time.Minute
	var pools sync.WaitGroup
	defer pools.Wait()
	for _, p := range s.Estate.Pools {
		pools.Go(func() { s.keepPool(ctx, p.ID) })
	}
	var head orchestrator.ActHead // of the audit trail, as it was said last
	for {
		head = s.sayTrail(ctx, head)
		renewVault(ctx, s.Store, s.vault, s.holder, s.log)
		if n, err := s.Store.EndQuarantine(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("end quarantine", "error", err)
		} else if n > 0 {
			s.log.Info("quarantine ended", "freed", n)
		}
		if ended, err := s.Store.EndHolds(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("end maintenances", "error", err)
		} else {
			for _, h := range ended {
				s.log.Info("ended by itself", "hold", h.String())
			}
		}
		if n, err := s.Store.Prune(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("remove old events", "error", err)
		} else if n > 0 {
			s.log.Debug("old events removed", "events", n)
		}
		if ctx.Err() == nil {
			s.wake(orchestrator.WakeCapacity)
		}
		if !sleep(ctx, every) {
			return
		}
	}
}

// keepPool reads what a pool has every minute, and now and then removes what came too late. While it is in maintenance nothing is removed,
// and that it does not answer is no news.
func (s *Service) keepPool(ctx context.Context, pool string) {
	const every, afterFailure, sweepEvery = time.Minute, 3 * time.Second, 10
	for round := 0; ; round++ {
		pause := every
		_, held, err := s.gate.Held(ctx, []orchestrator.Subject{orchestrator.PoolSubject(pool)})
		if err == nil {
			err = s.readPool(ctx, pool)
		}
		if err == nil && !held && round%sweepEvery == 0 {
			err = s.removeStrays(ctx, pool)
		}
		switch {
		case err == nil:
			s.driver.Nudge() // there may be room
		case ctx.Err() != nil:
		case held:
			s.log.Debug("read pool", "pool", pool, "error", err)
		default:
			s.log.Warn("read pool", "pool", pool, "error", err)
			pause = afterFailure
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// sleep waits; false means that ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (s *Service) readPool(ctx context.Context, pool string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	inventory, err := s.Xapi.Inventory(ctx, pool)
	if err != nil {
		return err
	}
	return s.Store.SyncPool(ctx, inventory)
}

// removeStrays removes what came too late: the clone of a worker that had lost its run.
func (s *Service) removeStrays(ctx context.Context, pool string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	n, err := hypervisor.Sweep(ctx, s.Store, s.Xapi, pool)
	if n > 0 {
		s.log.Warn("VMs that came into being too late were removed", "pool", pool, "vms", n)
	}
	return err
}

// applianceGroups joins configuration, carriers and renderers.
func (s *Service) applianceGroups(tree fs.FS) ([]appliance.Group, error) {
	var groups []appliance.Group
	for _, g := range s.Config.Groups {
		render, err := renderer(s.Config, g, tree, s.Vault)
		if err != nil {
			return nil, err
		}
		group := appliance.Group{ID: g.ID, Unit: orchestrator.Unit(g.Unit), Render: render, Interval: g.Interval}
		if group.Unit == orchestrator.Firewall {
			group.Cuts = firewallCuts
		}
		group.Names, group.Redact = reading(group.Unit)
		for _, m := range g.Members {
			if m.Gateway {
				group.Members = consoleMembers(s.Store, group.Members, m.Name)
				continue
			}
			c, err := s.carriers.open(m)
			if err != nil {
				return nil, fmt.Errorf("groups.%s.%s: %w", g.ID, m.Name, err)
			}
			group.Members = append(group.Members, appliance.Member{Name: m.Name, Carrier: c})
		}
		groups = append(groups, group)
	}
	return groups, nil
}

func openHypervisor(cfg *config.Config, wake func(string), log *slog.Logger) (*xapi.Backend, error) {
	pools := map[string]xapi.PoolConfig{}
	for _, p := range cfg.Pools {
		password, err := p.XenAPI.Password.Read()
		if err != nil {
			return nil, fmt.Errorf("pools.%s.xenapi.password: %w", p.ID, err)
		}
		pc := xapi.PoolConfig{Config: xapi.Config{
			Addresses: p.XenAPI.Addresses, User: p.XenAPI.User, Password: password, CAFile: p.XenAPI.CAFile, Insecure: p.XenAPI.Insecure,
			Originator: "slipway", Logger: log.With("pool", p.ID),
		}, Images: map[string]string{}}
		pc.PinSHA256 = p.XenAPI.PinSHA256
		for image, i := range p.Images {
			if i.Template != "" {
				pc.Images[image] = i.Template
			}
		}
		pools[p.ID] = pc
	}
	return xapi.NewBackend(pools, wake, log)
}

// readLoginKey never repeats what it read.
func readLoginKey(cfg *config.Config) (cryptossh.Signer, error) {
	key, err := cfg.LoginKey.Read()
	if err != nil {
		return nil, err
	}
	signer, err := cryptossh.ParsePrivateKey([]byte(key.Reveal()))
	if err != nil {
		return nil, errors.New("is not a private SSH key without a passphrase: make one with `ssh-keygen -t ed25519 -N ''`")
	}
	return signer, nil
}

// holderName is unique among all workers: leases go by it.
func holderName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "worker"
	}
	var tail [4]byte
	_, _ = rand.Read(tail[:]) // never fails
	return fmt.Sprintf("%s:%d:%s", host, os.Getpid(), hex.EncodeToString(tail[:]))
}
