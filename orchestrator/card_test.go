package orchestrator_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/orchestrator"
)

// carried is a finished machine whose VM carries its card, and the pool where both are.
func carried() (orchestrator.Card, orchestrator.Pool, orchestrator.Stranger) {
	_, pool, vm := importable()
	pool.DHCP, pool.Firewall, pool.Console = []string{"dhcp"}, []string{"fw"}, []string{"xvp"}
	m := orchestrator.Machine{
		ID: "m-1", Tenant: "acme", Name: "web-1", Hostname: "web-1", Image: "debian-12", Plan: orchestrator.Plan{VCPUs: 1, MemoryMiB: 1024, DiskGiB: 10},
		Firewall: []orchestrator.FirewallRule{},
		SSHKeys:  []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKX0jJSTlTwXlXx0oMzxXxYoHTzkSOBcGzTBzjk2bEN7"}, HostKey: "ssh-ed25519 KEY",
		Placement: orchestrator.Placement{Pool: "pool-a", Host: "h0", SR: "s", Private: netip.MustParseAddr("10.0.0.11"), Public: netip.MustParseAddr("198.51.100.11"),
			MAC: "02:00:00:00:00:01", ConsolePort: 20000, DHCP: "dhcp", Firewall: "fw", Console: "xvp"},
	}
	pool.Private.Gateway, pool.Public.Gateway = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("198.51.100.1")
	pool.ConsolePorts = orchestrator.PortRange{First: 20000, Last: 20009}
	vm.Tag, vm.Name, vm.Disks[0].Machine = m.ID, m.Name, m.ID
	return m.Card(orchestrator.OrderKey{Source: "panel", ID: "1"}), pool, vm
}

