package main

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
	"slipway/internal/config"
)

// client reaches serve: by --socket, else by the configuration's.
func (e *env) client() (*api.Client, error) {
	socket := e.Socket
	if socket == "" {
		cfg, err := config.Load(e.Config)
		if err != nil {
			return nil, hinted{error: fmt.Errorf("the socket of serve is not known: configuration %w", err), next: "name it with --socket, or the file with --config", code: exitUsage}
		}
		socket = cfg.Socket
	}
	return api.NewClient(socket), nil
}

// get asks serve one question.
func (e *env) get(path string, answer any) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Get(e.ctx, path, answer)
}

// post tells serve to do one thing.
func (e *env) post(path string, body, answer any) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Post(e.ctx, path, body, answer)
}

type orderCmd struct {
	File string `arg:"" help:"File with the order, - for standard input."`
	Wait bool   `help:"Follow it until the machine is ready or the run parks."`
}

func (c orderCmd) Run(e *env) error {
	in := e.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return hinted{error: err, next: "slipway order FILE; examples are in docs/examples", code: exitUsage}
		}
		defer f.Close()
		in = f
	}
	body, err := io.ReadAll(io.LimitReader(in, 4<<20))
	if err != nil {
		return err
	}
	var accepted api.Accepted
	if err := e.post("/v1/orders", body, &accepted); err != nil {
		return err
	}
	if err := e.printAccepted(accepted); err != nil || !c.Wait {
		return err
	}
	return watchCmd{Machine: []string{accepted.Machine}, Patience: patience}.Run(e)
}

func (e *env) printAccepted(accepted api.Accepted) error {
	return e.print(accepted, func(t table.Writer) {
		t.AppendHeader(table.Row{"machine", "run", "repeated"})
		t.AppendRow(table.Row{accepted.Machine, accepted.Run, accepted.Repeated})
	})
}

type listCmd struct {
	Status  []string `help:"Only these: ready, running, waiting, parked, canceling, done, canceled."`
	Process string   `help:"install, uninstall, reconfigure, suspend, unsuspend or import."`
	Pool    string   `help:"Only this pool."`
	Tenant  string   `help:"Only this tenant."`
	Limit   int      `help:"At most so many, the newest; 1 to 100000." default:"1000"`
}

func (c listCmd) Run(e *env) error {
	if c.Limit < 1 || c.Limit > api.MaxRuns {
		return hinted{error: fmt.Errorf("--limit is 1 to %d", api.MaxRuns), next: "slipway list --help", code: exitUsage}
	}
	q := url.Values{"status": c.Status, "process": {c.Process}, "pool": {c.Pool}, "tenant": {c.Tenant}, "limit": {strconv.Itoa(c.Limit + 1)}}
	var runs []api.Run
	if err := e.get("/v1/runs?"+q.Encode(), &runs); err != nil {
		return err
	}
	switch {
	case len(runs) > c.Limit:
		runs = runs[:c.Limit]
		fmt.Fprintf(e.stderr, "slipway: there are more than these %d: say --limit\n", c.Limit)
	case len(runs) == 0 && c.Tenant != "":
		fmt.Fprintf(e.stderr, "slipway: nothing of tenant %q was found\n", clean(c.Tenant))
	}
	return e.print(runs, func(t table.Writer) { runTable(t, runs, columns(e.stdout)) })
}

// runTable lists runs; width is the terminal's, 0 without one. The reason comes last and takes what room the terminal has left.
func runTable(t table.Writer, runs []api.Run, width int) {
	header := table.Row{"machine", "tenant", "name", "process", "state", "status", "pool", "private", "public", "for", "reason"}
	rows, widths := make([]table.Row, len(runs)), make([]int, len(header)-1)
	for i, r := range runs {
		rows[i] = table.Row{r.Machine, r.Tenant, r.Name, r.Process, r.State, r.Status, dash(r.Pool), dash(r.Private), dash(r.Public), ago(r.Updated)}
	}
	room := width
	for i := range widths {
		widths[i] = len(fmt.Sprint(header[i]))
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(fmt.Sprint(row[i])))
		}
		room -= widths[i] + 2 // the table's own blanks
	}
	const least, most = 60, 300
	if width == 0 {
		room = most
	}
	t.AppendHeader(header)
	for i, r := range runs {
		t.AppendRow(append(rows[i], clip(reasonOf(r), max(room-2, least))))
	}
}

// reasonOf leaves out of a reason what says nothing in a list: our operations' names, and the machine's id, which is the first column.
func reasonOf(r api.Run) string {
	reason := api.Words(clean(r.Reason))
	if r.Machine != "" {
		reason = strings.ReplaceAll(reason, "machine "+r.Machine+": ", "")
	}
	return reason
}

type showCmd struct {
	Machine string `arg:"" help:"Id, a prefix of it, run id, name, or tenant/name."`
}

