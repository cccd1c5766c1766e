package orchestratortest_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/uninstall"
)

// A machine has what the service gave, and gives it back when its addresses have rested; the service hears of both.
func TestAddressesOfAService(t *testing.T) {
	s := site(t)
	s.In(orchestratortest.PoolIPAM)
	s.Estate.Quarantine = time.Microsecond
	ended(t, s, installed(t, s), orchestrator.StatusDone)
	s.Pass()
	kept := reservations(t, s)
	p := s.Machine().Placement
	if len(kept) != 1 || kept[0].Private != p.Private || kept[0].Public != p.Public || !kept[0].Confirmed || kept[0].Machine != s.Machine().ID {
		t.Errorf("the machine has %s and %s, the service keeps %+v", p.Private, p.Public, kept)
	}
	run := s.Begin(uninstall.Name)
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	if _, err := s.Store.EndQuarantine(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Pass()
	if kept := reservations(t, s); len(kept) != 0 {
		t.Errorf("still kept: %+v", kept)
	}
}

func reservations(t *testing.T, s *orchestratortest.Site) []orchestrator.Reservation {
	t.Helper()
	kept, err := s.World.Service.Reservations(t.Context(), orchestratortest.PoolIPAM)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

// A service that is away for hours is waited for, and nothing is tried so often that the run parks.
func TestOutageOfTheAddressServiceParksNobody(t *testing.T) {
	s := site(t)
	s.In(orchestratortest.PoolIPAM)
	s.World.Service.Answer = func(orchestrator.Reservation) (orchestrator.Reservation, error) {
		return orchestrator.Reservation{}, orchestrator.Errorf("ipam", orchestrator.Transient, "connection refused")
	}
	run := s.Begin(install.Name)
	for range 30 {
		s.Round(run)
		s.Now = s.Now.Add(10 * time.Minute)
		s.Pass()
	}
	waiting := ended(t, s, run, orchestrator.StatusWaiting)
	if !strings.Contains(waiting.Reason, "waiting for the address service corp") || !strings.Contains(waiting.Reason, "connection refused") || waiting.WakeKey != orchestrator.WakeCapacity {
		t.Errorf("%+v", waiting)
	}
	s.World.Service.Answer = nil
	s.Settle()
	ended(t, s, run, orchestrator.StatusDone)
	if n := s.World.Effects["reserve"]; n != 1 {
		t.Errorf("%d reservations were made for one machine", n)
	}
}

// What a service says is not believed: the run parks with the reason, nothing is made, and nothing stays reserved once it is canceled.
func TestAnswersOfTheAddressServiceAreChecked(t *testing.T) {
	for name, test := range map[string]struct {
		private, public, hostname, words string
	}{
		"outside of the subnet": {private: "10.99.0.5", words: "private address: 10.99.0.5 is outside of 10.1.0.0/24"},
		"another family":        {private: "2001:db8::5", words: "another family"},
		"none":                  {private: "none", words: "none was given"},
		"the gateway":           {private: "10.1.0.1", words: "is the gateway"},
		"the broadcast address": {public: "192.0.2.255", words: "public address: 192.0.2.255 is the network or broadcast address"},
		"another machine's":     {public: "192.0.2.254", words: "192.0.2.254 is taken already"},
		"a bad name":            {hostname: "../../etc", words: "hostname"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := site(t)
			s.In(orchestratortest.PoolIPAM)
			ended(t, s, installed(t, s), orchestrator.StatusDone) // has the .254
			s.World.Service.Answer = func(r orchestrator.Reservation) (orchestrator.Reservation, error) {
				for _, a := range []struct {
					text string
					into *netip.Addr
				}{{test.private, &r.Private}, {test.public, &r.Public}} {
					if a.text == "none" {
						*a.into = netip.Addr{}
					} else if a.text != "" {
						*a.into = netip.MustParseAddr(a.text)
					}
				}
				r.Hostname = test.hostname
				return r, nil
			}
			run := s.Begin(install.Name)
			s.Settle()
			parked := ended(t, s, run, orchestrator.StatusParked)
			if parked.State != "queued" || parked.Kind != orchestrator.Permanent || !strings.Contains(parked.Reason, test.words) || !strings.Contains(parked.Reason, "corp") {
				t.Errorf("%s, %s: %s", parked.State, parked.Kind, parked.Reason)
			}
			if s.World.Effects["clone"] != 1 {
				t.Error("something was made")
			}
			s.Cancel(run)
			s.Settle()
			s.Pass()
			if kept := reservations(t, s); len(kept) != 1 {
				t.Errorf("after the cancel the service keeps %+v", kept)
			}
		})
	}
}

// A service may name the machine where the order left that to the machine's name.
func TestServiceNamesTheMachine(t *testing.T) {
	s := site(t)
	s.In(orchestratortest.PoolIPAM)
	s.World.Service.Answer = func(r orchestrator.Reservation) (orchestrator.Reservation, error) {
		r.Hostname = "c0ffee.corp.example"
		return r, nil
	}
	ended(t, s, installed(t, s), orchestrator.StatusDone)
	if got := s.Machine().Hostname; got != "c0ffee.corp.example" {
		t.Errorf("its name is %q", got)
	}
}
