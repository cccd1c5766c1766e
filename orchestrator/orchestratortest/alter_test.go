package orchestratortest_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/reconfigure"
	"slipway/orchestrator/suspend"
	"slipway/orchestrator/uninstall"
	"slipway/orchestrator/unsuspend"
)

// inUse is a site with a machine in use.
func inUse(t *testing.T) *orchestratortest.Site {
	t.Helper()
	s := site(t)
	ended(t, s, installed(t, s), orchestrator.StatusDone)
	return s
}

// walked runs a process about the machine to its end and returns its steps with their outcomes.
func walked(t *testing.T, s *orchestratortest.Site, process string) []string {
	t.Helper()
	run := s.Begin(process)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	attempts, err := s.Store.Attempts(t.Context(), s.Machine().ID)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range attempts {
		if a.Run == run {
			out = append(out, a.Step+" "+a.Outcome)
		}
	}
	return out
}

func TestSuspendedTwiceIsOnce(t *testing.T) {
	s := inUse(t)
	walked(t, s, suspend.Name)
	once := s.World.Describe()
	for _, step := range walked(t, s, suspend.Name) {
		if !strings.HasSuffix(step, " skipped") {
			t.Errorf("the second suspension does something: %s", step)
		}
	}
	if diff := cmp.Diff(once, s.World.Describe()); diff != "" || s.Machine().State != orchestrator.StateSuspended {
		t.Errorf("state %s\n%s", s.Machine().State, diff)
	}
	told := 0
	for _, e := range s.Events() {
		if e.Type == orchestrator.EventSuspended {
			told++
			if data := orchestratortest.DataOf(t, e); data.State != orchestrator.StateSuspended || data.Process != suspend.Name || data.ConsolePort == 0 {
				t.Errorf("%s", e.Data)
			}
		}
	}
	if told != 2 {
		t.Errorf("the panel is told %d times", told)
	}
	for _, step := range append(walked(t, s, unsuspend.Name)[:3], walked(t, s, unsuspend.Name)...)[3:] {
		if !strings.HasSuffix(step, " skipped") {
			t.Errorf("the second return does something: %s", step)
		}
	}
}

func TestPowerIsAsItWasBefore(t *testing.T) {
	for name, c := range map[string]struct {
		policy    orchestrator.PowerPolicy
		off       bool // before the suspension
		meanwhile bool // it runs while it is suspended
		after     bool
		starts    int // beside the install's
	}{
		"stopped and started":   {orchestrator.PowerStop, false, false, true, 1},
		"kept":                  {orchestrator.PowerKeep, false, true, true, 0},
		"off before, stop":      {orchestrator.PowerStop, true, false, false, 0},
		"off before, keep":      {orchestrator.PowerKeep, true, false, false, 0},
		"the default is a stop": {"", false, false, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := inUse(t)
			if c.off {
				s.World.PowerOff(s.Machine().ID)
			}
			before := s.World.Describe()
			s.Altering = func(o *orchestrator.Order) {
				if o.Type == orchestrator.OrderSuspend {
					o.Power = c.policy
				}
			}
			walked(t, s, suspend.Name)
			if runs := strings.Contains(strings.Join(s.World.Describe(), "\n"), " running on "); runs != c.meanwhile {
				t.Errorf("suspended, it runs: %t", runs)
			}
			walked(t, s, unsuspend.Name)
			if diff := cmp.Diff(before, s.World.Describe()); diff != "" {
				t.Errorf("the world (-before +after):\n%s", diff)
			}
			if n := s.World.Effects["start"] - 1; n != c.starts {
				t.Errorf("%d starts", n)
			}
			if m := s.Machine(); m.Suspension != (orchestrator.Suspension{}) || m.State != orchestrator.StateReady {
				t.Errorf("%s, %+v", m.State, m.Suspension)
			}
		})
	}
}

