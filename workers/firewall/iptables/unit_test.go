package iptables

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
)

// alone is a firewall without a network around it, for tests of the rules themselves.
func alone(t *testing.T, backend string) *firewall {
	t.Helper()
	return newFirewall(t, testnet.New(t).Namespace("firewall"), backend)
}

func someEntries() []orchestrator.FirewallEntry {
	return []orchestrator.FirewallEntry{
		customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80), allow("icmp", "0.0.0.0/0"), allow("udp", "192.0.2.0/24", 53)),
		installing(idB, privateB, publicB, client+"/32", 22),
		customer(idC, privateC, ""),
	}
}

func TestForeignRulesStayByteForByte(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		f := alone(t, backend)
		f.iptables("-P", "FORWARD", "DROP")
		f.iptables("-P", "INPUT", "DROP")
		f.iptables("-N", "site")
		f.iptables("-A", "site", "-s", "192.0.2.0/24", "-m", "comment", "--comment", `the site's "own" rule`, "-j", "ACCEPT")
		f.iptables("-A", "FORWARD", "-j", "site")
		f.iptables("-A", "FORWARD", "-i", "eth9", "-j", "ACCEPT")
		f.iptables("-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
		f.iptables("-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE")
		f.iptables("-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "8080", "-j", "REDIRECT", "--to-ports", "80")
		f.iptables("-t", "mangle", "-A", "FORWARD", "-p", "tcp", "--tcp-flags", "SYN,RST", "SYN", "-j", "TCPMSS", "--clamp-mss-to-pmtu")
		before := f.foreign()
		if !strings.Contains(before, ":FORWARD DROP") || !strings.Contains(before, "MASQUERADE") {
			t.Fatalf("the site has no rules:\n%s", before)
		}
		for _, entries := range [][]orchestrator.FirewallEntry{someEntries(), someEntries()[:1], nil, someEntries()} {
			f.apply(nil, entries...)
			if diff := cmp.Diff(before, f.foreign()); diff != "" {
				t.Errorf("%d machines: foreign rules changed (-before +after):\n%s", len(entries), diff)
			}
			if got, want := strings.Count(f.rules(), ":"+machinePrefix), len(entries); got != want {
				t.Errorf("%d chains for %d machines", got, want)
			}
		}
	})
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		f := alone(t, backend)
		f.apply(nil, someEntries()...)
		once := f.rules()
		f.apply(nil, someEntries()...)
		if diff := cmp.Diff(once, f.rules()); diff != "" {
			t.Errorf("the second apply changed (-once +twice):\n%s", diff)
		}
		// The file alone, as a rescue by hand would load it, is idempotent as well.
		text, err := os.ReadFile(f.cfg.Rules)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ns.RunInput(t.Context(), string(text), f.cfg.Restore, "--noflush", "-w", "10"); err != nil {
			t.Fatal(err)
		}
		if err := f.prove(); err != nil {
			t.Error(err)
		}
	})
}

func TestProveSeesAndReloadHeals(t *testing.T) {
	t.Parallel()
	chain := chainOf(idA)
	tests := []struct {
		name  string
		spoil []string
		want  string
	}{
		{"a rule too many", []string{"-I", chain, "-p", "tcp", "--dport", "3306", "-j", "ACCEPT"}, "chain " + chain + " has other rules"},
		{"a rule that slipway never writes", []string{"-I", chain, "-m", "mark", "--mark", "7", "-j", "ACCEPT"}, "chain " + chain + " has other rules"},
		{"an emptied chain", []string{"-F", "SLIPWAY-TO"}, "chain SLIPWAY-TO has other rules"},
		{"a rule missing", []string{"-t", "nat", "-D", "SLIPWAY-SNAT", "1"}, "chain SLIPWAY-SNAT has other rules"},
		{"a chain too many", []string{"-N", "SLIPWAY-M-left-over"}, "chain SLIPWAY-M-left-over should be gone"},
		{"no jump", []string{"-D", "FORWARD", "-j", "SLIPWAY-FORWARD"}, "FORWARD jumps to ours 0 times"},
		{"two jumps", []string{"-A", "FORWARD", "-j", "SLIPWAY-FORWARD"}, "FORWARD jumps to ours 2 times"},
		{"a jump that is not first", []string{"-t", "nat", "-I", "POSTROUTING", "-j", "RETURN"}, "POSTROUTING jumps to ours 1 times, first: false"},
	}
	forBackends(t, func(t *testing.T, backend string) {
		f := alone(t, backend)
		f.apply(nil, someEntries()...)
		for _, test := range tests {
			f.iptables(test.spoil...)
			if err := f.prove(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %q", test.name, err, test.want)
			}
			if err := f.reload(agent.Change{}); err != nil {
				t.Errorf("%s: reload: %v", test.name, err)
			}
			if err := f.prove(); err != nil {
				t.Errorf("%s: not healed: %v", test.name, err)
			}
		}
	})
}

