package agent

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/workers/appliance/apply"
)

// A survey carries a unit only, writes nothing, and says so where a unit has no such part.
func TestSurveyIsRefused(t *testing.T) {
	dir := t.TempDir()
	b := newBundle(t, dir, nil)
	before := everything(t, dir)
	for name, req := range map[string]apply.Request{
		"not read-only":   {Unit: "dhcp", Survey: true},
		"with files":      {Unit: "dhcp", Survey: true, ReadOnly: true, Files: []apply.File{{Name: "a.conf"}}},
		"with rows":       {Unit: "dhcp", Survey: true, ReadOnly: true, Rows: 1},
		"an unknown unit": {Unit: "nothing", Survey: true, ReadOnly: true},
	} {
		if got := b.Apply(t.Context(), req); got.Code != apply.Refused {
			t.Errorf("%s: %+v", name, got)
		}
	}
	got := b.Apply(t.Context(), apply.Request{Unit: "dhcp", Survey: true, ReadOnly: true})
	if got.Code != apply.Unsupported || !strings.Contains(got.Message, "cannot tell") {
		t.Errorf("a unit without the part: %+v", got)
	}
	if diff := cmp.Diff(before, everything(t, dir)); diff != "" {
		t.Errorf("touched %s", diff)
	}
}
