package orchestratortest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
)

// Builder makes the process tables over a world and a store.
type Builder func(w *World, d orchestrator.Desired) []*orchestrator.Process

// Site is a world, a store and one worker after the other, with a clock that only the harness moves. It begins long ago, so that for the
// database's clock everything that waits is due.
type Site struct {
	testing.TB
	World  *World
	Store  Store
	Estate *orchestrator.Estate
	Now    time.Time

	// Wrap, when set, takes the place of a row's Do or Undo.
	Wrap func(row orchestrator.Row, undo bool, do Act) Act
	// Altering, when set, changes the orders about finished machines that Begin makes.
	Altering func(*orchestrator.Order)
	// Committed is called after each commit that the store took.
	Committed func(orchestrator.Commit)

	Commits []orchestrator.Commit // that the store took
	Fenced  int                   // commits that it refused since the run was another worker's
	Crashes []Crash

	build   Builder
	pool    string // that orders name
	holder  int
	orders  int
	machine string
	// stranger is the VM that an import is about.
	stranger string
	fences   map[string]int64 // the newest of each run
}

// Act is a row's Do or Undo.
type Act = func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error)

// NewSite makes a site with the pools of Estate on an empty store.
func NewSite(tb testing.TB, seed uint64, store Store, build Builder) *Site {
	tb.Helper()
	s := &Site{TB: tb, World: NewWorld(seed, Inventories()...), Store: store, Estate: Estate(), Now: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), build: build, fences: map[string]int64{}}
	s.In(PoolNAT)
	var members []orchestrator.Member
	for _, g := range Groups() {
		members = append(members, orchestrator.Member{Group: g.ID, Name: g.ID + "-1"})
	}
	s.must(store.SyncGroups(s.ctx(), Groups(), members))
	for _, inv := range Inventories() {
		s.must(store.SyncPool(s.ctx(), inv))
	}
	return s
}

// In makes the orders that follow name a pool of the estate, and its network's addresses come from where that pool has them from.
func (s *Site) In(pool string) {
	s.Helper()
	p, ok := s.Estate.PoolByID(pool)
	if !ok {
		s.Fatalf("there is no pool %q", pool)
	}
	s.pool, s.World.ServedElsewhere = pool, len(p.DHCP) == 0
}

func (s *Site) ctx() context.Context { return s.Context() }

