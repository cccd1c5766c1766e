package simulation

import (
	"container/heap"
	"context"
	"fmt"
	"hash/fnv"
	"iter"
	"time"
)

// scheduler lets things happen one after the other, in the order of a clock that only it moves. Code that waits for an answer is a routine:
// it runs until it pauses, and nothing else runs meanwhile.
type scheduler struct {
	seed    uint64
	now     time.Time
	queue   events
	made    int
	ran     int
	current *routine
	live    map[*routine]bool
	rolls   map[string]uint64
	after   func() // called when an event is over
}

// began is when every simulation begins.
var began = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

type event struct {
	at   time.Time
	made int
	run  func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].made < q[j].made
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = (*q)[:last]
	return e
}

func newScheduler(seed uint64) *scheduler {
	return &scheduler{seed: seed, now: began, live: map[*routine]bool{}, rolls: map[string]uint64{}, after: func() {}}
}

// in lets f run once d has gone by.
func (s *scheduler) in(d time.Duration, _ string, f func()) {
	s.made++
	heap.Push(&s.queue, event{s.now.Add(max(d, 0)), s.made, f})
}

// step runs the next event; false when there is none.
func (s *scheduler) step() bool {
	if len(s.queue) == 0 {
		return false
	}
	e := heap.Pop(&s.queue).(event)
	if e.at.After(s.now) {
		s.now = e.at
	}
	s.ran++
	e.run()
	s.after()
	return true
}

// roll is a number from 0 to n-1 for the next of something. Each name has dice of its own, so that a fault left out of a plan changes as
// little as possible of what comes after it.
func (s *scheduler) roll(name string, n int) int {
	if n <= 1 {
		return 0
	}
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %s %d", s.seed, name, s.rolls[name]) // never fails
	s.rolls[name]++
	x := h.Sum64() // FNV's low bits are weak
	x ^= x >> 31
	x *= 0x9e3779b97f4a7c15
	x ^= x >> 29
	return int(x % uint64(n))
}

// between is a length of time.
func (s *scheduler) between(name string, least, most time.Duration) time.Duration {
	return least + time.Duration(s.roll(name, int((most-least)/time.Millisecond)+1))*time.Millisecond
}

// routine is code of a process that waits for answers.
type routine struct {
	process *process
	name    string
	ctx     context.Context
	// deadline is when the row that is walked gives up waiting; zero when none is.
	deadline time.Time
	walking  walking
	fence    int64         // under which it drives a run
	asked    time.Time     // when it set out on its latest call
	fate     fate          // of the agent that it talks to
	lateBy   time.Duration // its request comes so much later, unknown to it

	yield func(time.Duration) bool
	next  func() (time.Duration, bool)
	stop  func()
}

// gone ends a routine whose process has died.
type gone struct{}

// spawn starts a routine of a process.
func (s *scheduler) spawn(ctx context.Context, p *process, name string, f func(*routine)) {
	r := &routine{process: p, name: name, ctx: ctx}
	r.next, r.stop = iter.Pull(func(yield func(time.Duration) bool) {
		defer func() {
			if failure := recover(); failure != nil && failure != (gone{}) {
				panic(failure)
			}
		}()
		r.yield = yield
		f(r)
	})
	s.live[r] = true
	s.resume(r)
}

// resume lets a routine run on until it pauses or ends. A process that stands still resumes when it moves again.
func (s *scheduler) resume(r *routine) {
	switch p := r.process; {
	case p.dead:
		s.end(r)
		return
	case p.frozen.After(s.now):
		s.in(p.frozen.Sub(s.now), p.name+" moves again", func() { s.resume(r) })
		return
	}
	before := s.current
	s.current = r
	pause, more := r.next()
	s.current = before
	switch {
	case !more:
		s.end(r)
	case r.process.dead:
		s.end(r)
	default:
		s.in(pause, r.name, func() { s.resume(r) })
	}
}

func (s *scheduler) end(r *routine) {
	if s.live[r] {
		delete(s.live, r)
		r.stop()
	}
}

// endAll leaves nothing behind.
func (s *scheduler) endAll() {
	for r := range s.live {
		r.process.dead = true
		s.end(r)
	}
}

// pause waits; the process may have died when it is over, and then nothing of it runs any more.
func (r *routine) pause(d time.Duration) {
	if r.process.dead || !r.yield(d) {
		r.process.dead = true
		panic(gone{})
	}
}