func TestSuspendedMachineIsUninstalled(t *testing.T) {
	s := inUse(t)
	walked(t, s, suspend.Name)
	walked(t, s, uninstall.Name)
	if m := s.Machine(); len(s.World.Describe()) != 0 || m.State != "removed" || m.Suspension != (orchestrator.Suspension{}) {
		t.Errorf("%s, %+v, left: %v", m.State, m.Suspension, s.World.Describe())
	}
}

// Any subset of what can be changed is changed, and nothing beside it.
func TestReconfigureChangesWhatWasOrdered(t *testing.T) {
	for name, c := range map[string]struct {
		keep func(*orchestrator.Order)
		done []string
	}{
		"rules":    {func(o *orchestrator.Order) { o.SSHKeys, o.Hostname, o.NewConsolePassword = nil, "", false }, []string{"change_rules", "verify"}},
		"keys":     {func(o *orchestrator.Order) { o.Firewall, o.Hostname, o.NewConsolePassword = nil, "", false }, []string{"open_door", "change_guest", "change_rules", "verify"}},
		"hostname": {func(o *orchestrator.Order) { o.Firewall, o.SSHKeys, o.NewConsolePassword = nil, nil, false }, []string{"open_door", "change_guest", "change_dhcp", "rename_dns", "rename_monitoring", "change_rules", "verify"}},
		"console":  {func(o *orchestrator.Order) { o.Firewall, o.SSHKeys, o.Hostname = nil, nil, "" }, []string{"change_console", "verify"}},
		"nothing that is not so": {func(o *orchestrator.Order) {
			o.Firewall, o.SSHKeys, o.Hostname, o.NewConsolePassword = nil, []string{"ssh-ed25519 AAAA someone"}, "web-1", false
		}, []string{"verify"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := inUse(t)
			before := s.Machine().Settings()
			order := orchestrator.Order{}
			s.Altering = func(o *orchestrator.Order) { c.keep(o); order = *o }
			var done []string
			for _, step := range walked(t, s, reconfigure.Name) {
				if word, ok := strings.CutSuffix(step, " done"); ok {
					done = append(done, word)
				}
			}
			if diff := cmp.Diff(c.done, done); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			after := s.Machine().Settings()
			if (order.Firewall == nil) != slices.EqualFunc(before.Firewall, after.Firewall, func(a, b orchestrator.FirewallRule) bool { return slices.Equal(a.Ports, b.Ports) }) {
				t.Errorf("rules %+v", after.Firewall)
			}
			if order.SSHKeys != nil && !slices.Equal(after.SSHKeys, order.SSHKeys) || order.Hostname != "" && after.Hostname != order.Hostname {
				t.Errorf("%+v", after)
			}
			if order.NewConsolePassword == slices.Equal(before.ConsolePassword, after.ConsolePassword) {
				t.Error("the console's password is not as ordered")
			}
			world := strings.Join(s.World.Describe(), "\n")
			if strings.Contains(world, `"installer"`) {
				t.Errorf("the way in is still open:\n%s", world)
			}
		})
	}
}

