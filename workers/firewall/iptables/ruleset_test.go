package iptables

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

// sections are the tables of a restore in order, each with its rules about a machine.
func sections(text, about string) []string {
	var found []string
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "*"):
			found = append(found, strings.TrimSpace(line[1:]))
		case strings.HasPrefix(line, "-A") && strings.Contains(line, about):
			found[len(found)-1] += "+"
		}
	}
	return found
}

func mustParse(t testing.TB, entries ...orchestrator.FirewallEntry) ruleset {
	t.Helper()
	text, _ := mustRender(t, labConfig(), entries...)
	rules, err := parseRules(text)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func TestPlanOrder(t *testing.T) {
	t.Parallel()
	a := customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80))
	b := customer(idB, privateB, publicB)
	tests := []struct {
		name       string
		live, want []orchestrator.FirewallEntry
		sections   []string // a + for each rule about the machine
	}{
		{"add: filter, then NAT", []orchestrator.FirewallEntry{b}, []orchestrator.FirewallEntry{a, b}, []string{"filter++", "nat++"}},
		{"remove: NAT, then filter", []orchestrator.FirewallEntry{a, b}, []orchestrator.FirewallEntry{b}, []string{"nat", "filter"}},
		{"replace: both", []orchestrator.FirewallEntry{b}, []orchestrator.FirewallEntry{a}, []string{"nat", "filter++", "nat++"}},
		{"nothing", []orchestrator.FirewallEntry{a, b}, []orchestrator.FirewallEntry{b, a}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			text := plan(mustParse(t, test.live...), mustParse(t, test.want...))
			if diff := cmp.Diff(test.sections, sections(text, idA)); diff != "" {
				t.Errorf("sections (-want +got):\n%s\n%s", diff, text)
			}
		})
	}
}

// A restore carries what differs, not the thousand others.
func TestPlanLeavesEqualChainsOut(t *testing.T) {
	t.Parallel()
	before := customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80))
	after := customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 443))
	b := customer(idB, privateB, publicB)
	chain := chainOf(idA)
	want := "*filter\n:" + chain + " - [0:0]\n-A " + chain + " -p tcp -m tcp --dport 443 -j ACCEPT\n-A " + chain + " -j DROP\nCOMMIT\n"
	if diff := cmp.Diff(want, plan(mustParse(t, before, b), mustParse(t, after, b))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{
		{"-s 10.0.0.1 -j DROP", "-s 10.0.0.1/32 -j DROP"},
		{"-s 0.0.0.0/0 -p tcp -j DROP", "-p tcp -j DROP"},
		{"-p tcp --dport 22 -j ACCEPT", "-p tcp -m tcp --dport 22 -j ACCEPT"},
		{"-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"},
		{"-p icmp --icmp-type redirect -j DROP", "-p icmp -m icmp --icmp-type 5 -j DROP"},
		{"-p tcp ! --syn -j DROP", "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP"},
		{"-m comment --comment a -s 10.0.0.1 -j DROP", "-s 10.0.0.1/32 -m comment --comment a -j DROP"},
	} {
		a, _, errA := canonical(pair[0])
		b, _, errB := canonical(pair[1])
		if errA != nil || errB != nil || a != b {
			t.Errorf("%q and %q: %q (%v) and %q (%v)", pair[0], pair[1], a, errA, b, errB)
		}
	}
	for _, pair := range [][2]string{
		{"-s 10.0.0.1 -j DROP", "! -s 10.0.0.1 -j DROP"},
		{"-s 10.0.0.1 -j DROP", "-d 10.0.0.1 -j DROP"},
		{"-p tcp --dport 22 -j DROP", "-p udp --dport 22 -j DROP"},
		{"-j DROP", "-g DROP"},
	} {
		a, _, _ := canonical(pair[0])
		b, _, _ := canonical(pair[1])
		if a == b {
			t.Errorf("%q and %q are not the same", pair[0], pair[1])
		}
	}
	for _, body := range []string{"", "-s 10.0.0.1", "-j", "-j ACCEPT -X", "-s 10.0.0.1;x -j DROP", "-s ::1 -j DROP", "--modprobe=/bin/sh -j DROP", "-M /bin/sh -j DROP", "-t nat -j DROP", "-m recent -j DROP", "-j MARK", "-s  -j DROP", "-j DNAT --to-destination 10.0.0.1:22"} {
		if canon, _, err := canonical(body); err == nil {
			t.Errorf("%q passes as %q", body, canon)
		}
	}
}

func FuzzParseRules(f *testing.F) {
	text, _ := mustRender(f, labConfig(), someEntries()...)
	f.Add(text)
	f.Add("*filter\n:SLIPWAY-FORWARD - [0:0]\n-A SLIPWAY-FORWARD ! -s 10.0.0.1 -j DROP\nCOMMIT\n*nat\nCOMMIT\n")
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := parseRules(text)
		if err != nil {
			return
		}
		if again := plan(rules, rules); again != "" {
			t.Errorf("what is wanted is not its own end: %q", again)
		}
		for line := range strings.Lines(plan(newRuleset(), rules)) {
			ours := strings.HasPrefix(line, ":"+chainPrefix) || strings.HasPrefix(line, "-A "+chainPrefix) ||
				(strings.HasPrefix(line, "-I ") && strings.Contains(line, " -j "+chainPrefix)) ||
				line == "*filter\n" || line == "*nat\n" || line == "COMMIT\n"
			if !ours || strings.Contains(line, "modprobe") {
				t.Errorf("reaches out: %q", line)
			}
		}
	})
}

func FuzzParseSave(f *testing.F) {
	text, _ := mustRender(f, labConfig(), someEntries()...)
	f.Add(text)
	f.Add("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j SLIPWAY-FORWARD\n-A SLIPWAY-X\nCOMMIT\n*mangle\n:x\n")
	f.Fuzz(func(t *testing.T, text string) {
		live := parseSave(text)
		want, err := parseRules(text)
		if err == nil {
			if found := differences(live, want); len(want["filter"].jumps)+len(want["nat"].jumps) == 0 && len(found) > 0 {
				t.Errorf("a file read as live differs from itself: %v", found)
			}
		}
	})
}
