package iptables

import (
	"strings"
	"testing"
	"time"
)

// TestObserveSeesAsProveDoesAndHasNoEffect asks the kernel's real rules.
func TestObserveSeesAsProveDoesAndHasNoEffect(t *testing.T) {
	forBackends(t, func(t *testing.T, backend string) {
		f := alone(t, backend)
		if err := f.in(f.unit.Observe); err != nil {
			t.Errorf("nothing is there, and nothing should be: %v", err)
		}
		f.apply(nil, someEntries()...)
		if err := f.in(f.unit.Observe); err != nil {
			t.Error(err)
		}
		f.iptables("-F", "SLIPWAY-TO")
		before := f.rules()
		if err := f.in(f.unit.Observe); err == nil || !strings.Contains(err.Error(), "chain SLIPWAY-TO has other rules") {
			t.Errorf("an emptied chain: %v", err)
		}
		if after := f.rules(); after != before {
			t.Errorf("looking changed the rules:\n%s\n%s", before, after)
		}
	})
}

func TestObserveLeavesTheRevertTimerArmed(t *testing.T) {
	t.Parallel()
	f := alone(t, backends[0])
	f.cfg.RevertAfter = time.Minute
	f.swap(someEntries()...)
	f.dieAfterReload()
	if err := f.in(f.unit.Observe); err == nil || !strings.Contains(err.Error(), "unproven") {
		t.Errorf("%v", err)
	}
	if !f.armed() {
		t.Error("looking disarmed the timer")
	}
	if err := f.prove(); err != nil {
		t.Fatal(err)
	}
}
