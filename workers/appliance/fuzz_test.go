package appliance

import (
	"strings"
	"testing"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// FuzzDifference: the lines of a comparison lead from what a member has to what it should have, whatever it has.
func FuzzDifference(f *testing.F) {
	const id = "0198c2de-0000-7000-8000-000000000001"
	f.Add("host "+id+" {\n  fixed-address 10.0.0.9;\n}\n", "host "+id+" {\n  fixed-address 10.0.0.10;\n}\n")
	f.Add("", "a\nb")
	f.Add("@@ -1,2 +1,2 @@\n-x\n+y\n", "--- a\n+++ b\n")
	f.Fuzz(func(t *testing.T, live, want string) {
		if strings.Count(live, "\n")+strings.Count(want, "\n") > maxShown {
			return
		}
		d := differ{names: map[string]string{id: id}, group: Group{Unit: orchestrator.DHCP}}
		d.file(apply.LiveFile{Name: "x", Exists: true, Content: live, SHA256: apply.Digest(live)}, apply.File{Name: "x", Content: want}, nil)
		out := d.result()
		gone, came := 0, 0
		for _, c := range out.Changes {
			for _, line := range c.Lines {
				switch {
				case strings.HasPrefix(line.Text, "(the end of") || strings.HasPrefix(line.Text, "(an empty"):
				case line.Op == '-':
					gone++
				case line.Op == '+':
					came++
				default:
					t.Errorf("line %+v", line)
				}
			}
		}
		lines := func(s string) int { return strings.Count(whole(s), "\n") }
		if out.Omitted != 0 || lines(live)-gone+came != lines(want) {
			t.Errorf("%d lines, %d go and %d come, %d are wanted, %d left out", lines(live), gone, came, lines(want), out.Omitted)
		}
		if live == want && len(out.Changes) > 0 {
			t.Errorf("the same text differs: %+v", out)
		}
	})
}
