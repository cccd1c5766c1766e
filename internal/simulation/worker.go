package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
	"slipway/workers/appliance"
	"slipway/workers/hypervisor"
	"slipway/workers/intake"
	"slipway/workers/outbox"
)

// Lengths as a worker has them by default.
const (
	runLease   = time.Minute
	shortLease = 15 * time.Second // of the groups and the outbox
	slots      = 4                // few, so that the workers share what there is to do
)

// process is one worker: it knows what is in its memory and nothing else, and may die or stand still at any moment.
type process struct {
	s      *simulation
	name   string
	dead   bool
	frozen time.Time     // it stands still until then
	deaf   time.Time     // its renewals are lost until then
	clock  time.Duration // how far its clock is off

	engine     *orchestrator.Engine
	knows      []string
	controller *appliance.Controller
	publisher  *outbox.Publisher
	intake     *intake.Intake

	held     map[string]*hold
	applying map[string]*grip
	polls    int  // the newest planned look for runs; older ones are off
	publish  bool // a look at the outbox is planned
}

// hold is a run in hand.
type hold struct {
	fence   int64
	renewed time.Time
	cancel  context.CancelCauseFunc
}

// grip is a group's lease while an apply is under way.
type grip struct {
	fence   int64
	renewed time.Time
	cancel  context.CancelCauseFunc
}

var errLeaseOld = errors.New("the lease could not be renewed for half its length")

// start makes a worker and sets its clocks going.
func (s *simulation) start() error {
	s.started++
	p := &process{s: s, name: fmt.Sprintf("worker-%d", s.started), held: map[string]*hold{}, applying: map[string]*grip{}}
	db := database{s.store, s}
	processes := s.tables(db)
	for _, table := range processes {
		for i, row := range table.Rows {
			table.Rows[i].Do = s.walked(row, i == 0, false, row.Do)
			if row.Undo != nil {
				table.Rows[i].Undo = s.walked(row, i == 0, true, row.Undo)
			}
		}
	}
	byName := map[string]*orchestrator.Process{}
	for _, table := range processes {
		byName[table.Name] = table
	}
	quiet := slog.New(slog.DiscardHandler)
	var err error
	p.engine, err = orchestrator.NewEngine(orchestrator.EngineConfig{Processes: processes, Estate: s.estate, Actor: p.name, Log: quiet, Commit: db.commit, Attempts: s.store.Attempts})
	if err != nil {
		return err
	}
	p.knows = p.engine.Knows()
	now := func() time.Time { return s.now.Add(p.clock) }
	// Their leases are renewed by the simulation's clock: real timers must never run out.
	const never = 1000 * time.Hour
	p.controller = appliance.New(appliance.Config{Store: shortLeases{db}, Groups: s.groups(), Holder: p.name, Log: quiet, Lease: never, Timeout: never, Now: now})
	p.publisher = outbox.New(outbox.Config{Store: shortLeases{db}, Publish: s.publish, Holder: p.name, Log: quiet, Lease: never})
	p.intake = intake.New(intake.Config{
		Store: db, Estate: s.estate, Vault: orchestratortest.Vault{}, Processes: byName, Log: quiet, Now: now, NewID: s.newID, Administered: func(string) bool { return true },
		Rand: rand.NewChaCha8([32]byte{byte(s.plan.Seed), byte(s.plan.Seed >> 8), byte(s.plan.Seed >> 16), byte(s.started)}),
	})
	s.processes = append(s.processes, p)
	p.every(runLease/6, "renew", p.renew)
	p.every(shortLease/5, "keep", p.keep)
	s.changed()
	for _, g := range orchestratortest.Groups() {
		s.behind[g.ID] = true
		p.apply(g.ID, s.between("first look", 0, 2*time.Second))
	}
	return nil
}

// in lets f run in the process, if it lives then, once it moves.
func (p *process) in(d time.Duration, what string, f func()) {
	var run func()
	run = func() {
		switch {
		case p.dead:
		case p.frozen.After(p.s.now): // a moment later than what was under way when it stopped
			p.s.in(p.frozen.Sub(p.s.now)+time.Millisecond, p.name+" "+what, run)
		default:
			f()
		}
	}
	p.s.in(d, p.name+" "+what, run)
}

func (p *process) every(d time.Duration, what string, f func()) {
	p.in(d, what, func() {
		f()
		p.every(d, what, f)
	})
}

