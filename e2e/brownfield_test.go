package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// What strangers have on the site: of everything the first that would be given out.
const (
	strangerMAC     = "02:16:3e:00:00:00" // of a VM
	printerMAC      = "02:16:3e:00:00:01" // of a host in dhcpd's main file
	tapeMAC         = "02:16:3e:00:00:02" // of one in another include
	strangerPrivate = "10.30.4.1"
	printerAddress  = "10.30.4.2"
	tapeAddress     = "10.30.4.3"
	mailPrivate     = "10.30.4.4" // behind 1:1 NAT
	ruleAddress     = "10.30.4.5" // a filter rule's
	rangeFirst      = "10.30.4.6" // dhcpd gives these to anybody
	rangeLast       = "10.30.4.7"
	strangerPublic  = "198.18.4.1" // the VM's
	mailPublic      = "198.18.4.2"
	strangerPort    = 20000
)

// occupied is a site with strangers everywhere. Their VM is running and answers nothing.
func occupied(t *testing.T) (s *site, vm string, files func() map[string]string) {
	t.Helper()
	s = newSite(t, siteConfig{pools: 1, boot: func(g *guests, mac, address string) (func(), error) {
		if mac == strangerMAC {
			return func() {}, nil
		}
		return bootLinux(g, mac, address)
	}})
	p := s.pools[0]
	main := s.dhcp.read("dhcpd.conf")
	main = strings.Replace(main, "    deny unknown-clients;", fmt.Sprintf("    range %s %s;\n    deny unknown-clients;", rangeFirst, rangeLast), 1)
	main += fmt.Sprintf("# The site's.\nhost printer { hardware ethernet %s; fixed-address %s; }\nhost old-web {\n  hardware ethernet %s;\n  fixed-address %s;\n}\ninclude %q;\n",
		printerMAC, printerAddress, strangerMAC, strangerPrivate, s.dhcp.path("site.conf"))
	s.dhcp.write("dhcpd.conf", main, 0o644)
	s.dhcp.write("site.conf", fmt.Sprintf("host tape { hardware ethernet %s; fixed-address %s; }\n", tapeMAC, tapeAddress), 0o644)

	for _, rule := range []string{
		"-t nat -A PREROUTING -d " + strangerPublic + " -j DNAT --to-destination " + strangerPrivate,
		"-t nat -A SITE -s " + strangerPrivate + " -j SNAT --to-source " + strangerPublic,
		"-t nat -A PREROUTING -d " + mailPublic + " -p tcp --dport 25 -j DNAT --to-destination " + mailPrivate + ":2525",
		"-A SITE -s " + ruleAddress + " -p tcp --dport 25 -j DROP",
	} {
		s.fw.MustRun(append([]string{"iptables"}, strings.Fields(rule)...)...)
	}

	s.console.write("site.conf", fmt.Sprintf("POOL office\n  DOMAIN \"\"\n  MANAGER root 00112233445566778899aabbccddeeff\n  HOST %s xen-office\n  VM %d mail 0011223344556677\n", managerAddress, strangerPort), 0o600)
	s.console.write("xvp.conf", fmt.Sprintf("OTP DENY\nINCLUDE %q\nINCLUDE %q\n", s.console.path("site.conf"), s.console.path(consoleFile)), 0o600)
	s.console.write(consoleFile, "", 0o600)
	agent := s.console.read("agent.yaml")
	ours := s.console.path(consoleFile)
	agent = strings.Replace(agent, fmt.Sprintf("%q, %q", "-c", ours), fmt.Sprintf("%q, %q", "-c", s.console.path("xvp.conf")), 1)
	agent = strings.Replace(agent, "target: "+ours, "target: "+ours+", main: "+s.console.path("xvp.conf"), 1)
	s.console.write("agent.yaml", agent, 0o600)

	vm = s.stranger(p, "old-web", strangerMAC, strangerPrivate)
	return s, vm, func() map[string]string {
		return map[string]string{
			"dhcpd.conf": s.dhcp.read("dhcpd.conf"), "dhcpd's site.conf": s.dhcp.read("site.conf"), "foreign chains": s.firewall.foreign(),
			"xvp.conf": s.console.read("xvp.conf"), "xvp's site.conf": s.console.read("site.conf"),
		}
	}
}