// A guest that cannot be changed parks the run at its step and not before anything can be taken back.
func TestGuestThatTakesNoChange(t *testing.T) {
	for name, c := range map[string]struct {
		make func(*orchestratortest.Site)
		says string
	}{
		"it is off":                      {func(s *orchestratortest.Site) { s.World.PowerOff(s.Machine().ID) }, "start it and retry, or cancel"},
		"the customer has shut the door": {func(s *orchestratortest.Site) { s.World.ShutDoor(s.Machine().ID) }, "does not let the maintainer in"},
	} {
		t.Run(name, func(t *testing.T) {
			s := inUse(t)
			c.make(s)
			before, settings := s.World.Describe(), s.Machine().Settings()
			run := s.Begin(reconfigure.Name)
			s.Settle()
			parked := ended(t, s, run, orchestrator.StatusParked)
			if parked.Step != "change_guest" || parked.Kind != orchestrator.Permanent || !strings.Contains(parked.Reason, c.says) {
				t.Errorf("parked at %s: %s", parked.Step, parked.Reason)
			}
			s.Cancel(run)
			s.Settle()
			ended(t, s, run, orchestrator.StatusCanceled)
			if diff := cmp.Diff(before, s.World.Describe()); diff != "" {
				t.Errorf("the world (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(settings, s.Machine().Settings(), cmp.Comparer(func(a, b orchestrator.FirewallRule) bool { return a.Protocol == b.Protocol })); diff != "" || s.Machine().State != orchestrator.StateReady {
				t.Errorf("state %s\n%s", s.Machine().State, diff)
			}
		})
	}
}

// A guest that has been changed and lets nobody in any more keeps what it has: the machine's row says so, and all else is as before.
func TestGuestThatCannotBeChangedBack(t *testing.T) {
	s := inUse(t)
	before := s.Machine().Settings()
	s.World.Leaky = true
	run := s.Begin(reconfigure.Name)
	s.Settle()
	ended(t, s, run, orchestrator.StatusParked)
	s.World.ShutDoor(s.Machine().ID)
	s.Cancel(run)
	s.Settle()
	ended(t, s, run, orchestrator.StatusCanceled)
	after := s.Machine().Settings()
	if after.Hostname != "shop" || slices.Equal(before.SSHKeys, after.SSHKeys) || !slices.Equal(before.ConsolePassword, after.ConsolePassword) {
		t.Errorf("%+v", after)
	}
	if journal := strings.Join(s.Journal(), "\n"); !strings.Contains(journal, "the guest keeps its new keys and hostname") {
		t.Error(journal)
	}
}

// What verify does not see as ordered is not told to be so.
func TestVerifyBelievesNothing(t *testing.T) {
	t.Run("a port that is shut and answers", func(t *testing.T) {
		s := inUse(t)
		s.World.Leaky = true
		run := s.Begin(reconfigure.Name)
		s.Settle()
		if parked := ended(t, s, run, orchestrator.StatusParked); parked.Step != "verify" || !strings.Contains(parked.Reason, "nobody is let in at") {
			t.Errorf("parked at %s: %s", parked.Step, parked.Reason)
		}
	})
	t.Run("a suspended machine that answers", func(t *testing.T) {
		s := inUse(t)
		s.World.Leaky = true
		s.Altering = func(o *orchestrator.Order) { o.Power = orchestrator.PowerKeep }
		run := s.Begin(suspend.Name)
		s.Settle()
		if parked := ended(t, s, run, orchestrator.StatusParked); parked.Step != "verify" || !strings.Contains(parked.Reason, "is to be silent and is open") {
			t.Errorf("parked at %s: %s", parked.Step, parked.Reason)
		}
	})
	t.Run("a machine that does not come back", func(t *testing.T) {
		s := inUse(t)
		walked(t, s, suspend.Name)
		s.World.Deaf = true
		run := s.Begin(unsuspend.Name)
		for range 20 {
			s.Round(run)
			s.Pass()
		}
		if waits := s.Run(run); waits.Status != orchestrator.StatusWaiting || !strings.Contains(waits.Reason, "does not answer yet") {
			t.Errorf("%s: %s", waits.Status, waits.Reason)
		}
		s.World.Deaf = false
		s.Settle()
		ended(t, s, run, orchestrator.StatusDone)
	})
}

func TestRefusalsOfRunsThatCannotBegin(t *testing.T) {
	s := inUse(t)
	run := s.Begin(suspend.Name)
	for _, process := range []string{suspend.Name, unsuspend.Name, reconfigure.Name} {
		var fields orchestrator.FieldErrors
		if err := s.Order(process); !errors.As(err, &fields) || !strings.Contains(err.Error(), "has a run of suspend under way") {
			t.Errorf("%s during a suspension: %v", process, err)
		}
	}
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	if err := s.Order(reconfigure.Name); err == nil || !strings.Contains(err.Error(), "unsuspend it first") {
		t.Errorf("a reconfiguration of a suspended machine: %v", err)
	}
}
