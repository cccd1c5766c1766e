package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
)

// Exit codes of an audit, besides those of every verb.
const (
	exitFindings = 7 // everything was read, and something is not as it should be
	exitUnread   = 8 // something could not be read: what it has is not known
)

type auditSiteCmd struct {
	Kind   []string `help:"Only these: leak, stranger, drift, missing, ledger, newer."`
	By     string   `help:"What the table begins with: kind, owner, machine, tenant, order or place." enum:"kind,owner,machine,tenant,order,place" default:"kind"`
	Repair bool     `help:"Put right what is safe; without --yes say what that would be."`
	Yes    bool     `help:"With --repair: do it."`
	Reason string   `help:"Why; it goes into the record."`
}

func (c auditSiteCmd) Run(e *env) error {
	for _, kind := range c.Kind {
		if !slices.Contains(api.FindingKinds(), kind) {
			return hinted{error: fmt.Errorf("%q is no kind of finding: there are %s", kind, strings.Join(api.FindingKinds(), ", ")), next: "slipway audit --help", code: exitUsage}
		}
	}
	if c.Repair {
		return c.repair(e)
	}
	var a api.Audit
	if err := e.get("/v1/audit", &a); err != nil {
		return err
	}
	if err := c.show(e, a, a); err != nil {
		return err
	}
	return auditVerdict(a)
}

// auditVerdict is an audit as an exit code: unread goes before found.
func auditVerdict(a api.Audit) error {
	switch {
	case len(a.Unread) > 0:
		return hinted{error: fmt.Errorf("%s could not be read, %s in the others", count(len(a.Unread), "place"), count(len(a.Findings), "finding")), next: "slipway check", code: exitUnread}
	case len(a.Findings) > 0:
		return hinted{error: errors.New(count(len(a.Findings), "finding")), next: a.Findings[0].Repair, code: exitFindings}
	}
	return nil
}

// show prints an audit; value is what JSON shows.
func (c auditSiteCmd) show(e *env, a api.Audit, value any) error {
	if e.Output == "json" {
		return e.print(value, nil)
	}
	for _, u := range a.Unread {
		fmt.Fprintf(e.stdout, "NOT READ: %s: %s\n", clean(u.Place), clean(u.Problem))
	}
	shown := slices.DeleteFunc(slices.Clone(a.Findings), func(f api.Finding) bool { return len(c.Kind) > 0 && !slices.Contains(c.Kind, f.Kind) })
	slices.SortStableFunc(shown, func(x, y api.Finding) int {
		if c.By == "kind" {
			return 0 // as they come
		}
		return strings.Compare(c.begins(x), c.begins(y))
	})
	if len(shown) > 0 {
		if err := e.print(nil, func(t table.Writer) { c.table(t, shown) }); err != nil {
			return err
		}
		fmt.Fprintln(e.stdout)
		for i, f := range shown {
			mark := ""
			if f.Safe {
				mark = "  [--repair does it]"
			}
			fmt.Fprintf(e.stdout, "%3d: %s%s\n", i+1, clean(f.Repair), mark)
		}
		fmt.Fprintln(e.stdout)
	}
	if a.Newer {
		fmt.Fprintln(e.stdout, "The database may be an older copy: there are things of slipway's that it does not know. Nothing is placed or removed until they are adopted or taken away.")
	}
	if err := e.print(nil, func(t table.Writer) { ledgerTable(t, a.Ledger) }); err != nil {
		return err
	}
	if a.Clean() {
		fmt.Fprintln(e.stdout, "clean: everything was read and nothing was found")
	}
	return nil
}

func (c auditSiteCmd) begins(f api.Finding) string {
	switch c.By {
	case "machine":
		return dash(f.Machine)
	case "tenant":
		return dash(f.Tenant)
	case "order":
		return dash(f.Order)
	case "place":
		return f.Place
	case "owner":
		return f.Owner()
	default:
		return f.Kind
	}
}

// table numbers the findings: their commands follow below, whole and fit to be copied.
func (c auditSiteCmd) table(t table.Writer, findings []api.Finding) {
	header, of := table.Row{c.By, "#"}, []func(api.Finding) string{}
	column := func(name, by string, cell func(api.Finding) string) {
		if c.By != by { // what the table begins with is not there twice
			header, of = append(header, name), append(of, cell)
		}
	}
	column("kind", "kind", func(f api.Finding) string { return f.Kind })
	column("owner", "owner", api.Finding.Owner)
	column("where", "place", func(f api.Finding) string { return f.Place })
	column("what", "", func(f api.Finding) string { return clip(f.Object, 60) })
	column("problem", "", func(f api.Finding) string { return clip(f.Problem, 120) })
	t.AppendHeader(header)
	for i, f := range findings {
		row := table.Row{c.begins(f), i + 1}
		for _, cell := range of {
			row = append(row, cell(f))
		}
		t.AppendRow(row)
	}
}

func ledgerTable(t table.Writer, accounts []api.Account) {
	t.AppendHeader(table.Row{"resource", "of", "total", "free", "promised", "held", "quarantined", "foreign", "outside", ""})
	for _, a := range accounts {
		state := "balances"
		if !a.Balances {
			state = "DOES NOT BALANCE"
		}
		n := func(v int64) string {
			if a.Resource == "storage" {
				return strconv.FormatInt(v>>30, 10) + " GiB"
			}
			return strconv.FormatInt(v, 10)
		}
		what := strings.TrimSpace(a.Role + " " + a.Resource)
		if a.Resource == "memory" {
			what += " (MiB)"
		}
		t.AppendRow(table.Row{what, dash(a.Place), n(a.Total), n(a.Free), n(a.Promised), n(a.Held), n(a.Quarantined), n(a.Foreign), n(a.Outside), state})
	}
}

func (c auditSiteCmd) repair(e *env) error {
	var r api.Repaired
	if err := e.post("/v1/audit/repair", api.Repair{Yes: c.Yes, Reason: c.Reason}, &r); err != nil {
		return err
	}
	if e.Output == "json" {
		if err := e.print(r, nil); err != nil {
			return err
		}
	} else {
		for _, u := range r.Audit.Unread {
			fmt.Fprintf(e.stdout, "NOT READ: %s: %s\n", clean(u.Place), clean(u.Problem))
		}
		for _, line := range r.Plan {
			fmt.Fprintln(e.stdout, "will: ", clean(line))
		}
		for _, line := range r.Did {
			fmt.Fprintln(e.stdout, "done: ", clean(line))
		}
		for _, line := range r.Failed {
			fmt.Fprintln(e.stdout, "FAILED:", clean(line))
		}
		left := 0
		for _, f := range r.Audit.Findings {
			if !f.Safe {
				left++
			}
		}
		switch {
		case len(r.Plan) == 0:
			fmt.Fprintf(e.stdout, "nothing is safe to be repaired; left to an operator: %s\n", count(left, "finding"))
		case !r.Done:
			fmt.Fprintf(e.stdout, "nothing was done; to do it: slipway audit --repair --yes --reason WHY (left to an operator: %s)\n", count(left, "finding"))
		default:
			fmt.Fprintf(e.stdout, "left to an operator: %s; slipway audit\n", count(left, "finding"))
		}
	}
	if len(r.Failed) > 0 {
		return hinted{error: errors.New("not everything could be repaired"), next: "slipway audit", code: exitFailure}
	}
	if len(r.Audit.Unread) > 0 {
		return hinted{error: fmt.Errorf("%s could not be read", count(len(r.Audit.Unread), "place")), next: "slipway check", code: exitUnread}
	}
	return nil
}
