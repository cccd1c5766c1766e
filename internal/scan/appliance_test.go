package scan_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/scan"
	"slipway/workers/appliance/apply"
)

func at(line int) apply.Place { return apply.Place{File: "/etc/x", Line: line} }

func TestAppliance(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	span := func(first, last string) apply.SurveyedRange {
		return apply.SurveyedRange{First: addr(first), Last: addr(last)}
	}
	for name, c := range map[string]struct {
		group  string
		survey apply.Survey
		want   []string
	}{
		"hosts": {"dhcp-b", apply.Survey{Hosts: []apply.SurveyedHost{
			{Place: at(3), Name: "printer", MAC: "02:00:00:00:00:02", Addresses: addrs("10.0.1.5", "10.9.9.9")}, {Place: at(9), Name: "x", MAC: "junk"},
		}}, []string{`mac  pool-b 02:00:00:00:00:02; host printer "printer"; /etc/x line 3`, `address private pool-b 10.0.1.5; host printer "printer"; /etc/x line 3`}},
		"a range": {"dhcp-a", apply.Survey{Ranges: []apply.SurveyedRange{{Place: at(4), First: addr("10.0.0.98"), Last: addr("10.0.0.200")}, span("0.0.0.0", "1.0.0.0")}},
			[]string{`address private pool-a 10.0.0.98; range 10.0.0.98-10.0.0.200 ""; /etc/x line 4`, `address private pool-a 10.0.0.99; range 10.0.0.98-10.0.0.200 ""; /etc/x line 4`}},
		"a pair": {"fw-b", apply.Survey{Rules: []apply.SurveyedRule{{Table: "nat", Chain: "SITE", Number: 2, Text: "-d …", Prefixes: []netip.Prefix{prefix("198.51.100.5/32")}, To: []apply.SurveyedRange{span("10.0.1.5", "10.0.1.5")}}}},
			[]string{`address public pool-b 198.51.100.5; nat SITE: -d … "SITE"; nat SITE rule 2 → 10.0.1.5`, `address private pool-b 10.0.1.5; nat SITE: -d … "SITE"; nat SITE rule 2 → 198.51.100.5`}},
		"a network that is translated": {"fw-a", apply.Survey{Rules: []apply.SurveyedRule{{Table: "nat", Chain: "S", Number: 1, Text: "t", Prefixes: []netip.Prefix{prefix("10.0.0.12/31")}, To: []apply.SurveyedRange{span("198.51.100.8", "198.51.100.10")}}}},
			[]string{`address private pool-a 10.0.0.12; nat S: t "S"; nat S rule 1`, `address private pool-a 10.0.0.13; nat S: t "S"; nat S rule 1`, `address public pool-a 198.51.100.10; nat S: t "S"; nat S rule 1`}},
		"a policy": {"fw-a", apply.Survey{Rules: []apply.SurveyedRule{
			{Table: "filter", Chain: "S", Number: 1, Text: "t", Prefixes: []netip.Prefix{prefix("10.0.0.0/25"), prefix("10.0.0.5/32")}},
			{Table: "nat", Chain: "S", Number: 1, Text: "masquerade", Prefixes: []netip.Prefix{prefix("10.0.0.0/24")}},
		}}, []string{`address private pool-a 10.0.0.5; filter S: t "S"; filter S rule 1`}},
		"consoles": {"xvp", apply.Survey{Consoles: []apply.SurveyedConsole{{Place: at(7), Port: 20003, VM: "mail", Pool: "office"}, {Place: at(0), Port: 5950}, {Place: at(8), VM: "none"}}},
			[]string{`port  xvp 20003; console of mail in office "mail"; /etc/x line 7`, `port  xvp 5950; multiplex port ""; /etc/x`}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			found := scan.Appliance(estate(), c.group, "one", c.survey)
			if diff := cmp.Diff(c.want, lines(found)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			for _, s := range found.Sightings {
				if s.Source != c.group+"/one" {
					t.Errorf("source %s", s.Source)
				}
			}
		})
	}
}

func TestRanges(t *testing.T) {
	subnets := func(texts ...string) (all []apply.SurveyedSubnet) {
		for i, text := range texts {
			all = append(all, apply.SurveyedSubnet{Place: at(i + 1), Prefix: netip.MustParsePrefix(text)})
		}
		return all
	}
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		survey apply.Survey
		want   []string // of each finding
	}{
		"all is well": {apply.Survey{Subnets: subnets("10.0.0.0/24"), Ranges: []apply.SurveyedRange{{First: addr("10.0.0.100"), Last: addr("10.0.0.200")}},
			Hosts: []apply.SurveyedHost{{Place: at(5), Addresses: addrs("10.0.0.5", "10.0.0.50")}}}, nil},
		"two halves":     {apply.Survey{Subnets: subnets("10.0.0.64/26", "10.0.0.0/26")}, nil},
		"a hole":         {apply.Survey{Subnets: subnets("10.0.0.0/27", "10.0.0.64/26")}, []string{"10.0.0.32 of 10.0.0.10-10.0.0.99 is in no subnet of dhcpd, which declares 10.0.0.0/27 (/etc/x line 1), 10.0.0.64/26 (/etc/x line 2)"}},
		"no subnet":      {apply.Survey{}, []string{"which declares none"}},
		"dynamic":        {apply.Survey{Subnets: subnets("10.0.0.0/24"), Ranges: []apply.SurveyedRange{{Place: at(6), First: addr("10.0.0.99"), Last: addr("10.0.0.120")}}}, []string{"overlaps the range 10.0.0.99-10.0.0.120 that dhcpd gives to anybody (/etc/x line 6)"}},
		"a foreign host": {apply.Survey{Subnets: subnets("10.0.0.0/24"), Hosts: []apply.SurveyedHost{{Place: at(8), Name: "tape", Addresses: addrs("10.0.0.60")}}}, []string{"holds 10.0.0.60 of the foreign host tape (/etc/x line 8)"}},
		"many": {apply.Survey{Subnets: subnets("10.0.0.0/24"), Hosts: []apply.SurveyedHost{{Addresses: slices.Collect(func(yield func(netip.Addr) bool) {
			for a := addr("10.0.0.10"); a != addr("10.0.0.40") && yield(a); a = a.Next() {
			}
		})}}}, append(slices.Repeat([]string{"holds"}, 20), "and 10 foreign hosts more")},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			found := scan.Ranges(estate(), "dhcp-a", "one", c.survey, map[netip.Addr]bool{addr("10.0.0.50"): true})
			if len(found) != len(c.want) {
				t.Fatalf("found %v", found)
			}
			for i, f := range found {
				if f.Field != "pools.pool-a.private.ranges[0]" || !strings.Contains(f.Problem, c.want[i]) || f.Fix == "" {
					t.Errorf("%+v, want %q", f, c.want[i])
				}
			}
		})
	}
}
