package orchestratortest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"slipway/orchestrator"
)

// Subject is what Exercise breaks.
type Subject struct {
	// Process is the table's name. Its rows are found by the harness: a new row needs no word here.
	Process string
	// Given are the processes that a machine has been through before, in their order.
	Given []string
	// Prepare, when set, makes a site ready: what is there before the first order.
	Prepare func(*Site)
	// Over are processes that may be ordered at any moment of this one and take over.
	Over []string
	// Pool of Estate in which all of it happens; rows that the pool's network has no use for are skipped there. "" is PoolNAT.
	Pool string
	// Until names a call: what is disturbed ends with the first of that name, for a pool that differs from another in its first rows only.
	// "" is all.
	Until    string
	Build    Builder
	NewStore func(testing.TB) Store // empty, its schema in place; closed by the caller's cleanup. A Rewinder makes it much faster
	Tally    *Tally                 // counts what was disturbed; may be nil
}

// Exercise breaks every row of a process in every way that it can break, one way at a time, and looks whether the end is that of a run
// that nobody disturbed, with each effect once, or after a cancel whether nothing is left:
//
//   - each Do and Undo is called, its outcome thrown away, and called again;
//   - each row fails for good, before it did anything and after it did everything; the run is canceled, or tried again where there is no
//     way back;
//   - the worker dies before, during and after each effect and each commit, and another goes on;
//   - the request or the answer of each call to the hypervisor, the DNS or monitoring is lost, or the request arrives after its caller has given up;
//   - the store goes away before and after each commit;
//   - a cancel, or an order that takes over, comes in after each commit;
//   - another worker takes the run away before and after each effect, and the first one does not know it;
//   - all of that at random, by seed.
//
// A disturbance that is not met is a failure, and so is a call to the world that the harness does not know.
func Exercise(t *testing.T, subject Subject) {
	x := &exercise{Subject: subject}
	subject.Tally.subject(subject.Process + " in " + cmp.Or(subject.Pool, PoolNAT))
	forward := path{name: "forward", begin: func(s *Site) string { return s.Begin(subject.Process) }}
	x.disturb(t, forward)
	if subject.Until != "" {
		t.Run("cancel", func(t *testing.T) { x.interrupt(t, forward, "", x.cancelable(t)) })
		t.Run("random", func(t *testing.T) { x.random(t, forward) })
		return
	}
	t.Run("history", func(t *testing.T) { x.history(t, forward.within(t)) })
	t.Run("fail", x.fail)
	t.Run("cancel", func(t *testing.T) { x.interrupt(t, forward, "", x.cancelable(t)) })
	for _, over := range subject.Over {
		t.Run("over_"+over, func(t *testing.T) {
			x.interrupt(t, forward, over, true)
			x.disturb(t, path{name: "handing_over", begin: func(s *Site) string {
				run := x.failLast(s)
				s.Begin(over)
				return run
			}})
		})
	}
	if x.cancelable(t) {
		x.disturb(t, path{name: "back", begin: func(s *Site) string {
			run := x.failLast(s)
			s.Cancel(run)
			return run
		}})
	}
	t.Run("random", func(t *testing.T) { x.random(t, forward) })
}

type exercise struct{ Subject }

// path is a walk: begin brings a site to where it starts, Settle does the rest.
type path struct {
	name  string
	begin func(*Site) (run string)
	// from are the sites that stand there already; life is the test in which all walks of the path are.
	from *beginnings
	life *testing.T
}

// within is the path for the tests in t.
func (p path) within(t *testing.T) path {
	p.from, p.life = &beginnings{}, t
	return p
}

// point counts what a test has disturbed, once it is known how it ended.
func (x *exercise) point(t *testing.T, hit string) {
	t.Cleanup(func() { x.Tally.point(x.Process, hit, !t.Failed()) })
}

// walked is a walk that nobody disturbed.
type walked struct {
	points  []Point
	skipped map[string]bool // steps that were not done, because of their When
	own     int             // so many of the points are passed until the run ends; the others are those of a run that took over
	end     []string
}

