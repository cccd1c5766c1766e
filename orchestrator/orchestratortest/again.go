package orchestratortest

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"slipway/orchestrator"
)

// Rewinder is a Store that can be put back to what it was when it was marked. With one, a site that has come to where a path begins is used
// again and again, which takes a part of the time that it takes to bring a new one there.
type Rewinder interface {
	Store
	Mark() error
	Rewind() error
}

// beginnings are sites that stand where a path begins, one for each test that runs at a time.
type beginnings struct {
	mu   sync.Mutex
	free []*beginning
}

// beginning is a site as it stood there. Its world is never used, only copied.
type beginning struct {
	site  Site
	world *World
	run   string
	store Rewinder
}

// take gives a site where a path begins: one that was there before, or one that make brings there. keep closes what is made when the path is
// over.
func (b *beginnings) take(t *testing.T, make func() (*Site, string)) (s *Site, run string) {
	t.Helper()
	b.mu.Lock()
	var at *beginning
	if n := len(b.free); n > 0 {
		at, b.free = b.free[n-1], b.free[:n-1]
	}
	b.mu.Unlock()
	if at == nil {
		made, run := make()
		if at = standing(made, run); at == nil {
			return made, run
		}
		made.must(at.store.Mark())
	}
	t.Cleanup(func() {
		if err := at.store.Rewind(); err != nil {
			t.Error(err)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.free = append(b.free, at)
	})
	return at.again(t), at.run
}

// standing notes a site; nil when it cannot be had again, since its store cannot or something is under way in its world.
func standing(s *Site, run string) *beginning {
	store, ok := s.Store.(Rewinder)
	if !ok || s.World.Pending() > 0 || len(s.World.late) > 0 {
		return nil
	}
	return &beginning{site: *s, world: s.World.copied(), run: run, store: store}
}

// again is the site as it stood there.
func (b *beginning) again(t *testing.T) *Site {
	s := b.site
	s.TB, s.World = t, b.world.copied()
	s.fences = maps.Clone(s.fences)
	s.Commits, s.Crashes = slices.Clone(s.Commits), slices.Clone(s.Crashes)
	return &s
}

// copied is a world of its own that is like this one, in which nothing is under way.
func (w *World) copied() *World {
	c := *w
	source := *w.source
	c.source, c.dice = &source, rand.New(&source)
	c.inventory, c.calls, c.Effects = maps.Clone(w.inventory), maps.Clone(w.calls), maps.Clone(w.Effects)
	c.dns, c.monitored = maps.Clone(w.dns), maps.Clone(w.monitored)
	c.Violations = slices.Clone(w.Violations)
	c.vms = nil
	for _, v := range w.vms {
		o := *v
		o.disks, o.guest.keys = slices.Clone(v.disks), slices.Clone(v.guest.keys)
		o.guest.jobs = map[string]*job{}
		for id, j := range v.guest.jobs {
			one := *j
			one.keys = slices.Clone(j.keys)
			o.guest.jobs[id] = &one
		}
		c.vms = append(c.vms, &o)
	}
	c.disks = nil
	for _, d := range w.disks {
		one := *d
		c.disks = append(c.disks, &one)
	}
	c.tasks = map[string]*task{}
	for ref, t := range w.tasks {
		one := *t
		c.tasks[ref] = &one
	}
	c.live = map[string]map[string]json.RawMessage{}
	for group, entries := range w.live {
		c.live[group] = maps.Clone(entries)
	}
	c.Service = &Service{World: &c, Answer: w.Service.Answer, estate: w.Service.estate, kept: map[string]map[string]orchestrator.Reservation{}}
	for pool, kept := range w.Service.kept {
		c.Service.kept[pool] = maps.Clone(kept)
	}
	return &c
}
