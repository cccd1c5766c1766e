package iptables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

var templates = os.DirFS("../../../templates")

const (
	idA = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
	idB = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
	idC = "0b1f8a52-6c1d-4c55-9d0e-5a2f0f7f4c11"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func prefixes(s ...string) (p []netip.Prefix) {
	for _, s := range s {
		p = append(p, prefix(s))
	}
	return p
}

func labConfig() Config {
	return Config{
		Private: prefixes("10.0.0.0/24"), Public: prefixes("203.0.113.0/24"),
		Foreign: prefixes("10.0.0.1/32", "203.0.113.1/32"), InsideInterfaces: []string{"inside"},
	}
}

func customer(id, private, public string, rules ...orchestrator.FirewallRule) orchestrator.FirewallEntry {
	e := orchestrator.FirewallEntry{Machine: id, Private: addr(private), Phase: orchestrator.PhaseCustomer, Rules: rules}
	if public != "" {
		e.Public = addr(public)
	}
	return e
}

func installing(id, private, public, source string, ports ...uint16) orchestrator.FirewallEntry {
	return orchestrator.FirewallEntry{Machine: id, Private: addr(private), Public: addr(public), Phase: orchestrator.PhaseInstaller, Installer: prefixes(source), Ports: ports}
}

func allow(protocol, source string, ports ...uint16) orchestrator.FirewallRule {
	r := orchestrator.FirewallRule{Protocol: protocol, Source: prefix(source)}
	for _, p := range ports {
		r.Ports = append(r.Ports, orchestrator.PortRange{First: p, Last: p})
	}
	return r
}

func mustRender(t testing.TB, cfg Config, entries ...orchestrator.FirewallEntry) (string, LineMap) {
	t.Helper()
	files, lines, err := Render(templates, cfg, entries)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 || files[0].Name != RulesFile {
		t.Fatalf("files: %v", files)
	}
	return files[0].Content, lines
}

func TestRenderGolden(t *testing.T) {
	t.Parallel()
	mixed := []orchestrator.FirewallEntry{
		installing(idB, "10.0.0.12", "203.0.113.12", "198.51.100.0/28", 22, 5986),
		customer(idA, "10.0.0.11", "203.0.113.11",
			allow("tcp", "0.0.0.0/0", 443, 80), allow("icmp", "0.0.0.0/0"), allow("tcp", "203.0.113.12/32", 5432),
			orchestrator.FirewallRule{Protocol: "udp", Source: prefix("192.0.2.0/24"), Ports: []orchestrator.PortRange{{First: 8000, Last: 8080}}},
			allow("tcp", "0.0.0.0/0", 80)), // twice: rendered once
		customer(idC, "203.0.113.200", "", allow("tcp", "0.0.0.0/0", 22)),
	}
	several := Config{Private: prefixes("10.0.0.0/24", "10.9.0.0/16"), Public: prefixes("203.0.113.0/24", "192.0.2.0/25")}
	tests := []struct {
		name    string
		cfg     Config
		entries []orchestrator.FirewallEntry
	}{
		{"empty", labConfig(), nil},
		{"mixed", labConfig(), mixed},
		{"no-inside", several, mixed[:2]},
		{"routed-only", Config{Private: prefixes("192.0.2.0/24")}, []orchestrator.FirewallEntry{customer(idA, "192.0.2.7", "")}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, _ := mustRender(t, test.cfg, test.entries...)
			path := filepath.Join("testdata", test.name+".rules.v4")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("rendered differently (-want +got, refresh with -update):\n%s", diff)
			}
		})
	}
}

func TestRenderIgnoresOrder(t *testing.T) {
	t.Parallel()
	entries := manyEntries(50)
	want, _ := mustRender(t, wideConfig(), entries...)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	if got, _ := mustRender(t, wideConfig(), entries...); got != want {
		t.Error("another order of the entries gives other bytes")
	}
}

func TestLineMap(t *testing.T) {
	t.Parallel()
	text, lines := mustRender(t, labConfig(), customer(idA, "10.0.0.11", "203.0.113.11", allow("tcp", "0.0.0.0/0", 80)), customer(idB, "10.0.0.12", ""))
	count := map[string]int{}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		id := lines.Machine(i + 1)
		count[id]++
		for _, m := range []string{idA, idB} {
			if mentioned := strings.Contains(line, m) || strings.Contains(line, chainOf(m)); mentioned != (id == m) {
				t.Errorf("line %d %q belongs to %q", i+1, line, id)
			}
		}
	}
	if count[idA] != 7 || count[idB] != 4 { // chain, from, to, rule, drop, dnat, snat; the other has no rule and no NAT
		t.Errorf("lines by machine: %v", count)
	}
	if lines.Machine(0) != "" || lines.Machine(len(lines)+1) != "" {
		t.Error("a line outside of the file has a machine")
	}
}

