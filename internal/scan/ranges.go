package scan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// Ranges holds the private ranges of the pools that use a DHCP group against what a member's dhcpd declares. reserved are the addresses that
// the ledger keeps from being given out, and those of our machines: a host on one of them is no surprise. Each finding names the key of the
// configuration, the file and line, and what helps.
func Ranges(estate *orchestrator.Estate, group, member string, survey apply.Survey, reserved map[netip.Addr]bool) orchestrator.FieldErrors {
	var found orchestrator.FieldErrors
	for _, p := range estate.Pools {
		if !slices.Contains(p.DHCP, group) {
			continue
		}
		for i, r := range p.Private.Ranges {
			c := rangeCheck{field: fmt.Sprintf("pools.%s.private.ranges[%d]", p.ID, i), r: r, pool: p, survey: survey, scan: "slipway appliance scan " + group + " --yes"}
			c.subnets()
			c.dynamic()
			c.hosts(reserved)
			found = append(found, c.found...)
		}
	}
	return found
}

type rangeCheck struct {
	field  string
	r      orchestrator.AddressRange
	pool   orchestrator.Pool
	survey apply.Survey
	scan   string
	found  orchestrator.FieldErrors
}

func (c *rangeCheck) say(fix, format string, args ...any) {
	c.found = append(c.found, orchestrator.FieldError{Field: c.field, Problem: fmt.Sprintf(format, args...), Fix: fix})
}

// subnets: dhcpd answers for a fixed address in a subnet that it declares, and says nothing to the others.
func (c *rangeCheck) subnets() {
	var nearest []string
	for a := c.r.First; a.IsValid() && c.r.Contains(a); {
		i := slices.IndexFunc(c.survey.Subnets, func(s apply.SurveyedSubnet) bool { return s.Prefix.Contains(a) })
		if i < 0 {
			for _, s := range c.survey.Subnets {
				if len(nearest) < 4 {
					nearest = append(nearest, fmt.Sprintf("%s (%s)", s.Prefix, s.Place))
				}
			}
			declared := "declares none"
			if len(nearest) > 0 {
				declared = "declares " + strings.Join(nearest, ", ")
			}
			c.say("declare subnet "+c.pool.Private.Prefix.String()+" in dhcpd's main file, or correct the range",
				"%s of %s is in no subnet of dhcpd, which %s", a, c.r, declared)
			return
		}
		a = lastOf(c.survey.Subnets[i].Prefix).Next()
	}
}

// dynamic: what dhcpd gives to anybody who asks must not be a machine's.
func (c *rangeCheck) dynamic() {
	for _, d := range c.survey.Ranges {
		if !c.r.Last.Less(d.First) && !d.Last.Less(c.r.First) {
			c.say(fmt.Sprintf("take it out of dhcpd's range or out of this one, or reserve it: %s", c.scan),
				"%s overlaps the range %s-%s that dhcpd gives to anybody (%s)", c.r, d.First, d.Last, d.Place)
		}
	}
}

// maxHostsTold bounds the strangers that are named one by one.
const maxHostsTold = 20

func (c *rangeCheck) hosts(reserved map[netip.Addr]bool) {
	told := 0
	for _, h := range c.survey.Hosts {
		for _, a := range h.Addresses {
			if !c.r.Contains(a) || !c.pool.Private.Gives(a) || reserved[a] {
				continue
			}
			if told++; told <= maxHostsTold {
				c.say("reserve it: "+c.scan, "%s holds %s of the foreign host %s (%s), and it might be given out", c.r, a, h.Name, h.Place)
			}
		}
	}
	if told > maxHostsTold {
		c.say("reserve them: "+c.scan, "and %d foreign hosts more", told-maxHostsTold)
	}
}
