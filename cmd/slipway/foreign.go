package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// scanFlags are those of a scan.
type scanFlags struct {
	Yes    bool   `help:"Reserve what is new as foreign." aliases:"reserve"`
	Reason string `help:"Why; it goes into the record."`
}

type poolScanCmd struct {
	Pool      string `arg:"" help:"Pool."`
	scanFlags `embed:""`
}

func (c poolScanCmd) Run(e *env) error {
	return e.scan("/v1/pools/"+url.PathEscape(c.Pool)+"/scan", "slipway pool scan "+c.Pool, c.scanFlags)
}

type applianceCmd struct {
	Scan applianceScanCmd `cmd:"" help:"Show what appliances have that is not slipway's, and reserve it as foreign."`
}

type applianceScanCmd struct {
	Name      string `arg:"" help:"A group, or GROUP/MEMBER."`
	scanFlags `embed:""`
}

func (c applianceScanCmd) Run(e *env) error {
	return e.scan("/v1/appliances/"+url.PathEscape(c.Name), "slipway appliance scan "+c.Name, c.scanFlags)
}

// scan asks for a scan and prints its answer. A conflict is a failure: somebody has to look.
func (e *env) scan(path, command string, flags scanFlags) error {
	var scanned api.Scanned
	if err := e.post(path, api.Scan{Yes: flags.Yes, Reason: flags.Reason}, &scanned); err != nil {
		return err
	}
	if err := e.printScan(scanned, command); err != nil {
		return err
	}
	for _, s := range scanned.Sources {
		if s.Problem != "" {
			return hinted{error: fmt.Errorf("%s could not be read: %s", s.Source, s.Problem), next: "slipway check", code: exitFailure}
		}
		for _, f := range s.Found {
			if f.State == orchestrator.SightingConflict {
				return hinted{error: fmt.Errorf("%d of what was found is a machine's of ours at the same time", scanned.Conflicts()), next: f.Next, code: exitFailure}
			}
		}
	}
	return nil
}

func (e *env) printScan(scanned api.Scanned, command string) error {
	if e.Output == "json" {
		return e.print(scanned, nil)
	}
	fresh, read := 0, 0
	for _, s := range scanned.Sources {
		if s.Problem != "" {
			continue
		}
		read++
		if err := e.print(nil, func(t table.Writer) {
			t.AppendHeader(table.Row{"source", "what", "in", "value", "whose", "where", "state"})
			for _, f := range s.Found {
				if f.State == orchestrator.SightingNew {
					fresh++
				}
			}
			for _, f := range folded(s.Found) {
				t.AppendRow(table.Row{s.Source, what(f), f.Scope, f.Value, whose(f), clip(f.Place, 60), stateOf(f)})
			}
			for _, f := range folded(s.Gone) {
				t.AppendRow(table.Row{s.Source, what(f), f.Scope, f.Value, whose(f), clip(f.Place, 60), "gone; reserved until: slipway foreign free " + freeing(f.Kind, f.Scope, f.Value) + " --yes"})
			}
		}); err != nil {
			return err
		}
		if s.Elsewhere > 0 {
			fmt.Fprintf(e.stdout, "%s: %d addresses are outside of every pool's networks and need no reservation\n", clean(s.Source), s.Elsewhere)
		}
		for _, note := range s.Notes {
			fmt.Fprintf(e.stdout, "%s: %s\n", clean(s.Source), clean(note))
		}
	}
	switch {
	case read == 0: // the error says it
	case scanned.Done:
		fmt.Fprintf(e.stdout, "done:  %d reserved as foreign\n", fresh)
	case fresh == 0:
		fmt.Fprintln(e.stdout, "nothing is new")
	default:
		fmt.Fprintf(e.stdout, "nothing was done; to reserve %d as foreign: %s --yes --reason WHY\n", fresh, clean(command))
	}
	return nil
}

// folded makes one row of addresses that follow each other and are the same thing's: a range of dhcpd's is one line to read.
func folded(found []api.Sighted) []api.Sighted {
	var rows []api.Sighted
	var last netip.Addr // of the newest row
	for _, f := range found {
		a, err := netip.ParseAddr(f.Value)
		if err != nil || len(rows) == 0 || !last.IsValid() || last.Next() != a {
			rows, last = append(rows, f), a
			continue
		}
		row, same := &rows[len(rows)-1], rows[len(rows)-1]
		same.Value = f.Value
		if same != f {
			rows, last = append(rows, f), a
			continue
		}
		first, _, _ := strings.Cut(row.Value, "-")
		row.Value, last = first+"-"+f.Value, a
	}
	return rows
}