func (p *process) spawn(ctx context.Context, what string, f func(*routine)) {
	p.s.spawn(ctx, p, p.name+" "+what, f)
}

// kill ends a worker. Whatever it had in hand lies where it was; another worker comes after a while.
func (s *simulation) kill(p *process) {
	if p.dead {
		return
	}
	p.dead = true
	s.processes = slices.DeleteFunc(s.processes, func(o *process) bool { return o == p })
	s.trace("%s dies", p.name)
	s.in(s.between("restart", 500*time.Millisecond, 20*time.Second), "a worker starts", func() {
		if err := s.start(); err != nil {
			s.fail("start", "%v", err)
		}
	})
	for _, d := range s.deliveries {
		if d.with == p {
			d.with = nil
			d.set(s, s.between("redelivery", 100*time.Millisecond, 5*time.Second))
		}
	}
}

// look plans when the process looks for runs: at its next poll after one is due.
func (p *process) look(due time.Time) {
	p.polls++
	poll := p.polls
	d := max(due.Sub(p.s.now), 0) + p.s.between("poll", 0, 500*time.Millisecond)
	p.in(d, "look", func() {
		if poll == p.polls {
			p.claim()
		}
	})
}

func (p *process) claim() {
	p.spawn(context.Background(), "claim", func(r *routine) {
		free := slots - len(p.held)
		if free > 0 {
			asked := p.s.now
			claims, err := database{p.s.store, p.s}.Claim(r.ctx, orchestrator.Ask{Holder: p.name, Limit: min(free, 2), Lease: runLease, Knows: p.knows})
			if err != nil {
				p.s.trace("%s claims: %v", p.name, err)
			}
			for _, claim := range claims {
				ctx, cancel := context.WithCancelCause(context.Background())
				h := &hold{fence: claim.Run.Fence, renewed: asked, cancel: cancel}
				p.held[claim.Run.ID] = h
				p.spawn(ctx, "drive "+claim.Run.ID, func(r *routine) { p.drive(r, h, claim) })
			}
		}
		p.s.changed() // to look again, when something is due or is due later
	})
}

// maxTicks bounds how often a run goes on at once.
const maxTicks = 2000

// drive is workers/driver's: it ticks a run until it is put down.
func (p *process) drive(r *routine, h *hold, claim orchestrator.Claim) {
	id := claim.Run.ID
	claimed, answered := claim.Run.UpdatedAt, p.s.now
	r.fence = h.fence
	now := func() time.Time { return claimed.Add(p.s.now.Sub(answered)) }
	var err error
	for ticks, more := 0, true; more && err == nil; ticks++ {
		if ticks > maxTicks {
			p.s.fail("rounds", "run %s goes round and round", id)
			return
		}
		if more, err = p.engine.Tick(r.ctx, now, &claim); err == nil && r.ctx.Err() != nil && more {
			err = context.Cause(r.ctx)
		}
	}
	if err != nil {
		p.s.trace("%s puts %s down: %v", p.name, id, err)
		if cause := context.Cause(r.ctx); cause != nil {
			err = cause
		}
		if !errors.Is(err, orchestrator.ErrFenced) {
			r.ctx = context.Background()
			_ = database{p.s.store, p.s}.ReleaseRuns(r.ctx, p.name, map[string]int64{id: h.fence}) // else it runs out by itself
		}
	}
	if p.held[id] == h {
		delete(p.held, id)
	}
	h.cancel(nil)
	p.s.changed()
}

// renew keeps the leases of the runs in hand, and lets those go that could not be renewed for half of one.
func (p *process) renew() {
	runs := map[string]int64{}
	for id, h := range p.held {
		runs[id] = h.fence
		if p.s.now.Sub(h.renewed) >= runLease/2 {
			h.cancel(errLeaseOld)
		}
	}
	if len(runs) == 0 || p.deaf.After(p.s.now) {
		return
	}
	p.spawn(context.Background(), "renew", func(r *routine) {
		asked := p.s.now
		lost, err := database{p.s.store, p.s}.Renew(r.ctx, p.name, runs, runLease)
		if err != nil {
			return
		}
		for id, h := range p.held {
			switch {
			case runs[id] != h.fence:
			case slices.Contains(lost, id):
				h.cancel(orchestrator.ErrFenced)
			default:
				h.renewed = asked
			}
		}
	})
}

