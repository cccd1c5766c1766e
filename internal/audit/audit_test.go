package audit

import (
	"net/netip"
	"strings"
	"testing"

	"slipway/orchestrator"
)

const (
	one, two, gone = "01a2009e-0000-7000-8000-000000000001", "01a2009e-0000-7000-8000-000000000002", "01a2009e-0000-7000-8000-000000000003"
	vmOne, vmTwo   = "3a79409d-fa0f-8b30-dad9-c9f7bd5fe329", "f7404b6f-602e-c6ed-3f2c-a667e9bf600a"
)

func machines() []orchestrator.Machine {
	rule := func(source string, first, last uint16) orchestrator.FirewallRule {
		r := orchestrator.FirewallRule{Protocol: "tcp", Source: netip.MustParsePrefix(source)}
		r.Ports = []orchestrator.PortRange{{First: first, Last: last}}
		return r
	}
	machine := func(id, vm, last string, port uint16) orchestrator.Machine {
		return orchestrator.Machine{
			ID: id, VM: vm, Presence: orchestrator.Present,
			Firewall: []orchestrator.FirewallRule{rule("0.0.0.0/0", 443, 443), rule("198.51.100.0/24", 8000, 8080), {Protocol: "icmp", Source: netip.MustParsePrefix("0.0.0.0/0")}},
			Placement: orchestrator.Placement{Pool: "pool-a", Private: netip.MustParseAddr("10.0.0." + last), Public: netip.MustParseAddr("203.0.113." + last),
				MAC: "02:16:3e:00:00:" + last, ConsolePort: port},
		}
	}
	absent := machine(gone, "0f7cf26c-0000-4000-8000-000000000003", "12", 20002)
	absent.Presence = orchestrator.Absent
	return []orchestrator.Machine{machine(one, vmOne, "10", 20000), machine(two, vmTwo, "11", 20001), absent}
}

// world is what a site with the two machines looks like, as text and records that a test may spoil.
type world struct {
	hosts, rules, consoles string
	vms                    []VM
	disks                  []Disk
}

func healthy() *world {
	return &world{
		hosts: `# Written by slipway
host ` + one + ` {
  hardware ethernet 02:16:3E:00:00:10;
  fixed-address 10.0.0.10;
  option host-name "a";
}
host ` + two + ` { hardware ethernet 02:16:3e:00:00:11; fixed-address 10.0.0.11; }
`,
		rules: `*filter
:SLIPWAY-FORWARD - [0:0]
-A SLIPWAY-FORWARD -s 10.0.0.0/24 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A SLIPWAY-FORWARD -d 10.0.0.1/32 -j RETURN
-A SLIPWAY-FORWARD -s 10.0.0.0/24 -j ACCEPT
-A SLIPWAY-FROM -s 10.0.0.1/32 -j RETURN
-A SLIPWAY-FROM -s 10.0.0.10/32 -m comment --comment ` + one + ` -j RETURN
-A SLIPWAY-FROM -s 10.0.0.11/32 -m comment --comment "` + two + `" -j RETURN
-A SLIPWAY-FROM -j DROP
-A SLIPWAY-TO -d 10.0.0.10/32 -m comment --comment ` + one + ` -j SLIPWAY-M-1111
-A SLIPWAY-TO -d 10.0.0.11/32 -m comment --comment ` + two + ` -j SLIPWAY-M-2222
-A SLIPWAY-TO -j DROP
-A SLIPWAY-M-1111 -p tcp -m tcp --dport 443 -j ACCEPT
-A SLIPWAY-M-1111 -s 198.51.100.0/24 -p tcp -m tcp --dport 8000:8080 -j ACCEPT
-A SLIPWAY-M-1111 -p icmp -j ACCEPT
-A SLIPWAY-M-1111 -j DROP
-A SLIPWAY-M-2222 -j DROP
COMMIT
*nat
-A SLIPWAY-DNAT -d 203.0.113.10/32 -m comment --comment ` + one + ` -j DNAT --to-destination 10.0.0.10
-A SLIPWAY-SNAT -s 10.0.0.10/32 -m comment --comment ` + one + ` -j SNAT --to-source 203.0.113.10
COMMIT
-A FORWARD -s 192.0.2.7/32 -j ACCEPT
`,
		consoles: "POOL \"slipway-pool-a\"\n  MANAGER \"root\" 00\n  VM 20000 " + vmOne + " 36144edf28c994c8\n  VM 20001 " + vmTwo + " 68895696154d5648\n",
		vms: []VM{
			{Pool: "pool-a", UUID: vmOne, Name: "a", Machine: one, MACs: []string{"02:16:3e:00:00:10"}},
			{Pool: "pool-a", UUID: vmTwo, Name: "b", Machine: two, MACs: []string{"02:16:3e:00:00:11"}},
		},
	}
}

