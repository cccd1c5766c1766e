package service

import (
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
)

func TestUntaken(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	run := orchestrator.Run{Process: "install", State: "queued", Step: "place"}
	works := orchestrator.Worker{Holder: "a", Seen: now, Knows: []string{"install/queued/place"}}
	drained := orchestrator.Worker{Holder: "b", Seen: now, Drained: now, DrainedBy: "0:root", DrainReason: "new kernel", Knows: works.Knows}
	gone := orchestrator.Worker{Holder: "c", Seen: now.Add(-time.Minute), Knows: works.Knows}
	other := orchestrator.Worker{Holder: "d", Seen: now, Knows: []string{"install/queued/reserve"}}
	for name, tt := range map[string]struct {
		workers []orchestrator.Worker
		want    string
	}{
		"none":                 {nil, "no worker is there"},
		"one works":            {[]orchestrator.Worker{drained, gone, works}, ""},
		"all are drained":      {[]orchestrator.Worker{drained, gone}, "every worker is drained (b by 0:root: new kernel)"},
		"none knows its place": {[]orchestrator.Worker{other, drained}, "no worker that works knows install in state queued, step place"},
	} {
		if got := untaken(tt.workers, run); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