func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	good := func() orchestrator.FirewallEntry {
		return customer(idA, "10.0.0.11", "203.0.113.11", allow("tcp", "0.0.0.0/0", 22))
	}
	tests := []struct {
		name  string
		spoil func(*orchestrator.FirewallEntry)
		field string
	}{
		{"id with a newline", func(e *orchestrator.FirewallEntry) { e.Machine = "a\n-A INPUT" }, "machine"},
		{"id with a quote", func(e *orchestrator.FirewallEntry) { e.Machine = `a"b` }, "machine"},
		{"no id", func(e *orchestrator.FirewallEntry) { e.Machine = "" }, "machine"},
		{"id too long", func(e *orchestrator.FirewallEntry) { e.Machine = strings.Repeat("a", 65) }, "machine"},
		{"no private address", func(e *orchestrator.FirewallEntry) { e.Private = netip.Addr{} }, "private"},
		{"IPv6", func(e *orchestrator.FirewallEntry) { e.Private = addr("2001:db8::1") }, "private"},
		{"IPv4 in IPv6", func(e *orchestrator.FirewallEntry) { e.Private = addr("::ffff:10.0.0.11") }, "private"},
		{"private out of range", func(e *orchestrator.FirewallEntry) { e.Private = addr("10.0.1.11") }, "private"},
		{"public out of range", func(e *orchestrator.FirewallEntry) { e.Public = addr("198.51.100.1") }, "public"},
		{"foreign", func(e *orchestrator.FirewallEntry) { e.Private = addr("10.0.0.1") }, "private or public"},
		{"multicast", func(e *orchestrator.FirewallEntry) { e.Private = addr("224.0.0.1") }, "private"},
		{"no phase", func(e *orchestrator.FirewallEntry) { e.Phase = "" }, "phase"},
		{"installer's rule and customer's phase", func(e *orchestrator.FirewallEntry) { e.Ports = []uint16{22} }, "installer"},
		{"customer's rule and installer's phase", func(e *orchestrator.FirewallEntry) {
			e.Phase, e.Installer, e.Ports = orchestrator.PhaseInstaller, prefixes("192.0.2.1/32"), []uint16{22}
		}, "rules"},
		{"everybody installs", func(e *orchestrator.FirewallEntry) {
			e.Phase, e.Rules, e.Installer, e.Ports = orchestrator.PhaseInstaller, nil, prefixes("0.0.0.0/0"), []uint16{22}
		}, "installer[0]"},
		{"nobody installs", func(e *orchestrator.FirewallEntry) {
			e.Phase, e.Rules, e.Ports = orchestrator.PhaseInstaller, nil, []uint16{22}
		}, "installer"},
		{"port 0 installs", func(e *orchestrator.FirewallEntry) {
			e.Phase, e.Rules, e.Installer, e.Ports = orchestrator.PhaseInstaller, nil, prefixes("192.0.2.1/32"), []uint16{0}
		}, "ports"},
		{"unknown protocol", func(e *orchestrator.FirewallEntry) { e.Rules[0].Protocol = "all" }, "rules[0].protocol"},
		{"protocol with an option", func(e *orchestrator.FirewallEntry) { e.Rules[0].Protocol = "tcp -j ACCEPT" }, "rules[0].protocol"},
		{"tcp without ports", func(e *orchestrator.FirewallEntry) { e.Rules[0].Ports = nil }, "rules[0].ports"},
		{"icmp with ports", func(e *orchestrator.FirewallEntry) { e.Rules[0].Protocol = "icmp" }, "rules[0].ports"},
		{"port 0", func(e *orchestrator.FirewallEntry) { e.Rules[0].Ports[0].First = 0 }, "rules[0].ports"},
		{"backward range", func(e *orchestrator.FirewallEntry) { e.Rules[0].Ports[0].First = 23 }, "rules[0].ports"},
		{"no source", func(e *orchestrator.FirewallEntry) { e.Rules[0].Source = netip.Prefix{} }, "rules[0].source"},
		{"IPv6 source", func(e *orchestrator.FirewallEntry) { e.Rules[0].Source = prefix("::/0") }, "rules[0].source"},
		{"unmasked source", func(e *orchestrator.FirewallEntry) { e.Rules[0].Source = prefix("192.0.2.1/24") }, "rules[0].source"},
		{"too many", func(e *orchestrator.FirewallEntry) {
			for p := uint16(1); p <= maxAccepts+1; p++ {
				e.Rules[0].Ports = append(e.Rules[0].Ports, orchestrator.PortRange{First: p, Last: p})
			}
		}, "rules"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := good()
			test.spoil(&e)
			files, _, err := Render(templates, labConfig(), []orchestrator.FirewallEntry{e})
			var fault *EntryError
			if !errors.As(err, &fault) || files != nil {
				t.Fatalf("got %v, %v", files, err)
			}
			if fault.Field != test.field || fault.Machine != e.Machine {
				t.Errorf("blames %q of %q: %v", fault.Field, fault.Machine, err)
			}
			if orchestrator.KindOf(err) != orchestrator.Permanent {
				t.Errorf("kind %s", orchestrator.KindOf(err))
			}
		})
	}
}

