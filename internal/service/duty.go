package service

import (
	"context"
	"errors"
	"sync"
	"time"

	"slipway/orchestrator"
)

const (
	beatEvery = 2 * time.Second
	// beatDraining is how often a worker that is told to drain says how far it is.
	beatDraining = 200 * time.Millisecond
)

// duty is whether this worker takes on new work. The parts that do run while it does, and end when it is drained. Safe for concurrent use.
type duty struct {
	mu      sync.Mutex
	off     bool
	changed chan struct{} // closed at the next change
	parts   int           // at work now
}

func newDuty() *duty { return &duty{changed: make(chan struct{})} }

// set is told again and again.
func (d *duty) set(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off == on {
		d.off = !on
		close(d.changed)
		d.changed = make(chan struct{})
	}
}

// idle reports that no part is at work.
func (d *duty) idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off && d.parts == 0
}

// begin counts a part in, unless the worker is drained; the channel is closed when that changes.
func (d *duty) begin() (changed <-chan struct{}, on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.off {
		d.parts++
	}
	return d.changed, !d.off
}

func (d *duty) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parts--
}

// during runs a part of the worker whenever it is on duty, until ctx ends or the part does so by itself.
func (d *duty) during(ctx context.Context, part func(context.Context) error) error {
	for ctx.Err() == nil {
		changed, on := d.begin()
		if !on {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		relieved := false
		working, stop := context.WithCancel(ctx)
		var watching sync.WaitGroup
		watching.Go(func() {
			select {
			case <-changed:
				relieved = true
				stop()
			case <-working.Done():
			}
		})
		err := part(working)
		stop()
		watching.Wait()
		d.end()
		if !relieved || err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return nil
}

// attend says every now and then that this worker is there, and hears what it was told.
func (s *Service) attend(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.beats:
		case <-timer.C:
		}
		pause := beatEvery
		held := s.driver.Held()
		known, err := s.Store.Beat(ctx, orchestrator.Worker{
			Holder: s.holder, Version: s.options.Version, Started: s.started, Held: held, Idle: held == 0 && s.duty.idle(),
			Knows: s.Engine.Knows(),
		})
		switch {
		case err != nil && ctx.Err() == nil:
			s.log.Warn("say that this worker is there", "error", err)
		case err == nil:
			drained := !known.Drained.IsZero()
			if drained != s.duty.isOff() {
				s.log.Info("drain", "on", drained, "by", known.DrainedBy, "reason", known.DrainReason)
			}
			s.driver.Drain(drained)
			s.duty.set(!drained)
			if drained && !known.Idle {
				pause = beatDraining
			}
		}
		timer.Stop()
		timer.Reset(pause)
	}
}

func (d *duty) isOff() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off
}

// leave forgets this worker when it stops.
func (s *Service) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.Store.Leave(ctx, s.holder); err != nil {
		s.log.Debug("this worker stays listed for a while", "error", err)
	}
}
