package scan_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/scan"
	"slipway/orchestrator"
)

func subnet(prefix, ranges string) orchestrator.Subnet {
	first, last, _ := strings.Cut(ranges, "-")
	return orchestrator.Subnet{Prefix: netip.MustParsePrefix(prefix), Ranges: []orchestrator.AddressRange{{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}}}
}

// estate has two pools that share the public network.
func estate() *orchestrator.Estate {
	return &orchestrator.Estate{Pools: []orchestrator.Pool{
		{ID: "pool-a", Private: subnet("10.0.0.0/24", "10.0.0.10-10.0.0.99"), Public: subnet("198.51.100.0/24", "198.51.100.10-198.51.100.99"),
			DHCP: []string{"dhcp-a"}, Firewall: []string{"fw-a"}, Console: []string{"xvp"}},
		{ID: "pool-b", Private: subnet("10.0.1.0/24", "10.0.1.10-10.0.1.99"), Public: subnet("198.51.100.0/24", "198.51.100.100-198.51.100.199"),
			DHCP: []string{"dhcp-b"}, Firewall: []string{"fw-b"}, Console: []string{"xvp"}},
	}}
}

func lines(f scan.Found) []string {
	out := []string{}
	for _, s := range f.Sightings {
		line := fmt.Sprintf("%s %s %s %s; %s %q; %s", s.Kind, s.Role, s.Scope, s.Value, s.Object, s.Name, s.Place)
		if s.Peer != "" {
			line += " → " + s.Peer
		}
		out = append(out, line)
	}
	return out
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func TestPool(t *testing.T) {
	found := scan.Pool(estate(), "pool-b", []orchestrator.Stranger{{
		VM: orchestrator.VM{UUID: "u1", Name: "db\x1b[2J\nx" + strings.Repeat("ü", 300), Power: "running", VIFs: []orchestrator.VIF{
			{Device: "0", MAC: "AA:BB:CC:00:00:01", Addresses: addrs("10.0.0.5", "fe80::1", "::ffff:10.0.1.7", "192.168.9.9", "198.51.100.50")},
			{Device: "1", MAC: "not a mac", Addresses: addrs("10.0.0.5")},
			{Device: "2", MAC: "00:00:00:00:00:00"},
		}},
		Allowed: map[string][]netip.Addr{"0": addrs("10.0.0.5", "10.0.1.8")},
	}})
	name := `"db[2J x` + strings.Repeat("ü", 95)
	var got []string
	for _, l := range lines(found) {
		if i := strings.Index(l, name); i < 0 {
			t.Errorf("%q: the name is not clean", l)
		}
		l, _, _ = strings.Cut(l, " \"")
		got = append(got, l)
	}
	if diff := cmp.Diff([]string{
		"mac  pool-b aa:bb:cc:00:00:01; VM u1", "address private pool-a 10.0.0.5; VM u1", "address private pool-b 10.0.1.7; VM u1",
		"address public pool-b 198.51.100.50; VM u1", "address private pool-b 10.0.1.8; VM u1", "address private pool-a 10.0.0.5; VM u1",
	}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if found.Elsewhere != 1 {
		t.Errorf("%d elsewhere", found.Elsewhere)
	}
}
