package intake

import (
	"errors"
	"strings"
	"testing"

	"slipway/orchestrator"
	"slipway/orchestrator/reconfigure"
	"slipway/orchestrator/suspend"
	"slipway/orchestrator/unsuspend"
)

func alteringSetup(t *testing.T) *bundle {
	t.Helper()
	b := setup(t)
	for _, p := range []*orchestrator.Process{reconfigure.New(reconfigure.Ports{}), suspend.New(suspend.Ports{}), unsuspend.New(unsuspend.Ports{})} {
		b.Processes[p.Name] = p
	}
	return b
}

// An order about a finished machine becomes a run of its own process, whose alteration is made of the machine that the store finds.
func TestAlterations(t *testing.T) {
	for typ, process := range map[orchestrator.OrderType]string{
		orchestrator.OrderReconfigure: reconfigure.Name, orchestrator.OrderSuspend: suspend.Name, orchestrator.OrderUnsuspend: unsuspend.Name,
	} {
		b := alteringSetup(t)
		o := orchestrator.Order{Source: "panel", ID: "1", Type: typ, Tenant: "acme", Name: "web-1", NewConsolePassword: typ == orchestrator.OrderReconfigure}
		if _, err := b.Take(t.Context(), body(t, o), "queue"); err != nil {
			t.Fatal(err)
		}
		a, p := b.taken[0], b.Processes[process]
		if a.Run.Process != process || a.Run.State != p.Start() || a.Run.Machine != "" || a.Run.ID == "" || a.Alter == nil {
			t.Fatalf("%s: %+v", typ, a.Run)
		}
		m := orchestrator.Machine{ID: "m-1", State: orchestrator.StateReady, Image: "debian-12", ConsolePassword: orchestrator.Sealed{1}}
		first, err := a.Alter(m)
		if err != nil {
			t.Fatal(err)
		}
		if typ != orchestrator.OrderReconfigure {
			continue
		}
		again, err := a.Alter(m) // the store may have to repeat its transaction
		if err != nil {
			t.Fatal(err)
		}
		one, err := b.vault.Open(m.ID, orchestrator.SealedConsole, first.Wanted.ConsolePassword)
		if err != nil || len(one.Reveal()) != 8 {
			t.Errorf("a password of %d characters, %v", len(one.Reveal()), err)
		}
		if _, err := b.vault.Open("another", orchestrator.SealedConsole, first.Wanted.ConsolePassword); err == nil {
			t.Error("another machine can open it")
		}
		if two, err := b.vault.Open(m.ID, orchestrator.SealedConsole, again.Wanted.ConsolePassword); err != nil || two.Reveal() == one.Reveal() {
			t.Errorf("the same password twice, %v", err)
		}
		if strings.Contains(b.log.String(), one.Reveal()) {
			t.Error("the password is logged")
		}
	}
}

func TestChangeThatTheGuestCannotTake(t *testing.T) {
	b := alteringSetup(t)
	b.Changeable = func(m orchestrator.Machine, o orchestrator.Order) error {
		return orchestrator.FieldErrors{{Field: "hostname", Problem: "cannot be changed on " + m.Image, Fix: "leave it out"}}
	}
	o := orchestrator.Order{Source: "panel", ID: "1", Type: orchestrator.OrderReconfigure, Tenant: "acme", Name: "web-1", Hostname: "shop"}
	if _, err := b.Take(t.Context(), body(t, o), "queue"); err != nil {
		t.Fatal(err)
	}
	var fields orchestrator.FieldErrors
	if _, err := b.taken[0].Alter(orchestrator.Machine{ID: "m-1", Image: "windows"}); !errors.As(err, &fields) || fields[0].Problem != "cannot be changed on windows" {
		t.Errorf("got %v", err)
	}
}
