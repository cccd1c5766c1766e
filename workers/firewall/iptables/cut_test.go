package iptables

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
)

func TestCuts(t *testing.T) {
	web := allow("tcp", "0.0.0.0/0", 80)
	a, b := customer(idA, privateA, publicA, web), customer(idB, privateB, publicB, web)
	letsA := customer(idB, privateB, publicB, web, allow("tcp", publicA+"/32", 22))
	suspended := customer(idA, privateA, publicA)
	suspended.Phase = orchestrator.PhaseSuspended
	type entries = []orchestrator.FirewallEntry
	foreign := labConfig()
	foreign.Foreign = append(foreign.Foreign, netip.MustParsePrefix("10.0.0.200/32"))
	for name, tc := range map[string]struct {
		from, to entries
		env      Config
		want     []string
	}{
		"nothing":                     {entries{a, b}, entries{b, a}, labConfig(), nil},
		"a new machine":               {entries{a}, entries{a, b}, labConfig(), []string{privateB, publicB}},
		"the first of all":            {nil, entries{a}, labConfig(), []string{privateA, publicA}},
		"a machine that goes":         {entries{a, b}, entries{b}, labConfig(), []string{privateA, publicA}},
		"less is open":                {entries{a, b}, entries{customer(idA, privateA, publicA), b}, labConfig(), []string{privateA}},
		"another port":                {entries{a, b}, entries{customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 81)), b}, labConfig(), []string{privateA}},
		"a source fewer":              {entries{customer(idA, privateA, publicA, allow("tcp", client+"/32", 80), allow("tcp", stranger+"/32", 80))}, entries{customer(idA, privateA, publicA, allow("tcp", client+"/32", 80))}, labConfig(), []string{privateA}},
		"more is open":                {entries{a, b}, entries{customer(idA, privateA, publicA, web, allow("tcp", "0.0.0.0/0", 443)), b}, labConfig(), nil},
		"the installer goes":          {entries{installing(idA, privateA, publicA, client+"/32", 22), b}, entries{a, b}, labConfig(), []string{privateA}},
		"another owner, same rules":   {entries{a, b}, entries{customer(idC, privateA, publicA, web), b}, labConfig(), []string{privateA, publicA}},
		"another public address":      {entries{a, b}, entries{customer(idA, privateA, publicC, web), b}, labConfig(), []string{privateA, publicA, publicC}},
		"no longer translated":        {entries{a, b}, entries{customer(idA, privateA, "", web), b}, labConfig(), []string{privateA, publicA}},
		"whom a neighbour lets in":    {entries{letsA}, entries{a, letsA}, labConfig(), []string{privateA, publicA}},
		"whom a neighbour let in":     {entries{a, letsA}, entries{letsA}, labConfig(), []string{privateA, publicA}},
		"a neighbour lets in no more": {entries{a, letsA}, entries{a, b}, labConfig(), []string{privateB}},
		"suspended":                   {entries{a, b}, entries{suspended, b}, labConfig(), []string{privateA}},
		"suspended, nothing was open": {entries{customer(idA, privateA, publicA), b}, entries{suspended, b}, labConfig(), []string{privateA}},
		"only what is foreign":        {entries{a, b}, entries{a, b}, foreign, nil},
	} {
		t.Run(name, func(t *testing.T) {
			from := ""
			if tc.from != nil {
				from, _ = mustRender(t, labConfig(), tc.from...)
			}
			to, _ := mustRender(t, tc.env, tc.to...)
			got, err := Cuts(from, to)
			if err != nil {
				t.Fatal(err)
			}
			var want []netip.Addr
			for _, w := range tc.want {
				want = append(want, addr(w))
			}
			slices.SortFunc(want, netip.Addr.Compare)
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("cut (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := Cuts("", "*filter\n"); err == nil {
		t.Error("a state that is none")
	}
	text, _ := mustRender(t, labConfig(), a)
	if got, err := Cuts("somebody's own file\n", text); err != nil || len(got) != 2 {
		t.Errorf("from a file that is none of ours: %v, %v", got, err)
	}
}

// underAgent is the lab's firewall behind the real agent, which is asked as a controller asks a member that was away: without a list of
// what to cut.
func underAgent(t *testing.T, l *lab) func(generation int64, entries ...orchestrator.FirewallEntry) {
	t.Helper()
	a, err := agent.New(
		agent.Config{StateDir: t.TempDir(), Units: map[string]agent.Settings{"firewall": {Driver: "iptables"}}},
		agent.Registry{"iptables": func(agent.Settings) (agent.Unit, error) { return l.unit, nil }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return func(generation int64, entries ...orchestrator.FirewallEntry) {
		t.Helper()
		text, _ := mustRender(t, l.env, entries...)
		files := []apply.File{{Name: RulesFile, Content: text}}
		var answer apply.Answer
		_ = l.in(func(ctx context.Context) error {
			answer = a.Apply(ctx, apply.Request{Unit: "firewall", Fence: 1, Generation: generation, SHA256: apply.Sum(files), Files: files, Rows: len(entries)})
			return nil
		})
		if answer.Code != apply.Applied {
			t.Fatalf("generation %d: %+v", generation, answer)
		}
	}
}

// A firewall that was away while generations were confirmed without it cuts what they have closed, and nothing else.
func TestLateMemberCutsWhatItMissed(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		apply := underAgent(t, l)
		web := allow("tcp", "0.0.0.0/0", 80)
		apply(1, customer(idA, privateA, publicA, web), customer(idB, privateB, publicB, web), customer(idC, privateC, publicC, web))
		gone, opened, stays := l.open(l.outside, client, publicA+":80"), l.open(l.outside, client, publicB+":80"), l.open(l.outside, client, publicC+":80")
		for _, s := range []*session{gone, opened, stays} {
			if err := s.echo(patience); err != nil {
				t.Fatal(err)
			}
		}
		// Generations 2 to 6 were others': A went, B opened a port, and C is as it was.
		apply(7, customer(idB, privateB, publicB, web, allow("tcp", "0.0.0.0/0", 81)), customer(idC, privateC, publicC, web))
		if err := gone.echo(silence); err == nil {
			t.Error("the connection of a machine that went while the firewall was away lives")
		}
		if flows := l.ns.MustRun(l.cfg.Conntrack, "-L"); strings.Contains(flows, privateA+" ") || strings.Contains(flows, publicA+" ") {
			t.Errorf("it is still tracked:\n%s", flows)
		}
		for what, s := range map[string]*session{"a machine that opened a port": opened, "an untouched machine": stays} {
			if err := s.echo(patience); err != nil {
				t.Errorf("the connection of %s: %v", what, err)
			}
		}
		// Of what the next generation changes, it is only that.
		apply(8, customer(idB, privateB, publicB, allow("tcp", "0.0.0.0/0", 81)), customer(idC, privateC, publicC, web))
		if err := opened.echo(silence); err == nil {
			t.Error("a connection to a port that was closed lives")
		}
		if err := stays.echo(patience); err != nil {
			t.Errorf("the untouched machine's connection: %v", err)
		}
	})
}

// What somebody opened by hand in our chains is closed with what came in by it.
func TestHealedDriftIsCut(t *testing.T) {
	t.Parallel()
	l := newLab(t, backends[0])
	apply := underAgent(t, l)
	web := allow("tcp", "0.0.0.0/0", 80)
	apply(1, customer(idA, privateA, publicA, web), customer(idB, privateB, publicB, web))
	l.iptables("-I", chainOf(idA), "-p", "tcp", "-m", "tcp", "--dport", "81", "-j", "ACCEPT")
	l.iptables("-D", chainOf(idA), "-p", "tcp", "-m", "tcp", "--dport", "80", "-j", "ACCEPT")
	drifted, stays := l.open(l.outside, client, publicA+":81"), l.open(l.outside, client, publicB+":80")
	apply(1, customer(idA, privateA, publicA, web), customer(idB, privateB, publicB, web))
	if err := drifted.echo(silence); err == nil {
		t.Error("a connection that came in by a rule of somebody's hand lives")
	}
	if err := stays.echo(patience); err != nil {
		t.Errorf("its neighbour's: %v", err)
	}
}