func TestCheckNamesTheLine(t *testing.T) {
	t.Parallel()
	const before = "*nat\nCOMMIT\n*filter\n:SLIPWAY-FORWARD - [0:0]\n"
	tests := []struct {
		name, line string
		message    string
	}{
		// What only the tool knows.
		{"no such port", "-A SLIPWAY-FORWARD -p tcp -m tcp --dport 80800 -j ACCEPT", "80800"},
		{"no such state", "-A SLIPWAY-FORWARD -m conntrack --ctstate NEWS -j ACCEPT", "NEWS"},
		{"a match without its protocol", "-A SLIPWAY-FORWARD --dport 80 -j ACCEPT", "--dport"},
		// What our gate refuses before the tool sees it.
		{"a built-in chain", "-A FORWARD -j ACCEPT", "FORWARD"},
		{"a policy", ":FORWARD DROP [0:0]", "declares no chain of ours"},
		{"a foreign target", "-A SLIPWAY-FORWARD -j site", "neither a chain of ours"},
		{"a chain that is not there", "-A SLIPWAY-FORWARD -j SLIPWAY-NOWHERE", "not declared in this table"},
		{"a program", "-A SLIPWAY-FORWARD --modprobe=/bin/true -j ACCEPT", "--modprobe"},
		{"another command", "-D FORWARD 1", "neither a chain"},
		{"a chain name too long", ":SLIPWAY-123456789012345678901 - [0:0]", "declares no chain of ours"},
		{"a quoted comment", `-A SLIPWAY-FORWARD -m comment --comment "a b" -j ACCEPT`, "letters, digits"},
	}
	forBackends(t, func(t *testing.T, backend string) {
		f := alone(t, backend)
		untouched := f.rules()
		for _, test := range tests {
			err := f.check(before + test.line + "\nCOMMIT\n")
			var fault *agent.Fault
			if !errors.As(err, &fault) {
				t.Errorf("%s: %v", test.name, err)
				continue
			}
			if fault.File != RulesFile || fault.Line != 5 || !strings.Contains(fault.Message, test.message) {
				t.Errorf("%s: %s line %d: %s; want line 5 and %q", test.name, fault.File, fault.Line, fault.Message, test.message)
			}
		}
		if diff := cmp.Diff(content(untouched), content(f.rules())); diff != "" {
			t.Errorf("a check changed the rules:\n%s", diff)
		}
	})
}

// A tool that cannot judge blames no row: here the lock of iptables, whose exit status is 4.
func TestCheckThatCannotJudge(t *testing.T) {
	t.Parallel()
	script, err := filepath.Abs("testdata/locked-restore.sh")
	if err != nil {
		t.Fatal(err)
	}
	f := alone(t, backends[0])
	f.unit.cfg.Restore = script
	rules, _ := mustRender(t, f.env, someEntries()...)
	err = f.check(rules)
	var fault *agent.Fault
	if errors.As(err, &fault) || orchestrator.KindOf(err) != orchestrator.Transient || !strings.Contains(err.Error(), "xtables lock") {
		t.Errorf("got %v", err)
	}
}

func TestCulpritsLineLeadsToItsMachine(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		f := alone(t, backend)
		text, lines := mustRender(t, f.env, someEntries()...)
		spoiled := strings.Replace(text, "--dport 22 -j", "--dport 70000 -j", 1)
		var fault *agent.Fault
		if err := f.check(spoiled); !errors.As(err, &fault) {
			t.Fatalf("got %v", err)
		}
		if got := lines.Machine(fault.Line); got != idB {
			t.Errorf("line %d is %q's, want %q", fault.Line, got, idB)
		}
	})
}

