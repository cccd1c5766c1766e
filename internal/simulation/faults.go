package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
)

// Classes of calls. Each call counts in its class and in anyCall.
const (
	hypervisorCall = "hypervisor"
	guestCall      = "guest"
	storeCall      = "store"
	brokerCall     = "broker"
	agentCall      = "agent"
	anyCall        = "any"
)

// kind is one way in which something goes wrong.
type kind struct {
	name   string
	what   string // for the reader of the figures
	weight int    // how often it is planned

	// A fault of a call: within so many calls of its class, at this moment of it.
	class  string
	calls  int
	moment orchestratortest.Moment
	fits   func(call string) bool // nil fits all
	strike func(*simulation, Fault) error

	// Any other: begin is called at its time, and again until it reports that it has struck.
	begin func(*simulation, Fault) bool

	least, most time.Duration // how long it lasts
}

// Kinds lists the kinds of faults and what each of them is.
func Kinds() (names []string, what map[string]string) {
	what = map[string]string{}
	for _, k := range kinds() {
		names, what[k.name] = append(names, k.name), k.what
	}
	return names, what
}

func kinds() []kind {
	return slices.Concat(hypervisorKinds(), guestKinds(), storeKinds(), brokerKinds(), agentKinds(), workerKinds(), operatorKinds())
}

func refuse(op string, kind orchestrator.Kind, why string) func(*simulation, Fault) error {
	return func(*simulation, Fault) error { return orchestrator.Errorf(op, kind, "%s", why) }
}

// late calls may arrive after their caller has given up: orchestratortest makes them happen.
func late(call string) bool {
	return slices.Contains([]string{"StartClone", "StartMachine", "StopMachine"}, call)
}

func isEffect(call string) bool { return orchestratortest.Point{Call: call}.IsEffect() }

func hypervisorKinds() []kind {
	const class, calls = hypervisorCall, 150
	return []kind{
		{name: "hypervisor.refused", what: "the pool answers that it cannot now", weight: 2, class: class, calls: calls, moment: orchestratortest.Before,
			strike: refuse("xapi", orchestrator.Transient, "another operation is in progress")},
		{name: "hypervisor.session_gone", what: "the session is gone and so are its successors, for some calls", weight: 1, class: class, calls: calls, moment: orchestratortest.Before,
			strike: func(s *simulation, f Fault) error {
				s.away(hypervisorCall, f, "the session is invalid")
				return s.outage(hypervisorCall)
			},
			least: 100 * time.Millisecond, most: 3 * time.Second},
		{name: "hypervisor.request_lost", what: "a request is lost, and its caller cannot know", weight: 2, class: class, calls: calls, moment: orchestratortest.Before, fits: isEffect,
			strike: refuse("xapi", orchestrator.Unknown, "the connection was lost")},
		{name: "hypervisor.request_late", what: "a request arrives after its caller has given up", weight: 4, class: class, calls: calls, moment: orchestratortest.Before, fits: late,
			strike: func(*simulation, Fault) error { return orchestratortest.ErrLate }},
		{name: "hypervisor.answer_lost", what: "an effect is made and its answer is lost", weight: 4, class: class, calls: calls, moment: orchestratortest.After, fits: isEffect,
			strike: refuse("xapi", orchestrator.Unknown, "the connection was lost")},
		{name: "hypervisor.half_done", what: "a call with several parts ends between them", weight: 2, class: class, calls: calls, moment: orchestratortest.During,
			strike: refuse("xapi", orchestrator.Unknown, "the connection was lost")},
		{name: "hypervisor.slow", what: "an answer takes longer than its caller may wait, or nearly", weight: 2, class: class, calls: calls, moment: orchestratortest.After,
			strike: func(s *simulation, f Fault) error { return s.current.wait(s, time.Duration(f.For)) }, least: 5 * time.Second, most: 6 * time.Minute},
		{name: "hypervisor.master_changed", what: "the pool has a new master: tasks are forgotten, and for a while nobody answers", weight: 2,
			begin: func(s *simulation, f Fault) bool {
				s.world.LoseTasks()
				s.away(hypervisorCall, f, "the host is a slave")
				return true
			}, least: time.Second, most: 40 * time.Second},
		{name: "hypervisor.storage_full", what: "the storage is full half-way through a clone", weight: 2,
			begin: func(s *simulation, _ Fault) bool {
				return s.world.FailClones(orchestrator.Errorf("xapi", orchestrator.Exhausted, "SR_BACKEND_FAILURE_44")) > 0
			}},
		{name: "hypervisor.task_vanished", what: "the toolstack restarts and forgets its tasks; what they did goes on", weight: 2,
			begin: func(s *simulation, _ Fault) bool {
				if s.world.Pending() == 0 {
					return false
				}
				s.world.LoseTasks()
				return true
			}},
	}
}

