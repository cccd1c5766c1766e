package main

import (
	"fmt"
	"net/netip"
	"net/url"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
)

type poolCmd struct {
	List poolListCmd `cmd:"" default:"withargs" help:"Pools, hosts, storage and free addresses."`
	Scan poolScanCmd `cmd:"" help:"Show whose VMs, MACs and addresses a pool has that are not slipway's, and reserve them as foreign."`
}

type poolListCmd struct{}

func (poolListCmd) Run(e *env) error {
	var pools []api.Pool
	if err := e.get("/v1/pools", &pools); err != nil {
		return err
	}
	return e.print(pools, func(t table.Writer) {
		t.AppendHeader(table.Row{"pool", "what", "name", "size", "reserved", "free", "note"})
		for _, p := range pools {
			if p.Maintenance != "" {
				t.AppendRow(table.Row{p.ID, "pool", "", "", "", "", "waits: " + p.Maintenance})
			}
			t.AppendRow(table.Row{p.ID, "addresses", "private", "", "", p.PrivateFree, p.Problem})
			t.AppendRow(table.Row{p.ID, "addresses", "public", "", "", p.PublicFree, p.Strategy})
			for _, h := range p.Hosts {
				note := ""
				if !h.Enabled {
					note = "disabled"
				}
				t.AppendRow(table.Row{p.ID, "host", clip(h.Name, 30), fmt.Sprintf("%d MiB", h.MemoryMiB), h.ReservedMiB, h.MemoryMiB - h.ReservedMiB, note})
			}
			for _, s := range p.SRs {
				t.AppendRow(table.Row{p.ID, "storage", clip(s.Name, 30), fmt.Sprintf("%d GiB", s.Bytes>>30), s.ReservedBytes >> 30, (s.Bytes - s.ReservedBytes) >> 30, ""})
			}
		}
	})
}

type ipCmd struct {
	List ipListCmd `cmd:"" default:"withargs" help:"Addresses that are not free."`
	Mark ipMarkCmd `cmd:"" help:"Mark an address as somebody else's: it is never given out."`
	Free ipFreeCmd `cmd:"" help:"Take that mark away."`
}

type ipListCmd struct{}

func (ipListCmd) Run(e *env) error {
	var addresses []api.Address
	if err := e.get("/v1/addresses", &addresses); err != nil {
		return err
	}
	return e.print(addresses, func(t table.Writer) {
		t.AppendHeader(table.Row{"pool", "address", "role", "owner", "machine", "state", "until", "note"})
		for _, a := range addresses {
			until := ""
			if !a.Until.IsZero() {
				until = a.Until.Local().Format("2006-01-02 15:04")
			}
			t.AppendRow(table.Row{a.Pool, a.Address, a.Role, a.Owner, dash(a.Machine), a.State, until, clip(a.Note, 40)})
		}
	})
}

type ipMarkCmd struct {
	Pool     string     `arg:""`
	Address  netip.Addr `arg:""`
	Role     string     `help:"private or public; by the pool's prefixes when left out." enum:",private,public" default:""`
	Note     string     `help:"Whose it is."`
	actFlags `embed:""`
}

func (c ipMarkCmd) Run(e *env) error {
	err := e.post("/v1/addresses", api.Mark{Pool: c.Pool, Address: c.Address, Role: c.Role, Note: c.Note, Reason: c.Reason, DryRun: !c.Yes}, nil)
	if err == nil && !c.Yes {
		return e.only("mark %s in pool %s as foreign", c.Address, c.Pool)
	}
	return e.did(err, "mark %s in pool %s as foreign", c.Address, c.Pool)
}

type ipFreeCmd struct {
	Pool     string     `arg:""`
	Address  netip.Addr `arg:""`
	actFlags `embed:""`
}