func other(backend string) string { return backends[1-slices.Index(backends, backend)] }

func TestMixedBackendsAreRefused(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		tests := []struct {
			name  string
			spoil []string
			want  bool
		}{
			{"empty table", []string{"-L"}, false},
			{"rule", []string{"-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP"}, true},
			{"policy", []string{"-P", "FORWARD", "DROP"}, true},
			{"nat rule", []string{"-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE"}, true},
		}
		for _, test := range tests {
			f := alone(t, backend)
			f.ns.MustRun(append([]string{testenv.Need(t, "iptables-"+other(backend)), "-w", "5"}, test.spoil...)...)
			err := f.in(f.unit.Probe)
			if refused := errors.Is(err, ErrUnsupported); refused != test.want || (err != nil) != test.want {
				t.Errorf("%s: probe: %v", test.name, err)
			}
			text, _ := mustRender(t, f.env, someEntries()...)
			if err := f.check(text); errors.Is(err, ErrUnsupported) != test.want {
				t.Errorf("%s: check: %v", test.name, err)
			}
			if err := os.WriteFile(f.cfg.Rules, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := f.in(f.unit.Boot); err != nil {
				t.Errorf("%s: boot: %v", test.name, err)
			}
			if err := f.prove(); err != nil {
				t.Errorf("%s: after boot: %v", test.name, err)
			}
		}
	})
}

// flush is what a reboot leaves: nothing.
func (f *firewall) flush() {
	f.t.Helper()
	for _, table := range []string{"filter", "nat"} {
		f.iptables("-t", table, "-F")
		f.iptables("-t", table, "-X")
	}
}

func TestRulesAreBackAfterReboot(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		l := newLab(t, backend)
		if err := l.in(l.unit.Boot); err != nil { // before the first apply
			t.Fatal(err)
		}
		l.apply(nil, customer(idA, privateA, publicA, allow("tcp", "0.0.0.0/0", 80)))
		want := l.rules()
		l.flush()
		if strings.Contains(l.rules(), chainPrefix) {
			t.Fatal("not flushed")
		}
		for range 2 {
			if err := l.in(l.unit.Boot); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, l.rules()); diff != "" {
				t.Errorf("after the reboot (-before +after):\n%s", diff)
			}
		}
		l.open(l.outside, client, publicA+":80")
		l.closed(l.outside, client, publicA+":81")
	})
}

// dieAfterReload runs an agent that loads the file and dies before it proves it.
func (f *firewall) dieAfterReload() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	out, err := f.ns.Run(ctx, os.Args[0], helperVar, "reload", mustJSON(f.t, f.cfg), mustJSON(f.t, agent.Change{}))
	if err == nil || !strings.Contains(err.Error(), "signal: killed") {
		f.t.Fatalf("the agent did not die as it should: %v: %s", err, out)
	}
}

func TestUnprovenChangeIsReverted(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		f := alone(t, backend)
		f.iptables("-A", "FORWARD", "-i", "eth9", "-j", "ACCEPT")
		fresh := f.rules()
		f.cfg.RevertAfter = 500 * time.Millisecond
		for _, old := range [][]orchestrator.FirewallEntry{nil, someEntries()[:1]} {
			want := fresh // a firewall that was never ours has nothing of ours again
			if old != nil {
				f.apply(nil, old...)
				want = f.rules()
			}
			f.swap(someEntries()...)
			f.dieAfterReload()
			testnet.Until(t, patience, "the old rules", func() bool { return !f.armed() })
			if diff := cmp.Diff(content(want), content(f.rules())); diff != "" {
				t.Errorf("after the revert (-before +after):\n%s", diff)
			}
			if err := f.prove(); err == nil {
				t.Error("the reverted change is proven")
			}

			// A loss of power now comes up with the old rules too.
			f.flush()
			f.iptables("-A", "FORWARD", "-i", "eth9", "-j", "ACCEPT")
			if err := f.in(f.unit.Boot); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(content(want), content(f.rules())); diff != "" {
				t.Errorf("after a reboot (-before +after):\n%s", diff)
			}
		}
		// The next apply goes through and stays.
		f.apply(nil, someEntries()...)
		if f.armed() {
			t.Error("the timer is still armed after the proof")
		}
	})
}