func guestKinds() []kind {
	const class, calls = guestCall, 60
	return []kind{
		{name: "guest.unreachable", what: "a guest does not answer", weight: 1, class: class, calls: calls, moment: orchestratortest.Before,
			strike: refuse("guest", orchestrator.Transient, "no route to host")},
		{name: "guest.answer_lost", what: "a guest does what it is asked and the answer is lost", weight: 2, class: class, calls: calls, moment: orchestratortest.After,
			strike: refuse("guest", orchestrator.Unknown, "the connection was lost")},
		{name: "guest.restarted", what: "a guest restarts under its post-install job", weight: 1,
			begin: func(s *simulation, _ Fault) bool { return s.world.LoseJobs() > 0 }},
	}
}

var errStoreGone = orchestrator.Errorf("store", orchestrator.Transient, "the connection was reset: %w", orchestrator.ErrStoreAway)

func storeKinds() []kind {
	const class, calls = storeCall, 600
	gone := func(*simulation, Fault) error { return errStoreGone }
	return []kind{
		{name: "store.lost_before", what: "the database goes away before a transaction", weight: 3, class: class, calls: calls, moment: orchestratortest.Before, strike: gone},
		{name: "store.lost_after", what: "a transaction is committed and its answer is lost", weight: 5, class: class, calls: calls, moment: orchestratortest.After, fits: writes, strike: gone},
		{name: "store.slow", what: "a transaction takes long", weight: 2, class: class, calls: calls, moment: orchestratortest.Before,
			strike: func(s *simulation, f Fault) error { return s.current.wait(s, time.Duration(f.For)) }, least: time.Second, most: 90 * time.Second},
		{name: "store.failover", what: "the database fails over: what was under way is answered to nobody, and for a while nobody answers", weight: 2,
			begin: func(s *simulation, f Fault) bool { s.away(storeCall, f, ""); return true }, least: time.Second, most: 45 * time.Second},
		{name: "store.clock_jumped", what: "the database's clock jumps, as after a change of its server", weight: 1,
			begin: func(s *simulation, f Fault) bool {
				if f.On%2 == 0 {
					s.storeClock += time.Duration(f.For)
				} else {
					s.storeClock -= time.Duration(f.For) / 4
				}
				s.changed()
				return true
			}, least: time.Second, most: 2 * time.Minute},
	}
}

// writes tells the calls of the store whose effect outlives them.
func writes(call string) bool {
	return slices.Contains([]string{"Accept", "Refuse", "Commit", "Claim", "Renew", "ReleaseRuns", "AcquireLease", "Confirm", "MarkBad", "PutMember", "MarkPublished", "Wake"}, call)
}

func brokerKinds() []kind {
	return []kind{
		{name: "broker.down", what: "the broker takes no event for a while", weight: 1, class: brokerCall, calls: 20, moment: orchestratortest.Before,
			strike: func(s *simulation, f Fault) error {
				s.away(brokerCall, f, "the broker is away")
				return s.outage(brokerCall)
			}, least: time.Second, most: time.Minute},
		{name: "broker.unconfirmed", what: "events are published and the confirm is lost", weight: 2, class: brokerCall, calls: 30, moment: orchestratortest.After,
			strike: refuse("broker", orchestrator.Transient, "no confirm came")},
		{name: "delivery.lost", what: "an order is lost on its way in; the panel, which hears nothing, sends it again", weight: 1, begin: onDelivery((*delivery).lose)},
		{name: "delivery.repeated", what: "an order is delivered twice", weight: 2, begin: onDelivery((*delivery).repeat), least: 10 * time.Millisecond, most: 3 * time.Minute},
		{name: "delivery.late", what: "an order comes late", weight: 1, begin: onDelivery((*delivery).delay), least: time.Second, most: 2 * time.Minute},
		{name: "delivery.reordered", what: "an order is overtaken by the next one", weight: 1, begin: onDelivery((*delivery).overtake)},
	}
}

// onDelivery strikes an order that has not set out yet.
func onDelivery(do func(*delivery, *simulation, Fault) bool) func(*simulation, Fault) bool {
	return func(s *simulation, f Fault) bool {
		if len(s.deliveries) == 0 {
			return false
		}
		return do(s.deliveries[f.On%len(s.deliveries)], s, f)
	}
}

