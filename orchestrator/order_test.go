package orchestrator_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

func goodOrder() orchestrator.Order {
	return orchestrator.Order{
		Source: "panel", ID: "7", Type: orchestrator.OrderInstall, Tenant: "acme", Name: "web-1", Image: "debian-12",
		Plan:     orchestrator.Plan{VCPUs: 2, MemoryMiB: 2048, DiskGiB: 20},
		Firewall: []orchestrator.FirewallRule{{Protocol: "tcp", Source: netip.MustParsePrefix("0.0.0.0/0"), Ports: []orchestrator.PortRange{{First: 22, Last: 22}}}, {Protocol: "icmp", Source: netip.MustParsePrefix("192.0.2.0/24")}},
		SSHKeys:  []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGfK someone"},
	}
}

// refused checks that an error is FieldErrors about exactly these fields, each with problem and fix.
func refused(t *testing.T, err error, fields ...string) {
	t.Helper()
	var all orchestrator.FieldErrors
	if err != nil && !errors.As(err, &all) {
		t.Fatalf("%T: %v", err, err)
	}
	var got []string
	for _, e := range all {
		if e.Problem == "" || e.Fix == "" {
			t.Errorf("%s: problem %q, fix %q", e.Field, e.Problem, e.Fix)
		}
		if strings.ContainsAny(e.Error(), "\n\r\x00\u202e") {
			t.Errorf("the message repeats what must not be printed: %q", e.Error())
		}
		if !slices.Contains(got, e.Field) {
			got = append(got, e.Field)
		}
	}
	if diff := cmp.Diff(fields, got); diff != "" {
		t.Errorf("refused fields (-want +got):\n%s\n%v", diff, err)
	}
}

// hostile is text that means something to a shell, a file's grammar or a terminal, or only looks like what it is not.
var hostile = []string{
	`"; }`, `$(reboot)`, "`reboot`", "a\nb", "a\r\nb", "a#b", "#", strings.Repeat("a", 64), "wеb" /* Cyrillic е */, "ｗeb", "web\u202e", "a b", "a\x00b", "-web", "web-", "WEB",
	"../etc", "a/b", "a.b", "web_1", "'", "a;b", "a|b", "%s", "\xff\xfe", "é",
}

func TestGoodOrderIsAccepted(t *testing.T) {
	o := goodOrder()
	refused(t, o.Validate())
	o.Hostname, o.Pool, o.Deadline = "web-1.example.com", "pool-a", time.Now().Add(time.Hour)
	o.Name, o.Tenant = strings.Repeat("a", 63), "0"
	refused(t, o.Validate())
	refused(t, orchestrator.Order{Source: "panel", ID: "8", Type: orchestrator.OrderUninstall, Tenant: "acme", Name: "web-1"}.Validate())
	refused(t, orchestrator.Order{Source: "panel", ID: "8", Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: "30000000-0000-4000-8000-000000000001"}.Validate())
}

func TestHostileTextIsRefusedInEveryName(t *testing.T) {
	for field, set := range map[string]func(*orchestrator.Order, string){
		"tenant":   func(o *orchestrator.Order, s string) { o.Tenant = s },
		"name":     func(o *orchestrator.Order, s string) { o.Name = s },
		"hostname": func(o *orchestrator.Order, s string) { o.Hostname = s },
		"image":    func(o *orchestrator.Order, s string) { o.Image = s },
		"pool":     func(o *orchestrator.Order, s string) { o.Pool = s },
	} {
		for _, s := range hostile {
			if s == "a.b" && (field == "hostname" || field == "image") {
				continue // a dot is theirs
			}
			t.Run(field, func(t *testing.T) {
				o := goodOrder()
				set(&o, s)
				refused(t, o.Validate(), field)
			})
		}
	}
	for _, s := range hostile {
		o := orchestrator.Order{Source: "panel", ID: "8", Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: s}
		refused(t, o.Validate(), "machine")
	}
	for _, s := range []string{"", "a b", "a\nb", "é", "a\x00b", strings.Repeat("a", 201)} {
		o := goodOrder()
		o.Source, o.ID = s, s
		refused(t, o.Validate(), "source", "id")
	}
}

