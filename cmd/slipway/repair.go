package main

import (
	"fmt"
	"net/url"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
)

// target is the machine that every repair verb names.
type target struct {
	Machine string `arg:"" help:"Id, a prefix of it, run id, name, or tenant/name."`
}

type skipCmd struct {
	target   `embed:""`
	actFlags `embed:""`
}

func (c skipCmd) Run(e *env) error { return e.act("skip", c.Machine, c.actFlags) }

type forceCmd struct {
	target   `embed:""`
	actFlags `embed:""`
}

func (c forceCmd) Run(e *env) error { return e.act("force", c.Machine, c.actFlags) }

type rewindCmd struct {
	target   `embed:""`
	Step     string `arg:"" help:"The step to go back to; it is undone too, and run again."`
	actFlags `embed:""`
}

func (c rewindCmd) Run(e *env) error {
	return e.tell("rewind", c.Machine, c.Machine+" "+c.Step, api.Act{Yes: c.Yes, Reason: c.Reason, Step: c.Step})
}

type adoptCmd struct {
	target   `embed:""`
	actFlags `embed:""`
}

func (c adoptCmd) Run(e *env) error { return e.act("adopt", c.Machine, c.actFlags) }

// tell sends a verb and prints what was found, what will be done and whether it was; again are the verb's arguments.
func (e *env) tell(verb, what, again string, ask api.Act) error {
	var acted api.Acted
	if err := e.post("/v1/"+verb+"/"+url.PathEscape(what), ask, &acted); err != nil {
		return err
	}
	if e.Output == "json" {
		return e.print(acted, nil)
	}
	for _, f := range acted.Found {
		fmt.Fprintln(e.stdout, "found:", clean(f))
	}
	for _, p := range acted.Plan {
		fmt.Fprintln(e.stdout, "will: ", clean(p))
	}
	if !acted.Done {
		fmt.Fprintf(e.stdout, "nothing was done; to do it: slipway %s %s --yes --reason WHY\n", verb, clean(again))
		return nil
	}
	if acted.Run == nil { // the adoption of a forgotten machine takes no run
		fmt.Fprintln(e.stdout, "done")
		return nil
	}
	fmt.Fprintf(e.stdout, "done: run %s is %s\n", clean(acted.Run.Run), clean(acted.Run.Status))
	return nil
}

type replayCmd struct {
	target `embed:""`
}

// Run prints one line per line of the journal, with the state before and after. It changes nothing. A journal that does not lead to the run's
// state is an error.
func (c replayCmd) Run(e *env) error {
	var r api.Replay
	if err := e.get("/v1/replay/"+url.PathEscape(c.Machine), &r); err != nil {
		return err
	}
	if err := e.print(r, func(t table.Writer) { replayTable(t, r) }); err != nil {
		return err
	}
	problems := 0
	for _, m := range r.Moves {
		if m.Problem != "" {
			problems++
		}
	}
	if r.Ends != r.Stands || problems > 0 {
		return hinted{error: fmt.Errorf("the journal of run %s leads to %s, and the run stands in %s; %d of its lines do not fit the table", r.Run, r.Ends, r.Stands, problems),
			next: "slipway show " + r.Machine, code: exitFailure}
	}
	if e.Output != "json" {
		fmt.Fprintf(e.stdout, "\nthe journal of %s leads to %s, where the run stands: %s\n", clean(r.Process), clean(r.Ends), clean(r.Status))
	}
	return nil
}

func replayTable(t table.Writer, r api.Replay) {
	t.AppendHeader(table.Row{"at", "what", "attempt", "state", "by", "message"})
	for _, m := range r.Moves {
		what, state, at := m.Step+" "+m.Outcome, m.Before, m.Started
		if m.Undo {
			what = "undo " + what
		}
		if m.After != m.Before {
			state = m.Before + " → " + m.After
		}
		if m.Problem != "" {
			state += " (" + m.Problem + ")"
		}
		if !m.Ended.IsZero() {
			at = m.Ended
		}
		t.AppendRow(table.Row{at.Local().Format("2006-01-02 15:04:05"), what, m.Number, clip(state, 60), clip(m.Actor, 24), clip(m.Message, 80)})
	}
}
