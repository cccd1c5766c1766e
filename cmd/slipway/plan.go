package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"

	"slipway/internal/api"
)

type planCmd struct {
	Group string `help:"This group alone, and no pool."`
}

func (c planCmd) Run(e *env) error {
	path := "/v1/plan"
	if c.Group != "" {
		path += "?group=" + url.QueryEscape(c.Group)
	}
	var p api.Plan
	if err := e.get(path, &p); err != nil {
		return err
	}
	if e.Output == "json" {
		if err := e.print(p, nil); err != nil {
			return err
		}
	} else {
		printPlan(e.stdout, p)
	}
	if n := unreadOf(p); n > 0 {
		return hinted{error: fmt.Errorf("%s could not be read: the plan does not know what is there", count(n, "place")), next: "slipway check", code: exitUnread}
	}
	return nil
}

// unreadOf counts the members and pools of which a plan knows nothing.
func unreadOf(p api.Plan) (n int) {
	for _, g := range p.Groups {
		for _, m := range g.Members {
			if m.Problem != "" {
				n++
			}
		}
	}
	for _, f := range p.Pools {
		if f.Unread() {
			n++
		}
	}
	return n
}

func printPlan(w io.Writer, p api.Plan) {
	say := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	for _, g := range p.Groups {
		say("group %s (%s): generation %d, %d machines", clean(g.Group), clean(g.Unit), g.Generation, g.Machines)
		if g.Problem != "" {
			say("  %s", clean(g.Problem))
		}
		for _, machine := range sortedKeys(g.LeftOut) {
			say("  left out: machine %s: %s", clean(machine), clean(g.LeftOut[machine]))
		}
		if len(g.Cut) > 0 {
			say("  cuts connections of %v", g.Cut)
		}
		for _, m := range g.Members {
			printMember(say, m)
		}
	}
	for _, f := range p.Pools {
		if f.Unread() {
			say("NOT READ: pool %s: %s", clean(f.Pool), clean(f.Problem))
			continue
		}
		say("pool %s: %s %s (machine %s)", clean(f.Pool), dash(f.Object), clean(f.Problem), dash(f.Machine))
	}
	if p.Empty {
		say("nothing would change")
	}
	say("plan: %s", clean(p.Hash))
	if slices.ContainsFunc(p.Groups, func(g api.GroupPlan) bool { return !g.Empty }) {
		say("nothing was done; to do it: slipway apply --plan %s --yes --reason WHY", clean(p.Hash))
	}
}

func printMember(say func(string, ...any), m api.MemberPlan) {
	switch {
	case m.Problem != "":
		say("  member %s: could not be read and is left as it is: %s", clean(m.Name), clean(m.Problem))
	case m.Added+m.Removed+m.Changed == 0 && len(m.Changes) == 0:
		say("  member %s: carries generation %d; its files stay", clean(m.Name), m.Generation)
	default:
		say("  member %s: carries generation %d; machines: %d added, %d removed, %d changed", clean(m.Name), m.Generation, m.Added, m.Removed, m.Changed)
	}
	for _, line := range m.Notes {
		say("    %s", clean(line))
	}
	if m.Fault != "" {
		say("    what runs is not what the files say: %s", clean(m.Fault))
	}
	if m.Blocked != "" {
		say("    blocked: %s", clean(m.Blocked))
	}
	for _, c := range m.Changes {
		whose := "no machine's lines"
		if c.Machine != "" {
			whose = "machine " + clean(c.Machine)
		}
		if c.Name != "" {
			whose += " (" + clean(c.Name) + ")"
		}
		say("    %s: %s %s", clean(c.File), whose, clean(c.Kind))
		for _, line := range c.Lines {
			say("      %s", clean(line))
		}
	}
	if m.Omitted > 0 {
		say("    and %d lines more", m.Omitted)
	}
}

type applyCmd struct {
	Plan     string `required:"" placeholder:"HASH" help:"Hash that slipway plan printed, of all groups or of one."`
	actFlags `embed:""`
}

func (c applyCmd) Run(e *env) error {
	var applied api.AppliedPlan
	if err := e.post("/v1/plan/apply", api.ApplyPlan{Hash: c.Plan, Yes: c.Yes, Reason: c.Reason}, &applied); err != nil {
		return err
	}
	var failed error
	for _, g := range applied.Groups {
		for _, m := range g.Members {
			if m.Problem != "" && failed == nil {
				failed = hinted{error: errors.New("not every member carries it"), next: "slipway group", code: exitFailure}
			}
		}
	}
	if e.Output == "json" {
		return errors.Join(e.print(applied, nil), failed)
	}
	for _, line := range applied.Plan {
		fmt.Fprintln(e.stdout, "will: ", clean(line))
	}
	if !applied.Done {
		fmt.Fprintf(e.stdout, "nothing was done; to do it: slipway apply --plan %s --yes --reason WHY\n", clean(c.Plan))
		return nil
	}
	for _, g := range applied.Groups {
		for _, m := range g.Members {
			state := "ok"
			if m.Problem != "" {
				state = m.Problem
			}
			fmt.Fprintf(e.stdout, "done:  group %s, member %s carries generation %d: %s\n", clean(g.Group), clean(m.Name), m.Applied, clean(state))
		}
	}
	if len(applied.Groups) == 0 {
		fmt.Fprintln(e.stdout, "done:  nothing had to change")
	}
	return failed
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
