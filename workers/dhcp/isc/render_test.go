package isc_test

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/templates"
	"slipway/workers/dhcp/isc"
)

var update = flag.Bool("update", false, "write the golden files anew")

var subnets = []netip.Prefix{netip.MustParsePrefix("10.20.0.0/24"), netip.MustParsePrefix("10.30.0.0/16")}

func id(n int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", n*0x9e3779b1&0xffffffff, n) }

func host(n int) orchestrator.DHCPHost {
	return orchestrator.DHCPHost{
		Machine: id(n), MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8&255, n&255),
		Address: netip.AddrFrom4([4]byte{10, 30, byte(n >> 8), byte(n)}), Hostname: fmt.Sprintf("vm-%d", n),
	}
}

func TestRenderGolden(t *testing.T) {
	nameless := host(4)
	nameless.Hostname = ""
	dotted := host(3)
	dotted.Hostname = "db.Example.org"
	for name, hosts := range map[string][]orchestrator.DHCPHost{
		"empty": nil,
		"four":  {host(2), host(1), nameless, dotted},
	} {
		t.Run(name, func(t *testing.T) {
			files, _, err := isc.Render(templates.FS, hosts, subnets)
			if err != nil || len(files) != 1 || files[0].Name != isc.FileName {
				t.Fatalf("%v, %v", files, err)
			}
			golden := filepath.Join("testdata", name+".conf")
			if *update {
				if err := os.WriteFile(golden, []byte(files[0].Content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), files[0].Content); diff != "" {
				t.Errorf("run with -update if this is meant:\n%s", diff)
			}
			if out, err := judge(t, files[0].Content); err != nil {
				t.Errorf("dhcpd: %v: %s", err, out)
			}
		})
	}
}

// judge asks the real dhcpd about the text, within our two subnets.
func judge(t *testing.T, text string) (string, error) {
	t.Helper()
	dhcpd := testenv.Need(t, "dhcpd")
	path := filepath.Join(t.TempDir(), "dhcpd.conf")
	main := "subnet 10.20.0.0 netmask 255.255.255.0 { }\nsubnet 10.30.0.0 netmask 255.255.0.0 { }\n"
	if err := os.WriteFile(path, []byte(main+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return judgeFile(t, dhcpd, path)
}

// judgeFile is `dhcpd -t`; a program that is not dhcpd fails the test, for its exit code proves nothing.
func judgeFile(t *testing.T, dhcpd, path string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), dhcpd, "-t", "-cf", path).CombinedOutput()
	if err == nil && !strings.Contains(string(out), "Internet Systems Consortium") {
		t.Fatalf("%s is not ISC dhcpd: it says %q", dhcpd, out)
	}
	return string(out), err
}

func TestExampleMainIsGood(t *testing.T) {
	text, err := templates.FS.ReadFile("dhcp/isc/dhcpd.conf.example")
	if err != nil {
		t.Fatal(err)
	}
	files, _, err := isc.Render(templates.FS, []orchestrator.DHCPHost{{Machine: id(1), MAC: "02:00:00:00:00:01", Address: netip.MustParseAddr("10.20.0.9")}}, subnets)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	include := filepath.Join(dir, "hosts.conf")
	const there = "/etc/dhcp/slipway-hosts.conf"
	if strings.Count(string(text), there) != 1 {
		t.Fatalf("the example does not include %s once", there)
	}
	for path, content := range map[string]string{include: files[0].Content, filepath.Join(dir, "dhcpd.conf"): strings.Replace(string(text), there, include, 1)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := judgeFile(t, testenv.Need(t, "dhcpd"), filepath.Join(dir, "dhcpd.conf")); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestRenderOrderDoesNotMatter(t *testing.T) {
	one, _, err1 := isc.Render(templates.FS, []orchestrator.DHCPHost{host(1), host(2), host(3)}, subnets)
	two, _, err2 := isc.Render(templates.FS, []orchestrator.DHCPHost{host(3), host(1), host(2)}, subnets)
	if err := errors.Join(err1, err2); err != nil || !cmp.Equal(one, two) {
		t.Errorf("%v: %s", err, cmp.Diff(one, two))
	}
}

func TestLinesNameTheirMachines(t *testing.T) {
	own := fstest.MapFS{"dhcp/isc/hosts.conf.tmpl": {Data: []byte("# ours\n\n{{range .Hosts}}host {{.Machine}} { hardware ethernet {{.MAC}};\n fixed-address {{.Address}}; }\n{{end}}# end\n")}}
	for name, source := range map[string]any{"built in": templates.FS, "own": own} {
		t.Run(name, func(t *testing.T) {
			fsys := templates.Open("")
			if name == "own" {
				fsys = source.(fstest.MapFS)
			}
			files, lines, err := isc.Render(fsys, []orchestrator.DHCPHost{host(5), host(6), host(7)}, subnets)
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for i, line := range strings.Split(files[0].Content, "\n") {
				machine, ok := lines.Machine(i + 1)
				for n := 5; n <= 7; n++ {
					h := host(n)
					if strings.Contains(line, h.Machine) || strings.Contains(line, h.MAC) || strings.Contains(line, h.Address.String()+";") {
						found++
						if !ok || machine != h.Machine {
							t.Errorf("line %d %q is said to be of %q", i+1, line, machine)
						}
					}
				}
			}
			if found < 6 {
				t.Fatalf("only %d lines to look at", found)
			}
			for _, line := range []int{-1, 0, 1} {
				if machine, ok := lines.Machine(line); ok {
					t.Errorf("line %d is said to be of %s", line, machine)
				}
			}
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	edit := func(f func(*orchestrator.DHCPHost)) orchestrator.DHCPHost { h := host(1); f(&h); return h }
	for name, tc := range map[string]struct {
		host orchestrator.DHCPHost
		says string
	}{
		"machine no uuid":     {edit(func(h *orchestrator.DHCPHost) { h.Machine = "vm-1" }), "uuid"},
		"machine with brace":  {edit(func(h *orchestrator.DHCPHost) { h.Machine = h.Machine[:35] + "}" }), "uuid"},
		"machine and newline": {edit(func(h *orchestrator.DHCPHost) { h.Machine += "\n" }), "uuid"},
		"mac upper case":      {edit(func(h *orchestrator.DHCPHost) { h.MAC = "02:00:00:00:00:AA" }), "mac"},
		"mac with dashes":     {edit(func(h *orchestrator.DHCPHost) { h.MAC = "02-00-00-00-00-aa" }), "mac"},
		"mac of eight bytes":  {edit(func(h *orchestrator.DHCPHost) { h.MAC = "02:00:00:00:00:aa:00:00" }), "mac"},
		"mac and statement":   {edit(func(h *orchestrator.DHCPHost) { h.MAC += "; } #" }), "mac"},
		"mac multicast":       {edit(func(h *orchestrator.DHCPHost) { h.MAC = "01:00:5e:00:00:01" }), "interface"},
		"mac zero":            {edit(func(h *orchestrator.DHCPHost) { h.MAC = "00:00:00:00:00:00" }), "interface"},
		"hostname quote":      {edit(func(h *orchestrator.DHCPHost) { h.Hostname = `a"; } host b { fixed-address 10.30.0.9; }` }), "hostname"},
		"hostname newline":    {edit(func(h *orchestrator.DHCPHost) { h.Hostname = "a\n" }), "hostname"},
		"hostname hash":       {edit(func(h *orchestrator.DHCPHost) { h.Hostname = "a#b" }), "hostname"},
		"hostname shell":      {edit(func(h *orchestrator.DHCPHost) { h.Hostname = "$(reboot)" }), "hostname"},
		"hostname look-alike": {edit(func(h *orchestrator.DHCPHost) { h.Hostname = "pаypal" }), "hostname"},
		"hostname hyphen":     {edit(func(h *orchestrator.DHCPHost) { h.Hostname = "-a" }), "hostname"},
		"hostname empty part": {edit(func(h *orchestrator.DHCPHost) { h.Hostname = "a..b" }), "hostname"},
		"hostname 64":         {edit(func(h *orchestrator.DHCPHost) { h.Hostname = strings.Repeat("a", 64) }), "hostname"},
		"hostname 254":        {edit(func(h *orchestrator.DHCPHost) { h.Hostname = strings.Repeat("a.", 126) + "aa" }), "hostname"},
		"address none":        {edit(func(h *orchestrator.DHCPHost) { h.Address = netip.Addr{} }), "IPv4"},
		"address v6":          {edit(func(h *orchestrator.DHCPHost) { h.Address = netip.MustParseAddr("fd00::1") }), "IPv4"},
		"address mapped":      {edit(func(h *orchestrator.DHCPHost) { h.Address = netip.MustParseAddr("::ffff:10.30.0.1") }), "IPv4"},
		"address elsewhere":   {edit(func(h *orchestrator.DHCPHost) { h.Address = netip.MustParseAddr("10.40.0.1") }), "none of the subnets"},
		"address of network":  {edit(func(h *orchestrator.DHCPHost) { h.Address = netip.MustParseAddr("10.20.0.0") }), "broadcast"},
		"address broadcast":   {edit(func(h *orchestrator.DHCPHost) { h.Address = netip.MustParseAddr("10.30.255.255") }), "broadcast"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := isc.Render(templates.FS, []orchestrator.DHCPHost{host(2), tc.host}, subnets)
			refused := isc.HostErrors(err)
			if len(refused) != 1 || len(refused[0].Machines) != 1 || refused[0].Machines[0] != tc.host.Machine || !strings.Contains(refused[0].Problem, tc.says) {
				t.Fatalf("%v", err)
			}
			if orchestrator.KindOf(err) != orchestrator.Permanent || strings.Contains(refused[0].Problem, "\n") {
				t.Errorf("kind %s: %q", orchestrator.KindOf(err), err)
			}
		})
	}
}

func TestRenderRefusesDuplicatesAndNamesBoth(t *testing.T) {
	for name, f := range map[string]func(a, b *orchestrator.DHCPHost){
		"mac":     func(a, b *orchestrator.DHCPHost) { b.MAC = a.MAC },
		"address": func(a, b *orchestrator.DHCPHost) { b.Address = a.Address },
		"machine": func(a, b *orchestrator.DHCPHost) { b.Machine = a.Machine },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := host(1), host(2)
			f(&a, &b)
			_, _, err := isc.Render(templates.FS, []orchestrator.DHCPHost{a, host(3), b}, subnets)
			refused := isc.HostErrors(err)
			if len(refused) != 1 || !strings.Contains(refused[0].Problem, name) {
				t.Fatalf("%v", err)
			}
			got := strings.Join(refused[0].Machines, " ")
			if !strings.Contains(got, a.Machine) || !strings.Contains(got, b.Machine) {
				t.Errorf("blames %s", got)
			}
		})
	}
	_, _, err := isc.Render(templates.FS, []orchestrator.DHCPHost{{Machine: "x"}, {Machine: "y"}}, subnets)
	if len(isc.HostErrors(err)) != 2 {
		t.Errorf("not everything at once: %v", err)
	}
}

func TestRenderRefusesTemplates(t *testing.T) {
	for name, text := range map[string]string{
		"no range": "# nothing\n", "two ranges": "{{range .Hosts}}{{end}}{{range .Hosts}}{{end}}", "unknown field": "{{range .Hosts}}{{.Mac}}{{end}}", "syntax": "{{range",
	} {
		if _, _, err := isc.Render(fstest.MapFS{"dhcp/isc/hosts.conf.tmpl": {Data: []byte(text)}}, []orchestrator.DHCPHost{host(1)}, subnets); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, _, err := isc.Render(fstest.MapFS{}, nil, subnets); err == nil {
		t.Error("no template: accepted")
	}
}

func BenchmarkRender10k(b *testing.B) {
	var hosts []orchestrator.DHCPHost
	for n := range 10_000 {
		hosts = append(hosts, host(n+1))
	}
	for b.Loop() {
		if _, _, err := isc.Render(templates.FS, hosts, subnets); err != nil {
			b.Fatal(err)
		}
	}
}