func TestRenderRefusesDuplicates(t *testing.T) {
	t.Parallel()
	first := customer(idA, "10.0.0.11", "203.0.113.11")
	tests := []struct {
		name   string
		second orchestrator.FirewallEntry
	}{
		{"private", customer(idB, "10.0.0.11", "203.0.113.12")},
		{"public", customer(idB, "10.0.0.12", "203.0.113.11")},
		{"routed on another's public", customer(idB, "203.0.113.11", "")},
		{"machine", customer(idA, "10.0.0.12", "203.0.113.12")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := Render(templates, labConfig(), []orchestrator.FirewallEntry{first, test.second})
			var fault *EntryError
			if !errors.As(err, &fault) || fault.Machine != idA || fault.Other != test.second.Machine {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEntryErrorsListsAll(t *testing.T) {
	t.Parallel()
	bad := customer(idC, "10.0.0.13", "203.0.113.13", allow("gre", "0.0.0.0/0"))
	_, _, err := Render(templates, labConfig(), []orchestrator.FirewallEntry{customer(idA, "10.0.0.11", ""), customer(idB, "10.0.0.11", ""), bad})
	var blamed []string
	for _, e := range EntryErrors(err) {
		blamed = append(blamed, e.Machine+" "+e.Other+" "+e.Field)
	}
	if diff := cmp.Diff([]string{idA + " " + idB + " private", idC + "  rules[0].protocol"}, blamed); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, _, err = Render(templates, Config{}, nil)
	if found := EntryErrors(err); err == nil || found != nil {
		t.Errorf("the configuration's fault blames %v", found)
	}
}

func TestConfigRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func(*Config)
		want  string
	}{
		{"no range", func(c *Config) { c.Private = nil }, "private: no range"},
		{"everything", func(c *Config) { c.Public = prefixes("0.0.0.0/0") }, "public[0]"},
		{"overlap", func(c *Config) { c.Public = prefixes("10.0.0.128/25") }, "public[0]: 10.0.0.128/25 overlaps 10.0.0.0/24"},
		{"unmasked", func(c *Config) { c.Foreign = prefixes("10.0.0.1/24") }, "foreign[0]"},
		{"interface with an option", func(c *Config) { c.InsideInterfaces = []string{"eth0 -j ACCEPT"} }, "inside_interfaces[0]"},
		{"interface too long", func(c *Config) { c.InsideInterfaces = []string{"abcdefghijklmnop"} }, "inside_interfaces[0]"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cfg := labConfig()
			test.spoil(&cfg)
			if _, _, err := Render(templates, cfg, nil); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestRenderRefusesATemplateThatReachesOut(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n*nat\nCOMMIT\n",
		"*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n*nat\nCOMMIT\n",
		"*filter\n{{.Nothing}}COMMIT\n*nat\nCOMMIT\n",
		"*filter\nCOMMIT\n",
	} {
		fsys := fstest.MapFS{Template: {Data: []byte(text)}}
		if _, _, err := Render(fsys, labConfig(), nil); err == nil || !strings.Contains(err.Error(), "rules.v4.tmpl") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func wideConfig() Config {
	return Config{Private: prefixes("10.0.0.0/8"), Public: prefixes("203.0.0.0/10"), InsideInterfaces: []string{"inside"}}
}

// manyEntries are machines with seven rules each, counted as the runbook does.
func manyEntries(n int) []orchestrator.FirewallEntry {
	entries := make([]orchestrator.FirewallEntry, n)
	for i := range entries {
		hi, lo := byte(i/250), byte(i%250+1)
		entries[i] = customer(fmt.Sprintf("00000000-0000-4000-8000-%012d", i), netip.AddrFrom4([4]byte{10, 0, hi, lo}).String(), netip.AddrFrom4([4]byte{203, 0, hi, lo}).String(),
			allow("tcp", "0.0.0.0/0", 80, 443), allow("icmp", "0.0.0.0/0"))
	}
	return entries
}
