package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
	"slipway/orchestrator"
)

type consolePasswordCmd struct {
	Show   consoleShowCmd   `cmd:"" help:"Print it; who asked is recorded."`
	Rotate consoleRotateCmd `cmd:"" help:"Order a new one. Panels get it encrypted to the machine's SSH keys."`
}

type consoleShowCmd struct {
	target `embed:""`
	Reason string `help:"Why, for the record."`
}

func (c consoleShowCmd) Run(e *env) error {
	var p api.ConsolePassword
	if err := e.post("/v1/console-password/"+url.PathEscape(c.Machine), api.AskPassword{Reason: c.Reason}, &p); err != nil {
		return err
	}
	address := cmp.Or(p.Address, "the console group's host")
	return e.password(p, p.Password, "console of %s/%s (%s) at %s port %d", clean(p.Tenant), clean(p.Name), p.Machine, clean(address), p.Port)
}

type consoleRotateCmd struct {
	target     `embed:""`
	alterFlags `embed:""`
}

func (c consoleRotateCmd) Run(e *env) error {
	return e.alter(c.Machine, orchestrator.Order{Type: orchestrator.OrderReconfigure, NewConsolePassword: true}, c.alterFlags)
}

type consoleListCmd struct{}

func (consoleListCmd) Run(e *env) error {
	var consoles []api.Consoles
	if err := e.get("/v1/consoles", &consoles); err != nil {
		return err
	}
	return e.print(consoles, func(t table.Writer) {
		t.AppendHeader(table.Row{"pool", "backend", "configured", "machines", "group", "address", "gateways", "ports", "state"})
		for _, c := range consoles {
			for _, g := range c.Groups {
				state := "ok"
				switch {
				case g.Problem != "":
					state = g.Problem
				case c.Backend == string(orchestrator.ConsoleGateway) && g.Gateways == 0:
					state = "no gateway is running"
				case !g.Applied:
					state = "changing"
				}
				t.AppendRow(table.Row{c.Pool, c.Backend, c.Configured, c.Machines, g.Group, g.Address, g.Gateways, g.Ports, clip(state, 80)})
			}
		}
	})
}

type consoleMigrateCmd struct {
	Pool     string        `arg:""`
	To       string        `help:"xvp or gateway." required:"" enum:"xvp,gateway"`
	Patience time.Duration `help:"How long to wait for the consoles to answer at their new place." default:"2m"`
	actFlags `embed:""`
}

// Run moves, then waits until the consoles answer. Said again, after whatever ended it, it goes on from where things are.
func (c consoleMigrateCmd) Run(e *env) error {
	path := "/v1/consoles/" + url.PathEscape(c.Pool)
	var moved api.ConsoleMoved
	if err := e.post(path+"/move", api.ConsoleMove{To: c.To, Yes: c.Yes, Reason: c.Reason}, &moved); err != nil {
		return err
	}
	for _, note := range moved.Notes {
		fmt.Fprintf(e.stderr, "note:  %s\n", clean(note))
	}
	if !c.Yes {
		return e.only("move the consoles of %d machines of pool %s from %s to %s; ports and passwords stay", moved.Machines, moved.Pool, moved.From, moved.To)
	}
	deadline := time.Now().Add(c.Patience)
	var proof api.ConsoleProof
	for {
		if err := e.get(path+"/proof", &proof); err != nil {
			return err
		}
		if proof.Applied && proof.Answered == proof.Asked {
			return e.did(nil, "%d consoles of pool %s are shown by %s; %d were asked, and answered to their passwords", proof.Machines, moved.Pool, moved.To, proof.Asked)
		}
		if time.Now().After(deadline) {
			break
		}
		select {
		case <-e.ctx.Done():
			return e.ctx.Err()
		case <-time.After(time.Second):
		}
	}
	for _, failed := range proof.Failed {
		fmt.Fprintf(e.stderr, "no answer: %s\n", clean(failed))
	}
	why := fmt.Errorf("the consoles are %s's, and %d of %d that were asked answer", moved.To, proof.Answered, proof.Asked)
	if !proof.Applied {
		why = errors.New("the move is not applied on every member yet")
	}
	return hinted{error: why, next: "slipway group; slipway console list; the same command goes on from here", code: exitFailure}
}