// content drops the lines of built-in chains, which a backend shows once a table has been looked at.
func content(rules string) string {
	var b strings.Builder
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":SLIPWAY") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestRevertKeepsTheLastProvenRules(t *testing.T) {
	t.Parallel()
	f := alone(t, backends[0])
	f.apply(nil, someEntries()[:1]...)
	proven := f.rules()
	f.swap(someEntries()[:2]...)
	f.dieAfterReload() // with a minute to go
	f.cfg.RevertAfter = 500 * time.Millisecond
	f.swap(someEntries()...)
	f.dieAfterReload() // the earlier watcher is superseded
	testnet.Until(t, patience, "the proven rules", func() bool { return !f.armed() })
	if diff := cmp.Diff(proven, f.rules()); diff != "" {
		t.Errorf("reverted to something unproven (-proven +now):\n%s", diff)
	}
}

func TestProofDisarms(t *testing.T) {
	t.Parallel()
	f := alone(t, backends[0])
	f.cfg.RevertAfter = 2 * time.Second
	f.swap(someEntries()...)
	f.dieAfterReload()
	if !f.armed() {
		t.Fatal("no timer is armed")
	}
	if err := f.prove(); err != nil {
		t.Fatal(err)
	}
	if f.armed() {
		t.Error("the timer is armed after the proof")
	}
	if err := f.in(func(ctx context.Context) error { return f.unit.revert(ctx, "late") }); err != nil {
		t.Error(err)
	}
	if err := f.prove(); err != nil {
		t.Errorf("a watcher that came late: %v", err)
	}
}

func TestWatcherLeavesALaterChangeAlone(t *testing.T) {
	t.Parallel()
	f := alone(t, backends[0])
	f.apply(nil, someEntries()...)
	later := revertRecord{ID: "later", After: time.Minute}
	if err := f.unit.writeRecord(later); err != nil {
		t.Fatal(err)
	}
	if err := f.in(func(ctx context.Context) error { return f.unit.revert(ctx, "earlier") }); err != nil {
		t.Error(err)
	}
	if !strings.Contains(f.rules(), chainOf(idA)) || !f.armed() {
		t.Error("the earlier watcher reverted the later change")
	}

	ready, readyChild, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	ended := make(chan error, 1)
	go func() { ended <- f.unit.Watch(t.Context(), readyChild) }()
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	later.ID = "latest"
	if err := f.unit.writeRecord(later); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("a superseded watcher goes on")
	}
}

func TestReloadWithoutAWatcherTouchesNothing(t *testing.T) {
	t.Parallel()
	f := alone(t, backends[0])
	before := f.rules()
	f.unit.cfg.Watcher = []string{testenv.Need(t, "true")}
	f.swap(someEntries()...)
	if err := f.reload(agent.Change{}); err == nil || !strings.Contains(err.Error(), "did not say that it waits") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, f.rules()); diff != "" {
		t.Errorf("rules changed:\n%s", diff)
	}
}

