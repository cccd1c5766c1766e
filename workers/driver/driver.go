package driver

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"slipway/orchestrator"
)

// Config is what a Driver needs.
type Config struct {
	Claims orchestrator.Claims
	Engine *orchestrator.Engine
	Holder string // unique among the workers of one store
	Log    *slog.Logger

	Slots int // runs driven at once; default 64
	// Pools is how many of them may be in one pool, by its id, so that one that hangs does not take all: "" are runs that have no place
	// yet. A pool that is not named may take all slots.
	Pools map[string]int
	Lease time.Duration // default 60 s; a worker that cannot renew stops acting after half of it
	Poll  time.Duration // how often due runs are looked for when nothing nudges; default 500 ms
}

// Driver drives the runs that it has claimed.
type Driver struct {
	Config
	nudge chan struct{}
	knows []string // where its engine can take runs up

	mu       sync.Mutex
	held     map[string]*hold
	draining bool
	steady   time.Time // since when every claim was answered; zero when the last one was not. Run's own
	wg       sync.WaitGroup
}

// hold is a run in hand.
type hold struct {
	fence  int64
	pool   string // where its machine is
	cancel context.CancelCauseFunc
	// old interrupts the run half a lease after the lease was last known to be ours; a renewal winds it up again.
	old *time.Timer
}

// New makes a Driver.
func New(c Config) *Driver {
	if c.Slots == 0 {
		c.Slots = 64
	}
	if c.Lease == 0 {
		c.Lease = 60 * time.Second
	}
	if c.Poll == 0 {
		c.Poll = 500 * time.Millisecond
	}
	return &Driver{Config: c, nudge: make(chan struct{}, 1), knows: c.Engine.Knows(), held: map[string]*hold{}}
}

// Nudge makes the driver look for due runs now: an order came in, a generation was applied, a task ended.
func (d *Driver) Nudge() {
	select {
	case d.nudge <- struct{}{}:
	default:
	}
}

// Held is how many runs are in hand now.
func (d *Driver) Held() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.held)
}

// Drain makes the driver take nothing new and put down what is in hand after the commit that is under way, for others to go on with; on false
// makes it work again.
func (d *Driver) Drain(on bool) {
	d.mu.Lock()
	d.draining = on
	d.mu.Unlock()
	d.Nudge()
}

func (d *Driver) drains() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.draining
}

// Run claims and drives until stop ends; then it takes nothing new and waits until what is in hand has been put down. When ctx ends,
// the runs in hand are interrupted and their leases given back.
func (d *Driver) Run(ctx context.Context, stop <-chan struct{}) {
	renewing, endRenewing := context.WithCancel(context.WithoutCancel(ctx))
	var renewer sync.WaitGroup
	renewer.Go(func() { d.renew(renewing) })
	defer renewer.Wait()
	defer endRenewing()
	defer d.wg.Wait()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-stop:
			return
		case <-d.nudge:
		case <-timer.C:
		}
		full := d.claim(ctx)
		timer.Stop()
		if full {
			timer.Reset(time.Millisecond) // there may be more than one claim took
			continue
		}
		timer.Reset(d.Poll)
	}
}

// claimLeast is how many runs one claim asks for at least, when so many slots are free: the others of a store shall find some as well. A worker
// with many slots asks for a quarter of them, so that it has taken up a dead one's within few claims.
const claimLeast = 32

// claim fills the free slots; true means that it took all it asked for and slots are left.
func (d *Driver) claim(ctx context.Context) bool {
	free := d.Slots - d.Held()
	if free <= 0 || d.drains() {
		return false
	}
	ask := min(free, max(claimLeast, d.Slots/4))
	ctxClaim, cancel := context.WithTimeout(ctx, d.Lease/4)
	defer cancel()
	asked := time.Now() // the lease runs from some moment after this one
	claims, err := d.Claims.Claim(ctxClaim, orchestrator.Ask{
		Holder: d.Holder, Limit: ask, Lease: d.Lease, Room: d.room(), Knows: d.knows,
		Strangers: !d.steady.IsZero() && asked.Sub(d.steady) >= orchestrator.StrangerAfter, // others had as long to say what they know
	})
	if err != nil {
		d.steady = time.Time{}
		if ctx.Err() == nil {
			d.Log.Warn("claim", "error", err)
		}
		return false
	}
	answered := time.Now()
	if d.steady.IsZero() {
		d.steady = answered
	}
	for _, claim := range claims {
		runCtx, h := d.take(ctx, claim, asked)
		d.wg.Go(func() { d.drive(runCtx, h, claim, answered) })
	}
	return len(claims) == ask && free > ask
}

// room is what is left of each pool's bound.
func (d *Driver) room() map[string]int {
	room := maps.Clone(d.Pools)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range d.held {
		if _, bounded := room[h.pool]; bounded {
			room[h.pool]--
		}
	}
	return room
}

