package simulation

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
	"slipway/store/sqlite"
)

// Hooks are where a deliberate defect is put in, to see whether it is found. The zero Hooks change nothing.
type Hooks struct {
	Hypervisor func(orchestrator.Hypervisor, Eye) orchestrator.Hypervisor
	Row        func(row orchestrator.Row, undo bool, do act) act
	Commit     func(next Committer, ctx context.Context, c orchestrator.Commit) orchestrator.CommitResult
	// NoFence makes the appliances listen to everybody: they compare neither fences nor generations.
	NoFence bool
}

// Committer is what a Hooks.Commit stands in front of.
type Committer interface {
	Commit(ctx context.Context, c orchestrator.Commit) orchestrator.CommitResult
	// Current is how the store has the run now.
	Current(run string) orchestrator.Run
	// Publish tells the panel.
	Publish(e orchestrator.Event)
}

// Eye sees what no port shows.
type Eye interface {
	VMs() []orchestratortest.SeenVM
	// NameOf is the name that the customer gave a machine.
	NameOf(machine string) string
}

// Problem is something that must not be.
type Problem struct {
	What string // "leaked", "duplicated", "stuck", or the invariant that was broken
	Text string
	At   time.Duration // since the beginning
}

func (p Problem) String() string { return fmt.Sprintf("%s after %s: %s", p.What, p.At, p.Text) }

// Result is how a simulation went.
type Result struct {
	Seed     uint64
	Struck   map[string]int // faults that struck, by kind
	Problems []Problem
	Hash     string // of the whole history
	History  []string
	Events   int           // of the scheduler
	Lasted   time.Duration // by the simulation's clock
	Runs     map[orchestrator.Status]int
	Late     int // effects that came after their machine was recorded absent, and were found and removed
}

// Failed reports whether anything was found.
func (r Result) Failed() bool { return len(r.Problems) > 0 }

// Faults is how many struck.
func (r Result) Faults() int {
	n := 0
	for _, k := range r.Struck {
		n += k
	}
	return n
}

// Runner runs simulations, one after the other, on one store that is emptied in between. Not safe for concurrent use.
type Runner struct {
	Hooks Hooks
	// Keep makes Results keep their histories.
	Keep bool

	store *sqlite.Memory
	now   func() time.Time
}

// NewRunner makes one; Close it.
func NewRunner(ctx context.Context) (*Runner, error) {
	r := &Runner{}
	var err error
	r.store, err = sqlite.NewMemory(ctx, func() time.Time { return r.now() })
	return r, err
}

// Close lets go of the store.
func (r *Runner) Close() error { return r.store.Close() }

type planned struct {
	Fault
	kind kind
}

type fenceOf = map[string]int64

type simulation struct {
	*scheduler
	plan   Plan
	hooks  Hooks
	store  *sqlite.Memory
	estate *orchestrator.Estate
	world  *orchestratortest.World
	result Result
	keep   bool
	hash   hash.Hash

	processes  []*process // that live
	agents     []*agent
	deliveries []*delivery
	panel      panel
	started    int
	ids        int

	calls      map[string]int
	planned    []planned
	outages    map[string]outage
	storeClock time.Duration
	quiet      bool // the last fault has struck

	behind   map[string]bool // groups
	looking  bool
	fences   fenceOf                         // the newest of each run
	claims   map[string]int                  // of each run in each minute
	saved    map[string][]orchestrator.Event // that commits wrote, by machine
	machines map[string]orchestrator.Machine // as the store has them
	retries  map[string]int
}