// what is "private address" or "console port".
func what(f api.Sighted) string {
	switch f.Kind {
	case orchestrator.SightedAddress:
		return strings.TrimSpace(f.Role + " address")
	case orchestrator.SightedPort:
		return "console port"
	default:
		return "MAC"
	}
}

func whose(f api.Sighted) string {
	if f.Name == "" {
		return clip(f.Object, 60)
	}
	return clip(fmt.Sprintf("%s (%s)", f.Object, f.Name), 80)
}

func stateOf(f api.Sighted) string {
	switch {
	case f.State == orchestrator.SightingConflict:
		return fmt.Sprintf("conflict: machine %s (%s) has it; %s", f.Machine, f.Holder, f.Next)
	case f.State == orchestrator.SightingOwn:
		return fmt.Sprintf("of machine %s (%s), from before its import", f.Machine, f.Holder)
	case f.State == orchestrator.SightingNew && f.Machine != "":
		return "new; it rests after machine " + f.Machine
	default:
		return f.State
	}
}

// freeing is how `slipway foreign free` names a value.
func freeing(kind, scope, value string) string {
	if kind == orchestrator.SightedPort {
		return scope + ":" + value
	}
	return value
}

type foreignCmd struct {
	List foreignListCmd `cmd:"" default:"withargs" help:"Addresses, MACs and console ports that are somebody else's, and who was seen with them."`
	Free foreignFreeCmd `cmd:"" help:"Let one be given out again."`
}

type foreignListCmd struct{}

func (foreignListCmd) Run(e *env) error {
	var values []api.Foreign
	if err := e.get("/v1/foreign", &values); err != nil {
		return err
	}
	return e.print(values, func(t table.Writer) {
		t.AppendHeader(table.Row{"what", "in", "value", "source", "whose", "where"})
		for _, v := range values {
			if len(v.Seen) == 0 {
				t.AppendRow(table.Row{what(api.Sighted{Kind: v.Kind}), v.Scope, v.Value, "-", clip(dash(v.Note), 60), "-"})
			}
			for _, s := range v.Seen {
				t.AppendRow(table.Row{what(s), v.Scope, v.Value, s.Source, whose(s), clip(s.Place, 60)})
			}
		}
	})
}

type foreignFreeCmd struct {
	What     string `arg:"" help:"An address, FIRST-LAST, a MAC, or GROUP:PORT."`
	actFlags `embed:""`
}

func (c foreignFreeCmd) Run(e *env) error {
	asked, err := freeOf(c.What)
	if err != nil {
		return err
	}
	if !c.Yes {
		return e.only("let %s be given out again; a scan that still finds it there reserves it anew", c.What)
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	defer client.Close()
	for _, ask := range asked {
		ask.Reason = c.Reason
		if err := client.Delete(e.ctx, "/v1/foreign", ask, nil); err != nil {
			return err
		}
	}
	return e.did(nil, "let %s be given out again", c.What)
}

// maxFreed bounds a range of addresses.
const maxFreed = 4096

// freeOf reads what an operator typed.
func freeOf(text string) ([]api.FreeForeign, error) {
	wrong := func(format string, args ...any) ([]api.FreeForeign, error) {
		return nil, hinted{error: fmt.Errorf(format, args...), next: "slipway foreign", code: exitUsage}
	}
	first, last, two := strings.Cut(text, "-")
	if a, err := netip.ParseAddr(first); err == nil {
		end := a
		if two {
			if end, err = netip.ParseAddr(last); err != nil || end.BitLen() != a.BitLen() {
				return wrong("%q is no range of addresses", text)
			}
		}
		var all []api.FreeForeign
		for ; a.IsValid() && !end.Less(a); a = a.Next() {
			if len(all) == maxFreed {
				return wrong("%q has more than %d addresses", text, maxFreed)
			}
			all = append(all, api.FreeForeign{Kind: orchestrator.SightedAddress, Value: a.String()})
		}
		if len(all) == 0 {
			return wrong("%q is no range of addresses", text)
		}
		return all, nil
	}
	if mac, err := net.ParseMAC(text); err == nil {
		return []api.FreeForeign{{Kind: orchestrator.SightedMAC, Value: mac.String()}}, nil
	}
	group, port, ok := strings.Cut(text, ":")
	if n, err := strconv.ParseUint(port, 10, 16); ok && err == nil {
		return []api.FreeForeign{{Kind: orchestrator.SightedPort, Scope: group, Value: strconv.FormatUint(n, 10)}}, nil
	}
	return wrong("%q is no address, no MAC and no GROUP:PORT", text)
}
