package appliance

import (
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

func (b *bundle) hold(s orchestrator.Subject) {
	b.Helper()
	must(b, b.store.PutHold(b.Context(), orchestrator.Hold{Subject: s, Kind: orchestrator.HoldMaintenance, Actor: "0:root", Reason: "new disks"}))
}

func (b *bundle) lift(s orchestrator.Subject) {
	b.Helper()
	must(b, b.store.LiftHold(b.Context(), s, orchestrator.HoldMaintenance, "0:root", "done"))
}

// A member in maintenance is left out of applies and not waited for, whatever min_applied says; on its return it catches up, and what it
// carries is proven again even when nothing has changed.
func TestMemberInMaintenanceIsLeftOut(t *testing.T) {
	b := setup(t, 2, 2)
	b.put("one")
	must(t, b.round())
	away := orchestrator.MemberSubject(groupID, "dhcp-2")
	b.hold(away)
	asked := len(b.boxes[1].applies())
	id := b.put("two")
	must(t, b.round())
	if s := b.state(id); !s.IsApplied() || s.Problem != "" || len(b.boxes[1].applies()) != asked {
		t.Errorf("%+v, %d applies on the member", s, len(b.boxes[1].applies())-asked)
	}
	plan, err := New(b.cfg).Plan(t.Context(), groupID)
	must(t, err)
	if !strings.Contains(plan.Members[1].Problem, "left out: maintenance of member dhcp-a/dhcp-2") || plan.Blocked() != "" {
		t.Errorf("%+v", plan)
	}
	b.lift(away)
	must(t, b.round())
	if m := b.member(1); m.Dirty || m.Applied != 2 || b.boxes[0].live(t) != b.boxes[1].live(t) {
		t.Errorf("back again: %+v", m)
	}
	b.hold(away)
	b.lift(away)
	asked = len(b.boxes[1].applies())
	must(t, b.round())
	if len(b.boxes[1].applies()) != asked+1 {
		t.Error("what it carries was not proven after a maintenance in which nothing changed")
	}
}

// Nothing is applied to a group in maintenance, or to one whose members all are, and an operator's plan does not go past that.
func TestGroupInMaintenanceStands(t *testing.T) {
	for name, subjects := range map[string][]orchestrator.Subject{
		"group":   {orchestrator.GroupSubject(groupID)},
		"members": {orchestrator.MemberSubject(groupID, "dhcp-1"), orchestrator.MemberSubject(groupID, "dhcp-2")},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, 2, 1)
			for _, s := range subjects {
				b.hold(s)
			}
			id := b.put("one")
			must(t, b.round())
			if s := b.state(id); s.IsApplied() || !strings.Contains(s.Problem, "maintenance of ") || len(b.boxes[0].applies())+len(b.boxes[1].applies()) != 0 {
				t.Errorf("%+v", s)
			}
			plan, err := New(b.cfg).Plan(t.Context(), groupID)
			must(t, err)
			if plan.Blocked() == "" {
				t.Errorf("a plan would go through: %+v", plan)
			}
			for _, s := range slices.Backward(subjects) {
				b.lift(s)
			}
			must(t, b.round())
			if s := b.state(id); !s.IsApplied() {
				t.Errorf("after its end %+v", s)
			}
		})
	}
}

// Who begins a maintenance hears when the apply is over that another worker had begun.
func TestSettleWaitsForTheApply(t *testing.T) {
	b := setup(t, 1, 1)
	b.cfg.Lease = 300 * time.Millisecond
	id := b.put("one")
	asked, answer := make(chan struct{}), make(chan struct{})
	b.boxes[0].gate = func(apply.Request) { close(asked); <-answer }
	applied := make(chan error, 1)
	go func() { applied <- b.round() }()
	<-asked
	b.hold(orchestrator.GroupSubject(groupID))
	other := b.cfg
	other.Holder = "worker-2"
	settled := make(chan error, 1)
	go func() { settled <- New(other).Settle(t.Context(), groupID) }()
	timer := time.NewTimer(2 * b.cfg.Lease)
	defer timer.Stop()
	select {
	case err := <-settled:
		t.Fatalf("settled under an apply: %v", err)
	case <-timer.C:
	}
	close(answer)
	must(t, <-applied)
	must(t, <-settled)
	if !b.state(id).IsApplied() {
		t.Error("the apply that was under way was lost")
	}
}
