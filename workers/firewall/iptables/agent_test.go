package iptables

import (
	"context"
	"strings"
	"testing"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
)

// The unit under the real agent: what a controller hears.
func TestUnderTheAgent(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		f := alone(t, backend)
		a, err := agent.New(
			agent.Config{StateDir: t.TempDir(), Units: map[string]agent.Settings{"firewall": {Driver: "iptables"}}},
			agent.Registry{"iptables": func(agent.Settings) (agent.Unit, error) { return f.unit, nil }}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ask := func(generation int64, text string, rows int) (answer apply.Answer) {
			files := []apply.File{{Name: RulesFile, Content: text}}
			_ = f.in(func(ctx context.Context) error {
				answer = a.Apply(ctx, apply.Request{Unit: "firewall", Fence: 1, Generation: generation, SHA256: apply.Sum(files), Files: files, Rows: rows})
				return nil
			})
			return answer
		}
		one, _ := mustRender(t, f.env, someEntries()[0])
		all, lines := mustRender(t, f.env, someEntries()...)
		expect := func(what string, got apply.Answer, want apply.Code) {
			t.Helper()
			if got.Code != want {
				t.Fatalf("%s: %+v, want %s", what, got, want)
			}
		}
		expect("first", ask(1, one, 1), apply.Applied)
		expect("again", ask(1, one, 1), apply.Unchanged)
		live := f.rules()
		culprit := ask(2, strings.Replace(all, "--dport 22 -j", "--dport 70000 -j", 1), 3)
		expect("a bad row", culprit, apply.Culprit)
		if got := lines.Machine(culprit.Line); got != idB {
			t.Errorf("line %d leads to %q", culprit.Line, got)
		}
		if f.rules() != live {
			t.Error("a culprit changed the rules")
		}
		f.iptables("-F", "SLIPWAY-TO") // somebody's hand
		expect("drift", ask(1, one, 1), apply.Applied)
		expect("more", ask(3, all, 3), apply.Applied)
		f.ns.MustRun(testenv.Need(t, "iptables-"+other(backend)), "-w", "5", "-A", "INPUT", "-j", "ACCEPT")
		expect("mixed", ask(4, one, 1), apply.Unsupported)
		if f.armed() {
			t.Error("a timer is left")
		}
	})
}

// A restore that the kernel refuses leaves the old rules, and nothing waits to revert them.
func TestFailedRestoreUnderTheAgent(t *testing.T) {
	t.Parallel()
	f := alone(t, backends[0])
	a, err := agent.New(
		agent.Config{StateDir: t.TempDir(), Units: map[string]agent.Settings{"firewall": {Driver: "iptables"}}},
		agent.Registry{"iptables": func(agent.Settings) (agent.Unit, error) { return f.unit, nil }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	apply1 := func(generation int64, entries ...orchestrator.FirewallEntry) (answer apply.Answer) {
		files, _, err := Render(templates, f.env, entries)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.in(func(ctx context.Context) error {
			answer = a.Apply(ctx, apply.Request{Unit: "firewall", Fence: 1, Generation: generation, SHA256: apply.Sum(files), Files: files, Rows: len(entries)})
			return nil
		})
		return answer
	}
	if got := apply1(1, someEntries()...); got.Code != apply.Applied {
		t.Fatalf("%+v", got)
	}
	f.iptables("-A", "INPUT", "-j", chainOf(idB)) // a foreign rule holds on to our chain, which so cannot be deleted
	live := f.rules()
	if got := apply1(2, someEntries()[0], someEntries()[2]); got.Code != apply.Restored || !strings.Contains(got.Message, "iptables") {
		t.Fatalf("%+v", got)
	}
	if got := f.rules(); content(got) != content(live) {
		t.Errorf("rules changed:\n%s", got)
	}
	if f.armed() {
		t.Error("a timer is left")
	}
}
