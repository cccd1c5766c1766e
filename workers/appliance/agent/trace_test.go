package agent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/workers/appliance/apply"
)

// logUnit is a unit with a log in which a guest has its words.
type logUnit struct {
	Unit
	trace apply.Trace
	err   error
}

func (l logUnit) Trace(context.Context, string) (apply.Trace, error) { return l.trace, l.err }

const traced = "02:00:00:00:00:01"

// A trace carries a unit and an address only, writes nothing, and hands on clean lines.
func TestTrace(t *testing.T) {
	dir := t.TempDir()
	b := newBundle(t, dir, nil)
	before := everything(t, dir)
	for name, req := range map[string]apply.Request{
		"not read-only":            {Unit: "dhcp", Trace: traced},
		"a survey as well":         {Unit: "dhcp", Trace: traced, ReadOnly: true, Survey: true},
		"with files":               {Unit: "dhcp", Trace: traced, ReadOnly: true, Files: []apply.File{{Name: "a.conf"}}},
		"with rows":                {Unit: "dhcp", Trace: traced, ReadOnly: true, Rows: 1},
		"no address":               {Unit: "dhcp", Trace: "web-1", ReadOnly: true},
		"an address in upper case": {Unit: "dhcp", Trace: "02:00:00:00:00:AA", ReadOnly: true},
		"an address of InfiniBand": {Unit: "dhcp", Trace: "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01", ReadOnly: true},
		"an unknown unit":          {Unit: "nothing", Trace: traced, ReadOnly: true},
	} {
		if got := b.Apply(t.Context(), req); got.Code != apply.Refused {
			t.Errorf("%s: %+v", name, got)
		}
	}
	ask := apply.Request{Unit: "dhcp", Trace: traced, ReadOnly: true}
	if got := b.Apply(t.Context(), ask); got.Code != apply.Unsupported || !strings.Contains(got.Message, "no log") {
		t.Errorf("a unit without the part: %+v", got)
	}
	unit := b.units["dhcp"]
	wild := "DHCPACK to " + traced + " (\x1b[2J\u202e" + strings.Repeat("x", 10*apply.MaxText) + ")"
	b.units["dhcp"] = logUnit{Unit: unit, trace: apply.Trace{Count: 9, Read: 9, Lines: []string{wild, wild, wild, wild, wild, wild, wild, wild, "last"}}}
	got := b.Apply(t.Context(), ask)
	if got.Code != apply.Traced || got.Trace == nil || len(got.Trace.Lines) != apply.MaxTrace || got.Trace.Lines[apply.MaxTrace-1] != "last" {
		t.Fatalf("%+v", got)
	}
	if line := got.Trace.Lines[0]; strings.ContainsAny(line, "\x1b\u202e") || len(line) > apply.MaxText+10 {
		t.Errorf("%d bytes: %q", len(line), line)
	}
	b.units["dhcp"] = logUnit{Unit: unit, err: errors.New("the log is gone")}
	if got := b.Apply(t.Context(), ask); got.Code != apply.Unsupported || got.Trace != nil || !strings.Contains(got.Message, "the log is gone") {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff(before, everything(t, dir)); diff != "" {
		t.Errorf("touched %s", diff)
	}
}