// A card is foreign text: what does not fit the VM that carries it, or the pool where that one is, is refused, and named.
func TestCardFits(t *testing.T) {
	t.Parallel()
	type (
		card = *orchestrator.Card
		vm   = *orchestrator.Stranger
	)
	for name, c := range map[string]struct {
		spoil func(card, *orchestrator.Pool, vm)
		field string // "" fits
		says  string
	}{
		"as it is":                   {func(card, *orchestrator.Pool, vm) {}, "", ""},
		"without a DHCP group":       {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.DHCP = "" }, "", ""},
		"another machine's":          {func(c card, _ *orchestrator.Pool, _ vm) { c.Machine = "m-2" }, "card", "is of machine m-2"},
		"a VM with another tag":      {func(_ card, _ *orchestrator.Pool, v vm) { v.Tag = "m-2" }, "card", "is of machine"},
		"a template":                 {func(_ card, _ *orchestrator.Pool, v vm) { v.Template = true }, "vm", "no finished machine"},
		"a snapshot":                 {func(_ card, _ *orchestrator.Pool, v vm) { v.Snapshot = true }, "vm", "no finished machine"},
		"a control domain":           {func(_ card, _ *orchestrator.Pool, v vm) { v.Control = true }, "vm", "no finished machine"},
		"an install under way":       {func(_ card, _ *orchestrator.Pool, v vm) { v.Name = "slipway m-1" }, "vm", "its install was under way"},
		"busy":                       {func(_ card, _ *orchestrator.Pool, v vm) { v.Busy = "snapshot" }, "vm", "is busy with snapshot"},
		"two interfaces":             {func(_ card, _ *orchestrator.Pool, v vm) { v.VIFs = append(v.VIFs, v.VIFs[0]) }, "vm.interfaces", "are 2"},
		"no interface":               {func(_ card, _ *orchestrator.Pool, v vm) { v.VIFs = nil }, "vm.interfaces", "are 0"},
		"another MAC":                {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.MAC = "02:00:00:00:00:02" }, "vm.interfaces", "02:00:00:00:00:02"},
		"no disk":                    {func(_ card, _ *orchestrator.Pool, v vm) { v.Disks = nil }, "vm.disks", "has none"},
		"a disk of somebody's":       {func(_ card, _ *orchestrator.Pool, v vm) { v.Disks[0].Machine = "" }, "vm.disks", "none that carries the machine's tag"},
		"another pool":               {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.Pool = "pool-b" }, "card", "in pool pool-b"},
		"another site's address":     {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.Private = netip.MustParseAddr("10.9.0.11") }, "card", "has address 10.9.0.11"},
		"no address":                 {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.Private = netip.Addr{} }, "card", "has address invalid IP"},
		"another site's public one":  {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.Public = netip.MustParseAddr("203.0.113.1") }, "card", "has public address 203.0.113.1"},
		"no public one":              {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.Public = netip.Addr{} }, "card", "has public address invalid IP"},
		"a public one of a routed":   {func(_ card, p *orchestrator.Pool, _ vm) { p.Strategy = orchestrator.Routed }, "card", "has public address"},
		"the gateway's address":      {func(c card, p *orchestrator.Pool, _ vm) { c.Placement.Private = p.Private.Gateway }, "card", "a gateway"},
		"the gateway's public one":   {func(c card, p *orchestrator.Pool, _ vm) { c.Placement.Public = p.Public.Gateway }, "card", "a gateway"},
		"another site's port":        {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.ConsolePort = 22 }, "card", "has console port 22"},
		"no port":                    {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.ConsolePort = 0 }, "card", "has console port 0"},
		"another site's DHCP":        {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.DHCP = "dhcp-b" }, "card", `the dhcp group "dhcp-b"`},
		"another site's firewall":    {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.Firewall = "fw-b" }, "card", `the firewall group "fw-b"`},
		"no firewall":                {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.Firewall = "" }, "card", `the firewall group ""`},
		"another site's console":     {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.Console = "xvp-b" }, "card", `the console group "xvp-b"`},
		"no console":                 {func(c card, _ *orchestrator.Pool, _ vm) { c.Placement.Console = "" }, "card", `the console group ""`},
		"a name that is none":        {func(c card, _ *orchestrator.Pool, v vm) { c.Name, v.Name = "-; rm", "-; rm" }, "name", ""},
		"no tenant":                  {func(c card, _ *orchestrator.Pool, _ vm) { c.Tenant = "" }, "tenant", ""},
		"a plan that nobody ordered": {func(c card, _ *orchestrator.Pool, _ vm) { c.Plan.MemoryMiB = 1 << 40 }, "plan.memory_mib", ""},
		"a key that is none":         {func(c card, _ *orchestrator.Pool, _ vm) { c.SSHKeys = []string{"ssh-ed25519 x\nno-pty"} }, "ssh_keys[0]", ""},
		"no order":                   {func(c card, _ *orchestrator.Pool, _ vm) { c.Order = orchestrator.OrderKey{} }, "source", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			card, pool, vm := carried()
			c.spoil(&card, &pool, &vm)
			read, err := orchestrator.ParseCard(card.String())
			if err != nil {
				t.Fatal(err)
			}
			err = read.Fits(pool, "m-1", vm)
			var fields orchestrator.FieldErrors
			if c.field == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.As(err, &fields) || fields[0].Field != c.field || !strings.Contains(fields[0].Problem, c.says) || fields[0].Fix == "" {
				t.Errorf("%v, want %s %q", err, c.field, c.says)
			}
		})
	}
}

func TestParseCard(t *testing.T) {
	t.Parallel()
	good, _, vm := carried()
	for name, c := range map[string]struct{ text, says string }{
		"none":          {"", "made by an earlier version"},
		"cut off":       {good.String()[:40], "cannot be read"},
		"not JSON":      {"<card/>", "cannot be read"},
		"another shape": {`{"machine": 7}`, "cannot be read"},
		"endless":       {strings.Repeat(" ", 256<<10) + good.String(), "bytes"},
	} {
		if _, err := orchestrator.ParseCard(c.text); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	read, err := orchestrator.ParseCard(good.String())
	if diff := cmp.Diff(good, read, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" || err != nil {
		t.Errorf("%v, -written +read:\n%s", err, diff)
	}
	a := read.Adopt(vm, "run")
	if m := a.Machine; m.Placement.Host != vm.Host || m.Placement.SR != "s" || m.VM != "u" || m.State != orchestrator.StateReady || m.Presence != orchestrator.Present || a.Run != "run" ||
		a.Order.ID != "1" || a.Order.Source != "panel" {
		t.Errorf("%+v", a)
	}
}
