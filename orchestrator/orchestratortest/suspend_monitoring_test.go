package orchestratortest_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator/suspend"
	"slipway/orchestrator/unsuspend"
)

// Monitoring does not watch a machine that is to be silent, and is told of it again if it knew it.
func TestMonitoringOfASuspendedMachine(t *testing.T) {
	for name, known := range map[string]bool{"it was told of the machine": true, "it never was": false} {
		t.Run(name, func(t *testing.T) {
			s := inUse(t)
			if !known {
				if err := s.World.RemoveHost(t.Context(), s.Machine().ID); err != nil {
					t.Fatal(err)
				}
			}
			before := s.World.Describe()
			if strings.Contains(strings.Join(before, "\n"), "monitored ") != known {
				t.Fatalf("%q", before)
			}
			walked(t, s, suspend.Name)
			if while := strings.Join(s.World.Describe(), "\n"); strings.Contains(while, "monitored ") || s.Machine().Suspension.Monitored != known {
				t.Errorf("%+v\n%s", s.Machine().Suspension, while)
			}
			walked(t, s, unsuspend.Name)
			if diff := cmp.Diff(before, s.World.Describe()); diff != "" {
				t.Errorf("the world (-before +after):\n%s", diff)
			}
		})
	}
}