// Run runs one plan to its end.
func (r *Runner) Run(p Plan) Result {
	s := &simulation{
		scheduler: newScheduler(p.Seed), plan: p, hooks: r.Hooks, store: r.store, keep: r.Keep, hash: sha256.New(),
		panel: panel{heard: map[string][]orchestrator.Event{}, orders: map[string]string{}},
		calls: map[string]int{}, claims: map[string]int{}, outages: map[string]outage{}, behind: map[string]bool{}, fences: fenceOf{},
		saved: map[string][]orchestrator.Event{}, machines: map[string]orchestrator.Machine{}, retries: map[string]int{},
		result: Result{Seed: p.Seed, Struck: map[string]int{}, Runs: map[orchestrator.Status]int{}},
	}
	r.now = func() time.Time { return s.now.Add(s.storeClock) }
	s.scheduler.after = s.look
	defer s.endAll()
	if err := r.store.Reset(); err != nil {
		s.fail("store", "%v", err)
		return s.result
	}
	if err := s.build(); err != nil {
		s.fail("build", "%v", err)
		return s.result
	}
	s.run()
	s.result.Hash, s.result.Events, s.result.Lasted = hex.EncodeToString(s.hash.Sum(nil)), s.ran, s.now.Sub(began)
	return s.result
}

// build makes the site.
func (s *simulation) build() error {
	ctx := context.Background()
	s.estate = orchestratortest.Estate()
	s.estate.Quarantine = 10 * time.Minute
	if s.plan.Site.Elsewhere {
		slices.Reverse(s.estate.Pools)
	}
	if s.plan.Site.Tight {
		for i := range s.estate.Pools {
			p := &s.estate.Pools[i]
			p.Private.Ranges, p.Public.Ranges = firstTwo(p.Private.Ranges), firstTwo(p.Public.Ranges)
			p.ConsolePorts.Last = p.ConsolePorts.First + 1
		}
	}
	s.world = orchestratortest.NewWorld(s.plan.Seed, orchestratortest.Inventories()...)
	s.world.ServedElsewhere = s.plan.Site.Elsewhere
	s.world.Interrupt = s.interrupt
	var members []orchestrator.Member
	for _, g := range orchestratortest.Groups() {
		names := []string{g.ID + "-1"}
		if g.Unit == orchestrator.DHCP {
			names = append(names, g.ID+"-2")
		}
		for _, name := range names {
			s.agents = append(s.agents, &agent{s: s, group: g.ID, name: name})
			members = append(members, orchestrator.Member{Group: g.ID, Name: name})
		}
	}
	if err := s.store.SyncGroups(ctx, orchestratortest.Groups(), members); err != nil {
		return err
	}
	for _, inventory := range orchestratortest.Inventories() {
		if err := s.store.SyncPool(ctx, inventory); err != nil {
			return err
		}
	}
	for range s.plan.Site.Workers {
		if err := s.start(); err != nil {
			return err
		}
	}
	known := map[string]kind{}
	for _, k := range kinds() {
		known[k.name] = k
	}
	for _, f := range s.plan.Faults {
		k, ok := known[f.Kind]
		if !ok {
			return fmt.Errorf("fault %q is of no known kind", f.Kind)
		}
		if k.begin == nil {
			s.planned = append(s.planned, planned{f, k})
			continue
		}
		s.in(time.Duration(f.At), f.Kind, func() { s.begin(f, k) })
	}
	for i, o := range s.plan.Orders {
		d := &delivery{order: o, number: i + 1}
		s.deliveries = append(s.deliveries, d)
		d.set(s, time.Duration(o.At))
	}
	s.in(30*time.Second, "the panel looks", s.remind)
	s.in(time.Second, "a second", s.second)
	s.in(10*time.Second, "housekeeping", s.housekeep)
	s.in(horizon+2*time.Minute, "the faults are over", func() { s.quiet = true })
	s.in(horizon+5*time.Minute, "the operator looks", s.operate)
	return nil
}

func firstTwo(ranges []orchestrator.AddressRange) []orchestrator.AddressRange {
	if len(ranges) == 0 {
		return nil
	}
	first := ranges[0].First
	return []orchestrator.AddressRange{{First: first, Last: first.Next()}}
}

// begin lets a fault strike as soon as it can.
func (s *simulation) begin(f Fault, k kind) {
	switch {
	case s.quiet || len(s.processes) == 0:
	case k.begin(s, f):
		s.note(f, "its time")
	default:
		s.in(700*time.Millisecond, f.Kind, func() { s.begin(f, k) })
	}
}