func (c ipFreeCmd) Run(e *env) error {
	if !c.Yes {
		return e.only("let %s in pool %s be given out again", c.Address, c.Pool)
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	defer client.Close()
	err = client.Delete(e.ctx, "/v1/addresses", api.Mark{Pool: c.Pool, Address: c.Address, Reason: c.Reason}, nil)
	return e.did(err, "let %s in pool %s be given out again", c.Address, c.Pool)
}

// only prints what a verb would do.
func (e *env) only(format string, args ...any) error {
	plan := fmt.Sprintf(format, args...)
	if e.Output == "json" {
		return e.print(api.Acted{Plan: []string{plan}}, nil)
	}
	_, err := fmt.Fprintf(e.stdout, "will:  %s\nnothing was done; to do it add --yes\n", clean(plan))
	return err
}

// did says that it was done, when it was.
func (e *env) did(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	what := fmt.Sprintf(format, args...)
	if e.Output == "json" {
		return e.print(api.Acted{Plan: []string{what}, Done: true}, nil)
	}
	_, err = fmt.Fprintf(e.stdout, "done:  %s\n", clean(what))
	return err
}

type groupCmd struct {
	List          groupListCmd   `cmd:"" default:"withargs" help:"Groups and their members."`
	Resume        groupResumeCmd `cmd:"" help:"Let a halted member go on."`
	ApproveShrink groupShrinkCmd `cmd:"" help:"Let the newest generation through the shrink guard."`
}

type groupListCmd struct{}

func (groupListCmd) Run(e *env) error {
	var groups []api.Group
	if err := e.get("/v1/groups", &groups); err != nil {
		return err
	}
	return e.print(groups, func(t table.Writer) {
		t.AppendHeader(table.Row{"group", "unit", "entries", "generation", "applied", "member", "carries", "seen", "state"})
		for _, g := range groups {
			for _, m := range g.Members {
				state := "ok"
				switch {
				case g.Maintenance != "":
					state = g.Maintenance
				case m.Maintenance != "":
					state = m.Maintenance
				case m.Halted != "":
					state = "halted: " + m.Halted
				case m.Problem != "":
					state = m.Problem
				case m.Dirty:
					state = "dirty"
				}
				t.AppendRow(table.Row{g.ID, g.Unit, g.Entries, g.Generation, g.Applied, m.Name, m.Applied, ago(m.Seen), clip(state, 80)})
			}
		}
	})
}

type groupResumeCmd struct {
	Group    string `arg:""`
	Member   string `arg:""`
	actFlags `embed:""`
}

func (c groupResumeCmd) Run(e *env) error {
	if !c.Yes {
		return e.only("apply the newest generation of %s on %s again", c.Group, c.Member)
	}
	err := e.post("/v1/groups/"+url.PathEscape(c.Group)+"/members/"+url.PathEscape(c.Member)+"/resume", api.Act{Yes: c.Yes, Reason: c.Reason}, nil)
	return e.did(err, "apply the newest generation of %s on %s again", c.Group, c.Member)
}

type groupShrinkCmd struct {
	Group    string `arg:""`
	actFlags `embed:""`
}

func (c groupShrinkCmd) Run(e *env) error {
	if !c.Yes {
		return e.only("let the newest generation of %s remove as many entries as it does", c.Group)
	}
	err := e.post("/v1/groups/"+url.PathEscape(c.Group)+"/approve-shrink", api.Act{Yes: c.Yes, Reason: c.Reason}, nil)
	return e.did(err, "let the newest generation of %s remove as many entries as it does", c.Group)
}

type deadCmd struct {
	List    deadListCmd    `cmd:"" default:"withargs" help:"Refused orders, oldest first."`
	Show    deadShowCmd    `cmd:"" help:"One refused order as it came."`
	Requeue deadRequeueCmd `cmd:"" help:"Send it to the orders again."`
	Drop    deadDropCmd    `cmd:"" help:"Remove it for good."`
}

type deadListCmd struct{}

func (deadListCmd) Run(e *env) error {
	var letters []api.DeadLetter
	if err := e.get("/v1/dead", &letters); err != nil {
		return err
	}
	return e.print(letters, func(t table.Writer) {
		t.AppendHeader(table.Row{"letter", "for", "reason"})
		for _, l := range letters {
			t.AppendRow(table.Row{l.ID, ago(l.At), clip(l.Reason, 100)})
		}
	})
}

type deadShowCmd struct {
	Letter string `arg:""`
}

func (c deadShowCmd) Run(e *env) error {
	var letters []api.DeadLetter
	if err := e.get("/v1/dead", &letters); err != nil {
		return err
	}
	for _, l := range letters {
		if l.ID != c.Letter {
			continue
		}
		if e.Output == "json" {
			return e.print(l, nil)
		}
		_, err := fmt.Fprintf(e.stdout, "letter %s\nreason %s\nbody   %q\n", l.ID, clean(l.Reason), l.Body)
		return err
	}
	return hinted{error: fmt.Errorf("there is no letter %q", c.Letter), next: "slipway dead", code: exitNotFound}
}

type deadRequeueCmd struct {
	Letter string `arg:""`
	Yes    bool   `help:"Taken as by every verb that changes something, and not asked for: what fails again comes back."`
}

func (c deadRequeueCmd) Run(e *env) error {
	return e.did(e.post("/v1/dead/"+url.PathEscape(c.Letter)+"/requeue", nil, nil), "send letter %s to the orders again", c.Letter)
}

type deadDropCmd struct {
	Letter string `arg:""`
	Yes    bool   `help:"Do it."`
}

func (c deadDropCmd) Run(e *env) error {
	if !c.Yes {
		return e.only("remove letter %s for good", c.Letter)
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	defer client.Close()
	return e.did(client.Delete(e.ctx, "/v1/dead/"+url.PathEscape(c.Letter), nil, nil), "remove letter %s for good", c.Letter)
}