// site is a new one, after Given. Its store lives as long as the test life.
func (x *exercise) site(t, life *testing.T, seed uint64) *Site {
	t.Helper()
	s := NewSite(t, seed, x.NewStore(life), x.Build)
	s.In(cmp.Or(x.Pool, PoolNAT))
	if x.Prepare != nil {
		x.Prepare(s)
	}
	for _, process := range x.Given {
		run := s.Begin(process)
		s.Settle()
		if status := s.Run(run).Status; status != orchestrator.StatusDone {
			t.Fatalf("%s, which is given, ends %s", process, status)
		}
	}
	return s
}

func (x *exercise) process(t *testing.T) *orchestrator.Process {
	t.Helper()
	for _, p := range x.Build(NewWorld(1), nil) {
		if p.Name == x.Process {
			return p
		}
	}
	t.Fatalf("there is no process %q", x.Process)
	return nil
}

func (x *exercise) cancelable(t *testing.T) bool { return x.process(t).Cancelable }

// start is a site that stands where a path begins, with points that count from 1.
func (x *exercise) start(t *testing.T, p path) (s *Site, run string) {
	t.Helper()
	return p.from.take(t, func() (*Site, string) {
		s := x.site(t, p.life, 1)
		return s, x.begin(s, p)
	})
}

func (x *exercise) begin(s *Site, p path) (run string) {
	run = p.begin(s)
	s.World.forgetCalls()
	s.Commits = nil
	return run
}

// given is where every path begins: what is given is there, and nothing is ordered.
func (x *exercise) given(t *testing.T) path {
	return path{name: "given", begin: func(*Site) string { return "" }}.within(t)
}

// walk walks a path undisturbed.
func (x *exercise) walk(t *testing.T, p path) walked {
	t.Helper()
	s, run := x.start(t, p)
	var w walked
	at := s.following()
	s.World.Interrupt = func(p Point) error {
		if p.IsHypervisor() && at.Uses&orchestrator.UsesPool == 0 {
			t.Errorf("%s is called by step %s, which does not say that it uses the pool: a maintenance would not hold it", p, at.Step)
		}
		if !p.isKnown() {
			t.Errorf("the call %s is neither an effect nor a look: say which in point.go", p.Call)
		}
		w.points = append(w.points, p)
		return nil
	}
	s.Committed = func(c orchestrator.Commit) {
		if c.Run.ID == run && !c.Run.Status.Active() {
			w.own = len(w.points) + 1 // with the moment after this commit
		}
	}
	s.Settle()
	if until := slices.IndexFunc(w.points, func(p Point) bool { return p.Call == x.Until }); until >= 0 {
		w.own = min(w.own, until)
	}
	if s.Run(run).Status.Active() || w.own == 0 || w.own > len(w.points) {
		t.Fatalf("the undisturbed run does not end:\n%s", strings.Join(s.Journal(), "\n"))
	}
	w.end, w.skipped = s.Describe(), s.skipped(run)
	return w
}

// following keeps the row that is being walked.
func (s *Site) following() *orchestrator.Row {
	at := &orchestrator.Row{}
	s.Wrap = func(row orchestrator.Row, _ bool, do Act) Act {
		return func(ctx context.Context, step *orchestrator.Step) (orchestrator.Outcome, error) {
			*at = row
			return do(ctx, step)
		}
	}
	return at
}

// skipped are the steps that a run has passed without doing them.
func (s *Site) skipped(run string) map[string]bool {
	s.Helper()
	attempts, err := s.Store.Attempts(s.ctx(), s.machine)
	s.must(err)
	steps := map[string]bool{}
	for _, a := range attempts {
		if a.Run == run && a.Outcome == orchestrator.OutcomeSkipped {
			steps[a.Step] = true
		}
	}
	return steps
}

// failLast walks the process until its last row has done everything and then fails for good.
func (x *exercise) failLast(s *Site) (run string) {
	rows := s.Process(x.Process).Rows
	s.Wrap = failing(rows[len(rows)-1].Step, true)
	run = s.Begin(x.Process)
	s.Settle()
	s.Wrap = nil
	if status := s.Run(run).Status; status != orchestrator.StatusParked {
		s.Fatalf("the run is %s, not parked", status)
	}
	return run
}