// apply plans a look at a group.
func (p *process) apply(group string, d time.Duration) {
	if p.applying[group] != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	g := &grip{cancel: cancel}
	p.applying[group] = g
	p.in(d, "apply "+group, func() {
		p.spawn(ctx, "apply "+group, func(r *routine) {
			if err := p.controller.Once(r.ctx, group); err != nil {
				p.s.trace("%s applies to %s: %v", p.name, group, err)
			}
			cancel(nil)
			delete(p.applying, group)
			p.s.lookAtGroup(group)
			if p.s.behind[group] {
				p.apply(group, p.s.between("catch up", 2*time.Second, 4*time.Second))
			}
		})
	})
}

// keep renews the leases of the groups that are being applied to.
func (p *process) keep() {
	for _, id := range sortedKeys(p.applying) {
		g := p.applying[id]
		if g.fence == 0 {
			continue
		}
		p.spawn(context.Background(), "keep "+id, func(r *routine) {
			asked := p.s.now
			lease, ours, err := shortLeases{database{p.s.store, p.s}}.AcquireLease(r.ctx, "group:"+id, p.name, shortLease)
			switch {
			case err == nil && ours && lease.Fence == g.fence:
				g.renewed = asked
			case err == nil, p.s.now.Sub(g.renewed) > shortLease/2:
				g.cancel(errLeaseOld)
			}
		})
	}
}

// publishSoon plans a look at the outbox.
func (p *process) publishSoon(d time.Duration) {
	if p.publish {
		return
	}
	p.publish = true
	p.in(d, "publish", func() {
		p.spawn(context.Background(), "publish", func(r *routine) {
			r.deadline = p.s.now.Add(shortLease / 2)
			_, err := p.publisher.Once(r.ctx)
			p.publish = false
			switch {
			case err != nil:
				p.s.trace("%s publishes: %v", p.name, err)
				p.publishSoon(p.s.between("publish again", 500*time.Millisecond, 5*time.Second))
			case p.s.unpublished():
				p.publishSoon(p.s.between("publish more", 100*time.Millisecond, 2*time.Second))
			}
		})
	})
}

// housekeep is service's: it reads what the pools have, ends quarantines and wakes those who wait for room.
func (p *process) housekeep() {
	p.spawn(context.Background(), "housekeep", func(r *routine) {
		db := database{p.s.store, p.s}
		for _, pool := range p.s.estate.Pools {
			inventory, err := p.s.world.Inventory(r.ctx, pool.ID)
			if err == nil {
				err = db.SyncPool(r.ctx, inventory)
			}
			if err != nil {
				p.s.trace("%s reads %s: %v", p.name, pool.ID, err)
			}
		}
		for _, pool := range p.s.estate.Pools {
			if n, err := hypervisor.Sweep(r.ctx, db, p.s.world, pool.ID); n > 0 || err != nil {
				p.s.result.Late += n
				p.s.trace("%s removes %d strays of %s: %v", p.name, n, pool.ID, err)
			}
		}
		if _, err := db.EndQuarantine(r.ctx); err != nil {
			p.s.trace("%s ends quarantines: %v", p.name, err)
		}
		if _, err := db.Wake(r.ctx, orchestrator.WakeCapacity); err != nil {
			p.s.trace("%s wakes: %v", p.name, err)
		}
	})
}

// walking is the row that a routine walks.
type walking struct {
	run, machine, step string
	attempt            int
	undo               bool
	ordered            bool // the first attempt of a run: its order is its row in the journal
}

// act is a row's Do or Undo.
type act = func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error)

// walked gives a row its timeout by the simulation's clock, and says for whom calls are made.
func (s *simulation) walked(row orchestrator.Row, first, undo bool, do act) act {
	if s.hooks.Row != nil {
		do = s.hooks.Row(row, undo, do)
	}
	timeout := row.Policy.WithDefaults().Timeout
	return func(ctx context.Context, step *orchestrator.Step) (orchestrator.Outcome, error) {
		r := s.current
		r.deadline = s.now.Add(timeout)
		r.walking = walking{run: step.Run.ID, machine: step.Machine.ID, step: row.Step, attempt: step.Run.Attempt, undo: undo}
		r.walking.ordered = first && !undo && step.Run.Attempt == 1
		defer func() { r.deadline, r.walking = time.Time{}, walking{} }()
		return do(ctx, step)
	}
}
