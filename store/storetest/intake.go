package storetest

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/orchestrator"
)

// sameAddr compares addresses and prefixes, whose fields are hidden.
var sameValues = []cmp.Option{
	cmp.Comparer(func(a, b interface{ String() string }) bool { return a.String() == b.String() }),
	cmpopts.EquateEmpty(),
	cmpopts.IgnoreFields(orchestrator.Machine{}, "CreatedAt", "UpdatedAt"),
	cmpopts.IgnoreFields(orchestrator.Run{}, "CreatedAt", "UpdatedAt", "LeaseUntil"),
}

func intake(t *testing.T, h Harness) {
	t.Run("AcceptedOrderIsAllThere", func(t *testing.T) {
		b := setup(t, h)
		a := b.install()
		if diff := cmp.Diff(orchestrator.Accepted{Run: a.Run.ID, Machine: a.Machine.ID}, b.accept(a)); diff != "" {
			t.Error(diff)
		}
		m, err := b.store.Machine(t.Context(), a.Machine.ID)
		must(t, err)
		if diff := cmp.Diff(a.Machine, m, sameValues...); diff != "" {
			t.Errorf("machine (-accepted +stored):\n%s", diff)
		}
		r, err := b.store.Run(t.Context(), a.Run.ID)
		must(t, err)
		if diff := cmp.Diff(a.Run, r, sameValues...); diff != "" {
			t.Errorf("run (-accepted +stored):\n%s", diff)
		}
		events, err := b.store.Unpublished(t.Context(), 10)
		must(t, err)
		if len(events) != 1 || events[0].Type != orchestrator.EventAccepted || events[0].Seq != 1 || events[0].Machine != m.ID || !events[0].Time.Equal(b.now) {
			t.Errorf("events %+v", events)
		}
	})

	t.Run("SameOrderAgainResendsItsEvent", func(t *testing.T) {
		b := setup(t, h)
		a := b.install()
		first := b.accept(a)
		before, err := b.store.Unpublished(t.Context(), 10)
		must(t, err)
		must(t, b.store.MarkPublished(t.Context(), []int64{before[0].ID}))
		again := b.install()
		again.Order = a.Order
		got := b.accept(again)
		if !got.Repeated || got.Run != first.Run || got.Machine != first.Machine || len(got.Differs) != 0 {
			t.Errorf("answer %+v", got)
		}
		after, err := b.store.Unpublished(t.Context(), 10)
		must(t, err)
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("the event that was sent again:\n%s", diff)
		}
		if n := b.value(`SELECT count(*) FROM machines`); n != 1 {
			t.Errorf("%d machines", n)
		}
	})

	t.Run("OtherOrderUnderTheSameIDIsAConflict", func(t *testing.T) {
		b := setup(t, h)
		a := b.install()
		b.accept(a)
		other := b.install()
		other.Order.Source, other.Order.ID, other.Order.Name = a.Order.Source, a.Order.ID, a.Order.Name
		other.Order.Plan.MemoryMiB *= 2
		got := b.accept(other)
		if diff := cmp.Diff([]string{"plan.memory_mib"}, got.Differs); diff != "" || got.Repeated {
			t.Errorf("answer %+v", got)
		}
		events, err := b.store.Unpublished(t.Context(), 10)
		must(t, err)
		if len(events) != 2 || events[1].Type != orchestrator.EventConflict || events[1].Seq != 2 {
			t.Errorf("events %+v", events)
		}
		if n := b.value(`SELECT count(*) FROM runs`); n != 1 {
			t.Errorf("%d runs", n)
		}
	})

	t.Run("NameIsTakenWithinATenant", func(t *testing.T) {
		b := setup(t, h)
		first, second := b.install(), b.install()
		b.accept(first)
		second.Order.Name, second.Machine.Name = first.Order.Name, first.Machine.Name
		_, err := b.store.Accept(t.Context(), second)
		var fields orchestrator.FieldErrors
		if !errors.As(err, &fields) || fields[0].Field != "name" {
			t.Fatalf("error %v", err)
		}
		second.Order.Tenant, second.Machine.Tenant = "other", "other"
		b.accept(second) // the refused order left nothing
	})

	t.Run("OneOfManyAtOnceIsTheFirst", func(t *testing.T) {
		b := setup(t, h)
		a := b.install()
		answers := make([]orchestrator.Accepted, 8)
		var wg sync.WaitGroup
		for n := range answers {
			again := b.install()
			again.Order = a.Order
			again.Machine.Name = a.Machine.Name
			wg.Go(func() {
				var err error
				if answers[n], err = b.store.Accept(t.Context(), again); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		fresh := slices.DeleteFunc(slices.Clone(answers), func(a orchestrator.Accepted) bool { return a.Repeated })
		if len(fresh) != 1 {
			t.Fatalf("answers %+v", answers)
		}
		for _, answer := range answers {
			if answer.Run != fresh[0].Run {
				t.Errorf("answers %+v", answers)
			}
		}
	})

	t.Run("RefusalIsHeardOnce", func(t *testing.T) {
		b := setup(t, h)
		key := orchestrator.OrderKey{Source: "panel", ID: "bad"}
		event := orchestrator.NewEvent(orchestrator.EventRefused, b.now, orchestrator.EventData{Source: key.Source, OrderID: key.ID, Message: "no"})
		for range 2 {
			must(t, b.store.Refuse(t.Context(), key, event))
		}
		must(t, b.store.Refuse(t.Context(), orchestrator.OrderKey{}, orchestrator.NewEvent(orchestrator.EventRefused, b.now, orchestrator.EventData{})))
		events, err := b.store.Unpublished(t.Context(), 10)
		must(t, err)
		if len(events) != 2 || events[0].Order != key || events[0].Machine != "" {
			t.Errorf("events %+v", events)
		}
	})
}