// stranger makes a VM past slipway, which runs and reports its address.
func (s *site) stranger(p *pool, name, mac, address string) (uuid string) {
	s.t.Helper()
	call := func(result any, method string, args ...any) {
		s.t.Helper()
		if err := p.local.Call(s.t.Context(), method, result, args...); err != nil {
			s.t.Fatal(err)
		}
	}
	var templates, vifs []string
	var vm, network string
	call(&templates, "VM.get_by_name_label", image)
	call(&vm, "VM.clone", templates[0], name)
	call(nil, "VM.provision", vm)
	call(&uuid, "VM.get_uuid", vm)
	call(&network, "network.get_by_uuid", p.network)
	call(&vifs, "VM.get_VIFs", vm)
	for _, vif := range vifs {
		call(nil, "VIF.destroy", vif)
	}
	call(nil, "VIF.create", map[string]any{"device": "0", "network": network, "VM": vm, "MAC": mac, "MTU": "1500",
		"other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}})
	p.sim.ReportGuest(mac, address)
	call(nil, "VM.start", vm, false, false)
	return uuid
}

// scanAll scans everything there is and reserves it, and counts what is new.
func (s *site) scanAll(name string) (fresh int) {
	s.t.Helper()
	for _, what := range [][]string{{"pool", "scan", "pool-a"}, {"appliance", "scan", "dhcp"}, {"appliance", "scan", "firewall"}, {"appliance", "scan", "console"}} {
		var scanned api.Scanned
		if err := json.Unmarshal([]byte(s.cli(name, append([]string{"-o", "json"}, append(what, "--yes", "--reason", "first day")...)...)), &scanned); err != nil {
			s.t.Fatal(err)
		}
		if scanned.Conflicts() != 0 {
			s.t.Errorf("%v: conflicts: %+v", what, scanned)
		}
		for _, source := range scanned.Sources {
			for _, f := range source.Found {
				if f.State == orchestrator.SightingNew {
					fresh++
				}
			}
		}
	}
	return fresh
}

// An estate that is not empty: after a scan, machines come and go beside the strangers, and not a byte of theirs changes. Then one of them
// becomes a machine as it runs.
func TestStrangersStayUntouched(t *testing.T) {
	t.Parallel()
	const machines = 5
	s, vm, files := occupied(t)
	before := files()
	w := s.serve("worker")
	if fresh := s.scanAll("worker"); fresh < 12 {
		t.Errorf("the scans found %d things", fresh)
	}
	reserved := s.cli("worker", "-o", "json", "foreign")
	for _, value := range []string{strangerMAC, printerMAC, tapeMAC, strangerPrivate, printerAddress, tapeAddress, mailPrivate, ruleAddress, rangeFirst, rangeLast, strangerPublic, mailPublic, fmt.Sprint(strangerPort)} {
		if !strings.Contains(reserved, `"`+value+`"`) {
			t.Errorf("%s is not reserved", value)
		}
	}
	if fresh := s.scanAll("worker"); fresh != 0 {
		t.Errorf("a second scan found %d new things", fresh)
	}
	if again := s.cli("worker", "-o", "json", "foreign"); again != reserved {
		t.Errorf("a second scan changed something:\n%s", cmp.Diff(reserved, again))
	}

	s.orderAll(w, machines)
	s.done(w, machines, 2*time.Minute)
	taken := func() (values []string) {
		for _, m := range s.machines() {
			p := m.Placement
			values = append(values, p.Private.String(), p.Public.String(), p.MAC, fmt.Sprint(p.ConsolePort))
		}
		return values
	}()
	for _, value := range []string{strangerMAC, printerMAC, tapeMAC, strangerPrivate, printerAddress, tapeAddress, mailPrivate, ruleAddress, rangeFirst, rangeLast, strangerPublic, mailPublic, fmt.Sprint(strangerPort)} {
		if slices.Contains(taken, value) {
			t.Errorf("%s of a stranger was given to a machine", value)
		}
	}
	if diff := cmp.Diff(before, files()); diff != "" {
		t.Errorf("with %d machines, -before +now:\n%s", machines, diff)
	}
	for i, m := range s.machines() {
		leave := newOrder(fmt.Sprint("leave-", i), "slipway.order.uninstall", map[string]any{"tenant": "acme", "machine": m.ID})
		if err := w.api.Post(t.Context(), "/v1/orders", leave.json(t), &api.Accepted{}); err != nil {
			t.Fatal(err)
		}
	}
	s.done(w, 2*machines, 2*time.Minute)
	if diff := cmp.Diff(before, files()); diff != "" {
		t.Errorf("when all machines have gone, -before +now:\n%s", diff)
	}
	for _, text := range []string{s.dhcp.read(hostsFile), s.console.read(consoleFile)} {
		if strings.Contains(text, "hardware ethernet") || strings.Contains(text, "\n  VM ") {
			t.Errorf("something is left:\n%s", text)
		}
	}

	said := s.cli("worker", "import", "pool-a", vm, "--tenant", "acme", "--name", "old-web", "--allow", "tcp/22", "--yes", "--reason", "its contract is ours")
	if !strings.Contains(said, "dhcp/dhcp-1: host old-web") || !strings.Contains(said, "firewall/firewall-1: nat PREROUTING") {
		t.Errorf("what stays of the site's is not told:\n%s", said)
	}
	s.done(w, 2*machines+1, time.Minute)
	machine := s.machines()[slices.IndexFunc(s.machines(), func(m orchestrator.Machine) bool { return m.Name == "old-web" })]
	if p := machine.Placement; machine.State != "production_ready" || machine.VM != vm || p.Private.String() != strangerPrivate || p.Public.String() != strangerPublic || p.MAC != strangerMAC {
		t.Errorf("imported: %+v", machine)
	}
	if power := s.powerOf(vm); power != "Running" {
		t.Errorf("the VM is %s", power)
	}
	if diff := cmp.Diff(before, files()); diff != "" {
		t.Errorf("after the import, -before +now:\n%s", diff)
	}
	if text := s.dhcp.read(hostsFile); !strings.Contains(text, strangerMAC) {
		t.Errorf("dhcpd's hosts:\n%s", text)
	}
	// The real dhcpd, which has two blocks of one MAC now, gives the address that both name.
	if fresh := s.scanAll("worker"); fresh != 0 {
		t.Errorf("what is the machine's now counts as %d strangers", fresh)
	}
}

func (s *site) powerOf(uuid string) (power string) {
	s.t.Helper()
	var vm string
	for _, call := range []struct {
		into   *string
		method string
		arg    *string
	}{{&vm, "VM.get_by_uuid", &uuid}, {&power, "VM.get_power_state", &vm}} {
		if err := s.pools[0].local.Call(s.t.Context(), call.method, call.into, *call.arg); err != nil {
			s.t.Fatal(err)
		}
	}
	return power
}