func (w *world) read() World {
	out := World{VMs: w.vms, Disks: w.disks}
	out.ReadHosts(w.hosts)
	out.ReadRules(w.rules)
	out.ReadConsoles(w.consoles)
	return out
}

func TestHealthyWorldIsClean(t *testing.T) {
	w := healthy().read()
	if len(w.Hosts) != 2 || len(w.Rules) != 18 || len(w.Consoles) != 2 {
		t.Fatalf("read %d hosts, %d rules, %d consoles", len(w.Hosts), len(w.Rules), len(w.Consoles))
	}
	if r := w.Compare(machines()); !r.Clean() {
		t.Errorf("leaked %q, duplicated %q", r.Leaked, r.Duplicated)
	}
}

// Everything that may be planted is counted, once.
func TestPlants(t *testing.T) {
	rule := func(text string) func(*world) { return func(w *world) { w.rules += text + "\n" } }
	for _, tc := range []struct {
		name               string
		plant              func(*world)
		leaked, duplicated string // a word of the one line; "" is none
	}{
		{"a stray VM", func(w *world) { w.vms = append(w.vms, VM{Pool: "pool-a", UUID: "x", Name: "stray"}) }, "stray", ""},
		{"a VM of a machine that is gone", func(w *world) { w.vms = append(w.vms, VM{UUID: "x", Machine: gone}) }, "belongs to no machine", ""},
		{"a second VM of a machine", func(w *world) { w.vms = append(w.vms, VM{UUID: "x", Machine: one}) }, "", "second one"},
		{"a second interface", func(w *world) { w.vms[0].MACs = append(w.vms[0].MACs, "02:16:3e:00:00:99") }, "", "second interface"},
		{"another MAC", func(w *world) { w.vms[0].MACs[0] = "02:16:3e:00:00:99" }, "not given", ""},
		{"a loose disk", func(w *world) { w.disks = []Disk{{Pool: "pool-a", UUID: "x", Name: "left"}} }, "belongs to no VM", ""},
		{"a stray host block", func(w *world) {
			w.hosts += "host stray { hardware ethernet 02:16:3e:00:00:77; fixed-address 10.0.0.77; }\n"
		}, "stray", ""},
		{"a second address by a second block", func(w *world) {
			w.hosts += "host " + one + "-b { hardware ethernet 02:16:3e:00:00:10; fixed-address 10.0.0.77; }\n"
		}, "belongs to no machine", ""},
		{"the same block twice", func(w *world) {
			w.hosts += "host " + one + " { hardware ethernet 02:16:3e:00:00:10; fixed-address 10.0.0.10; }\n"
		}, "", "second host block"},
		{"a block with another's address", func(w *world) {
			w.hosts = strings.Replace(w.hosts, "10.0.0.11", "10.0.0.12", 1)
		}, "10.0.0.12", ""},
		{"a block without an address", func(w *world) { w.hosts = strings.Replace(w.hosts, "fixed-address 10.0.0.11;", "", 1) }, two, ""},
		{"a rule of a machine that is gone", rule("-A SLIPWAY-TO -d 10.0.0.12/32 -m comment --comment " + gone + " -j ACCEPT"), "belongs to no machine", ""},
		{"a rule that names nobody", rule("-A SLIPWAY-TO -d 10.0.0.55/32 -j ACCEPT"), "belongs to no machine", ""},
		{"a rule in front of all", rule("-A SLIPWAY-FORWARD -d 10.0.0.55 -j ACCEPT"), "belongs to no machine", ""},
		{"a translation of nobody's", rule("-A SLIPWAY-DNAT -d 203.0.113.55/32 -j DNAT --to-destination 10.0.0.10"), "belongs to no machine", ""},
		{"a second address by DNAT", rule("-A SLIPWAY-DNAT -d 203.0.113.55/32 -m comment --comment " + one + " -j DNAT --to-destination 10.0.0.10"), "not its own", ""},
		{"a translation to another", rule("-A SLIPWAY-DNAT -d 203.0.113.11/32 -m comment --comment " + two + " -j DNAT --to-destination 10.0.0.10"), "translates", ""},
		{"the same translation twice", rule("-A SLIPWAY-DNAT -d 203.0.113.10/32 -m comment --comment " + one + " -j DNAT --to-destination 10.0.0.10"), "", "second rule"},
		{"a port that nobody ordered", rule("-A SLIPWAY-M-1111 -p tcp -m tcp --dport 25 -j ACCEPT"), "nobody ordered", ""},
		{"a protocol that nobody ordered", rule("-A SLIPWAY-M-1111 -p udp -m udp --dport 443 -j ACCEPT"), "nobody ordered", ""},
		{"everybody in", rule("-A SLIPWAY-M-1111 -j ACCEPT"), "nobody ordered", ""},
		{"a source that nobody ordered", rule("-A SLIPWAY-M-1111 -p tcp -m tcp --dport 8000:8080 -j ACCEPT"), "nobody ordered", ""},
		{"an ordered rule twice", rule("-A SLIPWAY-M-1111 -p icmp -j ACCEPT"), "", "twice"},
		{"a chain of nobody", rule("-A SLIPWAY-M-9999 -j DROP"), "chain of no machine", ""},
		{"a stray console", func(w *world) { w.consoles += "  VM 20009 0f7cf26c-0000-4000-8000-000000000009 00\n" }, "20009", ""},
		{"a console of a machine that is gone", func(w *world) { w.consoles += "  VM 20002 0f7cf26c-0000-4000-8000-000000000003 00\n" }, "20002", ""},
		{"a console on another port", func(w *world) { w.consoles = strings.Replace(w.consoles, "VM 20001", "VM 20011", 1) }, "20011", ""},
		{"a console twice", func(w *world) { w.consoles += "  VM 20000 " + vmOne + " 00\n" }, "", "second line"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := healthy()
			tc.plant(w)
			found := w.read()
			r := found.Compare(machines())
			for _, kind := range []struct {
				name, want string
				got        []string
			}{{"leaked", tc.leaked, r.Leaked}, {"duplicated", tc.duplicated, r.Duplicated}} {
				switch {
				case kind.want == "" && len(kind.got) > 0:
					t.Errorf("%s: %q", kind.name, kind.got)
				case kind.want != "" && (len(kind.got) != 1 || !strings.Contains(kind.got[0], kind.want)):
					t.Errorf("%s %q, want one with %q", kind.name, kind.got, kind.want)
				}
			}
		})
	}
}

// What is not ours is not judged.
func TestForeignIsLeftAlone(t *testing.T) {
	w := healthy()
	w.rules += "-A FORWARD -d 192.0.2.9/32 -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"
	found := w.read()
	if r := found.Compare(machines()); !r.Clean() {
		t.Errorf("%+v", r)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(healthy().hosts + healthy().rules + healthy().consoles)
	f.Fuzz(func(t *testing.T, text string) {
		w := (&world{hosts: text, rules: text, consoles: text}).read()
		w.Compare(machines())
	})
}

func TestUnshapedCloneHasAnOwner(t *testing.T) {
	for _, tc := range []struct{ tag, name, want string }{
		{one, "web-1", one},
		{"", "slipway-" + one + "-" + two + "-3", one},
		{"", "slipway-template-1", ""},
		{"", "debian-12", ""},
	} {
		if got := owner(tc.tag, tc.name); got != tc.want {
			t.Errorf("owner(%q, %q) is %q, want %q", tc.tag, tc.name, got, tc.want)
		}
	}
}