// failing makes a step fail for good: before it does anything, or once it has done everything.
func failing(step string, done bool) func(orchestrator.Row, bool, Act) Act {
	return func(row orchestrator.Row, undo bool, do Act) Act {
		if row.Step != step || undo {
			return do
		}
		return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
			if done {
				outcome, err := do(ctx, s)
				if err != nil || outcome.Wait != nil {
					return outcome, err
				}
			}
			return orchestrator.Outcome{}, orchestrator.Errorf(step, orchestrator.Permanent, "made to fail")
		}
	}
}

// disturb breaks a path at each of its points in each way.
func (x *exercise) disturb(t *testing.T, p path) {
	t.Run(p.name, func(t *testing.T) {
		p := p.within(t)
		undisturbed := x.walk(t, p)
		t.Run("twice", func(t *testing.T) { x.twice(t, p, undisturbed) })
		for n, point := range undisturbed.points[:undisturbed.own] {
			try := func(name, hit string, what func(*Site, string) error, check func(*testing.T, *Site)) {
				t.Run(name+"/"+point.String(), func(t *testing.T) {
					t.Parallel()
					x.point(t, hit)
					x.at(t, p, undisturbed, n, what, check)
				})
			}
			if point.IsEffect() {
				try("crash", "killed "+string(point.Moment), crashAt(point), crashedAt(point))
				try("zombie", hitTaken, takeAway, fencedOff(point))
			}
			if (point.IsHypervisor() || point.IsRegistry()) && point.Moment != During {
				try("lost", hitLost, lose, func(*testing.T, *Site) {})
			}
			if point.Moment == Before && slices.Contains([]string{"StartClone", "StartMachine", "StopMachine"}, point.Call) {
				try("late", hitLate, func(*Site, string) error { return ErrLate }, func(*testing.T, *Site) {})
			}
			if point.Call == "Reserve" {
				try("outage", hitService, noAnswer, func(*testing.T, *Site) {})
			}
			if point.Call == CommitCall {
				try("away", hitAway, goAway, func(*testing.T, *Site) {})
			}
		}
	})
}

// at walks a path, does something at its n-th point, and compares the end. Up to the point the walk must be the undisturbed one: so it is
// known that the point was met, and that it was that one.
func (x *exercise) at(t *testing.T, p path, undisturbed walked, n int, what func(*Site, string) error, check func(*testing.T, *Site)) {
	s, run := x.start(t, p)
	seen := 0
	s.World.Interrupt = func(here Point) error {
		if seen > n {
			return nil
		}
		seen++
		if want := undisturbed.points[seen-1]; here != want {
			t.Errorf("point %d is %s, in the undisturbed walk it was %s", seen, here, want)
		}
		if seen == n+1 {
			return what(s, run)
		}
		return nil
	}
	s.Settle()
	if seen != n+1 {
		t.Errorf("the walk has passed %d points, it was to be disturbed at %d", seen, n+1)
	}
	check(t, s)
	s.same(undisturbed.end)
}

// same compares the end with that of another walk.
func (s *Site) same(want []string) {
	s.Helper()
	if diff := difference(want, s.Describe()); diff != "" {
		s.Errorf("the end is another one (- undisturbed, + this):\n%s\njournal:\n%s", diff, strings.Join(s.Journal(), "\n"))
	}
	s.Replays()
}