func (s *Site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// Processes are the tables as they are, without Wrap.
func (s *Site) Processes() []*orchestrator.Process { return s.build(s.World, s.Store) }

// Process is the table of that name.
func (s *Site) Process(name string) *orchestrator.Process {
	s.Helper()
	for _, p := range s.Processes() {
		if p.Name == name {
			return p
		}
	}
	s.Fatalf("there is no process %q", name)
	return nil
}

// Engine is a new worker's engine: it knows nothing of what another has in hand.
func (s *Site) Engine(actor string) *orchestrator.Engine {
	s.Helper()
	processes := s.Processes()
	for _, p := range processes {
		for i, row := range p.Rows {
			if s.Wrap == nil {
				continue
			}
			p.Rows[i].Do = s.Wrap(row, false, row.Do)
			if row.Undo != nil {
				p.Rows[i].Undo = s.Wrap(row, true, row.Undo)
			}
		}
	}
	engine, err := orchestrator.NewEngine(orchestrator.EngineConfig{Processes: processes, Estate: s.Estate, Commit: s.commit, Attempts: s.Store.Attempts, Actor: actor, Log: slog.New(slog.DiscardHandler)})
	s.must(err)
	return engine
}

// commit is the engine's way to the store; its points are those of CommitCall.
func (s *Site) commit(ctx context.Context, c orchestrator.Commit) orchestrator.CommitResult {
	p, err := s.World.enter(CommitCall)
	if err != nil {
		return orchestrator.CommitResult{Err: err}
	}
	result := s.Store.Commit(ctx, []orchestrator.Commit{c})[0]
	if result.Err != nil {
		if errors.Is(result.Err, orchestrator.ErrFenced) {
			s.Fenced++
		}
		return result
	}
	if c.Run.Fence != s.fences[c.Run.ID] {
		s.Errorf("the store took a commit under fence %d, the run is at %d", c.Run.Fence, s.fences[c.Run.ID])
	}
	s.Commits = append(s.Commits, c)
	if s.Committed != nil {
		s.Committed(c)
	}
	if err := s.World.pass(p, After); err != nil {
		return orchestrator.CommitResult{Err: err}
	}
	return result
}

// Begin orders a run of a process: "install" makes a machine, any other process is about the machine that is there. A refusal is fatal.
func (s *Site) Begin(process string) (run string) {
	s.Helper()
	run, err := s.begin(process)
	s.must(err)
	return run
}

// Order is Begin for an order that may be refused.
func (s *Site) Order(process string) error {
	s.Helper()
	_, err := s.begin(process)
	return err
}

func (s *Site) begin(process string) (run string, err error) {
	s.Helper()
	s.orders++
	p := s.Process(process)
	o := orchestrator.Order{Source: "panel", ID: fmt.Sprintf("order-%d", s.orders), Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: s.machine}
	run = fmt.Sprintf("20000000-0000-4000-8000-%012d", s.orders)
	a := orchestrator.Acceptance{Actor: "intake", Now: s.Now}
	switch process {
	case "uninstall":
	case "import":
		s.machine = fmt.Sprintf("30000000-0000-4000-8000-%012d", s.orders)
		o, a.Machine = s.importing(o)
	case "install":
		s.machine = fmt.Sprintf("30000000-0000-4000-8000-%012d", s.orders)
		o = s.order(o)
		a.Machine = s.planned(o)
	default:
		o = s.altering(process, o)
		a.Alter = func(m orchestrator.Machine) (orchestrator.Alteration, error) { return o.Alteration(m, newPassword) }
	}
	a.Order, a.Run = o, p.NewRun(run, a.Machine.ID, o, s.Now)
	_, err = s.Store.Accept(s.ctx(), a)
	return run, err
}

// altering is an order for a process about a finished machine. A reconfiguration changes everything that it can.
func (s *Site) altering(process string, o orchestrator.Order) orchestrator.Order {
	o.Type = orchestrator.OrderType("slipway.order." + process)
	if o.Type == orchestrator.OrderReconfigure {
		o.Firewall = []orchestrator.FirewallRule{{Protocol: "tcp", Source: netip.MustParsePrefix("0.0.0.0/0"), Ports: []orchestrator.PortRange{{First: 443, Last: 443}}}}
		o.SSHKeys, o.Hostname, o.NewConsolePassword = []string{"ssh-ed25519 BBBB somebody"}, "shop", true
	}
	if s.Altering != nil {
		s.Altering(&o)
	}
	return o
}

func newPassword(m orchestrator.Machine) (orchestrator.Sealed, error) {
	return Vault{}.Seal(m.ID, orchestrator.SealedConsole, orchestrator.NewSecret("NEW-CONSOLE-PASSWORD"))
}

// Uninstall orders that a machine goes, whichever was installed last.
func (s *Site) Uninstall(machine string) (run string) {
	s.Helper()
	last := s.machine
	s.machine = machine
	run = s.Begin("uninstall")
	s.machine = last
	return run
}

// Active are the runs that can go on by themselves, oldest first.
func (s *Site) Active() []string {
	s.Helper()
	runs, err := s.Store.Runs(s.ctx(), orchestrator.RunFilter{Status: []orchestrator.Status{
		orchestrator.StatusReady, orchestrator.StatusRunning, orchestrator.StatusWaiting, orchestrator.StatusCanceling,
	}})
	s.must(err)
	var ids []string
	for _, run := range runs {
		ids = append(ids, run.ID)
	}
	slices.Sort(ids)
	return ids
}

func (s *Site) order(o orchestrator.Order) orchestrator.Order {
	everybody := netip.MustParsePrefix("0.0.0.0/0")
	o.Type, o.Machine, o.Name, o.Image = orchestrator.OrderInstall, "", fmt.Sprintf("web-%d", s.orders), "debian-12"
	o.Plan = orchestrator.Plan{VCPUs: 2, MemoryMiB: 1024, DiskGiB: 10}
	o.Firewall = []orchestrator.FirewallRule{{Protocol: "tcp", Source: everybody, Ports: []orchestrator.PortRange{{First: 22, Last: 22}}}}
	o.SSHKeys, o.Pool = []string{"ssh-ed25519 AAAA someone"}, s.pool
	return o
}

// Secrets are the values that must be seen nowhere but at their user.
func (s *Site) secrets() (hostKey, console, admin string) {
	return "PRIVATE-HOST-KEY", "CONSOLE-PASSWORD", "ADMINISTRATOR-PASSWORD"
}

func (s *Site) planned(o orchestrator.Order) orchestrator.Machine {
	m := orchestrator.Machine{
		ID: s.machine, Tenant: o.Tenant, Name: o.Name, Hostname: o.GuestName(), Image: o.Image, Plan: o.Plan, Firewall: o.Firewall, SSHKeys: o.SSHKeys,
		Presence: orchestrator.Planned, State: "queued", PoolWanted: o.Pool, HostKey: "ssh-ed25519 OWN",
		AdministratorAge: "-----BEGIN AGE ENCRYPTED FILE-----",
	}
	hostKey, console, admin := s.secrets()
	var err error
	m.HostKeySecret, err = Vault{}.Seal(m.ID, orchestrator.SealedHostKey, orchestrator.NewSecret(hostKey))
	s.must(err)
	m.ConsolePassword, err = Vault{}.Seal(m.ID, orchestrator.SealedConsole, orchestrator.NewSecret(console))
	s.must(err)
	m.AdministratorPassword, err = Vault{}.Seal(m.ID, orchestrator.SealedAdmin, orchestrator.NewSecret(admin))
	s.must(err)
	return m
}

// maxRounds bounds what Settle waits for; an undisturbed install needs about thirty.
const maxRounds = 300

// Settle lets workers, appliances and time go on until no run can go on by itself: all are done, canceled or parked.
func (s *Site) Settle() {
	s.Helper()
	for range maxRounds {
		active := s.Active()
		if len(active) == 0 {
			return
		}
		for _, run := range active {
			s.Round(run)
		}
		s.Pass()
	}
	s.Fatalf("nothing is settled after %d rounds:\n%s", maxRounds, strings.Join(s.Journal(), "\n"))
}

// Pass lets a round of time go by.
func (s *Site) Pass() {
	s.Helper()
	s.Now = s.Now.Add(time.Second)
	s.World.Advance()
	s.sweep()
	s.must(s.World.Apply(s.ctx(), s.Store))
}

// Worker is one holder of leases.
func (s *Site) Worker() string { return fmt.Sprintf("worker-%d", s.holder) }

// Round lets the worker take a run and drive it until it is put down, or the worker dies. Leases have no length: another worker may take
// the run at any moment.
func (s *Site) Round(run string) (took bool) {
	s.Helper()
	claim, err := s.Store.ClaimRun(s.ctx(), run, s.Worker(), 0)
	if errors.Is(err, orchestrator.ErrNotFound) {
		return false
	}
	s.must(err)
	s.fences[run] = claim.Run.Fence
	if _, err := s.Drive(s.Engine(s.Worker()), claim); err != nil && !errors.Is(err, orchestrator.ErrFenced) && !errors.Is(err, orchestrator.ErrStoreAway) {
		s.Fatalf("tick: %v", err)
	}
	return true
}

// Drive ticks a claim until it is put down. A worker that dies is followed by a new one.
func (s *Site) Drive(engine *orchestrator.Engine, claim orchestrator.Claim) (ticks int, err error) {
	defer func() {
		if r := recover(); r != nil {
			crash, ok := r.(Crash)
			if !ok {
				panic(r)
			}
			s.Crashes = append(s.Crashes, crash)
			s.holder++
		}
	}()
	for more := true; more; ticks++ {
		if ticks > 1000 {
			return ticks, fmt.Errorf("run %s goes round and round: %s", claim.Run.ID, strings.Join(s.Journal(), "\n"))
		}
		s.Now = s.Now.Add(time.Millisecond)
		if more, err = engine.Tick(s.ctx(), func() time.Time { return s.Now }, &claim); err != nil {
			s.holder++ // it lets go; whoever comes next has another name
			return ticks, err
		}
	}
	return ticks, nil
}

// Cancel asks a run to unwind, Retry lets a parked one go on.
func (s *Site) Cancel(run string) { s.Helper(); s.intervene(run, orchestrator.VerbCancel) }
func (s *Site) Retry(run string)  { s.Helper(); s.intervene(run, orchestrator.VerbRetry) }

func (s *Site) intervene(run, verb string) { s.Helper(); s.must(s.Ask(run, verb, "")) }

// Ask is an operator's verb with its step; the store may refuse it.
func (s *Site) Ask(run, verb, step string) error {
	_, err := s.Store.Intervene(s.ctx(), orchestrator.Intervention{Run: run, Verb: verb, Step: step, Actor: "1000:op", Reason: "the test says so", Now: s.Now})
	return err
}

// Run reads a run.
func (s *Site) Run(id string) orchestrator.Run {
	s.Helper()
	run, err := s.Store.Run(s.ctx(), id)
	s.must(err)
	return run
}

// Machine reads the machine of the last install.
func (s *Site) Machine() orchestrator.Machine {
	s.Helper()
	m, err := s.Store.Machine(s.ctx(), s.machine)
	s.must(err)
	return m
}

// Journal is every line of the machine's journal, for comparing and for reading.
func (s *Site) Journal() []string {
	attempts, err := s.Store.Attempts(s.ctx(), s.machine)
	s.must(err)
	var lines []string
	for _, a := range attempts {
		lines = append(lines, fmt.Sprintf("%d run %s %s→%s %s #%d undo %t %s-%s %s %s %q %s by %s %v",
			a.ID, a.Run[len(a.Run)-2:], a.From, a.To, a.Step, a.Number, a.Undo, stamp(a.Started), stamp(a.Ended), a.Outcome, a.Kind, a.Message, a.Detail, a.Actor, a.Handles))
	}
	return lines
}

// Replays checks that the journal of each of the machine's runs leads to the state where it stands.
func (s *Site) Replays() {
	s.Helper()
	attempts, err := s.Store.Attempts(s.ctx(), s.machine)
	s.must(err)
	runs, err := s.Store.Runs(s.ctx(), orchestrator.RunFilter{Machine: s.machine})
	s.must(err)
	for _, run := range runs {
		moves, end := orchestrator.Replay(s.ctx(), run.Run, s.Process(run.Process), attempts)
		if end != run.State {
			s.Errorf("the journal of run %s leads to %s, it stands in %s", run.ID, end, run.State)
		}
		for _, m := range moves {
			if m.Problem != "" {
				s.Errorf("line %d of the journal: %s", m.ID, m.Problem)
			}
		}
	}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("15:04:05.000")
}

// Events are the machine's events, oldest first.
func (s *Site) Events() []orchestrator.Event {
	s.Helper()
	events, err := s.Store.Unpublished(s.ctx(), 10000)
	s.must(err)
	return slices.DeleteFunc(events, func(e orchestrator.Event) bool { return e.Machine != s.machine })
}

// Describe is the whole state, world and store, one thing a line: what must be equal after every disturbance. Times, ids that chance
// gives, and how often something was tried are left out.
func (s *Site) Describe() []string {
	s.Helper()
	lines := s.World.Describe()
	for _, effect := range []string{"clone", "start", "stop", "destroy", "job", "name", "host"} {
		lines = append(lines, fmt.Sprintf("%s ×%d", effect, s.World.Effects[effect]))
	}
	lines = append(lines, s.describeReservations()...)
	return append(lines, s.describeStore()...)
}

func (s *Site) describeStore() []string {
	s.Helper()
	m := s.Machine()
	lines := []string{
		fmt.Sprintf("machine %s %s, placement %+v, dns %q, vm %t, %d disks, address %v, identity %t, settings %s, suspension %+v", m.Presence, m.State, m.Placement, m.DNS.Name, m.VM != "", len(m.Disks), m.Address, m.Identity != "",
			settings(m), m.Suspension),
	}
	runs, err := s.Store.Runs(s.ctx(), orchestrator.RunFilter{Machine: s.machine})
	s.must(err)
	for _, r := range runs {
		lines = append(lines, fmt.Sprintf("run %s %s %s %s: %s", r.ID[len(r.ID)-2:], r.Process, r.State, r.Status, r.Reason))
	}
	addresses, err := s.Store.Addresses(s.ctx())
	s.must(err)
	for _, a := range addresses {
		lines = append(lines, fmt.Sprintf("address %s %s of %s", a.Address, a.State, a.Machine))
	}
	ledger, err := s.Store.Ledger(s.ctx())
	s.must(err)
	lines = append(lines, describeLedger(ledger)...)
	for _, g := range Groups() {
		group, entries, err := s.Store.Entries(s.ctx(), g.ID)
		s.must(err)
		if group.Applied != group.Generation {
			lines = append(lines, fmt.Sprintf("group %s: %d of %d applied", g.ID, group.Applied, group.Generation))
		}
		for _, e := range entries {
			lines = append(lines, fmt.Sprintf("entry in %s of %s removed %t bad %q: %s", g.ID, e.Machine, e.Removed, e.Bad, s.World.withoutUUIDs(string(e.Body))))
		}
	}
	sort.Strings(lines)
	return lines
}

// settings are a machine's, with the password as it is sealed.
func settings(m orchestrator.Machine) string {
	body, err := json.Marshal(m.Settings())
	if err != nil {
		return err.Error()
	}
	return string(body)
}

func describeLedger(l *orchestrator.Ledger) []string {
	var lines []string
	for pool, p := range l.Pools {
		for _, h := range p.Hosts {
			lines = append(lines, fmt.Sprintf("host %s of %s: %d MiB promised", h.UUID, pool, h.ReservedMiB))
		}
		for _, r := range p.SRs {
			lines = append(lines, fmt.Sprintf("storage %s of %s: %d bytes promised", r.UUID, pool, r.ReservedBytes))
		}
	}
	for mac := range l.MACs {
		lines = append(lines, "mac taken: "+mac)
	}
	for group, ports := range l.Ports {
		for port := range ports {
			lines = append(lines, fmt.Sprintf("port taken: %s %d", group, port))
		}
	}
	return lines
}

// DataOf reads an event's body.
func DataOf(tb testing.TB, e orchestrator.Event) orchestrator.EventData {
	tb.Helper()
	var data orchestrator.EventData
	if err := json.Unmarshal(e.Data, &data); err != nil {
		tb.Fatal(err)
	}
	return data
}
