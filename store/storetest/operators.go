package storetest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

func outbox(t *testing.T, h Harness) {
	b := setup(t, h)
	c, other := b.taken("a"), b.taken("a")
	for range 3 {
		b.commit(orchestrator.Commit{Run: other.Run, Events: []orchestrator.Event{b.event(other, orchestrator.EventStepDone)}})
		b.commit(orchestrator.Commit{Run: c.Run, Events: []orchestrator.Event{b.event(c, orchestrator.EventStepDone), b.event(c, orchestrator.EventWaiting)}})
	}
	first, err := b.store.Unpublished(t.Context(), 5)
	must(t, err)
	if len(first) != 5 {
		t.Fatalf("%d events, the limit is 5", len(first))
	}
	must(t, b.store.MarkPublished(t.Context(), []int64{first[0].ID, first[2].ID}))
	must(t, b.store.MarkPublished(t.Context(), nil))
	rest, err := b.store.Unpublished(t.Context(), 100)
	must(t, err)
	if len(rest) != 9 || rest[0].ID != first[1].ID || rest[1].ID != first[3].ID {
		t.Errorf("%d events are left, beginning with %+v", len(rest), rest[0])
	}
	stats, err := b.store.Stats(t.Context())
	must(t, err)
	if stats.Unpublished != 9 || stats.Runs["install"][orchestrator.StatusRunning] != 2 {
		t.Errorf("stats %+v", stats)
	}
}

func prune(t *testing.T, h Harness) {
	b := setup(t, h)
	a := b.install()
	c := b.claim(b.accept(a).Run, "a")
	for _, typ := range []string{"old", "old", "young", "waiting"} {
		b.commit(orchestrator.Commit{Run: c.Run, Events: []orchestrator.Event{b.event(c, typ)}})
	}
	refused := orchestrator.OrderKey{Source: "panel", ID: "malformed"}
	refusal := func() {
		t.Helper()
		must(t, b.store.Refuse(t.Context(), refused, orchestrator.NewEvent(orchestrator.EventRefused, b.now, orchestrator.EventData{Source: refused.Source, OrderID: refused.ID})))
	}
	refusal()
	events, err := b.store.Unpublished(t.Context(), 100)
	must(t, err)
	var published []int64
	for _, e := range events {
		if e.Type != "waiting" {
			published = append(published, e.ID)
		}
	}
	must(t, b.store.MarkPublished(t.Context(), published))
	if n, err := b.store.Prune(t.Context()); n != 0 || err != nil {
		t.Errorf("%d events of today went, %v", n, err)
	}
	const day = 24 * 3600 * 1_000_000
	must(t, b.db.Exec(t.Context(), fmt.Sprintf(`UPDATE outbox SET published_at = published_at - %d WHERE published_at > 0`, 6*day)))
	if n, err := b.store.Prune(t.Context()); n != 0 || err != nil {
		t.Errorf("%d events of this week went, %v", n, err)
	}
	must(t, b.db.Exec(t.Context(), fmt.Sprintf(`UPDATE outbox SET published_at = published_at - %d WHERE published_at > 0 AND type <> 'young'`, day)))
	if n, err := b.store.Prune(t.Context()); n != 3 || err != nil { // two old ones and the refusal
		t.Errorf("%d events went, %v", n, err)
	}
	if n := b.value(`SELECT count(*) FROM outbox WHERE type IN ('young', 'waiting', 'slipway.run.accepted')`); n != 3 {
		t.Errorf("%d of 3 events are left", n)
	}
	// Nothing that comes again misses what went.
	if answer := b.accept(a); !answer.Repeated {
		t.Errorf("answer %+v", answer)
	}
	refusal()
	b.commit(orchestrator.Commit{Run: c.Run, Events: []orchestrator.Event{b.event(c, "next")}})
	again, err := b.store.Unpublished(t.Context(), 100)
	must(t, err)
	var types []string
	for _, e := range again {
		types = append(types, e.Type)
	}
	if diff := cmp.Diff([]string{orchestrator.EventAccepted, "waiting", orchestrator.EventRefused, "next"}, types); diff != "" {
		t.Errorf("unpublished:\n%s", diff)
	}
	if again[0].ID != events[0].ID || again[3].Seq != 6 {
		t.Errorf("the accepted event is %d, it was %d; the next is the machine's event %d", again[0].ID, events[0].ID, again[3].Seq)
	}
}