// The agent's way back from a first apply that failed: the file that was not there goes, and so does what was live.
func TestRestoringWithoutAFile(t *testing.T) {
	t.Parallel()
	f := alone(t, backends[0])
	f.iptables("-A", "FORWARD", "-i", "eth9", "-j", "ACCEPT")
	before := content(f.rules())
	f.swap(someEntries()...)
	if err := f.reload(agent.Change{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.cfg.Rules); err != nil {
		t.Fatal(err)
	}
	if err := f.reload(agent.Change{}); err == nil {
		t.Error("a firewall without a file was reloaded")
	}
	if err := f.reload(agent.Change{Restoring: true}); err != nil {
		t.Fatal(err)
	}
	if err := f.prove(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, content(f.rules())); diff != "" {
		t.Errorf("something is left (-before +after):\n%s", diff)
	}
	if f.armed() {
		t.Error("the timer is still armed")
	}
}

func TestCutFindsAnAddressInEveryRole(t *testing.T) {
	t.Parallel()
	f := alone(t, backends[0])
	f.apply(nil, someEntries()...)
	const cut, x, y = "10.0.0.77", "192.0.2.1", "192.0.2.2"
	connections := [][4]string{ // original source and destination, reply source and destination
		{cut, x, x, y}, {x, cut, y, x}, {x, y, cut, x}, {x, y, y, cut}, {y, x, x, y},
	}
	for i, c := range connections {
		port := strconv.Itoa(1000 + i)
		f.ns.MustRun(f.cfg.Conntrack, "-I", "-p", "tcp", "--state", "ESTABLISHED", "-t", "600",
			"--orig-src", c[0], "--orig-dst", c[1], "--reply-src", c[2], "--reply-dst", c[3],
			"--sport", port, "--dport", "80", "--reply-port-src", "80", "--reply-port-dst", port)
	}
	if flows := f.ns.MustRun(f.cfg.Conntrack, "-L"); strings.Count(flows, "ESTABLISHED") != len(connections) {
		t.Fatalf("not tracked:\n%s", flows)
	}
	for range 2 { // the second finds nothing, which is no failure
		if err := f.reload(agent.Change{Cut: []netip.Addr{addr(cut)}}); err != nil {
			t.Fatal(err)
		}
	}
	if flows := f.ns.MustRun(f.cfg.Conntrack, "-L"); strings.Contains(flows, cut) || strings.Count(flows, "ESTABLISHED") != 1 {
		t.Errorf("after the cut:\n%s", flows)
	}
}

func TestMissingToolsAreUnsupported(t *testing.T) {
	t.Parallel()
	unit, err := NewUnit(UnitConfig{Rules: "/r/rules.v4", State: "/s", RevertAfter: -1, Restore: "iptables-restore-that-is-not-there", Save: testenv.Need(t, "true"), Conntrack: testenv.Need(t, "true")})
	if err != nil {
		t.Fatal(err)
	}
	if err := unit.Probe(t.Context()); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "iptables-restore-that-is-not-there") {
		t.Errorf("got %v", err)
	}
}

func TestCountRows(t *testing.T) {
	t.Parallel()
	text, _ := mustRender(t, labConfig(), someEntries()...)
	if got := (&Unit{}).CountRows(map[string][]byte{RulesFile: []byte(text)}); got != 3 {
		t.Errorf("%d rows", got)
	}
	if got := (&Unit{}).CountRows(nil); got != 0 {
		t.Errorf("%d rows in nothing", got)
	}
}

func TestThousandMachines(t *testing.T) {
	t.Parallel()
	forBackends(t, func(t *testing.T, backend string) {
		f := alone(t, backend)
		f.env = wideConfig()
		entries := manyEntries(1000)
		f.apply(nil, entries...)
		once := f.rules()
		f.apply(nil, entries...)
		if f.rules() != once {
			t.Error("the second apply changed something")
		}
		if got := strings.Count(once, ":"+machinePrefix); got != len(entries) {
			t.Errorf("%d chains", got)
		}
		f.apply([]string{"10.0.0.1"}, entries[1:]...)
		if strings.Contains(f.rules(), entries[0].Machine) || strings.Contains(f.rules(), chainOf(entries[0].Machine)) {
			t.Error("the removed machine has rules")
		}
	})
}

func TestNewUnitRefuses(t *testing.T) {
	t.Parallel()
	good := UnitConfig{Rules: "/r/rules.v4", State: "/s", Save: "/bin/a", Restore: "/bin/b", Conntrack: "/bin/c", Watcher: []string{"/bin/d"}}
	if _, err := NewUnit(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*UnitConfig){
		"rules": func(c *UnitConfig) { c.Rules = "rules.v4" }, "state": func(c *UnitConfig) { c.State = "/s/../t" },
		"watcher": func(c *UnitConfig) { c.Watcher = nil },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := NewUnit(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	unit, err := NewUnit(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := unit.Reload(t.Context(), agent.Change{Cut: []netip.Addr{addr("2001:db8::1")}}); err == nil {
		t.Error("an IPv6 address was cut")
	}
	if got := unit.Targets()[RulesFile]; got.Path != filepath.Clean("/r/rules.v4") || got.Mode != 0o600 {
		t.Errorf("target %v", got)
	}
}