func TestOrderLimits(t *testing.T) {
	everybody := netip.MustParsePrefix("0.0.0.0/0")
	rule := func(r orchestrator.FirewallRule) func(*orchestrator.Order) {
		return func(o *orchestrator.Order) { o.Firewall = []orchestrator.FirewallRule{r} }
	}
	ports := func(n int) []orchestrator.PortRange {
		return slices.Repeat([]orchestrator.PortRange{{First: 1, Last: 2}}, n)
	}
	for name, test := range map[string]struct {
		change func(*orchestrator.Order)
		fields []string
	}{
		"type":               {func(o *orchestrator.Order) { o.Type = "slipway.order.rebuild" }, []string{"type"}},
		"type hostile":       {func(o *orchestrator.Order) { o.Type = "\x1b[2J\n" }, []string{"type"}},
		"no memory":          {func(o *orchestrator.Order) { o.Plan.MemoryMiB = 0 }, []string{"plan.memory_mib"}},
		"2^63-1 MiB":         {func(o *orchestrator.Order) { o.Plan.MemoryMiB = 1<<63 - 1 }, []string{"plan.memory_mib"}},
		"-2^63 MiB":          {func(o *orchestrator.Order) { o.Plan.MemoryMiB = -1 << 63 }, []string{"plan.memory_mib"}},
		"no cpu":             {func(o *orchestrator.Order) { o.Plan.VCPUs = 0 }, []string{"plan.vcpus"}},
		"65 cpus":            {func(o *orchestrator.Order) { o.Plan.VCPUs = 65 }, []string{"plan.vcpus"}},
		"no disk":            {func(o *orchestrator.Order) { o.Plan.DiskGiB = 0 }, []string{"plan.disk_gib"}},
		"2^63-1 GiB":         {func(o *orchestrator.Order) { o.Plan.DiskGiB = 1<<63 - 1 }, []string{"plan.disk_gib"}},
		"nothing":            {func(o *orchestrator.Order) { *o = orchestrator.Order{Type: orchestrator.OrderInstall} }, []string{"source", "id", "tenant", "name", "image", "plan.vcpus", "plan.memory_mib", "plan.disk_gib"}},
		"protocol":           {rule(orchestrator.FirewallRule{Protocol: "tcp -j ACCEPT", Source: everybody, Ports: ports(1)}), []string{"firewall[0].protocol"}},
		"no ports":           {rule(orchestrator.FirewallRule{Protocol: "udp", Source: everybody}), []string{"firewall[0].ports"}},
		"icmp with ports":    {rule(orchestrator.FirewallRule{Protocol: "icmp", Source: everybody, Ports: ports(1)}), []string{"firewall[0].ports"}},
		"port 0":             {rule(orchestrator.FirewallRule{Protocol: "tcp", Source: everybody, Ports: []orchestrator.PortRange{{First: 0, Last: 1}}}), []string{"firewall[0].ports[0]"}},
		"range backwards":    {rule(orchestrator.FirewallRule{Protocol: "tcp", Source: everybody, Ports: []orchestrator.PortRange{{First: 9, Last: 8}}}), []string{"firewall[0].ports[0]"}},
		"16 ranges":          {rule(orchestrator.FirewallRule{Protocol: "tcp", Source: everybody, Ports: ports(16)}), []string{"firewall[0].ports"}},
		"no source":          {rule(orchestrator.FirewallRule{Protocol: "tcp", Ports: ports(1)}), []string{"firewall[0].source"}},
		"source of IPv6":     {rule(orchestrator.FirewallRule{Protocol: "tcp", Source: netip.MustParsePrefix("::/0"), Ports: ports(1)}), []string{"firewall[0].source"}},
		"IPv4 in IPv6":       {rule(orchestrator.FirewallRule{Protocol: "tcp", Source: netip.PrefixFrom(netip.MustParseAddr("::ffff:192.0.2.1"), 128), Ports: ports(1)}), []string{"firewall[0].source"}},
		"bits beyond":        {rule(orchestrator.FirewallRule{Protocol: "tcp", Source: netip.MustParsePrefix("192.0.2.1/24"), Ports: ports(1)}), []string{"firewall[0].source"}},
		"65 rules":           {func(o *orchestrator.Order) { o.Firewall = slices.Repeat(o.Firewall[1:], 65) }, []string{"firewall"}},
		"33 keys":            {func(o *orchestrator.Order) { o.SSHKeys = slices.Repeat(o.SSHKeys, 33) }, []string{"ssh_keys"}},
		"key of two lines":   {func(o *orchestrator.Order) { o.SSHKeys = []string{"ssh-ed25519 A a\nssh-ed25519 B b"} }, []string{"ssh_keys[0]"}},
		"key with separator": {func(o *orchestrator.Order) { o.SSHKeys = []string{"ssh-ed25519 A a\u2028b"} }, []string{"ssh_keys[0]"}},
		"empty key":          {func(o *orchestrator.Order) { o.SSHKeys = []string{" "} }, []string{"ssh_keys[0]"}},
		"key that is a book": {func(o *orchestrator.Order) { o.SSHKeys = []string{strings.Repeat("k", 17<<10)} }, []string{"ssh_keys[0]"}},
		"hostname too long":  {func(o *orchestrator.Order) { o.Hostname = strings.Repeat("abcdefg.", 32) + "a" }, []string{"hostname"}},
		"hostname with dot":  {func(o *orchestrator.Order) { o.Hostname = "web." }, []string{"hostname"}},
		"uninstall of none":  {func(o *orchestrator.Order) { o.Type, o.Name = orchestrator.OrderUninstall, "" }, []string{"machine"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := goodOrder()
			test.change(&o)
			refused(t, o.Validate(), test.fields...)
		})
	}
}

