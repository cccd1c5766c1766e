package storetest

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"slipway/orchestrator"
)

// finished is a machine in use.
func (b *bundle) finished() orchestrator.Machine {
	b.Helper()
	claim := b.place(b.taken("w"))
	m := claim.Machine
	m.Presence, m.State = orchestrator.Present, orchestrator.StateReady
	run := claim.Run
	run.State, run.Status = orchestrator.StateReady, orchestrator.StatusDone
	b.commit(orchestrator.Commit{Run: run, Machine: &m, Release: true})
	m, err := b.store.Machine(b.Context(), m.ID)
	must(b, err)
	return m
}

// altering is an order about a machine.
func (b *bundle) altering(m orchestrator.Machine, change func(*orchestrator.Order)) orchestrator.Acceptance {
	a := b.uninstall(m.ID)
	a.Order.Type = orchestrator.OrderReconfigure
	a.Order.Hostname = "other-" + m.Name
	if change != nil {
		change(&a.Order)
	}
	a.Run = orchestrator.Run{ID: uuid.NewString(), Process: "reconfigure", State: "reconfigure_requested", Status: orchestrator.StatusReady, Step: "open_door", RowHash: "hash-r", Attempt: 1, StepSince: b.now}
	a.Alter = func(found orchestrator.Machine) (orchestrator.Alteration, error) {
		return a.Order.Alteration(found, func(orchestrator.Machine) (orchestrator.Sealed, error) { return orchestrator.Sealed{0, 7, 0}, nil })
	}
	return a
}

// refused wants a refusal of one field that says something.
func (b *bundle) refused(a orchestrator.Acceptance, field, problem string) {
	b.Helper()
	_, err := b.store.Accept(b.Context(), a)
	var fields orchestrator.FieldErrors
	if !errors.As(err, &fields) || len(fields) != 1 || fields[0].Field != field || !strings.Contains(fields[0].Problem, problem) || fields[0].Fix == "" {
		b.Errorf("want %s: …%s…, got %v", field, problem, err)
	}
}