func operators(t *testing.T, h Harness) {
	t.Run("Retry", func(t *testing.T) {
		b := setup(t, h)
		c, later := b.taken("a"), b.now.Add(time.Hour)
		retry := func() (orchestrator.Run, error) {
			return b.store.Intervene(t.Context(), orchestrator.Intervention{Run: c.Run.ID, Verb: orchestrator.VerbRetry, Actor: "0:root", Reason: "disk replaced", Now: later})
		}
		if _, err := retry(); orchestrator.KindOf(err) != orchestrator.Permanent {
			t.Errorf("a run that is held: %v", err)
		}
		c.Run.Status, c.Run.Failures, c.Run.Conflicts, c.Run.Attempt, c.Run.Reason = orchestrator.StatusParked, 5, 3, 6, "full"
		b.commit(orchestrator.Commit{Run: c.Run, Release: true})
		if got, err := b.store.Claim(t.Context(), orchestrator.Ask{Holder: "b", Limit: 10, Lease: lease}); err != nil || len(got) != 0 {
			t.Errorf("a parked run was taken: %+v, %v", got, err)
		}
		run, err := retry()
		must(t, err)
		if run.Status != orchestrator.StatusReady || run.Failures != 0 || run.Conflicts != 0 || run.Attempt != 6 || !run.StepSince.Equal(run.WakeAt) {
			t.Errorf("run %+v", run)
		}
		lines, err := b.store.Attempts(t.Context(), c.Machine.ID)
		must(t, err)
		if len(lines) != 1 || lines[0].Outcome != "retry" || lines[0].Actor != "0:root" || lines[0].Message != "disk replaced" || !lines[0].Ended.Equal(later) {
			t.Errorf("journal %+v", lines)
		}
		again := b.claim(c.Run.ID, "b")
		again.Run.Status, again.Run.WakeAt, again.Run.Undoing = orchestrator.StatusParked, time.Now().Add(time.Hour), true
		b.commit(orchestrator.Commit{Run: again.Run, Release: true})
		if run, err = retry(); err != nil || run.Status != orchestrator.StatusCanceling {
			t.Errorf("a parked unwinding: %+v, %v", run, err)
		}
		again = b.claim(c.Run.ID, "b")
		again.Run.Status = orchestrator.StatusDone
		b.commit(orchestrator.Commit{Run: again.Run, Release: true})
		for _, verb := range []string{orchestrator.VerbRetry, orchestrator.VerbCancel, "explode"} {
			_, err := b.store.Intervene(t.Context(), orchestrator.Intervention{Run: c.Run.ID, Verb: verb})
			if orchestrator.KindOf(err) != orchestrator.Permanent || errors.Is(err, orchestrator.ErrNotFound) {
				t.Errorf("%s of a run that has ended: %v", verb, err)
			}
		}
		if _, err := b.store.Intervene(t.Context(), orchestrator.Intervention{Run: "none", Verb: orchestrator.VerbRetry}); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})

	t.Run("WithoutAReason", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		_, err := b.store.Intervene(t.Context(), orchestrator.Intervention{Run: c.Run.ID, Verb: orchestrator.VerbCancel, Actor: "0:root", Now: b.now})
		must(t, err)
		run, err := b.store.Run(t.Context(), c.Run.ID)
		must(t, err)
		if run.Cancel != "0:root" {
			t.Errorf("canceled by %q", run.Cancel)
		}
	})

	t.Run("FindMachine", func(t *testing.T) {
		b := setup(t, h)
		one := b.install()
		b.accept(one)
		two := b.install()
		two.Order.Tenant, two.Machine.Tenant, two.Order.Name, two.Machine.Name = "other", "other", one.Order.Name, one.Order.Name
		b.accept(two)
		for _, what := range []string{one.Machine.ID, one.Machine.ID[:8], one.Run.ID, "acme/" + one.Order.Name} {
			m, err := b.store.FindMachine(t.Context(), what)
			if err != nil || m.ID != one.Machine.ID {
				t.Errorf("%s: %s, %v", what, m.ID, err)
			}
		}
		for _, what := range []string{"nothing", one.Machine.ID[:7], "%%%%%%%%", "________", ""} {
			if _, err := b.store.FindMachine(t.Context(), what); !errors.Is(err, orchestrator.ErrNotFound) {
				t.Errorf("%q: %v", what, err)
			}
		}
		_, err := b.store.FindMachine(t.Context(), one.Order.Name)
		var several orchestrator.FieldErrors
		if !errors.As(err, &several) || len(several) != 2 || !strings.Contains(several[0].Problem, "other/"+one.Order.Name+" of 20") ||
			!strings.Contains(several[0].Problem, "which is queued") {
			t.Errorf("two machines of one name: %v", err)
		}
	})

	t.Run("FindMachineAmongRemovedNamesakes", func(t *testing.T) {
		b := setup(t, h)
		var last orchestrator.Acceptance
		for range 30 {
			must(t, b.db.Exec(t.Context(), `UPDATE machines SET presence = 'absent'`))
			last = b.install()
			last.Order.Name, last.Machine.Name = "web", "web"
			b.accept(last)
		}
		for _, what := range []string{"it is there", "it is removed as well"} {
			for _, name := range []string{"acme/web", "web"} {
				m, err := b.store.FindMachine(t.Context(), name)
				if err != nil || m.ID != last.Machine.ID {
					t.Errorf("%s, and %s is %s, %v", what, name, m.ID, err)
				}
			}
			must(t, b.db.Exec(t.Context(), `UPDATE machines SET presence = 'absent'`))
		}
	})

	t.Run("Runs", func(t *testing.T) {
		b := setup(t, h)
		c := b.place(b.taken("a"))
		b.accept(b.install())
		for name, f := range map[string]orchestrator.RunFilter{
			"status": {Status: []orchestrator.Status{orchestrator.StatusRunning, orchestrator.StatusParked}}, "pool": {Pool: c.Machine.Placement.Pool}, "machine": {Machine: c.Machine.ID},
		} {
			got, err := b.store.Runs(t.Context(), f)
			if err != nil || len(got) != 1 || got[0].ID != c.Run.ID || got[0].Name != c.Machine.Name || got[0].Private != c.Machine.Placement.Private {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		}
		for name, want := range map[string]struct {
			f orchestrator.RunFilter
			n int
		}{
			"all": {orchestrator.RunFilter{}, 2}, "process": {orchestrator.RunFilter{Process: "install"}, 2}, "tenant": {orchestrator.RunFilter{Tenant: "acme"}, 2},
			"another tenant": {orchestrator.RunFilter{Tenant: "x"}, 0}, "limit": {orchestrator.RunFilter{Limit: 1}, 1},
		} {
			if got, err := b.store.Runs(t.Context(), want.f); err != nil || len(got) != want.n {
				t.Errorf("%s: %d runs, %v", name, len(got), err)
			}
		}
		machines, err := b.store.Machines(t.Context())
		if err != nil || len(machines) != 2 {
			t.Errorf("%d machines, %v", len(machines), err)
		}
	})

	t.Run("ForeignAddresses", func(t *testing.T) {
		b := setup(t, h)
		first := b.estate.Pools[0].Private.Ranges[0].First
		record := orchestrator.AddressRecord{Pool: "pool-a", Address: first, Role: "private", Note: "printer"}
		must(t, b.store.PutAddress(t.Context(), record, "0:root", "found"))
		must(t, b.store.PutAddress(t.Context(), record, "0:root", "found")) // again
		record.Owner, record.State = orchestrator.OwnerForeign, orchestrator.AddressForeign
		got, err := b.store.Addresses(t.Context())
		must(t, err)
		if diff := cmp.Diff([]orchestrator.AddressRecord{record}, got, sameValues...); diff != "" {
			t.Error(diff)
		}
		c := b.place(b.taken("a"))
		ours := c.Machine.Placement
		if ours.Private == first {
			t.Error("a foreign address was given out")
		}
		if err := b.store.PutAddress(t.Context(), orchestrator.AddressRecord{Pool: ours.Pool, Address: ours.Private, Role: "private"}, "0:root", "x"); orchestrator.KindOf(err) != orchestrator.Permanent {
			t.Errorf("ours became foreign: %v", err)
		}
		for _, a := range []netip.Addr{ours.Private, first.Prev()} {
			if err := b.store.DropAddress(t.Context(), ours.Pool, a, "0:root", "x"); !errors.Is(err, orchestrator.ErrNotFound) {
				t.Errorf("%s: %v", a, err)
			}
		}
		must(t, b.store.DropAddress(t.Context(), "pool-a", first, "0:root", "gone"))
		stats, err := b.store.Stats(t.Context())
		must(t, err)
		if diff := cmp.Diff(map[string]map[string]int{ours.Pool: {orchestrator.AddressReserved: 2}}, stats.Addresses); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("NothingIsFound", func(t *testing.T) {
		b := setup(t, h)
		_, runErr := b.store.Run(t.Context(), "x")
		_, machineErr := b.store.Machine(t.Context(), "x")
		_, _, entriesErr := b.store.Entries(t.Context(), "x")
		for _, err := range []error{runErr, machineErr, entriesErr} {
			if !errors.Is(err, orchestrator.ErrNotFound) {
				t.Errorf("error %v", err)
			}
		}
		must(t, b.store.Ping(t.Context()))
		for range 2 {
			must(t, b.store.TryWrite(t.Context()))
			if n := b.value(`SELECT count(*) FROM leases`); n != 0 {
				t.Errorf("a trial left %d rows", n)
			}
		}
	})
}
