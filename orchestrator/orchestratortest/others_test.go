package orchestratortest_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/uninstall"
)

// TestOthersDefects keeps what other systems got wrong from happening here.
func TestOthersDefects(t *testing.T) {
	// After a restart a machine went on with what had been done for another. Here the first is brought half-way, by a worker for each round,
	// before the second begins.
	t.Run("CompletedStepsAreOneMachines", func(t *testing.T) {
		s := site(t)
		first := s.Begin(install.Name)
		for range 100 {
			if s.Run(first).State == "nat_configured" {
				break
			}
			s.Round(first)
			s.Pass()
		}
		if state := s.Run(first).State; state != "nat_configured" {
			t.Fatalf("the first is %s", state)
		}
		second := s.Begin(install.Name)
		s.Settle()
		ended(t, s, first, orchestrator.StatusDone)
		ended(t, s, second, orchestrator.StatusDone)
		attempts, err := s.Store.Attempts(t.Context(), s.Machine().ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range s.Process(install.Name).Rows {
			if !slices.ContainsFunc(attempts, func(a orchestrator.Attempt) bool {
				return a.Run == second && a.Step == row.Step && !a.Undo && (a.Outcome == orchestrator.OutcomeDone || a.Outcome == orchestrator.OutcomeSkipped)
			}) {
				t.Errorf("the second machine has no step %s of its own", row.Step)
			}
		}
		if e := s.World.Effects; e["clone"] != 2 || e["start"] != 2 || e["job"] != 2 {
			t.Errorf("effects for two machines: %v", e)
		}
	})

	// A machine that was being removed got the next step of its install. The uninstall is ordered after each round of the install.
	t.Run("UninstallEndsTheInstall", func(t *testing.T) {
		for rounds := 0; ; rounds++ {
			s := site(t)
			run, ordered, begun := s.Begin(install.Name), false, ""
			s.Wrap = func(row orchestrator.Row, undo bool, do orchestratortest.Act) orchestratortest.Act {
				return func(ctx context.Context, at *orchestrator.Step) (orchestrator.Outcome, error) {
					if ordered && !undo && at.Run.Process == install.Name {
						begun += " " + row.Step
					}
					return do(ctx, at)
				}
			}
			for range rounds {
				s.Round(run)
				s.Pass()
			}
			if s.Run(run).Status == orchestrator.StatusDone {
				if rounds < 10 {
					t.Errorf("an install of %d rounds was looked at", rounds)
				}
				return
			}
			at := s.Run(run).State
			over := s.Begin(uninstall.Name)
			ordered = true
			s.Settle()
			if begun != "" {
				t.Errorf("uninstalled in %s, and then of the install:%s", at, begun)
			}
			ended(t, s, over, orchestrator.StatusDone)
			if left := s.World.Describe(); len(left) != 0 {
				t.Errorf("uninstalled in %s: left %v", at, left)
			}
		}
	})

	// A guard that was false ended a run without a word. Here each leaves its line, with the reason, and the run goes on.
	t.Run("FalseGuardsAreTold", func(t *testing.T) {
		s := site(t)
		s.In(orchestratortest.PoolRouted)
		run := s.Begin(install.Name)
		s.Settle()
		ended(t, s, run, orchestrator.StatusDone)
		attempts, err := s.Store.Attempts(t.Context(), s.Machine().ID)
		if err != nil {
			t.Fatal(err)
		}
		skipped := 0
		for _, row := range s.Process(install.Name).Rows {
			lines := 0
			for _, a := range attempts {
				if a.Step != row.Step {
					continue
				}
				lines++
				if a.Outcome == orchestrator.OutcomeSkipped {
					skipped++
					if row.When == nil || a.Message == "" || a.To != row.To {
						t.Errorf("%s is skipped from %s to %s: %q", a.Step, a.From, a.To, a.Message)
					}
				}
			}
			if lines == 0 {
				t.Errorf("nothing is said of %s", row.Step)
			}
		}
		if skipped == 0 {
			t.Error("no guard was false: it proves nothing")
		}
	})

	// A rule that the firewall had refused was reported as set. Here its run parks with the tool's words, and nothing after it happens.
	t.Run("RefusedRuleIsNotAcknowledged", func(t *testing.T) {
		s := site(t)
		s.World.Culprit = func(e orchestrator.Entry) string {
			if strings.HasPrefix(e.Group, "firewall") {
				return "line 3: unknown option"
			}
			return ""
		}
		run := s.Begin(install.Name)
		s.Settle()
		parked := ended(t, s, run, orchestrator.StatusParked)
		if parked.Step != "configure_nat" || !strings.Contains(parked.Reason, "line 3: unknown option") {
			t.Errorf("parked at %s: %s", parked.Step, parked.Reason)
		}
		m := s.Machine()
		state, err := s.Store.EntryState(t.Context(), m.Placement.Firewall, m.ID)
		if err != nil || !strings.Contains(state.Bad, "line 3") {
			t.Errorf("the entry is not marked with the tool's words: %q, %v", state.Bad, err)
		}
		for _, e := range s.Events() {
			if data := orchestratortest.DataOf(t, e); e.Type == orchestrator.EventStepDone && data.Step == "configure_nat" {
				t.Errorf("the panel was told: %s", e.Data)
			}
		}
		if n := s.World.Effects["start"]; n != 0 {
			t.Errorf("the machine was started %d times behind rules that are not there", n)
		}
	})
}
