package iptables

import (
	"strings"
	"testing"
)

// FuzzFault: whatever iptables-restore says becomes a fault of our file with words and no line below 0.
func FuzzFault(f *testing.F) {
	f.Add("iptables-restore v1.8.9 (nf_tables): line 7: RULE_APPEND failed (No such file or directory): rule in chain SLIPWAY-FORWARD\n")
	f.Add("Bad argument `x'\nError occurred at line: 15\nTry `iptables-restore -h' or 'iptables-restore --help' for more information.\n")
	f.Add("line 99999999999999999999 failed")
	f.Fuzz(func(t *testing.T, stderr string) {
		if fault := faultOf(stderr); fault.File != RulesFile || fault.Line < 0 || fault.Message == "" {
			t.Errorf("%+v", fault)
		}
	})
}

// FuzzCanonical: a rule's canonical form is its own canonical form, so that what is read back is compared with what was written.
func FuzzCanonical(f *testing.F) {
	for _, body := range []string{
		"-s 203.0.113.9 -p tcp -m tcp --dport 22 -j ACCEPT", "-d 10.0.0.0/24 ! -i eth0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-p icmp -m icmp --icmp-type echo-request -j ACCEPT", "-d 203.0.113.9/32 -j DNAT --to-destination 10.0.0.9", "-p tcp -m multiport --dports 80,443 -j DROP", "! -s", "",
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		canon, target, err := canonical(body)
		if err != nil {
			return
		}
		again, target2, err := canonical(canon)
		if err != nil || again != canon || target2 != target {
			t.Errorf("%q → %q (%s) → %q (%s), %v", body, canon, target, again, target2, err)
		}
		if strings.ContainsAny(canon, "\n\"'`$;") {
			t.Errorf("%q has what no rule may have", canon)
		}
		firstRule(body)
	})
}