// second lets the world get on.
func (s *simulation) second() {
	s.world.Advance()
	s.in(time.Second, "a second", s.second)
}

func (s *simulation) housekeep() {
	if len(s.processes) > 0 {
		s.processes[s.roll("housekeeper", len(s.processes))].housekeep()
	}
	s.in(time.Minute, "housekeeping", s.housekeep)
}

// tables are the processes over this site, whose rows the simulation takes as they are.
func (s *simulation) tables(d orchestrator.Desired) []*orchestrator.Process {
	var hypervisor orchestrator.Hypervisor = s.world
	if s.hooks.Hypervisor != nil {
		hypervisor = s.hooks.Hypervisor(hypervisor, s)
	}
	return orchestratortest.Tables(s.world, hypervisor, d)
}

func (s *simulation) table(name string) *orchestrator.Process {
	for _, p := range s.tables(s.store) {
		if p.Name == name {
			return p
		}
	}
	return nil
}

func (s *simulation) newID() string {
	s.ids++
	return fmt.Sprintf("20000000-0000-4000-8000-%012d", s.ids)
}

// VMs implements Eye.
func (s *simulation) VMs() []orchestratortest.SeenVM { return s.world.VMs() }

// NameOf implements Eye.
func (s *simulation) NameOf(machine string) string { return s.machines[machine].Name }

// Current implements Committer.
func (m *committer) Current(run string) orchestrator.Run {
	now, err := m.d.s.store.Run(context.Background(), run)
	if err != nil {
		m.d.s.fail("store", "%v", err)
	}
	return now
}

// Publish implements Committer.
func (m *committer) Publish(e orchestrator.Event) {
	e.Seq = int64(len(m.d.s.panel.heard[e.Machine])) + 1
	m.d.s.hear(e)
}

// changed is called after everything that may make a run due.
func (s *simulation) changed() {
	if s.looking {
		return
	}
	s.looking = true
	s.in(50*time.Millisecond, "what is due", func() {
		s.looking = false
		if due, ok := s.due(); ok {
			for _, p := range s.processes {
				p.look(due)
			}
		}
		if n := len(s.processes); n > 0 && s.unpublished() { // the others look now and then: remind
			s.processes[s.roll("publisher", n)].publishSoon(s.between("outbox", 10*time.Millisecond, 500*time.Millisecond))
		}
	})
}

// due is when the next run can be claimed: looks that would find none are left out.
func (s *simulation) due() (at time.Time, ok bool) {
	for _, r := range s.runs() {
		var when time.Time
		switch {
		case r.Holder != "":
			when = r.LeaseUntil
		case r.Status == orchestrator.StatusReady:
		case r.Status == orchestrator.StatusWaiting, r.Status == orchestrator.StatusCanceling:
			when = r.WakeAt
		default:
			continue
		}
		if !ok || when.Before(at) {
			at, ok = when, true
		}
	}
	return at.Add(-s.storeClock), ok
}

// runs are the active ones.
func (s *simulation) runs() []orchestrator.RunView {
	runs, err := s.store.Runs(context.Background(), orchestrator.RunFilter{Status: []orchestrator.Status{
		orchestrator.StatusReady, orchestrator.StatusRunning, orchestrator.StatusWaiting, orchestrator.StatusCanceling, orchestrator.StatusParked,
	}})
	if err != nil {
		s.fail("store", "%v", err)
	}
	return runs
}

func (s *simulation) unpublished() bool {
	events, err := s.store.Unpublished(context.Background(), 1)
	if err != nil {
		s.fail("store", "%v", err)
	}
	return len(events) > 0
}

// maxRetries is how often the operator says retry to a run that parks when all faults are over, before he cancels it; maxOperations bounds
// all that he says to one.
const (
	maxRetries    = 3
	maxOperations = 8
)

