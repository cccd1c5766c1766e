package orchestrator_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
)

func TestNameOf(t *testing.T) {
	prefix := netip.MustParsePrefix
	dns := orchestrator.DNS{Zone: "vm.example.net", Reverse: []orchestrator.ReverseZone{
		{Prefix: prefix("198.51.100.0/24"), Zone: "100.51.198.in-addr.arpa"},
		{Prefix: prefix("198.51.100.64/26"), Zone: "64/26.100.51.198.in-addr.arpa"},
		{Prefix: prefix("203.0.113.0/25"), Zone: "113.0.203.in-addr.arpa"},
		{Prefix: prefix("192.0.2.8/29"), Zone: "r2.example.net"},
		{Prefix: prefix("2001:db8::/32"), Zone: "8.b.d.0.1.0.0.2.ip6.arpa"},
	}}
	for name, tt := range map[string]struct {
		hostname, public, private string
		name, pointer, zone, why  string
	}{
		"a label":                        {"web", "198.51.100.10", "10.0.0.1", "web.vm.example.net", "10.100.51.198.in-addr.arpa", "100.51.198.in-addr.arpa", ""},
		"a whole name":                   {"web.shop.vm.example.net", "198.51.100.10", "", "web.shop.vm.example.net", "10.100.51.198.in-addr.arpa", "100.51.198.in-addr.arpa", ""},
		"the longest prefix, RFC 2317":   {"web", "198.51.100.70", "", "web.vm.example.net", "70.64/26.100.51.198.in-addr.arpa", "64/26.100.51.198.in-addr.arpa", ""},
		"a delegation of any name":       {"web", "192.0.2.9", "", "web.vm.example.net", "9.r2.example.net", "r2.example.net", ""},
		"routed":                         {"web", "", "203.0.113.3", "web.vm.example.net", "3.113.0.203.in-addr.arpa", "113.0.203.in-addr.arpa", ""},
		"no reverse zone":                {"web", "203.0.113.200", "", "web.vm.example.net", "", "", ""},
		"IPv6":                           {"web", "2001:db8::1f", "", "web.vm.example.net", "f.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa", ""},
		"the customer's own name":        {"www.acme.com", "198.51.100.10", "", "", "", "", "not in the pool's zone"},
		"the zone itself":                {"vm.example.net", "198.51.100.10", "", "", "", "", "not in the pool's zone"},
		"a name that ends like the zone": {"evilvm.example.net", "198.51.100.10", "", "", "", "", "not in the pool's zone"},
		"a wildcard":                     {"*", "198.51.100.10", "", "", "", "", "cannot be in the DNS"},
		"the marks' own label":           {"_slipway.web.vm.example.net", "198.51.100.10", "", "", "", "", "cannot be in the DNS"},
		"an escape":                      {"a\\.b\n.vm.example.net", "198.51.100.10", "", "", "", "", "cannot be in the DNS"},
		"too long":                       {strings.Repeat("a.", 125), "198.51.100.10", "", "", "", "", "not in the pool's zone"},
		"too long with the zone":         {strings.Repeat("a.", 121) + "vm.example.net", "198.51.100.10", "", "", "", "", "more than 253"},
	} {
		t.Run(name, func(t *testing.T) {
			m := orchestrator.Machine{Hostname: tt.hostname}
			m.Placement.Public, _ = netip.ParseAddr(tt.public)
			m.Placement.Private, _ = netip.ParseAddr(tt.private)
			got, why := orchestrator.NameOf(orchestrator.Pool{ID: "pool-a", DNS: dns}, m)
			if got.Name != tt.name || got.Pointer != tt.pointer || got.ReverseZone != tt.zone || !strings.Contains(why, tt.why) || got.IsZero() != (why != "") {
				t.Errorf("%+v, %q", got, why)
			}
		})
	}
	if got, why := orchestrator.NameOf(orchestrator.Pool{}, orchestrator.Machine{Hostname: "web"}); !got.IsZero() || why == "" {
		t.Errorf("without a zone: %+v", got)
	}
}

func TestDNSOfAnEstate(t *testing.T) {
	reverse := func(prefix, zone string) orchestrator.DNS {
		return orchestrator.DNS{Zone: "vm.example.net", Reverse: []orchestrator.ReverseZone{{Prefix: netip.MustParsePrefix(prefix), Zone: zone}}}
	}
	for name, tt := range map[string]struct {
		dns  orchestrator.DNS
		want []string // fields
	}{
		"right":                      {reverse("198.51.100.0/24", "100.51.198.in-addr.arpa"), nil},
		"a part of a zone":           {reverse("198.51.100.0/26", "100.51.198.in-addr.arpa"), nil},
		"a zone above":               {reverse("198.51.100.0/24", "51.198.in-addr.arpa"), nil},
		"a delegation":               {reverse("198.51.100.64/26", "64/26.100.51.198.in-addr.arpa"), nil},
		"a delegation of any name":   {reverse("198.51.100.64/26", "r2.example.net"), nil},
		"IPv6":                       {reverse("2001:db8::/32", "8.b.d.0.1.0.0.2.ip6.arpa"), nil},
		"another network's":          {reverse("198.51.100.0/24", "101.51.198.in-addr.arpa"), []string{"reverse[0].zone"}},
		"another's delegation":       {reverse("198.51.100.64/26", "64/26.101.51.198.in-addr.arpa"), []string{"reverse[0].zone"}},
		"a prefix over two zones":    {reverse("198.51.100.0/23", "100.51.198.in-addr.arpa"), []string{"reverse[0].zone"}},
		"a final dot":                {orchestrator.DNS{Zone: "vm.example.net."}, []string{"zone"}},
		"capitals":                   {orchestrator.DNS{Zone: "VM.example.net"}, []string{"zone"}},
		"pointers that lead nowhere": {orchestrator.DNS{Reverse: reverse("198.51.100.0/24", "100.51.198.in-addr.arpa").Reverse}, []string{"zone"}},
		"bits beyond the prefix":     {reverse("198.51.100.1/24", "100.51.198.in-addr.arpa"), []string{"reverse[0].prefix"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := orchestratortest.Estate()
			e.Pools[0].DNS = tt.dns
			var errs orchestrator.FieldErrors
			errors.As(e.Validate(), &errs)
			var got []string
			for _, one := range errs {
				got = append(got, strings.TrimPrefix(one.Field, "pools.pool-a.dns."))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%v\n%s", errs, diff)
			}
		})
	}
}