// fits moves a run in hand to the pool where its machine is by now; false means that the pool has no slot left for it.
func (d *Driver) fits(h *hold, pool string) bool {
	if h.pool == pool { // only its own goroutine writes it
		return true
	}
	bound, bounded := d.Pools[pool]
	d.mu.Lock()
	defer d.mu.Unlock()
	taken := 0
	for _, other := range d.held {
		if other.pool == pool {
			taken++
		}
	}
	if bounded && taken >= bound {
		return false
	}
	h.pool = pool
	return true
}

// InPools is how many runs are in hand in each pool.
func (d *Driver) InPools() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	in := map[string]int{}
	for _, h := range d.held {
		in[h.pool]++
	}
	return in
}

// take notes a run as in hand, before anything else is claimed.
func (d *Driver) take(ctx context.Context, claim orchestrator.Claim, since time.Time) (context.Context, *hold) {
	runCtx, cancel := context.WithCancelCause(ctx)
	h := &hold{fence: claim.Run.Fence, pool: claim.Machine.Placement.Pool, cancel: cancel}
	h.old = time.AfterFunc(time.Until(since.Add(d.Lease/2)), func() { cancel(errLeaseOld) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[claim.Run.ID] = h
	return runCtx, h
}

// drive ticks one run until it is put down. What it is told of the time is the database's clock, as the claim had it, and what has gone by
// since: times that are compared with that clock, or with another worker's, never come from a clock of our own.
func (d *Driver) drive(ctx context.Context, h *hold, claim orchestrator.Claim, answered time.Time) {
	id, claimed := claim.Run.ID, claim.Run.UpdatedAt
	err := d.tick(ctx, h, &claim, func() time.Time { return claimed.Add(time.Since(answered)) })
	switch {
	case errors.Is(err, errHandedOver):
		d.giveBack(ctx, id, h.fence, d.Claims.HandOver)
		err = nil // a slot is free
	case err != nil:
		d.letGo(ctx, id, h.fence, err)
	}
	h.old.Stop()
	h.cancel(nil)
	d.mu.Lock()
	if d.held[id] == h {
		delete(d.held, id)
	}
	d.mu.Unlock()
	if err == nil {
		d.Nudge() // a slot is free; after an error the next look is soon enough
	}
}

// tick goes from step to step. nil means that the engine has put the run down. A step that panics parks its run and nobody else's: the
// worker and what else it has in hand go on.
func (d *Driver) tick(ctx context.Context, h *hold, claim *orchestrator.Claim, now func() time.Time) (err error) {
	defer func() {
		if value := recover(); value != nil {
			d.Log.Error("a step panicked", "run", claim.Run.ID, "step", claim.Run.Step, "panic", orchestrator.Panic(value), "stack", string(debug.Stack()))
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
			defer cancel()
			err = d.Engine.Abandon(ctx, now(), claim, value)
		}
	}()
	for {
		more, err := d.Engine.Tick(ctx, now, claim)
		switch {
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx) // why it was interrupted says more than where
		case err != nil || !more:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case d.drains(), !d.fits(h, claim.Machine.Placement.Pool):
			return errHandedOver
		}
	}
}

// letGo gives the lease back after an interruption, so that the next worker need not wait until it runs out. What was under way is found
// by the next attempt's observation.
func (d *Driver) letGo(ctx context.Context, id string, fence int64, why error) {
	if !errors.Is(why, context.Canceled) {
		d.Log.Warn("run put down", "run", id, "error", why)
	}
	if errors.Is(why, orchestrator.ErrFenced) {
		return
	}
	d.giveBack(ctx, id, fence, d.Claims.ReleaseRuns)
}

func (d *Driver) giveBack(ctx context.Context, id string, fence int64, how func(context.Context, string, map[string]int64) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := how(ctx, d.Holder, map[string]int64{id: fence}); err != nil {
		d.Log.Warn("lease not given back, it runs out by itself", "run", id, "error", err)
	}
}

// renew keeps the leases of the runs in hand alive, and interrupts those that are lost.
func (d *Driver) renew(ctx context.Context) {
	ticker := time.NewTicker(d.Lease / 6)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		runs := map[string]int64{}
		d.mu.Lock()
		for id, h := range d.held {
			runs[id] = h.fence
		}
		d.mu.Unlock()
		if len(runs) == 0 {
			continue
		}
		asked := time.Now()
		callCtx, cancel := context.WithTimeout(ctx, d.Lease/6)
		lost, err := d.Claims.Renew(callCtx, d.Holder, maps.Clone(runs), d.Lease)
		cancel()
		if err != nil && ctx.Err() == nil {
			d.Log.Warn("renew leases", "error", err)
		}
		d.afterRenewal(runs, lost, err, asked)
	}
}

// errHandedOver ends a drive between two steps: the worker is drained, or the pool that the machine was placed in has no slot left.
var errHandedOver = errors.New("left to whoever takes it next")

var errLeaseOld = errors.New("the lease could not be renewed for half its length")

func (d *Driver) afterRenewal(asked map[string]int64, lost []string, err error, at time.Time) {
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, h := range d.held {
		switch {
		case asked[id] != h.fence: // claimed meanwhile
		case slices.Contains(lost, id):
			h.cancel(orchestrator.ErrFenced)
		default:
			h.old.Reset(time.Until(at.Add(d.Lease / 2)))
		}
	}
}