func (c showCmd) Run(e *env) error {
	m, err := e.machine(c.Machine)
	if err != nil {
		return err
	}
	if e.Output == "json" {
		return e.print(m, nil)
	}
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(e.stdout, "%-10s %s\n", key, clean(value))
		}
	}
	line("machine", m.ID)
	line("name", m.Tenant+"/"+m.Name)
	line("state", m.State+" ("+m.Presence+")")
	line("image", fmt.Sprintf("%s, %d vCPUs, %d MiB, %d GiB", m.Image, m.Plan.VCPUs, m.Plan.MemoryMiB, m.Plan.DiskGiB))
	if p := m.Placement; p.Pool != "" {
		line("place", fmt.Sprintf("pool %s, host %s, storage %s", p.Pool, p.Host, p.SR))
		network := "private " + p.Private.String()
		if p.Public.IsValid() {
			network += ", public " + p.Public.String()
		}
		line("network", network+", MAC "+p.MAC)
		console := fmt.Sprintf("%s port %d by %s", p.Console, p.ConsolePort, p.ConsoleBackend)
		if p.ConsoleAddress != "" {
			console += ", at " + p.ConsoleAddress
		}
		line("console", console)
	}
	line("vm", m.VM)
	line("host key", m.HostKey)
	for _, entry := range m.Entries {
		line("group", entry.Group+": "+entryWords(entry))
	}
	line("exits", strings.Join(m.Exits, ", "))
	line("hint", m.Hint)
	fmt.Fprintln(e.stdout)
	if err := e.print(nil, func(t table.Writer) { runTable(t, m.Runs, columns(e.stdout)) }); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout)
	return e.print(nil, func(t table.Writer) { journalTable(t, m.Attempts) })
}

func journalTable(t table.Writer, attempts []api.Attempt) {
	t.AppendHeader(table.Row{"step", "attempt", "started", "took", "outcome", "actor", "message"})
	for _, a := range attempts {
		step, took, outcome := a.Step, "-", a.Outcome
		if a.Undo {
			step = "undo " + step
		}
		if !a.Ended.IsZero() {
			took = a.Ended.Sub(a.Started).Round(time.Millisecond).String()
		}
		if a.Kind != "" {
			outcome += " (" + a.Kind + ")"
		}
		t.AppendRow(table.Row{step, a.Number, a.Started.Local().Format("15:04:05.000"), took, outcome, clip(a.Actor, 24), clip(a.Message, 90)})
	}
}

func entryWords(entry api.Entry) string {
	switch {
	case entry.Bad != "":
		return "refused: " + entry.Bad
	case entry.Removed && entry.Applied:
		return "dropped"
	case entry.Applied:
		return "applied"
	case entry.Problem != "":
		return "not applied yet: " + entry.Problem
	default:
		return "not applied yet"
	}
}

func (e *env) machine(what string) (m api.Machine, err error) {
	err = e.get("/v1/machines/"+url.PathEscape(what), &m)
	return m, err
}

type explainCmd struct {
	Machine string `arg:"" help:"Id, a prefix of it, run id, name, or tenant/name."`
}

func (c explainCmd) Run(e *env) error {
	var x api.Explanation
	if err := e.get("/v1/explain/"+url.PathEscape(c.Machine), &x); err != nil {
		return err
	}
	if e.Output == "json" {
		return e.print(x, nil)
	}
	fmt.Fprintln(e.stdout, clean(x.Now))
	for _, f := range x.Found {
		fmt.Fprintln(e.stdout, "  found:", clean(f))
	}
	if len(x.Exits) > 0 {
		fmt.Fprintln(e.stdout, "  exits:", clean(strings.Join(x.Exits, ", ")))
	}
	if x.Hint != "" {
		fmt.Fprintln(e.stdout, "  hint: ", clean(x.Hint))
	}
	if len(x.Placement) == 0 {
		return nil
	}
	fmt.Fprintln(e.stdout)
	return e.print(nil, func(t table.Writer) {
		t.AppendHeader(table.Row{"pool", "host", "storage", "weight", "decision"})
		for _, p := range x.Placement {
			decision := "passed"
			switch {
			case p.Chosen:
				decision = "chosen"
			case p.Filter != "":
				decision = "refused: " + p.Filter
			}
			t.AppendRow(table.Row{p.Pool, dash(p.Host), dash(p.SR), p.Weight, clip(decision, 80)})
		}
	})
}

// actFlags are what every verb that changes something takes.
type actFlags struct {
	Yes    bool   `help:"Do it; without this the plan is printed."`
	Reason string `help:"Why, for the journal."`
}

type retryCmd struct {
	Machine  string `arg:"" help:"Id, a prefix of it, run id, name, or tenant/name."`
	actFlags `embed:""`
}

func (c retryCmd) Run(e *env) error { return e.act("retry", c.Machine, c.actFlags) }

type cancelCmd struct {
	Machine  string `arg:"" help:"Id, a prefix of it, run id, name, or tenant/name."`
	actFlags `embed:""`
}

func (c cancelCmd) Run(e *env) error { return e.act("cancel", c.Machine, c.actFlags) }

func (e *env) act(verb, what string, flags actFlags) error {
	return e.tell(verb, what, what, api.Act{Yes: flags.Yes, Reason: flags.Reason})
}