func TestPortRanges(t *testing.T) {
	for text, want := range map[string]string{`"22"`: "22", `"8000-8080"`: "8000-8080", `"65535"`: "65535", `"7-7"`: "7"} {
		var r orchestrator.PortRange
		if err := json.Unmarshal([]byte(text), &r); err != nil || r.String() != want {
			t.Errorf("%s: %s, %v", text, r, err)
		}
	}
	for _, text := range []string{`"70000"`, `"0"`, `"0-5"`, `"-1"`, `"+5"`, `"5-+6"`, `"9-8"`, `"22-"`, `"-"`, `""`, `"ssh"`, `"1-2-3"`, `" 22"`, `"22,80"`, `"٢٢"`, `"22:80"`} {
		var r orchestrator.PortRange
		if err := json.Unmarshal([]byte(text), &r); err == nil {
			t.Errorf("%s is read as %s", text, r)
		}
	}
}

func TestEstateRefusesWhatItCannotDo(t *testing.T) {
	e := &orchestrator.Estate{Images: []string{"debian-12", "ubuntu-24.04", "alpine"}, Pools: []orchestrator.Pool{
		{ID: "pool-a", Images: []string{"debian-12"}}, {ID: "pool-b", Images: []string{"debian-12", "ubuntu-24.04"}},
	}}
	for name, test := range map[string]struct {
		image, pool string
		fields      []string
		fix         string
	}{
		"anywhere":            {image: "debian-12"},
		"there":               {image: "ubuntu-24.04", pool: "pool-b"},
		"unknown system":      {image: "windows-95", fields: []string{"image"}, fix: "alpine, debian-12, ubuntu-24.04"},
		"unknown pool":        {image: "debian-12", pool: "pool-c", fields: []string{"pool"}, fix: "pool-a, pool-b"},
		"not in that pool":    {image: "ubuntu-24.04", pool: "pool-a", fields: []string{"image"}, fix: "debian-12"},
		"in no pool":          {image: "alpine", fields: []string{"image"}, fix: "publish the template"},
		"neither":             {image: "windows-95", pool: "pool-c", fields: []string{"image", "pool"}},
		"catalogue's dot dot": {image: "..", fields: []string{"image"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := goodOrder()
			o.Image, o.Pool = test.image, test.pool
			err := e.Check(o)
			refused(t, err, test.fields...)
			if test.fix != "" && !strings.Contains(err.Error(), test.fix) {
				t.Errorf("the message does not name what would be right: %v", err)
			}
		})
	}
	uninstall := goodOrder()
	uninstall.Type, uninstall.Image = orchestrator.OrderUninstall, "gone"
	if err := e.Check(uninstall); err != nil {
		t.Errorf("what is there can be removed, whatever the estate has: %v", err)
	}
}

func TestDifferencesNameTheFields(t *testing.T) {
	for field, change := range map[string]func(*orchestrator.Order){
		"type":            func(o *orchestrator.Order) { o.Type = orchestrator.OrderUninstall },
		"tenant":          func(o *orchestrator.Order) { o.Tenant = "other" },
		"hostname":        func(o *orchestrator.Order) { o.Hostname = "other" },
		"image":           func(o *orchestrator.Order) { o.Image = "other" },
		"plan.vcpus":      func(o *orchestrator.Order) { o.Plan.VCPUs++ },
		"plan.memory_mib": func(o *orchestrator.Order) { o.Plan.MemoryMiB++ },
		"plan.disk_gib":   func(o *orchestrator.Order) { o.Plan.DiskGiB++ },
		"pool":            func(o *orchestrator.Order) { o.Pool = "other" },
		"firewall":        func(o *orchestrator.Order) { o.Firewall[0].Ports = []orchestrator.PortRange{{First: 22, Last: 23}} },
		"ssh_keys":        func(o *orchestrator.Order) { o.SSHKeys = nil },
		"deadline":        func(o *orchestrator.Order) { o.Deadline = time.Unix(1, 0) },
		"machine":         func(o *orchestrator.Order) { o.Machine = "other" },
	} {
		o := goodOrder()
		change(&o)
		if diff := cmp.Diff([]string{field}, goodOrder().Differences(o)); diff != "" {
			t.Error(diff)
		}
	}
	named := goodOrder()
	named.Hostname = named.Name // says what was meant anyway
	if d := goodOrder().Differences(named); len(d) != 0 {
		t.Errorf("differs in %v", d)
	}
}
