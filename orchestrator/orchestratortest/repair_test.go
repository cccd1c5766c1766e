package orchestratortest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/uninstall"
)

// parkedAt is a site whose install has parked at a step, before it did anything there or after it did everything.
func parkedAt(t *testing.T, step string, done bool) (s *orchestratortest.Site, run string) {
	t.Helper()
	s = site(t)
	s.Wrap = failAt(step, done)
	run = installed(t, s)
	s.Wrap = nil
	ended(t, s, run, orchestrator.StatusParked)
	return s, run
}

func failAt(step string, done bool) func(orchestrator.Row, bool, orchestratortest.Act) orchestratortest.Act {
	return func(row orchestrator.Row, undo bool, do orchestratortest.Act) orchestratortest.Act {
		if row.Step != step || undo {
			return do
		}
		return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
			if done {
				if outcome, err := do(ctx, s); err != nil || outcome.Wait != nil {
					return outcome, err
				}
			}
			return orchestrator.Outcome{}, orchestrator.Errorf(step, orchestrator.Permanent, "made to fail")
		}
	}
}

func ask(t *testing.T, s *orchestratortest.Site, run, verb, step string) {
	t.Helper()
	if err := s.Ask(run, verb, step); err != nil {
		t.Fatal(err)
	}
}

// world is what a site has come to, with how often each effect came about left out, and what rests.
func world(t *testing.T, s *orchestratortest.Site) []string {
	t.Helper()
	m := s.Machine()
	p, names := m.Placement, map[string]string{}
	for name, value := range map[string]string{
		"(private)": m.Placement.Private.String(), "(public)": m.Placement.Public.String(), "(mac)": m.Placement.MAC,
		"(port)": fmt.Sprint(m.Placement.ConsolePort), "(pointer)": m.DNS.Pointer,
	} {
		if value != "" {
			names[value] = name
		}
	}
	var lines []string
	for _, line := range s.Describe() {
		if strings.Contains(line, " ×") || strings.Contains(line, orchestrator.AddressQuarantine) ||
			strings.HasPrefix(line, "mac taken: ") && !strings.HasSuffix(line, p.MAC) || strings.HasPrefix(line, "port taken: ") && !strings.HasSuffix(line, fmt.Sprint(p.ConsolePort)) {
			continue
		}
		for what, name := range names {
			line = strings.ReplaceAll(line, what, name)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func same(t *testing.T, s *orchestratortest.Site, want []string) {
	t.Helper()
	if got := world(t, s); !slices.Equal(want, got) {
		t.Errorf("want\n%s\n\ngot\n%s\n\njournal\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"), strings.Join(s.Journal(), "\n"))
	}
	attemptsAreNeverUsedTwice(t, s)
	s.Replays()
}

// attemptsAreNeverUsedTwice looks at what workers did; an operator's act carries the number of the attempt that it is about.
func attemptsAreNeverUsedTwice(t *testing.T, s *orchestratortest.Site) {
	t.Helper()
	attempts, err := s.Store.Attempts(t.Context(), s.Machine().ID)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, a := range attempts {
		key := fmt.Sprint(a.Run, a.Step, a.Undo, a.Number)
		if a.Actor != "1000:op" && seen[key] {
			t.Errorf("%s #%d (undo %t) is there twice", a.Step, a.Number, a.Undo)
		}
		seen[key] = seen[key] || a.Actor != "1000:op"
	}
}

func undisturbed(t *testing.T) []string {
	t.Helper()
	s := site(t)
	ended(t, s, installed(t, s), orchestrator.StatusDone)
	return world(t, s)
}

// From each state to each step before it the run ends as if nobody had touched it; where the table has no way, it is refused with those that
// it has.
func TestRewindFromEachStateToEachEarlierStep(t *testing.T) {
	want := undisturbed(t)
	rows := site(t).Process(install.Name).Rows
	for at, from := range rows {
		for to, target := range rows[:min(at+2, len(rows))] { // and to one that was not begun
			for _, done := range []bool{(at+to)%2 == 0} { // the one for half of the pairs, the other for the rest
				t.Run(fmt.Sprintf("%s_%t_to_%s", from.Step, done, target.Step), func(t *testing.T) {
					t.Parallel()
					s, run := parkedAt(t, from.Step, done)
					ask(t, s, run, orchestrator.VerbRewind, target.Step)
					s.Settle()
					if to <= at && (at < 8 || to <= 1 || to > 8) { // an installed guest is not installed again
						ended(t, s, run, orchestrator.StatusDone)
						same(t, s, want)
						return
					}
					parked := ended(t, s, run, orchestrator.StatusParked)
					if parked.State != from.From || parked.Undoing || !strings.Contains(parked.Reason, "is refused") {
						t.Fatalf("in %s, undoing %t: %s", parked.State, parked.Undoing, parked.Reason)
					}
					s.Retry(run)
					s.Settle()
					ended(t, s, run, orchestrator.StatusDone)
					same(t, s, want)
				})
			}
		}
	}
}

// The worker dies at each effect and commit of a rewind, and another goes on.
func TestCrashInTheMiddleOfARewind(t *testing.T) {
	want := undisturbed(t)
	for from, target := range map[string]string{"verify": "create_machine", "sync_dhcp": "place"} {
		s, run := parkedAt(t, from, false)
		var points []orchestratortest.Point
		forward := false // what comes then is proven of every walk
		s.Committed = func(c orchestrator.Commit) { forward = forward || c.Run.Request == orchestrator.Request{} }
		s.World.Interrupt = func(p orchestratortest.Point) error {
			if !forward || p.Call == orchestratortest.CommitCall && p.Moment == orchestratortest.After && points[len(points)-1].Moment == orchestratortest.Before && points[len(points)-1].Nth == p.Nth {
				points = append(points, p)
			}
			return nil
		}
		ask(t, s, run, orchestrator.VerbRewind, target)
		s.Settle()
		ended(t, s, run, orchestrator.StatusDone)
		for n, point := range points {
			if !point.IsEffect() {
				continue
			}
			t.Run(fmt.Sprintf("%s_%d_%s", target, n+1, point), func(t *testing.T) {
				t.Parallel()
				s, run := parkedAt(t, from, false)
				seen := 0
				s.World.Interrupt = func(p orchestratortest.Point) error {
					if seen++; seen == n+1 {
						panic(orchestratortest.Crash{At: p})
					}
					return nil
				}
				ask(t, s, run, orchestrator.VerbRewind, target)
				s.Settle()
				if len(s.Crashes) != 1 || s.Crashes[0].At.Call != point.Call {
					t.Errorf("workers died at %v, one should have at %s", s.Crashes, point)
				}
				ended(t, s, run, orchestrator.StatusDone)
				same(t, s, want)
			})
		}
	}
}

// A cancel, or an uninstall, that comes in during a rewind takes its place.
func TestRewindIsCanceled(t *testing.T) {
	for _, over := range []string{"", uninstall.Name} {
		for n := range 20 {
			t.Run(fmt.Sprintf("%s_after_commit_%d", over, n+1), func(t *testing.T) {
				t.Parallel()
				s, run := parkedAt(t, "verify", false)
				ask(t, s, run, orchestrator.VerbRewind, "create_machine")
				commits := 0
				s.Committed = func(orchestrator.Commit) {
					if commits++; commits != n+1 || !s.Run(run).Status.Active() {
						return
					}
					if over != "" {
						s.Begin(over)
						return
					}
					s.Cancel(run)
				}
				s.Settle()
				if got := s.Run(run); commits > n && got.Status == orchestrator.StatusCanceled {
					if m := s.Machine(); m.Presence != orchestrator.Absent || !m.Placement.IsZero() || len(s.World.Describe()) > 0 {
						t.Errorf("%s %+v\n%s", m.Presence, m.Placement, strings.Join(s.World.Describe(), "\n"))
					}
				} else if got.Status != orchestrator.StatusDone {
					t.Errorf("%s in %s: %s", got.Status, got.State, got.Reason)
				}
				attemptsAreNeverUsedTwice(t, s)
				s.Replays()
			})
		}
	}
}

// What is under way when the run turns has ended before its undo, whatever it is.
func TestRewindOfARunThatWaits(t *testing.T) {
	want := undisturbed(t)
	met := map[string]bool{}
	for n := range 22 {
		s := site(t)
		run := s.Begin(install.Name)
		for range n {
			s.Round(run)
			s.Pass()
		}
		before := s.Run(run)
		if before.Status != orchestrator.StatusWaiting || !slices.Contains(orchestrator.Targets(before, s.Process(install.Name), orchestrator.VerbRewind), "create_machine") {
			continue
		}
		met[before.Step] = true
		ask(t, s, run, orchestrator.VerbRewind, "create_machine")
		s.Settle()
		ended(t, s, run, orchestrator.StatusDone)
		same(t, s, want)
	}
	if len(met) < 6 {
		t.Errorf("only met at %v", met)
	}
}

// A machine that waits for a place again keeps its name, and can be uninstalled.
func TestRewindToAPlaceThatIsGone(t *testing.T) {
	s, run := parkedAt(t, "verify", false)
	s.Estate.Pools[0].Images = nil
	ask(t, s, run, orchestrator.VerbRewind, "place")
	for range 50 {
		s.Round(run)
		s.Pass()
		if s.Run(run).State == "queued" {
			s.Round(run)
			break
		}
	}
	if r := s.Run(run); r.State != "queued" || r.Undoing || s.Machine().Presence != orchestrator.Planned {
		t.Fatalf("in %s, undoing %t, %s: %s", r.State, r.Undoing, s.Machine().Presence, r.Reason)
	}
	second := s.Begin(uninstall.Name)
	s.Settle()
	ended(t, s, run, orchestrator.StatusCanceled)
	ended(t, s, second, orchestrator.StatusDone)
	if left := s.World.Describe(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestPanelHearsOfARewind(t *testing.T) {
	s, run := parkedAt(t, "verify", false)
	ask(t, s, run, orchestrator.VerbRewind, "create_machine")
	s.Settle()
	var heard []orchestrator.EventData
	for _, e := range s.Events() {
		if e.Type == orchestrator.EventRewound {
			heard = append(heard, orchestratortest.DataOf(t, e))
		}
	}
	if len(heard) != 1 || heard[0].State != "placed" || heard[0].Status != orchestrator.StatusRunning || heard[0].Step != "create_machine" ||
		heard[0].Message != "rewind to create_machine by 1000:op: the test says so" {
		t.Errorf("%+v", heard)
	}
}

func TestRewindTwice(t *testing.T) {
	want := undisturbed(t)
	s, run := parkedAt(t, "verify", false)
	for _, step := range []string{"create_machine", "sync_dhcp", "place"} {
		s.Wrap = failAt("start_machine", true)
		ask(t, s, run, orchestrator.VerbRewind, step)
		s.Settle()
		ended(t, s, run, orchestrator.StatusParked)
		s.Wrap = nil
	}
	s.Retry(run)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	same(t, s, want)
}

// An undo that fails parks the run on its way back; a retry goes on to the step that was asked for.
func TestRewindThatParksGoesOn(t *testing.T) {
	s, run := parkedAt(t, "await_guest", false)
	s.Wrap = func(row orchestrator.Row, undo bool, do orchestratortest.Act) orchestratortest.Act {
		if row.Step != "provision_console" || !undo {
			return do
		}
		return func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
			return orchestrator.Outcome{}, orchestrator.Errorf("test", orchestrator.Permanent, "made to fail")
		}
	}
	ask(t, s, run, orchestrator.VerbRewind, "select_ips")
	s.Settle()
	s.Wrap = nil
	parked := ended(t, s, run, orchestrator.StatusParked)
	if exits := orchestrator.Exits(parked, s.Process(install.Name)); !parked.Undoing || !slices.Equal(exits, []string{"retry", "cancel"}) {
		t.Errorf("undoing %t, exits %v", parked.Undoing, exits)
	}
	s.Retry(run)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	same(t, s, undisturbed(t))
}

func TestSkip(t *testing.T) {
	want := undisturbed(t)
	for _, row := range site(t).Process(install.Name).Rows {
		t.Run(row.Step, func(t *testing.T) {
			t.Parallel()
			s, run := parkedAt(t, row.Step, false)
			exits := orchestrator.Exits(s.Run(run), s.Process(install.Name))
			if slices.Contains(exits, orchestrator.VerbSkip) != row.Marks.Skip {
				t.Errorf("exits %v", exits)
			}
			ask(t, s, run, orchestrator.VerbSkip, row.Step)
			s.Settle()
			if row.Marks.Skip {
				ended(t, s, run, orchestrator.StatusDone)
				if strings.HasPrefix(row.Step, "register_") { // nothing brings these about later
					s.Replays()
				} else {
					same(t, s, want)
				}
				if got := outcomes(t, s, row.Step); !slices.Contains(got, "skipped") || slices.Contains(got, "done") {
					t.Errorf("%v", got)
				}
				return
			}
			if parked := ended(t, s, run, orchestrator.StatusParked); parked.State != row.From || !strings.Contains(parked.Reason, "skip by 1000:op") {
				t.Errorf("in %s: %s", parked.State, parked.Reason)
			}
		})
	}
}

func TestSkipIsOfTheStepWhereTheRunStands(t *testing.T) {
	s, run := parkedAt(t, "verify", false)
	if err := s.Ask(run, orchestrator.VerbSkip, "sync_dhcp"); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("%v", err)
	}
}

// A console that does not open is a check; a VM that cannot be named, or is gone, is an effect.
func TestForcePassesChecksAndNeverEffects(t *testing.T) {
	park := func(t *testing.T, call string) (*orchestratortest.Site, string) {
		t.Helper()
		s := site(t)
		s.World.Interrupt = func(p orchestratortest.Point) error {
			if p.Call == call && p.Moment == orchestratortest.Before {
				return orchestrator.Errorf(call, orchestrator.Permanent, "made to fail")
			}
			return nil
		}
		run := installed(t, s)
		if parked := ended(t, s, run, orchestrator.StatusParked); parked.Step != "verify" {
			t.Fatalf("parked at %s", parked.Step)
		}
		ask(t, s, run, orchestrator.VerbForce, "verify")
		s.Settle()
		return s, run
	}
	t.Run("check", func(t *testing.T) {
		for _, call := range []string{"Console", "TryPort"} {
			s, run := park(t, call)
			ended(t, s, run, orchestrator.StatusDone)
			if journal := strings.Join(s.Journal(), "\n"); !strings.Contains(journal, "force by 1000:op: the test says so past: ") {
				t.Error(journal)
			}
			same(t, s, undisturbed(t))
		}
	})
	t.Run("effect", func(t *testing.T) {
		s, run := park(t, "NameMachine")
		if parked := ended(t, s, run, orchestrator.StatusParked); parked.Request != (orchestrator.Request{}) || parked.State != "monitoring_registered" {
			t.Errorf("in %s, %v", parked.State, parked.Request)
		}
	})
	t.Run("spent", func(t *testing.T) {
		s, run := park(t, "NameMachine")
		s.World.Interrupt = func(p orchestratortest.Point) error {
			if p.Call == "Console" {
				return orchestrator.Errorf("Console", orchestrator.Permanent, "made to fail")
			}
			return nil
		}
		s.Retry(run)
		s.Settle()
		ended(t, s, run, orchestrator.StatusParked) // the word was for that once
	})
	t.Run("unmarked", func(t *testing.T) {
		s, run := parkedAt(t, "start_machine", false)
		ask(t, s, run, orchestrator.VerbForce, "start_machine")
		s.Settle()
		if parked := ended(t, s, run, orchestrator.StatusParked); !strings.Contains(parked.Reason, "is refused") {
			t.Error(parked.Reason)
		}
	})
}

// Somebody replaced the VM by another that carries the machine's tag.
func TestAdopt(t *testing.T) {
	want := undisturbed(t)
	for _, step := range []string{"create_machine", "select_ips", "sync_dhcp", "configure_nat", "provision_console", "start_machine", "await_guest"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s, run := parkedAt(t, step, false)
			clones := s.World.Effects["clone"]
			before := s.Machine().VM
			s.World.ReplaceMachine(s.Machine().ID)
			ask(t, s, run, orchestrator.VerbAdopt, "create_machine")
			s.Settle()
			ended(t, s, run, orchestrator.StatusDone)
			if m := s.Machine(); m.VM == before || before != "" && s.World.Effects["clone"] != clones || s.World.Effects["destroy"] != 0 {
				t.Errorf("VM %s was %s, %v", m.VM, before, s.World.Effects)
			}
			same(t, s, want)
		})
	}
	for _, step := range []string{"place", "post_install", "verify"} {
		s, run := parkedAt(t, step, false)
		if exits := orchestrator.Exits(s.Run(run), s.Process(install.Name)); slices.Contains(exits, orchestrator.VerbAdopt) {
			t.Errorf("%s: %v", step, exits)
		}
	}
}

func TestAnUninstallHasNoRepair(t *testing.T) {
	s := site(t)
	ended(t, s, installed(t, s), orchestrator.StatusDone)
	s.Wrap = failAt("stop_machine", false)
	run := s.Begin(uninstall.Name)
	s.Settle()
	s.Wrap = nil
	parked := ended(t, s, run, orchestrator.StatusParked)
	if exits := orchestrator.Exits(parked, s.Process(uninstall.Name)); !slices.Equal(exits, []string{"retry"}) {
		t.Errorf("%v", exits)
	}
	ask(t, s, run, orchestrator.VerbRewind, "close_console")
	s.Settle()
	if parked := ended(t, s, run, orchestrator.StatusParked); parked.State != "monitoring_unregistered" || !strings.Contains(parked.Reason, "is refused") {
		t.Errorf("in %s: %s", parked.State, parked.Reason)
	}
}