func agentKinds() []kind {
	const class, calls = agentCall, 40
	return []kind{
		{name: "agent.unreachable", what: "an appliance cannot be reached", weight: 2, class: class, calls: calls, moment: orchestratortest.Before,
			strike: refuse("agent", orchestrator.Transient, "connection refused")},
		{name: "agent.down", what: "an appliance is down for a while", weight: 1,
			begin: func(s *simulation, f Fault) bool {
				a := s.agents[f.On%len(s.agents)]
				a.down = s.now.Add(time.Duration(f.For))
				return true
			}, least: 5 * time.Second, most: 3 * time.Minute},
		{name: "agent.late", what: "an apply arrives after its caller has given up, when another worker may be in charge", weight: 4, class: class, calls: calls, moment: orchestratortest.During,
			strike: func(s *simulation, f Fault) error {
				s.current.lateBy = time.Duration(f.For)
				return nil
			}, least: time.Second, most: 2 * time.Minute},
		{name: "agent.answer_lost", what: "an apply is done and its answer is lost", weight: 2, class: class, calls: calls, moment: orchestratortest.After,
			strike: refuse("agent", orchestrator.Unknown, "the connection was lost")},
		{name: "agent.killed_before_swap", what: "an agent is killed before its first rename", weight: 1, class: class, calls: calls, moment: orchestratortest.During, strike: agentFate(killedBeforeSwap)},
		{name: "agent.killed_before_restart", what: "an agent is killed between swap and restart", weight: 2, class: class, calls: calls, moment: orchestratortest.During, strike: agentFate(killedBeforeRestart)},
		{name: "agent.disk_full", what: "an appliance's disk is full", weight: 1, class: class, calls: calls, moment: orchestratortest.During, strike: agentFate(diskFull)},
		{name: "agent.restart_fails", what: "a service does not start with the new files, and the old ones are put back", weight: 1, class: class, calls: calls, moment: orchestratortest.During, strike: agentFate(restartFails)},
	}
}

func workerKinds() []kind {
	const calls = 800
	die := func(s *simulation, _ Fault) error {
		s.kill(s.current.process)
		panic(gone{})
	}
	freeze := func(s *simulation, f Fault) error {
		s.current.process.frozen = s.now.Add(time.Duration(f.For))
		s.current.pause(0)
		return nil
	}
	return []kind{
		{name: "worker.killed_before_call", what: "a worker dies before a call", weight: 2, class: anyCall, calls: calls, moment: orchestratortest.Before, strike: die},
		{name: "worker.killed_after_call", what: "a worker dies after a call, before it hears the answer", weight: 4, class: anyCall, calls: calls, moment: orchestratortest.After, strike: die},
		{name: "worker.stopped_before_call", what: "a worker stands still before a call, and makes it when others may have its runs", weight: 4, class: anyCall, calls: calls, moment: orchestratortest.Before, strike: freeze, least: 5 * time.Second, most: 4 * time.Minute},
		{name: "worker.stopped_after_call", what: "a worker stands still after a call, and goes on when others may have its runs", weight: 3, class: anyCall, calls: calls, moment: orchestratortest.After, strike: freeze, least: 5 * time.Second, most: 4 * time.Minute},
		{name: "worker.deaf", what: "a worker cannot renew its leases", weight: 1,
			begin: func(s *simulation, f Fault) bool {
				p := s.processes[f.On%len(s.processes)]
				p.deaf = s.now.Add(time.Duration(f.For))
				return true
			}, least: 20 * time.Second, most: 3 * time.Minute},
		{name: "worker.clock_jumped", what: "a worker's clock jumps", weight: 1,
			begin: func(s *simulation, f Fault) bool {
				p := s.processes[f.On%len(s.processes)]
				p.clock += time.Duration(f.For) * time.Duration(1-2*(f.On%2))
				return true
			}, least: time.Second, most: 2 * time.Hour},
	}
}

// verbs are what an operator does midway; the others of them come by themselves, or need a parked run.
var verbs = []string{
	orchestrator.VerbCancel, orchestrator.VerbRetry, orchestrator.VerbCancel, orchestrator.VerbRewind, orchestrator.VerbAdopt, orchestrator.VerbSkip, orchestrator.VerbForce,
}

func operatorKinds() []kind {
	return []kind{{name: "operator.intervened", what: "an operator cancels a run midway, or repairs one", weight: 2, begin: (*simulation).intervene}}
}