func difference(want, got []string) string {
	var lines []string
	for _, l := range want {
		if !slices.Contains(got, l) {
			lines = append(lines, "- "+l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			lines = append(lines, "+ "+l)
		}
	}
	if len(lines) == 0 && len(want) != len(got) {
		lines = append(lines, fmt.Sprintf("%d lines, not %d", len(got), len(want)))
	}
	return strings.Join(lines, "\n")
}

func crashAt(p Point) func(*Site, string) error {
	return func(*Site, string) error { panic(Crash{At: p}) }
}

func crashedAt(p Point) func(*testing.T, *Site) {
	return func(t *testing.T, s *Site) {
		if len(s.Crashes) != 1 || s.Crashes[0].At != p {
			t.Errorf("workers died at %v, one should have at %s", s.Crashes, p)
		}
	}
}

func lose(*Site, string) error {
	return orchestrator.Errorf("world", orchestrator.Unknown, "the connection was lost")
}

// noAnswer is a service that is away: with nothing done before, with everything done after.
func noAnswer(*Site, string) error {
	return orchestrator.Errorf("Reserve", orchestrator.Transient, "no answer")
}

func goAway(*Site, string) error {
	return orchestrator.Errorf("store", orchestrator.Transient, "made to go away: %w", orchestrator.ErrStoreAway)
}

// takeAway lets another worker do a round in the middle of the first one's call.
func takeAway(s *Site, _ string) error {
	s.holder++
	for _, run := range s.Active() {
		if !s.Round(run) {
			s.Errorf("nobody can take run %s away", run)
		}
	}
	return nil
}

// fencedOff checks that the worker whose run was taken away could commit nothing more. After a commit it may have nothing more to commit.
func fencedOff(p Point) func(*testing.T, *Site) {
	return func(t *testing.T, s *Site) {
		if s.Fenced == 0 && (p.Call != CommitCall || p.Moment != After) {
			t.Error("the first worker was not refused")
		}
	}
}

// twice calls each Do and Undo of the path twice, the first time for nothing.
func (x *exercise) twice(t *testing.T, p path, undisturbed walked) {
	for _, row := range x.process(t).Rows {
		t.Run(row.Step, func(t *testing.T) {
			t.Parallel()
			s, _ := x.start(t, p)
			called, undone := 0, 0
			s.Wrap = func(r orchestrator.Row, undo bool, do Act) Act {
				if r.Step != row.Step {
					return do
				}
				return func(ctx context.Context, step *orchestrator.Step) (orchestrator.Outcome, error) {
					called++
					if undo {
						undone++
					}
					first := *step
					machine := *step.Machine
					machine.Disks = slices.Clone(machine.Disks)
					first.Machine = &machine
					_, err := do(ctx, &first)
					if err != nil {
						return orchestrator.Outcome{}, err
					}
					return do(ctx, step)
				}
			}
			s.Settle()
			switch {
			case undisturbed.skipped[row.Step]:
			case p.name == "forward" && called == 0:
				t.Errorf("%s was not called", row.Step)
			case p.name == "back" && undone == 0 && row.Undo != nil:
				t.Errorf("%s was not undone", row.Step)
			}
			if called > 0 {
				x.point(t, hitTwice)
				x.Tally.row(x.Process, row.Step)
			}
			s.same(undisturbed.end)
		})
	}
}

// history walks one seed twice and another once.
func (x *exercise) history(t *testing.T, p path) {
	walk := func(seed uint64) (history []string, end []string) {
		s := x.site(t, t, seed)
		x.begin(s, p)
		s.Settle()
		history = s.Journal()
		for _, e := range s.Events() {
			history = append(history, fmt.Sprintf("%d %s %d %s %s", e.ID, e.Type, e.Seq, stamp(e.Time), e.Data))
		}
		return history, s.Describe()
	}
	first, end := walk(1)
	again, _ := walk(1)
	if diff := difference(first, again); diff != "" || !slices.Equal(first, again) {
		t.Errorf("one seed has two histories:\n%s", diff)
	}
	differ := !x.rolls(t, p)
	for seed := uint64(2); seed < 6 && !differ; seed++ {
		other, otherEnd := walk(seed)
		differ = !slices.Equal(first, other)
		if diff := difference(end, otherEnd); diff != "" {
			t.Errorf("seed %d ends otherwise:\n%s", seed, diff)
		}
	}
	if !differ {
		t.Error("five seeds have one history: the seed does nothing")
	}
}

// rolls reports whether chance has a part in a path: where nothing takes its time, all seeds have one history.
func (x *exercise) rolls(t *testing.T, p path) bool {
	s := x.site(t, t, 1)
	x.begin(s, p)
	s.World.rolled = false
	s.Settle()
	return s.World.rolled
}

// fail makes each row fail for good, before it does anything and when it has done everything.
func (x *exercise) fail(t *testing.T) {
	process := x.process(t)
	undisturbed := x.walk(t, path{begin: func(s *Site) string { return s.Begin(x.Process) }}.within(t))
	given := x.given(t)
	for _, row := range process.Rows {
		if undisturbed.skipped[row.Step] {
			continue
		}
		for moment, done := range map[Moment]bool{Before: false, After: true} {
			t.Run(row.Step+"_"+string(moment), func(t *testing.T) {
				t.Parallel()
				x.point(t, hitFailed)
				s, _ := x.start(t, given)
				before := x.before(t, s)
				s.Wrap = failing(row.Step, done)
				run := s.Begin(x.Process)
				s.Settle()
				s.Wrap = nil
				parked := s.Run(run)
				if parked.Status != orchestrator.StatusParked || parked.State != row.From || parked.Kind != orchestrator.Permanent || !strings.Contains(parked.Reason, "made to fail") {
					t.Fatalf("the run is %s in %s, kind %s, reason %q", parked.Status, parked.State, parked.Kind, parked.Reason)
				}
				exits := orchestrator.Exits(parked, process)
				if len(exits) == 0 {
					t.Fatal("a parked run has no exit")
				}
				if !process.Cancelable {
					s.Retry(run)
					s.Settle()
					s.same(undisturbed.end)
					return
				}
				s.Cancel(run)
				s.Settle()
				x.gone(s, run, before)
			})
		}
	}
}

// before is what must be there again when a run has been taken back.
func (x *exercise) before(t *testing.T, s *Site) []string {
	t.Helper()
	if len(x.Given) > 0 {
		return s.finished()
	}
	return s.empty()
}

// empty is what a site has before any machine.
func (s *Site) empty() []string {
	s.Helper()
	lines := append(s.World.Describe(), s.foreign()...)
	ledger, err := s.Store.Ledger(s.ctx())
	s.must(err)
	return append(lines, slices.DeleteFunc(describeLedger(ledger), func(l string) bool { return !isPromise(l) })...)
}

// isPromise tells the lines that a run taken back leaves as they were from the addresses, MACs and ports that rest.
func isPromise(line string) bool {
	return slices.ContainsFunc([]string{"host ", "storage ", "entry ", "group "}, func(prefix string) bool { return strings.HasPrefix(line, prefix) })
}

// remains is what must be as before when a run has been taken back: the world, what is promised, the appliances' entries.
func (s *Site) remains() []string {
	s.Helper()
	return append(append(s.World.Describe(), s.foreign()...), slices.DeleteFunc(s.describeStore(), func(l string) bool { return !isPromise(l) })...)
}

// finished is what must be as before when a run about a finished machine has been taken back: everything but the run itself.
func (s *Site) finished() []string {
	s.Helper()
	return append(s.World.Describe(), slices.DeleteFunc(s.describeStore(), func(l string) bool { return strings.HasPrefix(l, "run ") })...)
}

// gone checks that a canceled run has left nothing: of a machine that it was to make nothing but addresses that rest, of one that was there
// before everything.
func (x *exercise) gone(s *Site, run string, before []string) {
	s.Helper()
	if status := s.Run(run).Status; status != orchestrator.StatusCanceled {
		s.Errorf("the run is %s, not canceled", status)
	}
	if len(x.Given) == 0 {
		s.nothingLeft(before)
		return
	}
	s.Replays()
	if diff := difference(before, s.finished()); diff != "" {
		s.Errorf("the machine is another one (- before, + now):\n%s\njournal:\n%s", diff, strings.Join(s.Journal(), "\n"))
	}
}

func (s *Site) nothingLeft(before []string) {
	s.Helper()
	s.Replays()
	s.nothingReserved()
	if diff := difference(before, s.remains()); diff != "" {
		s.Errorf("something is left (- before, + now):\n%s\njournal:\n%s", diff, strings.Join(s.Journal(), "\n"))
	}
	m := s.Machine()
	if m.Presence != orchestrator.Absent || !m.Placement.IsZero() {
		s.Errorf("the machine is %s, with placement %+v", m.Presence, m.Placement)
	}
	addresses, err := s.Store.Addresses(s.ctx())
	s.must(err)
	for _, a := range addresses {
		if a.State != orchestrator.AddressQuarantine && s.stranger == "" {
			s.Errorf("address %s is %s, it should rest", a.Address, a.State)
		}
	}
	attempts, err := s.Store.Attempts(s.ctx(), s.machine)
	s.must(err)
	placed := slices.ContainsFunc(attempts, func(a orchestrator.Attempt) bool {
		return a.Step == "place" && a.Outcome == orchestrator.OutcomeDone
	})
	if placed && len(addresses) == 0 {
		s.Error("the machine had addresses, and none of them rests")
	}
}

// interrupt has somebody cancel the run, or order the process that takes over, after each commit.
func (x *exercise) interrupt(t *testing.T, p path, over string, unwinds bool) {
	p = p.within(t)
	undisturbed := x.walk(t, p)
	commits := 0
	first, _ := x.start(t, x.given(t))
	before := x.before(t, first)
	bare := NewSite(t, 1, x.NewStore(t), x.Build)
	if x.Prepare != nil {
		x.Prepare(bare)
	}
	empty := bare.empty()
	broken := 0 // so many of them are disturbed
	for n, point := range undisturbed.points {
		if point.Call == CommitCall && point.Moment == After {
			commits++
			if x.Until == "" || n < undisturbed.own {
				broken = commits
			}
		}
	}
	for n := range broken {
		t.Run(fmt.Sprintf("after_commit_%d", n+1), func(t *testing.T) {
			t.Parallel()
			hit := hitCanceled
			if over != "" {
				hit = hitOrdered
			}
			x.point(t, hit)
			s, run := x.start(t, p)
			met := false
			s.Committed = func(c orchestrator.Commit) {
				if c.Ended != nil && c.Ended.Outcome == orchestrator.OutcomeUndone && s.World.Pending() > 0 {
					t.Errorf("%s counts as undone while a task is under way", c.Ended.Step)
				}
				if len(s.Commits) != n+1 {
					return
				}
				met = true
				switch {
				case over != "":
					s.Begin(over)
				case s.Run(run).Status.Active():
					s.Cancel(run)
				}
			}
			s.Settle()
			if !met {
				t.Errorf("the walk has %d commits, it was to be disturbed after %d", len(s.Commits), n+1)
			}
			for _, line := range s.Journal() {
				if strings.Contains(line, " "+orchestrator.OutcomeFailed+" ") {
					t.Errorf("the way back meets a failure that nobody made: %s", line)
				}
			}
			ended := s.Run(run).Status
			switch {
			case over != "":
				if ended.Active() {
					t.Errorf("the run is %s", ended)
				}
				if s.stranger != "" && ended == orchestrator.StatusDone {
					s.removed() // the import was at its end when the order came: what goes is a machine of ours
					return
				}
				s.nothingLeft(empty)
			case unwinds && n < commits-2: // before the last row is at work
				x.gone(s, run, before)
			case unwinds && ended == orchestrator.StatusCanceled:
				x.gone(s, run, before)
			default:
				s.same(undisturbed.end)
			}
		})
	}
}

// random disturbs every tenth point in some way, by seed. A run that parks is tried again: nothing that happens here is for ever.
func (x *exercise) random(t *testing.T, p path) {
	p = p.within(t)
	undisturbed := x.walk(t, p)
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed_", seed), func(t *testing.T) {
			t.Parallel()
			x.point(t, hitRandom)
			walk := func() []string {
				s, run := x.start(t, p)
				dice := NewWorld(seed).dice
				s.World.Interrupt = func(p Point) error {
					switch n := dice.IntN(50); {
					case n == 0:
						panic(Crash{At: p})
					case n == 1 && p.Call == CommitCall:
						return goAway(s, run)
					case n <= 2 && p.IsHypervisor():
						return lose(s, run)
					case n == 3 && p.Call != CommitCall:
						return orchestrator.Errorf("world", orchestrator.Transient, "not now")
					}
					return nil
				}
				for range 20 {
					s.Settle()
					if s.Run(run).Status != orchestrator.StatusParked {
						break
					}
					s.Retry(run)
				}
				s.World.Interrupt = nil
				s.same(undisturbed.end)
				return s.Journal()
			}
			first, again := walk(), walk()
			if !slices.Equal(first, again) {
				t.Errorf("one seed has two histories:\n%s", difference(first, again))
			}
		})
	}
}