// operate is the operator when the faults are over: what is parked is tried again, and what does not come right is canceled.
func (s *simulation) operate() {
	for _, r := range s.runs() {
		if r.Kind == orchestrator.Exhausted && s.now.Sub(began) > horizon+2*s.estate.Quarantine && s.retries[r.ID] < maxOperations {
			s.retries[r.ID]++
			s.cancel(r, "there is no room")
			continue
		}
		if r.Status != orchestrator.StatusParked {
			continue
		}
		if r.Reason == "" || r.Kind == "" {
			s.violated("reason", "run %s is parked without a reason", r.ID)
		}
		s.retries[r.ID]++
		verb := orchestrator.VerbRetry
		if table := s.table(r.Process); s.retries[r.ID] > maxRetries && table != nil && table.Cancelable && !r.Undoing {
			verb = orchestrator.VerbCancel
		}
		if s.retries[r.ID] > maxOperations {
			continue
		}
		_, err := s.store.Intervene(context.Background(), orchestrator.Intervention{Run: r.ID, Verb: verb, Step: r.Step, Actor: "1000:op", Reason: "the faults are over", Now: s.now})
		s.trace("the operator says %s to run %s, parked for %q: %v", verb, r.ID, r.Reason, err)
		s.changed()
	}
	s.in(time.Minute, "the operator looks", s.operate)
}

func (s *simulation) cancel(r orchestrator.RunView, why string) {
	_, err := s.store.Intervene(context.Background(), orchestrator.Intervention{Run: r.ID, Verb: orchestrator.VerbCancel, Actor: "1000:op", Reason: why, Now: s.now})
	s.trace("the operator cancels run %s, for %s: %v", r.ID, why, err)
	s.changed()
}

// longest and most bound a simulation.
const (
	longest = 90 * time.Minute
	most    = 200_000
)

// run goes on until all has come to rest.
func (s *simulation) run() {
	settled := time.Time{}
	for s.ran < most && s.now.Sub(began) < longest && len(s.result.Problems) == 0 && s.step() {
		if !s.quiet || s.now.Sub(settled) < 10*time.Second {
			continue
		}
		settled = s.now
		if s.atRest() {
			s.sweep()
			if s.atRest() {
				break
			}
		}
	}
	s.judge()
}

// atRest reports that nothing more happens by itself.
func (s *simulation) atRest() bool {
	if s.now.Sub(began) < horizon+5*time.Minute || s.world.Pending() > 0 || s.unpublished() {
		return false
	}
	for _, r := range s.runs() {
		if r.Status != orchestrator.StatusParked || s.retries[r.ID] <= maxOperations {
			return false
		}
	}
	for _, d := range s.deliveries {
		if !d.known || d.with != nil || d.at.After(s.now) {
			return false
		}
	}
	for _, id := range sortedKeys(s.behind) {
		if s.behind[id] {
			return false
		}
	}
	for _, p := range s.processes {
		if p.frozen.After(s.now) || len(p.held) > 0 || len(p.applying) > 0 {
			return false
		}
	}
	return true
}

// trace writes a line of the history.
func (s *simulation) trace(format string, args ...any) {
	line := fmt.Sprintf("%11s %s", s.now.Sub(began).Truncate(time.Millisecond), fmt.Sprintf(format, args...))
	_, _ = fmt.Fprintln(s.hash, line) // never fails
	if s.keep {
		s.result.History = append(s.result.History, line)
	}
}

// violated notes something that must never be.
func (s *simulation) violated(what, format string, args ...any) {
	p := Problem{What: what, Text: fmt.Sprintf(format, args...), At: s.now.Sub(began)}
	s.trace("problem: %s: %s", p.What, p.Text)
	s.result.Problems = append(s.result.Problems, p)
}

// fail notes that the simulation itself went wrong.
func (s *simulation) fail(what, format string, args ...any) {
	s.violated("broken "+what, format, args...)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func compare(a, b string) int { return cmp.Compare(a, b) }