func alter(t *testing.T, h Harness) {
	t.Run("RunCarriesWhatIsAndWhatIsWanted", func(t *testing.T) {
		b := setup(t, h)
		m := b.finished()
		a := b.altering(m, func(o *orchestrator.Order) { o.NewConsolePassword, o.Firewall = true, []orchestrator.FirewallRule{} })
		answer := b.accept(a)
		want := orchestrator.Alteration{State: orchestrator.StateReady, Former: m.Settings(), Wanted: orchestrator.Settings{
			SSHKeys: m.SSHKeys, Hostname: "other-" + m.Name, ConsolePassword: orchestrator.Sealed{0, 7, 0}, ConsoleAge: m.ConsoleAge,
		}}
		claim := b.claim(answer.Run, "w")
		if diff := cmp.Diff(want, claim.Run.Alteration, sameValues...); diff != "" || answer.Machine != m.ID || claim.Machine.ID != m.ID {
			t.Errorf("machine %s (-want +got):\n%s", answer.Machine, diff)
		}
		if !claim.Run.Alteration.ChangesRules() || claim.Run.Alteration.ChangesKeys() {
			t.Errorf("%+v", claim.Run.Alteration)
		}
		if again := b.accept(a); !again.Repeated || again.Run != answer.Run {
			t.Errorf("the same order again: %+v", again)
		}
		other := a
		other.Order.Firewall = nil
		if differs := b.accept(other).Differs; len(differs) != 1 || differs[0] != "firewall" {
			t.Errorf("the rules that stay and no rules at all differ in %v", differs)
		}
	})

	t.Run("SuspensionIsKept", func(t *testing.T) {
		b := setup(t, h)
		m := b.finished()
		claim := b.claim(b.accept(b.altering(m, nil)).Run, "w")
		m.Suspension = orchestrator.Suspension{Power: orchestrator.PowerKeep, Running: true, Answered: true}
		m.State = orchestrator.StateSuspended
		run := claim.Run
		run.State, run.Status = orchestrator.StateSuspended, orchestrator.StatusDone
		b.commit(orchestrator.Commit{Run: run, Machine: &m, Release: true})
		got, err := b.store.Machine(t.Context(), m.ID)
		must(t, err)
		if got.Suspension != m.Suspension {
			t.Errorf("%+v", got.Suspension)
		}
		b.refused(b.altering(m, nil), "machine", "is suspended")
		b.refused(b.altering(m, func(o *orchestrator.Order) { o.Machine, o.Name = "", m.Name }), "name", "is suspended")
		if _, err := b.store.IssueToken(t.Context(), orchestrator.PassHash{1}, orchestrator.ConsolePass{Machine: m.ID, User: "u"}, lease, "op"); err == nil || !strings.Contains(err.Error(), "is suspended") {
			t.Errorf("a pass for a suspended machine: %v", err)
		}
		b.accept(b.altering(m, func(o *orchestrator.Order) { o.Type = orchestrator.OrderUnsuspend }))
	})

	t.Run("OnlyFinishedMachinesAndOneRunEach", func(t *testing.T) {
		b := setup(t, h)
		busy, err := b.store.Machine(t.Context(), b.accept(b.install()).Machine)
		must(t, err)
		b.refused(b.altering(busy, nil), "machine", "has a run of install under way")
		m := b.finished()
		b.refused(b.altering(m, func(o *orchestrator.Order) { o.Hostname = busy.Hostname }), "hostname", "is in use by the tenant's machine")
		b.refused(b.altering(m, func(o *orchestrator.Order) { o.Tenant = "evil" }), "machine", "is not a machine of the tenant")
		must(t, b.db.Exec(t.Context(), "UPDATE machines SET state = 'canceled' WHERE id = '"+m.ID+"'"))
		b.refused(b.altering(m, nil), "machine", "is not a finished machine: its state is canceled")
		must(t, b.db.Exec(t.Context(), "UPDATE machines SET state = 'production_ready' WHERE id = '"+m.ID+"'"))

		// Of many at once one begins, and the others are told.
		var begun atomic.Int64
		var all sync.WaitGroup
		for range 8 {
			a := b.altering(m, nil)
			all.Go(func() {
				_, err := b.store.Accept(t.Context(), a)
				switch {
				case err == nil:
					begun.Add(1)
				case !isFieldErrors(err):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if begun.Load() != 1 {
			t.Errorf("%d runs began", begun.Load())
		}
		leave := b.accept(b.uninstall(m.ID))
		runs, err := b.store.Runs(t.Context(), orchestrator.RunFilter{Machine: m.ID, Process: "reconfigure"})
		must(t, err)
		if len(runs) != 1 || runs[0].Successor != "uninstall" || runs[0].SuccessorID != leave.Run {
			t.Errorf("%+v", runs)
		}
	})

	t.Run("HostnameIsOneMachines", func(t *testing.T) {
		b := setup(t, h)
		const wanted = "shop"
		to := func(name string) func(*orchestrator.Order) { return func(o *orchestrator.Order) { o.Hostname = name } }
		machines := []orchestrator.Machine{b.finished(), b.finished(), b.finished(), b.finished()}
		var begun atomic.Int64
		var all sync.WaitGroup
		var inside atomic.Int64
		second := make(chan struct{}) // nobody comes so far while the first is there
		for _, m := range machines {
			a := b.altering(m, to(wanted))
			alter := a.Alter
			a.Alter = func(m orchestrator.Machine) (orchestrator.Alteration, error) {
				if inside.Add(1) == 2 {
					close(second)
				}
				select {
				case <-second:
				case <-time.After(200 * time.Millisecond):
				}
				return alter(m)
			}
			all.Go(func() {
				_, err := b.store.Accept(t.Context(), a)
				switch {
				case err == nil:
					begun.Add(1)
				case !isFieldErrors(err):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if begun.Load() != 1 {
			t.Fatalf("%d machines are to be called %s", begun.Load(), wanted)
		}
		runs, err := b.store.Runs(t.Context(), orchestrator.RunFilter{Process: "reconfigure"})
		must(t, err)
		at := slices.IndexFunc(machines, func(m orchestrator.Machine) bool { return m.ID == runs[0].Machine })
		renamed, other := machines[at], machines[(at+1)%len(machines)]
		late := b.install()
		late.Machine.Hostname = wanted
		b.refused(late, "hostname", "is in use by the tenant's machine")

		// The guest has its new name, and a cancel would bring back the former.
		claim := b.claim(runs[0].ID, "w")
		former, run := renamed.Hostname, claim.Run
		renamed = claim.Machine
		renamed.Hostname = wanted
		b.commit(orchestrator.Commit{Run: run, Machine: &renamed})
		b.refused(b.altering(other, to(former)), "hostname", "is in use by the tenant's machine")
		b.refused(b.altering(other, to(wanted)), "hostname", "is in use by the tenant's machine")
		run.State, run.Status = orchestrator.StateReady, orchestrator.StatusDone
		b.commit(orchestrator.Commit{Run: run, Machine: &renamed, Release: true})
		b.accept(b.altering(other, to(former)))
	})

	t.Run("RefusedByItsMaker", func(t *testing.T) {
		b := setup(t, h)
		m := b.finished()
		a := b.altering(m, nil)
		a.Alter = func(orchestrator.Machine) (orchestrator.Alteration, error) {
			return orchestrator.Alteration{}, orchestrator.FieldErrors{{Field: "ssh_keys", Problem: "cannot be changed", Fix: "leave it out"}}
		}
		b.refused(a, "ssh_keys", "cannot be changed")
		b.accept(b.altering(m, func(o *orchestrator.Order) { o.ID = a.Order.ID })) // a refused id is not taken
	})
}