// call is a call that a routine makes.
type call struct {
	class, name string
	blind       bool // it does not look at its caller's context
}

// enter is passed by every call before it does anything. What it returns is the call's answer.
func (s *simulation) enter(c call) error {
	r := s.current
	if r == nil {
		return nil // the simulation itself looks
	}
	r.asked = s.now
	s.calls[c.class]++
	s.calls[anyCall]++
	s.calls["call "+c.name]++
	least, most := latency(c.class)
	if err := r.waitIn(s, s.between(c.class, least, most), c); err != nil {
		return err
	}
	if err := s.struck(c, orchestratortest.Before); err != nil {
		return err
	}
	if err := r.givenUp(s, c); err != nil {
		return err
	}
	return s.outage(c.class)
}

// leave is passed by every call that has done what it was to do.
func (s *simulation) leave(c call) error {
	r := s.current
	if r == nil {
		return nil
	}
	if err := s.struck(c, orchestratortest.After); err != nil {
		return err
	}
	least, most := latency(c.class)
	if err := r.waitIn(s, s.between(c.class, least, most), c); err != nil {
		return err
	}
	if s.outages[c.class].since.After(r.asked) {
		return s.outage(c.class)
	}
	return r.givenUp(s, c)
}

// latency is how long each half of a call of a class takes.
func latency(class string) (least, most time.Duration) {
	switch class {
	case storeCall:
		return 0, 4 * time.Millisecond
	case hypervisorCall, brokerCall:
		return time.Millisecond, 60 * time.Millisecond
	default:
		return 5 * time.Millisecond, 300 * time.Millisecond
	}
}

// struck lets the plan's next fault of this moment strike, if one is due.
func (s *simulation) struck(c call, m orchestratortest.Moment) error {
	if s.quiet {
		return nil
	}
	for i, p := range s.planned {
		k := p.kind
		if k.moment != m || k.class != c.class && k.class != anyCall || k.fits != nil && !k.fits(c.name) {
			continue
		}
		if p.Call == "" && s.calls[k.class] < p.Nth || p.Call != "" && (p.Call != c.name || s.calls["call "+c.name] < p.Nth) {
			continue
		}
		s.planned = slices.Delete(s.planned, i, i+1)
		s.note(p.Fault, c.name)
		return k.strike(s, p.Fault)
	}
	return nil
}

// note counts a fault that struck.
func (s *simulation) note(f Fault, where string) {
	s.result.Struck[f.Kind]++
	s.trace("fault %s in %s", f, where)
}

// outage is a time in which nobody of a class answers.
type outage struct {
	since, until time.Time
	why          string
}

func (s *simulation) away(class string, f Fault, why string) {
	s.outages[class] = outage{since: s.now, until: s.now.Add(time.Duration(f.For)), why: why}
}

func (s *simulation) outage(class string) error {
	o := s.outages[class]
	switch {
	case !o.until.After(s.now):
		return nil
	case class == storeCall:
		return errStoreGone
	default:
		return orchestrator.Errorf(class, orchestrator.Transient, "%s", o.why)
	}
}

// wait lets time go by in a call, and ends early when nobody waits for the answer any more.
func (r *routine) wait(s *simulation, d time.Duration) error { return r.waitIn(s, d, call{}) }

func (r *routine) waitIn(s *simulation, d time.Duration, c call) error {
	const slice = 5 * time.Second
	for end := s.now.Add(d); ; {
		left := end.Sub(s.now)
		if !r.deadline.IsZero() && !c.blind {
			left = min(left, r.deadline.Sub(s.now))
		}
		if left > 0 || d == 0 {
			r.pause(min(left, slice))
		}
		if err := r.givenUp(s, c); err != nil {
			return err
		}
		if !s.now.Before(end) {
			return nil
		}
	}
}

// givenUp is the answer that a caller gives itself.
func (r *routine) givenUp(s *simulation, c call) error {
	var err error
	switch {
	case c.blind:
		return nil
	case r.ctx.Err() != nil:
		err = context.Cause(r.ctx)
		if !errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %w", context.Canceled, err)
		}
	case !r.deadline.IsZero() && !s.now.Before(r.deadline):
		err = fmt.Errorf("waited until %s: %w", r.deadline.Sub(began), context.DeadlineExceeded)
	default:
		return nil
	}
	if c.class == storeCall {
		return orchestrator.Errorf("store", orchestrator.Transient, "%w: %w", orchestrator.ErrStoreAway, err)
	}
	return err
}
