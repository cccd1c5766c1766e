package orchestrator_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
)

func TestEstateIsChecked(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	rng := func(first, last string) []orchestrator.AddressRange {
		return []orchestrator.AddressRange{{First: addr(first), Last: addr(last)}}
	}
	refused(t, orchestratortest.Estate().Validate())
	for name, test := range map[string]struct {
		change func(a, b *orchestrator.Pool)
		fields []string
	}{
		"name":              {func(a, _ *orchestrator.Pool) { a.ID = "pool a\n" }, nil},
		"name twice":        {func(a, b *orchestrator.Pool) { a.ID = b.ID }, []string{"pools.pool-b"}},
		"strategy":          {func(a, _ *orchestrator.Pool) { a.Strategy = "bridge" }, []string{"pools.pool-a.strategy"}},
		"routed and public": {func(_, b *orchestrator.Pool) { b.Public = orchestrator.Subnet{Prefix: prefix("192.0.2.0/24")} }, []string{"pools.pool-b.public"}},
		"nat, no public":    {func(a, _ *orchestrator.Pool) { a.Public = orchestrator.Subnet{} }, []string{"pools.pool-a.public.prefix"}},
		"IPv6":              {func(a, _ *orchestrator.Pool) { a.Private.Prefix = prefix("fd00::/64") }, []string{"pools.pool-a.private.prefix"}},
		"bits beyond":       {func(a, _ *orchestrator.Pool) { a.Private.Prefix = prefix("10.0.0.1/24") }, []string{"pools.pool-a.private.prefix"}},
		"no ranges":         {func(a, _ *orchestrator.Pool) { a.Private.Ranges = nil }, []string{"pools.pool-a.private.ranges"}},
		"range backwards":   {func(a, _ *orchestrator.Pool) { a.Private.Ranges = rng("10.0.0.9", "10.0.0.8") }, []string{"pools.pool-a.private.ranges[0]"}},
		"range outside":     {func(a, _ *orchestrator.Pool) { a.Private.Ranges = rng("10.0.0.9", "10.0.1.8") }, []string{"pools.pool-a.private.ranges[0]"}},
		"network address":   {func(a, _ *orchestrator.Pool) { a.Private.Ranges = rng("10.0.0.0", "10.0.0.8") }, []string{"pools.pool-a.private.ranges[0]"}},
		"broadcast address": {func(a, _ *orchestrator.Pool) { a.Private.Ranges = rng("10.0.0.9", "10.0.0.255") }, []string{"pools.pool-a.private.ranges[0]"}},
		"gateway elsewhere": {func(a, _ *orchestrator.Pool) { a.Private.Gateway = addr("10.9.9.9") }, []string{"pools.pool-a.private.gateway"}},
		"overlap": {func(_, b *orchestrator.Pool) {
			b.Private = orchestrator.Subnet{Prefix: prefix("10.0.0.0/16"), Ranges: rng("10.0.1.1", "10.0.1.9")}
		}, []string{"pools.pool-b.private.prefix"}},
		"MAC prefix":        {func(a, _ *orchestrator.Pool) { a.MACPrefix = "02:16" }, []string{"pools.pool-a.mac_prefix"}},
		"multicast MAC":     {func(a, _ *orchestrator.Pool) { a.MACPrefix = "01:16:3e" }, []string{"pools.pool-a.mac_prefix"}},
		"no firewall":       {func(a, _ *orchestrator.Pool) { a.Firewall = nil }, []string{"pools.pool-a.firewall"}},
		"no console":        {func(a, _ *orchestrator.Pool) { a.Console = nil }, []string{"pools.pool-a.console"}},
		"low console ports": {func(a, _ *orchestrator.Pool) { a.ConsolePorts.First = 80 }, []string{"pools.pool-a.console_ports"}},
		"no installer":      {func(a, _ *orchestrator.Pool) { a.Installer = nil }, []string{"pools.pool-a.installer"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := orchestratortest.Estate()
			test.change(&e.Pools[0], &e.Pools[1])
			err := e.Validate()
			if test.fields == nil {
				if err == nil {
					t.Error("accepted")
				}
				return
			}
			refused(t, err, test.fields...)
		})
	}
	if (&orchestrator.Estate{}).Validate() == nil {
		t.Error("an estate without pools is accepted")
	}
	if q := (&orchestrator.Estate{}).QuarantineOrDefault(); q != 24*time.Hour {
		t.Errorf("addresses rest for %s when nothing is said", q)
	}
}

func TestSubnetGivesNeitherGatewayNorReserved(t *testing.T) {
	addr := netip.MustParseAddr
	s := orchestrator.Subnet{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Gateway: addr("10.0.0.12"), Reserved: []netip.Addr{addr("10.0.0.14")},
		Ranges: []orchestrator.AddressRange{{First: addr("10.0.0.10"), Last: addr("10.0.0.15")}}}
	for a, want := range map[string]bool{"10.0.0.9": false, "10.0.0.10": true, "10.0.0.12": false, "10.0.0.14": false, "10.0.0.15": true, "10.0.0.16": false, "::ffff:10.0.0.10": false} {
		if s.Gives(addr(a)) != want {
			t.Errorf("%s: %t", a, !want)
		}
	}
}

func TestMACPrefixes(t *testing.T) {
	for prefix, good := range map[string]bool{
		"02:16:3e": true, "00:16:3e": true, "02:16:3E": false, "02:16:3": false, "02:16:3e:00": false, "03:16:3e": false, "2:16:3e": false, "02-16-3e": false, "": false, "g2:16:3e": false, "+2:16:3e": false,
	} {
		if _, err := orchestrator.ParseMACPrefix(prefix); (err == nil) != good {
			t.Errorf("%q: %v", prefix, err)
		} else if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%v", err)
		}
	}
}
