package orchestratortest_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/reconfigure"
	"slipway/orchestrator/suspend"
	"slipway/orchestrator/uninstall"
	"slipway/orchestrator/unsuspend"
)

// parkedAfter brings a machine to where a step of a process has done everything and then failed for good.
func parkedAfter(t *testing.T, process, step string, given ...string) (s *orchestratortest.Site, run string) {
	t.Helper()
	s = inUse(t)
	for _, g := range given {
		walked(t, s, g)
	}
	s.Wrap = func(row orchestrator.Row, undo bool, do orchestratortest.Act) orchestratortest.Act {
		if row.Step != step || undo {
			return do
		}
		return func(ctx context.Context, at *orchestrator.Step) (orchestrator.Outcome, error) {
			if outcome, err := do(ctx, at); err != nil || outcome.Wait != nil {
				return outcome, err
			}
			return orchestrator.Outcome{}, orchestrator.Errorf(step, orchestrator.Permanent, "made to fail")
		}
	}
	run = s.Begin(process)
	s.Settle()
	s.Wrap = nil
	if parked := ended(t, s, run, orchestrator.StatusParked); parked.Step != step {
		t.Fatalf("parked at %s", parked.Step)
	}
	return s, run
}

// An uninstall that takes over a change of a finished machine brings nothing back before it takes all away: nothing is opened, written or
// booted on its behalf, and nothing that is full or away can hold it up.
func TestUninstallTakesOverWhatItFinds(t *testing.T) {
	for process, c := range map[string]struct {
		given []string
		steps []string
	}{
		suspend.Name:     {nil, []string{"unregister_monitoring", "block_traffic", "revoke_console", "stop_machine"}},
		unsuspend.Name:   {[]string{suspend.Name}, []string{"open_traffic", "restore_console", "start_machine", "register_monitoring"}},
		reconfigure.Name: {nil, []string{"open_door", "change_guest", "change_dhcp", "change_rules", "change_console"}},
	} {
		for _, step := range c.steps {
			t.Run(process+" "+step, func(t *testing.T) {
				s, run := parkedAfter(t, process, step, c.given...)
				starts := s.World.Effects["start"]
				for _, inv := range orchestratortest.Inventories() {
					for _, host := range inv.Hosts {
						s.World.FillHost(inv.Pool, host.UUID)
					}
				}
				s.Committed = func(commit orchestrator.Commit) {
					for _, change := range commit.Changes {
						if put, ok := change.(orchestrator.PutEntry); ok {
							t.Errorf("%s gets an entry again: %s", put.Group, put.Body)
						}
					}
				}
				over := s.Begin(uninstall.Name)
				s.Settle()
				ended(t, s, run, orchestrator.StatusCanceled)
				ended(t, s, over, orchestrator.StatusDone)
				if left := s.World.Describe(); len(left) != 0 || s.World.Effects["start"] != starts {
					t.Errorf("%d starts more, left %v", s.World.Effects["start"]-starts, left)
				}
			})
		}
	}
}

// A VM that somebody removes at the pool is no reason that a suspension can be neither ended nor taken back.
func TestMachineThatVanishesWhileItIsSuspended(t *testing.T) {
	for name, leave := range map[string]func(*orchestratortest.Site, string){
		"canceled": func(s *orchestratortest.Site, run string) { s.Cancel(run) },
		"canceled, then uninstalled": func(s *orchestratortest.Site, run string) {
			s.Cancel(run)
			s.Round(run)
			s.Begin(uninstall.Name)
		},
		"uninstalled": func(s *orchestratortest.Site, _ string) { s.Begin(uninstall.Name) },
	} {
		t.Run(name, func(t *testing.T) {
			s := inUse(t)
			run := s.Begin(suspend.Name)
			s.Committed = func(c orchestrator.Commit) {
				if c.Run.State == "machine_stopped" {
					s.World.DestroyMachineOutside(s.Machine().ID)
				}
			}
			s.Settle()
			s.Committed = nil
			if parked := ended(t, s, run, orchestrator.StatusParked); parked.Step != "verify" {
				t.Fatalf("parked at %s: %s", parked.Step, parked.Reason)
			}
			leave(s, run)
			s.Settle()
			ended(t, s, run, orchestrator.StatusCanceled)
			if name != "canceled" {
				if m := s.Machine(); m.State != "removed" || len(s.World.Describe()) != 0 {
					t.Errorf("%s, left %v", m.State, s.World.Describe())
				}
				return
			}
			if m := s.Machine(); m.State != orchestrator.StateReady || m.Suspension != (orchestrator.Suspension{}) {
				t.Errorf("%s, %+v", m.State, m.Suspension)
			}
		})
	}
}

// The answer that names a shutdown's or start's task is lost and the run is canceled while it is under way: the VM still looks as it did before.
func TestPowerThatChangesUnseenIsTakenBack(t *testing.T) {
	for process, c := range map[string]struct {
		given []string
		call  string
	}{
		suspend.Name:   {nil, "StopMachine"},
		unsuspend.Name: {[]string{suspend.Name}, "StartMachine"},
	} {
		for name, lost := range map[string]func(orchestratortest.Point) error{
			"the answer is lost": func(orchestratortest.Point) error {
				return orchestrator.Errorf("world", orchestrator.Unknown, "the connection was lost")
			},
			"the worker dies": func(p orchestratortest.Point) error { panic(orchestratortest.Crash{At: p}) },
		} {
			t.Run(process+" "+name, func(t *testing.T) {
				s := inUse(t)
				for _, g := range c.given {
					walked(t, s, g)
				}
				before, state := s.World.Describe(), s.Machine().State
				run := s.Begin(process)
				s.World.Interrupt = func(p orchestratortest.Point) error {
					if p.Call != c.call || p.Moment != orchestratortest.After {
						return nil
					}
					s.World.Interrupt = nil
					s.Cancel(run)
					return lost(p)
				}
				s.Settle()
				for range 10 {
					s.Pass() // what is under way comes to its end
				}
				ended(t, s, run, orchestrator.StatusCanceled)
				if s.World.Interrupt != nil {
					t.Fatalf("%s was not met", c.call)
				}
				if diff := cmp.Diff(before, s.World.Describe()); diff != "" || s.Machine().State != state {
					t.Errorf("state %s, the world (-before +after):\n%s", s.Machine().State, diff)
				}
			})
		}
	}
}
