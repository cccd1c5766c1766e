package iptables

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/workers/appliance/apply"
)

func toldRules(s apply.Survey) []string {
	lines := []string{}
	for _, r := range s.Rules {
		line := fmt.Sprintf("%s %s %d %s %v", r.Table, r.Chain, r.Number, r.Target, r.Prefixes)
		for _, to := range r.To {
			line += fmt.Sprintf(" → %s-%s", to.First, to.Last)
		}
		lines = append(lines, line)
	}
	return append(lines, s.Notes...)
}

// TestSurvey writes foreign rules with the real iptables beside ours, and reads what iptables-save makes of them.
func TestSurvey(t *testing.T) {
	for _, tool := range []string{"iptables", "iptables-save", "iptables-restore"} {
		testenv.Need(t, tool)
	}
	ns := testnet.New(t).Namespace("fw")
	for _, rule := range []string{
		"-N SITE", "-A FORWARD -j SITE", "-A SITE -p udp --dport 123 -j ACCEPT", "-A SITE -s 10.0.0.5 -d 192.0.2.0/24 -j ACCEPT",
		"-A SITE ! -s 10.0.0.6 -m iprange --dst-range 10.0.0.40-10.0.0.42 -j DROP",
		"-A SITE -d 10.0.0.7 -m comment --comment say\"-s_10.0.0.99\" -j DROP",
		"-t nat -A PREROUTING -d 198.51.100.5 -j DNAT --to-destination 10.0.0.5",
		"-t nat -A PREROUTING -d 198.51.100.6 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.8:8080",
		"-t nat -A POSTROUTING -s 10.0.0.5 -j SNAT --to-source 198.51.100.5",
		"-t nat -A POSTROUTING -s 10.0.0.0/24 -j SNAT --to-source 198.51.100.60-198.51.100.63",
		"-t nat -A POSTROUTING -s 10.0.9.0/24 -j NETMAP --to 198.51.101.0/24",
		"-t nat -A PREROUTING -p tcp --dport 81 -j REDIRECT --to-ports 8081",
		"-N SLIPWAY-FORWARD", "-I FORWARD -j SLIPWAY-FORWARD", "-A SLIPWAY-FORWARD -d 10.0.0.77 -j DROP",
	} {
		ns.MustRun(append([]string{"iptables"}, strings.Fields(rule)...)...)
	}
	var s apply.Survey
	var err error
	ns.Do(func() {
		var u *Unit
		if u, err = NewUnit(UnitConfig{Rules: "/nonexistent/rules", State: "/nonexistent", RevertAfter: -1}); err == nil {
			s, err = u.Survey(t.Context())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, line := range toldRules(s) {
		got[line] = true
	}
	want := map[string]bool{
		"filter SITE 2 ACCEPT [10.0.0.5/32 192.0.2.0/24]": true, "filter SITE 3 DROP [] → 10.0.0.40-10.0.0.42": true, "filter SITE 4 DROP [10.0.0.7/32]": true,
		"nat PREROUTING 1 DNAT [198.51.100.5/32] → 10.0.0.5-10.0.0.5": true, "nat PREROUTING 2 DNAT [198.51.100.6/32] → 10.0.0.8-10.0.0.8": true,
		"nat POSTROUTING 1 SNAT [10.0.0.5/32] → 198.51.100.5-198.51.100.5": true, "nat POSTROUTING 2 SNAT [10.0.0.0/24] → 198.51.100.60-198.51.100.63": true,
		"nat POSTROUTING 3 NETMAP [10.0.9.0/24 198.51.101.0/24]": true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func FuzzSurvey(f *testing.F) {
	f.Add("*nat\n:SITE - [0:0]\n-A SITE -d 198.51.100.5/32 -j DNAT --to-destination 10.0.0.5:80\nCOMMIT\n")
	f.Add("*filter\n-A SITE -m comment --comment \"a \\\" -s 1.2.3.4\" ! -s 10.0.0.1/32 -j LOG --log-prefix \"-d \"\n")
	f.Add("-A \n*\n-A SLIPWAY-X -s 1.1.1.1\n-A X --to 9.9.9.9-1.1.1.1 --to-source 0.0.0.0/0")
	f.Add("# Table `nat' is incompatible, use 'nft' tool.\x1b[2J\n")
	f.Fuzz(func(t *testing.T, text string) {
		s := surveyRules(text)
		for _, r := range s.Rules {
			if strings.HasPrefix(r.Chain, chainPrefix) || len(r.Text) > apply.MaxText || len(r.Prefixes)+len(r.To) > 2*maxNamed || len(r.Prefixes)+len(r.To) == 0 {
				t.Errorf("%+v", r)
			}
			for _, to := range r.To {
				if to.Last.Less(to.First) || !to.First.Is4() {
					t.Errorf("%+v", r)
				}
			}
		}
		if strings.ContainsFunc(strings.Join(s.Notes, ""), func(c rune) bool { return c < ' ' }) {
			t.Errorf("notes %q", s.Notes)
		}
	})
}
