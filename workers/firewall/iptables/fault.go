package iptables

import (
	"regexp"
	"strconv"
	"strings"

	"slipway/workers/appliance/agent"
)

// The ways in which both backends of iptables 1.8 name a line: "Error occurred at line: 15" after the reason, "iptables-restore: line 7
// failed" when the kernel refused, and "iptables-restore v1.8.9 (nf_tables): line 7: RULE_APPEND failed".
var faultLine = regexp.MustCompile(`\bline:? (\d+)`)

// faultOf reads the refusal of iptables-restore --test.
func faultOf(stderr string) *agent.Fault {
	fault := &agent.Fault{File: RulesFile}
	if found := faultLine.FindStringSubmatch(stderr); found != nil {
		fault.Line, _ = strconv.Atoi(found[1]) // too many digits leave 0, which is "no line"
	}
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "Try `") || strings.HasPrefix(line, "Error occurred at line") {
			continue
		}
		fault.Message = line
		break
	}
	if fault.Message == "" {
		fault.Message = "iptables-restore refused it without a reason"
	}
	return fault
}
