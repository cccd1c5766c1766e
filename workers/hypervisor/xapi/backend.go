package xapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"time"

	"slipway/orchestrator"
)

// PoolConfig is one pool as the backend needs it.
type PoolConfig struct {
	Config
	// Images gives a template's uuid for an image. An image that is not here is looked for by the template's other_config key
	// slipway_image; a name is never looked at.
	Images map[string]string
	// SRs are the uuids of the storages that machines may be put on. Empty means every storage that holds disks.
	SRs []string
}

// Backend is the orchestrator's Hypervisor on XenServer and XCP-ng pools. It is safe for concurrent use. Run follows the pools' tasks;
// without it everything works, but waits end by polling only.
type Backend struct {
	pools map[string]*pool
	wake  func(key string)
	log   *slog.Logger
}

var (
	_ orchestrator.Hypervisor = (*Backend)(nil)
	_ orchestrator.Display    = (*Backend)(nil)
)

// pool is one pool's client and what the backend remembers about it. Nothing of it must survive a restart.
type pool struct {
	id     string
	client *Client
	images map[string]string
	srs    []string
	log    *slog.Logger

	scans scanner

	mu        sync.Mutex
	clones    map[string]*cloneQueue // by template uuid
	unlocked  bool                   // the licence has no VIF locking
	wakeTasks map[Ref]bool           // clones in flight, whose end gives room to the next
	uuids     map[Ref]string         // of storages and networks
}

// NewBackend makes a backend for the pools, by pool id. wake is told the keys of orchestrator.WakeTask and WakeCapacity as tasks end; it
// must not block, and may be nil. It connects to nothing.
func NewBackend(pools map[string]PoolConfig, wake func(key string), log *slog.Logger) (*Backend, error) {
	if wake == nil {
		wake = func(string) {}
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Backend{pools: map[string]*pool{}, wake: wake, log: log}
	for id, cfg := range pools {
		if cfg.Logger == nil {
			cfg.Logger = log.With("pool", id)
		}
		client, err := New(cfg.Config)
		if err != nil {
			return nil, orchestrator.Errorf("xapi.NewBackend", orchestrator.Permanent, "pool %s: %w", id, err)
		}
		for image, uuid := range cfg.Images {
			if !isUUID(uuid) {
				return nil, orchestrator.Errorf("xapi.NewBackend", orchestrator.Permanent, "pool %s: images.%s: %q is no uuid; see: xe template-list params=uuid,name-label", id, image, printable(uuid))
			}
		}
		b.pools[id] = &pool{
			id: id, client: client, images: cfg.Images, srs: slices.Clone(cfg.SRs), log: cfg.Logger,
			clones: map[string]*cloneQueue{}, wakeTasks: map[Ref]bool{}, uuids: map[Ref]string{},
		}
	}
	return b, nil
}

// Run follows the tasks of every pool and wakes those who wait for them, until ctx ends. It returns when all its goroutines have.
func (b *Backend) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, p := range b.pools {
		wg.Go(func() {
			_ = p.client.Follow(ctx, func(task Ref, status TaskStatus) { // ends with ctx only
				if status == TaskPending {
					return
				}
				b.wake(orchestrator.WakeTask(p.id, string(task)))
				if p.cloneEnded(task) {
					b.wake(orchestrator.WakeCapacity)
				}
			})
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// Close logs out everywhere, and waits for reads that nobody waits for any more. The port must not be in use.
func (b *Backend) Close(ctx context.Context) error {
	var errs []error
	for _, p := range b.pools {
		p.scans.work.Wait()
		errs = append(errs, p.client.Close(ctx))
	}
	return errors.Join(errs...)
}

// Client is the client of one pool, for what the port does not offer (a check, an operator's question).
func (b *Backend) Client(pool string) (*Client, bool) {
	p, ok := b.pools[pool]
	if !ok {
		return nil, false
	}
	return p.client, true
}

func (b *Backend) pool(op, id string) (*pool, error) {
	p, ok := b.pools[id]
	if !ok {
		return nil, orchestrator.Errorf("xapi."+op, orchestrator.Permanent, "pool %q is not configured", printable(id))
	}
	return p, nil
}

// ObserveTask implements orchestrator.Hypervisor.
func (b *Backend) ObserveTask(ctx context.Context, poolID, task string) (orchestrator.Task, error) {
	p, err := b.pool("ObserveTask", poolID)
	if err != nil {
		return orchestrator.Task{}, err
	}
	state, err := p.client.ObserveTask(ctx, Ref(task))
	if err != nil {
		return orchestrator.Task{}, err
	}
	switch state.Status {
	case TaskPending:
		return orchestrator.Task{State: orchestrator.TaskPending, Progress: state.Progress}, nil
	case TaskSuccess:
		return orchestrator.Task{State: orchestrator.TaskSucceeded, Progress: 1}, nil
	case TaskGone:
		return orchestrator.Task{State: orchestrator.TaskGone, Err: state.Err}, nil
	}
	return orchestrator.Task{State: orchestrator.TaskFailed, Err: state.Err}, nil
}

// ForgetTask implements orchestrator.Hypervisor.
func (b *Backend) ForgetTask(ctx context.Context, poolID, task string) error {
	p, err := b.pool("ForgetTask", poolID)
	if err != nil {
		return err
	}
	return p.client.DestroyTask(ctx, Ref(task))
}

var uuidPattern = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func isUUID(s string) bool { return uuidPattern.MatchString(s) }

// finish carries a change out as a task and waits for its end as long as ctx allows. xapi may hold such a call back for long while the
// object is busy; a task shows that it is still at it. Running out of time is Unknown: the next look at the object tells.
func (p *pool) finish(ctx context.Context, method string, args ...any) error {
	task, err := p.client.StartTask(ctx, method, args...)
	if err != nil {
		return err
	}
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		state, err := p.client.ObserveTask(ctx, task)
		switch {
		case err != nil && ctx.Err() != nil:
			return orchestrator.Errorf("xapi", orchestrator.Unknown, "%s: its task was not seen to end: %w", method, err)
		case err != nil:
			return orchestrator.E("xapi", orchestrator.Unknown, fmt.Errorf("%s: its task cannot be read: %w", method, err))
		case state.Status != TaskPending:
			p.forget(ctx, task)
			return state.Err
		}
		if !sleep(ctx, pause) {
			return orchestrator.Errorf("xapi", orchestrator.Unknown, "%s: its task was not seen to end: %w", method, context.Cause(ctx))
		}
	}
}

// forget destroys a task that has ended; xapi drops it by itself after an hour.
func (p *pool) forget(ctx context.Context, task Ref) {
	if err := p.client.DestroyTask(ctx, task); err != nil {
		p.log.DebugContext(ctx, "task not forgotten", "err", err)
	}
}
