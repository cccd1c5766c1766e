package iptables

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

func suspended(id, private, public string) orchestrator.FirewallEntry {
	return orchestrator.FirewallEntry{Machine: id, Private: addr(private), Public: addr(public), Phase: orchestrator.PhaseSuspended}
}

func TestPacketsOfASuspendedMachine(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		serve(t, l.outside, client+":7000")
		a := customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80), allow("icmp", "0.0.0.0/0"))
		b := customer(idB, privateB, publicB, allow("tcp", "0.0.0.0/0", 80))
		l.apply(nil, a, b)
		before := l.rules()
		in, out, other := l.open(l.outside, client, publicA+":80"), l.open(l.guests[privateA], "", client+":7000"), l.open(l.outside, client, publicB+":80")

		l.apply([]string{privateA, publicA}, suspended(idA, privateA, publicA), b)
		if err := in.echo(silence); err == nil {
			t.Error("a connection into the machine goes on")
		}
		if err := out.echo(silence); err == nil {
			t.Error("a connection of the machine goes on")
		}
		l.closed(l.outside, client, publicA+":80")
		l.closed(l.guests[privateA], "", client+":7000")
		l.closed(l.guests[privateA], "", publicB+":80")
		l.closed(l.guests[privateB], "", publicA+":80")
		if said, err := l.outside.Run(t.Context(), "busybox", "ping", "-c", "1", "-W", "1", publicA); err == nil {
			t.Errorf("it answers pings: %s", said)
		}
		if err := other.echo(patience); err != nil {
			t.Errorf("another machine's connection: %v", err)
		}

		l.apply([]string{privateA, publicA}, a, b)
		if diff := cmp.Diff(before, l.rules()); diff != "" {
			t.Errorf("the rules are not as before (-before +after):\n%s", diff)
		}
		l.open(l.outside, client, publicA+":80")
		l.open(l.guests[privateA], "", client+":7000")
	})
}

// The way in for the maintainer stands beside the customer's rules, and nobody else's.
func TestDoorBesideTheCustomersRules(t *testing.T) {
	t.Parallel()
	e := customer(idA, "10.0.0.11", "203.0.113.11", allow("tcp", "0.0.0.0/0", 80))
	e.Installer, e.Ports = prefixes("192.0.2.1/32"), []uint16{22}
	text, _ := mustRender(t, labConfig(), e)
	chain := chainOf(idA)
	for _, want := range []string{"-A " + chain + " -s 192.0.2.1/32 -p tcp -m tcp --dport 22 -j ACCEPT\n", "-A " + chain + " -p tcp -m tcp --dport 80 -j ACCEPT\n"} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%s is missing:\n%s", want, text)
		}
	}
}

func TestSuspendedEntryLetsNobodyIn(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*orchestrator.FirewallEntry){
		"rules": func(e *orchestrator.FirewallEntry) {
			e.Rules = customer(idA, "10.0.0.11", "", allow("tcp", "0.0.0.0/0", 80)).Rules
		},
		"installer": func(e *orchestrator.FirewallEntry) { e.Installer, e.Ports = prefixes("192.0.2.1/32"), []uint16{22} },
	} {
		e := suspended(idA, "10.0.0.11", "203.0.113.11")
		spoil(&e)
		if _, _, err := Render(templates, labConfig(), []orchestrator.FirewallEntry{e}); err == nil || !strings.Contains(err.Error(), "a suspended machine lets nobody in") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
