package orchestratortest_test

import (
	"slices"
	"strings"
	"testing"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/uninstall"
)

const (
	webName    = "web-1.vm.example.net"
	webPointer = "10.100.51.198.in-addr.arpa"
	webAddress = "198.51.100.10"
)

// A name that is somebody else's parks the install with its ways out, and is theirs after each of them.
func TestForeignNameParks(t *testing.T) {
	park := func(t *testing.T) (*orchestratortest.Site, string) {
		t.Helper()
		s := site(t)
		s.World.PutName(webName, "203.0.113.9")
		run := installed(t, s)
		parked := ended(t, s, run, orchestrator.StatusParked)
		if exits := orchestrator.Exits(parked, s.Process(install.Name)); parked.Step != "register_dns" || parked.Kind != orchestrator.Permanent ||
			!slices.Equal(exits, []string{"retry", "cancel", "skip", "rewind"}) {
			t.Fatalf("at %s, %s, exits %v: %s", parked.Step, parked.Kind, exits, parked.Reason)
		}
		return s, run
	}
	for name, out := range map[string]func(*orchestratortest.Site, string) orchestrator.Status{
		"cancel": func(s *orchestratortest.Site, run string) orchestrator.Status {
			s.Cancel(run)
			return orchestrator.StatusCanceled
		},
		"uninstall": func(s *orchestratortest.Site, _ string) orchestrator.Status {
			s.Begin(uninstall.Name)
			return orchestrator.StatusCanceled
		},
		"skip": func(s *orchestratortest.Site, run string) orchestrator.Status {
			if err := s.Ask(run, orchestrator.VerbSkip, "register_dns"); err != nil {
				s.Fatal(err)
			}
			s.Settle()
			s.Begin(uninstall.Name)
			return orchestrator.StatusDone
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, run := park(t)
			status := out(s, run)
			s.Settle()
			ended(t, s, run, status)
			if left := s.World.Describe(); len(left) != 1 || s.World.Name(webName) != "203.0.113.9" {
				t.Errorf("left: %v", left)
			}
			if m := s.Machine(); !m.DNS.IsZero() || m.Presence != orchestrator.Absent {
				t.Errorf("%s, %v", m.Presence, m.DNS)
			}
		})
	}
	t.Run("retry", func(t *testing.T) {
		s, run := park(t)
		s.World.PutName(webName, "") // they have let go of it
		s.Retry(run)
		s.Settle()
		ended(t, s, run, orchestrator.StatusDone)
		if s.World.Name(webName) != webAddress || s.World.Name(webPointer) != webName {
			t.Errorf("%v", s.World.Describe())
		}
	})
}

// What was registered is removed under the names that it has, whatever the configuration says by then.
func TestZoneIsChangedMeanwhile(t *testing.T) {
	elsewhere := orchestrator.DNS{Zone: "elsewhere.example.net"}
	t.Run("before the uninstall", func(t *testing.T) {
		for _, now := range []orchestrator.DNS{elsewhere, {}} {
			s := site(t)
			ended(t, s, installed(t, s), orchestrator.StatusDone)
			s.Estate.Pools[0].DNS = now
			run := s.Begin(uninstall.Name)
			s.Settle()
			ended(t, s, run, orchestrator.StatusDone)
			if left := s.World.Describe(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		}
	})
	t.Run("between two attempts", func(t *testing.T) {
		s := site(t)
		s.World.Interrupt = func(p orchestratortest.Point) error {
			if p.Call != "EnsureName" || p.Moment != orchestratortest.During {
				return nil
			}
			s.World.Interrupt = nil
			s.Estate.Pools[0].DNS = elsewhere
			panic(orchestratortest.Crash{At: p})
		}
		ended(t, s, installed(t, s), orchestrator.StatusDone)
		if names := strings.Join(s.World.Describe(), "\n"); strings.Count(names, "\nname ") != 2 || s.World.Name(webPointer) != webName || len(s.Crashes) != 1 {
			t.Errorf("%s", names)
		}
	})
}

// An estate that registers nowhere says so in the journal, and calls nobody.
func TestNothingIsRegisteredUnlessConfigured(t *testing.T) {
	s := site(t)
	s.Estate.Monitored, s.Estate.Pools[0].DNS = false, orchestrator.DNS{}
	s.World.Interrupt = func(p orchestratortest.Point) error {
		if p.IsRegistry() {
			t.Errorf("%s was called", p)
		}
		return nil
	}
	ended(t, s, installed(t, s), orchestrator.StatusDone)
	run := s.Begin(uninstall.Name)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	journal := strings.Join(s.Journal(), "\n")
	for _, want := range []string{
		`register_dns #1 undo false 00:00`, `skipped  "the pool has no DNS zone"`, `skipped  "no monitoring is configured"`, `skipped  "nothing of it is in the DNS"`,
	} {
		if !strings.Contains(journal, want) {
			t.Errorf("the journal does not say %s:\n%s", want, journal)
		}
	}
}

// A name server that is gone for good does not keep an uninstall: an operator leaves its row out.
func TestUninstallWithoutItsNameServer(t *testing.T) {
	s := site(t)
	ended(t, s, installed(t, s), orchestrator.StatusDone)
	s.World.Interrupt = func(p orchestratortest.Point) error {
		if p.Call == "RemoveName" {
			return orchestrator.Errorf("dns", orchestrator.Transient, "connection refused")
		}
		return nil
	}
	run := s.Begin(uninstall.Name)
	s.Settle()
	parked := ended(t, s, run, orchestrator.StatusParked)
	if exits := orchestrator.Exits(parked, s.Process(uninstall.Name)); parked.Step != "unregister_dns" || !slices.Equal(exits, []string{"retry", "skip"}) {
		t.Errorf("at %s, exits %v", parked.Step, exits)
	}
	if err := s.Ask(run, orchestrator.VerbSkip, "unregister_dns"); err != nil {
		t.Fatal(err)
	}
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	if m := s.Machine(); m.DNS.Name != webName {
		t.Errorf("what was left is forgotten: %v", m.DNS)
	}
}
