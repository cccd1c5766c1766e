package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
	"slipway/orchestrator"
)

type maintenanceCmd struct {
	List maintenanceListCmd `cmd:"" default:"withargs" help:"What is in maintenance or halted by the guard, and how many runs wait for it."`
	On   maintenanceOnCmd   `cmd:"" help:"Hold a POOL, GROUP or GROUP/MEMBER: runs wait in front of it."`
	Off  maintenanceOffCmd  `cmd:"" help:"End it: what waits goes on."`
}

type maintenanceListCmd struct{}

func (maintenanceListCmd) Run(e *env) error {
	var held []api.Maintenance
	if err := e.get("/v1/maintenance", &held); err != nil {
		return err
	}
	if e.Output == "json" {
		return e.print(held, nil)
	}
	halted := func(m api.Maintenance) bool { return m.Halts != "" }
	if maintained := slices.DeleteFunc(slices.Clone(held), halted); len(maintained) > 0 || len(held) == 0 {
		if err := e.print(maintained, func(t table.Writer) {
			t.AppendHeader(table.Row{"subject", "since", "until", "by", "waiting", "in hand", "tasks", "reason"})
			for _, m := range maintained {
				until := "off"
				if !m.Until.IsZero() {
					until = m.Until.Local().Format("2006-01-02 15:04")
				}
				t.AppendRow(table.Row{m.Subject, m.Since.Local().Format("2006-01-02 15:04"), until, m.Actor, m.Waiting, m.InHand, m.Tasks, clip(m.Reason, 60)})
			}
		}); err != nil {
			return err
		}
	}
	for _, m := range held {
		if halted(m) { // who ordered how many is what an operator decides by
			fmt.Fprintf(e.stdout, "halted: %s in %s since %s: %s; %d wait\nnext: if they are meant: %s\n",
				clean(m.Halts), clean(m.Subject), m.Since.Local().Format("2006-01-02 15:04"), clean(m.Reason), m.Waiting, clean(m.End))
		}
	}
	return nil
}

type maintenanceOnCmd struct {
	Subject  string `arg:"" help:"A pool, a group, or GROUP/MEMBER; pool:ID or group:ID where a name is both."`
	Until    string `help:"End by itself: after a time (2h), at a time of today or tomorrow (23:30), or at 2026-01-31T23:30." placeholder:"WHEN"`
	Wait     bool   `help:"Of a pool: return once nothing is in hand there any more."`
	actFlags `embed:""`
}

func (c maintenanceOnCmd) Run(e *env) error {
	until, err := moment(c.Until, time.Now())
	if err != nil {
		return err
	}
	ask := api.SetMaintenance{Subject: c.Subject, On: true, Until: until, Reason: c.Reason, Yes: c.Yes}
	if err := e.maintain("on", ask); err != nil || !c.Yes || !c.Wait {
		return err
	}
	// A worker may believe for a second that nothing is held.
	return e.poll(2*time.Second, func() (bool, string, error) {
		var held []api.Maintenance
		if err := e.get("/v1/maintenance", &held); err != nil {
			return false, "", err
		}
		for _, m := range held {
			if m.Halts == "" && named(m.Subject, c.Subject) {
				return m.InHand == 0 && m.Tasks == 0, fmt.Sprintf("%d runs in hand, %d tasks", m.InHand, m.Tasks), nil
			}
		}
		return false, "", hinted{error: fmt.Errorf("the maintenance of %s was ended meanwhile", c.Subject), next: "slipway maintenance list", code: exitConflict}
	})
}

// named reports whether a subject is what was written.
func named(subject, written string) bool {
	_, name, _ := strings.Cut(subject, ":")
	return subject == written || name == written
}

type maintenanceOffCmd struct {
	Subject  string `arg:"" help:"A pool, a group, or GROUP/MEMBER."`
	actFlags `embed:""`
}

func (c maintenanceOffCmd) Run(e *env) error {
	return e.maintain("off", api.SetMaintenance{Subject: c.Subject, Reason: c.Reason, Yes: c.Yes})
}

func (e *env) maintain(verb string, ask api.SetMaintenance) error {
	var acted api.Acted
	if err := e.post("/v1/maintenance", ask, &acted); err != nil {
		return err
	}
	return e.printActed(acted, fmt.Sprintf("slipway maintenance %s %s", verb, ask.Subject))
}

// printActed prints what will be done, whether it was, and what was found; again is the command without its --yes.
func (e *env) printActed(acted api.Acted, again string) error {
	if e.Output == "json" {
		return e.print(acted, nil)
	}
	for _, p := range acted.Plan {
		fmt.Fprintln(e.stdout, "will: ", clean(p))
	}
	if !acted.Done {
		_, err := fmt.Fprintf(e.stdout, "nothing was done; to do it: %s --yes --reason WHY\n", clean(again))
		return err
	}
	for _, f := range acted.Found {
		fmt.Fprintln(e.stdout, "found:", clean(f))
	}
	_, err := fmt.Fprintln(e.stdout, "done")
	return err
}

// moment reads an end: a duration from now, a time of day that is to come, or a date with a time. "" is none.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(d), nil
	}
	if at, err := time.ParseInLocation("15:04", text, now.Location()); err == nil {
		at = time.Date(now.Year(), now.Month(), now.Day(), at.Hour(), at.Minute(), 0, 0, now.Location())
		if !at.After(now) {
			at = at.AddDate(0, 0, 1)
		}
		return at, nil
	}
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02 15:04", time.RFC3339} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	return time.Time{}, orchestrator.FieldErrors{{Field: "until", Problem: fmt.Sprintf("%q is no time", text), Fix: "write 2h, 23:30, or 2026-01-31T23:30"}}
}

// poll asks again and again until it is done, and says on stderr when something changes. It ends with the command's context.
func (e *env) poll(first time.Duration, ask func() (done bool, how string, err error)) error {
	said, pause := "", first
	for {
		timer := time.NewTimer(pause)
		select {
		case <-e.ctx.Done():
			timer.Stop()
			return e.ctx.Err()
		case <-timer.C:
		}
		done, how, err := ask()
		if err != nil || done {
			return err
		}
		if how != said {
			said = how
			fmt.Fprintln(e.stderr, "waiting:", clean(how))
		}
		pause = 500 * time.Millisecond
	}
}
