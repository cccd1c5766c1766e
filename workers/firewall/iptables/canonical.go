package iptables

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// options are what a rule of ours may say, and how many words each takes. It is a list of what is allowed because a rule line of
// iptables-restore may hold any option of the command, --modprobe=PROGRAM among them.
var options = map[string]int{
	"-s": 1, "-d": 1, "-i": 1, "-o": 1, "-p": 1, "-m": 1, "-j": 1, "-g": 1,
	"--dport": 1, "--sport": 1, "--dports": 1, "--sports": 1, "--tcp-flags": 2, "--syn": 0, "--icmp-type": 1,
	"--ctstate": 1, "--comment": 1, "--src-range": 1, "--dst-range": 1, "--limit": 1, "--limit-burst": 1,
	"--to-destination": 1, "--to-source": 1, "--reject-with": 1, "--log-prefix": 1, "--log-level": 1,
}

var (
	matches = []string{"comment", "conntrack", "icmp", "iprange", "limit", "multiport", "tcp", "udp"}
	targets = []string{"ACCEPT", "DROP", "REJECT", "RETURN", "LOG", "DNAT", "SNAT"}
	word    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:/_+-]*(,[A-Za-z0-9][A-Za-z0-9.:/_+-]*)*$`) // what iptables-save never quotes
)

// canonical gives a rule's body a form that is the same however the rule was written and whichever backend prints it: options sorted,
// /32 written out, names of ICMP types as numbers, the match that a protocol brings along left out. target is where -j or -g leads.
func canonical(body string) (canon, target string, err error) {
	var parts []string
	protocol := ""
	fields := strings.Split(body, " ")
	for i := 0; i < len(fields); {
		negated := ""
		if fields[i] == "!" && i+1 < len(fields) {
			negated = "! "
			i++
		}
		option := fields[i]
		count, known := options[option]
		if !known {
			return "", "", fmt.Errorf("option %.40q is none of those that a rule may have", option)
		}
		if i+1+count > len(fields) {
			return "", "", fmt.Errorf("option %s lacks its value", option)
		}
		values := slices.Clone(fields[i+1 : i+1+count])
		for _, v := range values {
			if !word.MatchString(v) {
				return "", "", fmt.Errorf("value %.80q of %s: letters, digits and .,:/_+- only", v, option)
			}
		}
		i += 1 + count
		switch option {
		case "-s", "-d":
			if values[0], err = prefixText(values[0]); err != nil {
				return "", "", fmt.Errorf("option %s: %w", option, err)
			}
			if values[0] == "0.0.0.0/0" && negated == "" {
				continue // iptables-save leaves it out
			}
		case "-p":
			protocol = values[0]
		case "-m":
			if !slices.Contains(matches, values[0]) {
				return "", "", fmt.Errorf("match %.40q is none of %v", values[0], matches)
			}
		case "-j", "-g":
			target = values[0]
			if !slices.Contains(targets, target) && !chainName.MatchString(target) {
				return "", "", fmt.Errorf("target %.40q is neither a chain of ours nor one of %v", target, targets)
			}
		case "--syn":
			option, values = "--tcp-flags", []string{"FIN,SYN,RST,ACK", "SYN"}
		case "--ctstate":
			values[0] = sortedList(values[0])
		case "--icmp-type":
			values[0] = icmpType(values[0])
		case "--to-source", "--to-destination":
			if a, err := netip.ParseAddr(values[0]); err != nil || !a.Is4() {
				return "", "", fmt.Errorf("option %s: %q is no IPv4 address", option, values[0])
			}
		}
		parts = append(parts, negated+option+" "+strings.Join(values, " "))
	}
	if target == "" {
		return "", "", fmt.Errorf("rule %.80q has no -j", body)
	}
	parts = slices.DeleteFunc(parts, func(p string) bool { return protocol != "" && p == "-m "+protocol })
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), " "), target, nil
}

func prefixText(s string) (string, error) {
	if !strings.Contains(s, "/") {
		s += "/32"
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return "", fmt.Errorf("%q is no IPv4 prefix", s)
	}
	return p.Masked().String(), nil
}

func sortedList(s string) string {
	list := strings.Split(s, ",")
	slices.Sort(list)
	return strings.Join(list, ",")
}

func icmpType(s string) string {
	names := map[string]string{"echo-reply": "0", "destination-unreachable": "3", "redirect": "5", "echo-request": "8", "time-exceeded": "11"}
	if number, ok := names[s]; ok {
		return number
	}
	return s
}
