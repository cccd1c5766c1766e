package orchestrator_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"slipway/orchestrator"
)

func importable() (orchestrator.Import, orchestrator.Pool, orchestrator.Stranger) {
	addr := netip.MustParseAddr
	pool := orchestrator.Pool{ID: "pool-a", Strategy: orchestrator.NAT, Network: "net",
		Private: orchestrator.Subnet{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Ranges: []orchestrator.AddressRange{{First: addr("10.0.0.10"), Last: addr("10.0.0.99")}}},
		Public:  orchestrator.Subnet{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Ranges: []orchestrator.AddressRange{{First: addr("198.51.100.10"), Last: addr("198.51.100.99")}}}}
	vm := orchestrator.Stranger{VM: orchestrator.VM{UUID: "u", Power: "running", Host: "h", MemoryMiB: 1024, VCPUs: 1, Disks: []orchestrator.Disk{{UUID: "d", SR: "s"}},
		VIFs: []orchestrator.VIF{{Device: "0", MAC: "02:00:00:00:00:01", Network: "net", Addresses: []netip.Addr{addr("10.0.0.11")}}}}}
	return orchestrator.Import{VM: "u", MAC: "02:00:00:00:00:01", Private: addr("10.0.0.11"), Public: addr("198.51.100.11")}, pool, vm
}

func TestImportFits(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		spoil func(*orchestrator.Import, *orchestrator.Pool, *orchestrator.Stranger)
		field string // "" fits
		says  string
	}{
		"as it is":       {func(*orchestrator.Import, *orchestrator.Pool, *orchestrator.Stranger) {}, "", ""},
		"tagged by us":   {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) { vm.Tag = "me" }, "", ""},
		"another's":      {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) { vm.Tag = "somebody" }, "vm", "machine somebody"},
		"snapshot":       {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) { vm.Snapshot = true }, "vm", "snapshot"},
		"template":       {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) { vm.Template = true }, "vm", "template"},
		"control domain": {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) { vm.Control = true }, "vm", "control domain"},
		"busy":           {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) { vm.Busy = "snapshot" }, "vm", "busy with snapshot"},
		"halted":         {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) { vm.Power = "halted" }, "vm", "is halted"},
		"two interfaces": {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) {
			vm.VIFs = append(vm.VIFs, orchestrator.VIF{Device: "1"})
		}, "vm.interfaces", "are 2"},
		"another network": {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) {
			vm.VIFs[0].Network = "lab"
		}, "vm.interfaces", "network lab"},
		"another MAC": {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) { vm.VIFs[0].MAC = "x" }, "vm.interfaces", "when the import was asked"},
		"no disk":     {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) { vm.Disks = nil }, "vm.disks", "none"},
		"two storages": {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) {
			vm.Disks = append(vm.Disks, orchestrator.Disk{SR: "t"})
		}, "vm.disks", "several"},
		"tiny": {func(_ *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) { vm.MemoryMiB = 1 }, "vm.memory", "1 MiB"},
		"outside": {func(i *orchestrator.Import, _ *orchestrator.Pool, vm *orchestrator.Stranger) {
			i.Private = addr("10.0.0.200")
			vm.VIFs[0].Addresses = nil
		}, "address", "none of pool pool-a's private ranges"},
		"not its own": {func(i *orchestrator.Import, _ *orchestrator.Pool, _ *orchestrator.Stranger) {
			i.Private = addr("10.0.0.12")
		}, "address", "none of those"},
		"no address": {func(i *orchestrator.Import, _ *orchestrator.Pool, _ *orchestrator.Stranger) { i.Private = netip.Addr{} }, "address", "not known"},
		"no public":  {func(i *orchestrator.Import, _ *orchestrator.Pool, _ *orchestrator.Stranger) { i.Public = netip.Addr{} }, "public", "not known"},
		"public outside": {func(i *orchestrator.Import, _ *orchestrator.Pool, _ *orchestrator.Stranger) {
			i.Public = addr("198.51.100.1")
		}, "public", "public ranges"},
		"public and routed": {func(_ *orchestrator.Import, p *orchestrator.Pool, _ *orchestrator.Stranger) {
			p.Strategy = orchestrator.Routed
		}, "public", "no meaning"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			i, pool, vm := importable()
			c.spoil(&i, &pool, &vm)
			err := i.Fits(pool, vm, "me")
			var fields orchestrator.FieldErrors
			if c.field == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.As(err, &fields) || len(fields) != 1 || fields[0].Field != c.field || !strings.Contains(fields[0].Problem, c.says) || fields[0].Fix == "" {
				t.Errorf("%v, want %s %q", err, c.field, c.says)
			}
		})
	}
}

// A claim takes what is foreign or free, never what is a machine's, and asks for no room that is free.
func TestClaim(t *testing.T) {
	t.Parallel()
	i, pool, _ := importable()
	pool.Firewall, pool.Console, pool.ConsolePorts = []string{"fw"}, []string{"xvp"}, orchestrator.PortRange{First: 20000, Last: 20001}
	ledger := func() *orchestrator.Ledger {
		return &orchestrator.Ledger{
			Pools: map[string]*orchestrator.PoolLedger{"pool-a": {Hosts: []orchestrator.HostLedger{{HostInventory: orchestrator.HostInventory{UUID: "h"}}}, SRs: []orchestrator.SRLedger{{SRInventory: orchestrator.SRInventory{UUID: "s"}}}}},
			MACs:  map[string]bool{i.MAC: true}, ForeignMACs: map[string]bool{i.MAC: true}, Ports: map[string]map[uint16]bool{"xvp": {20000: true}},
			Addresses: map[netip.Addr]bool{i.Private: true}, ForeignAddresses: map[netip.Addr]bool{i.Private: true},
			Groups: map[string]orchestrator.Group{"fw": {ID: "fw"}, "xvp": {ID: "xvp"}},
		}
	}
	l := ledger()
	p, err := l.Claim(pool, i, "h", "s")
	if err != nil || p.Private != i.Private || p.Public != i.Public || p.MAC != i.MAC || p.ConsolePort != 20001 || p.Host != "h" || p.SR != "s" || p.Firewall != "fw" || p.Console != "xvp" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := l.Claim(pool, i, "h", "s"); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("claimed twice: %v", err)
	}
	for name, c := range map[string]struct {
		spoil func(*orchestrator.Ledger)
		kind  orchestrator.Kind
	}{
		"the address is ours": {func(l *orchestrator.Ledger) { clear(l.ForeignAddresses) }, orchestrator.Permanent},
		"the MAC is ours":     {func(l *orchestrator.Ledger) { clear(l.ForeignMACs) }, orchestrator.Permanent},
		"no port":             {func(l *orchestrator.Ledger) { l.Ports["xvp"][20001] = true }, orchestrator.Exhausted},
		"no inventory":        {func(l *orchestrator.Ledger) { clear(l.Pools) }, orchestrator.Exhausted},
		"an unknown storage":  {func(l *orchestrator.Ledger) { l.Pools["pool-a"].SRs = nil }, orchestrator.Permanent},
	} {
		l := ledger()
		c.spoil(l)
		before := len(l.Addresses)
		if _, err := l.Claim(pool, i, "h", "s"); orchestrator.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
		if len(l.Addresses) != before || slices.Contains([]bool{l.Addresses[i.Public]}, true) {
			t.Errorf("%s: a refused claim took something", name)
		}
	}
}
