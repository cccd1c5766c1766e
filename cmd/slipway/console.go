package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"os/user"
	"time"

	"slipway/internal/api"
	"slipway/internal/service"
)

type consoleCmd struct {
	Open   consoleOpenCmd   `cmd:"" help:"Print a link that opens a machine's screen in a browser, once."`
	Revoke consoleRevokeCmd `cmd:"" help:"End every link and session of a machine's screen."`
	Serve  consoleServeCmd  `cmd:"" help:"Show screens only: a gateway of its own beside the workers."`

	Password consolePasswordCmd `cmd:"" help:"What a machine's console port asks for: show it, or order a new one."`
	List     consoleListCmd     `cmd:"" help:"What shows the pools' consoles, and where."`
	Migrate  consoleMigrateCmd  `cmd:"" help:"Move a pool's consoles to another backend; ports and passwords stay."`
}

type consoleOpenCmd struct {
	target `embed:""`
	User   string     `help:"Who will look, for the audit trail; you, when empty."`
	From   netip.Addr `help:"The only address that the link opens for."`
}

func (c consoleOpenCmd) Run(e *env) error {
	if c.User == "" {
		if u, err := user.Current(); err == nil {
			c.User = u.Username
		}
	}
	ask := api.ConsoleAsk{User: c.User}
	if c.From.IsValid() {
		ask.From = c.From.String()
	}
	var link api.ConsoleLink
	if err := e.post("/v1/console/"+url.PathEscape(c.Machine), ask, &link); err != nil {
		return err
	}
	if e.Output == "json" {
		return e.line(link)
	}
	_, err := fmt.Fprintf(e.stdout, "%s\n", link.URL)
	fmt.Fprintf(e.stderr, "opens %s once, until %s\n", link.Name, link.Expires.Local().Format(time.TimeOnly))
	return err
}

type consoleRevokeCmd struct {
	target   `embed:""`
	actFlags `embed:""`
}

func (c consoleRevokeCmd) Run(e *env) error {
	if !c.Yes {
		return e.only("end every link and session of the screen of %s", c.Machine)
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	defer client.Close()
	var revoked api.ConsoleRevoked
	err = client.Delete(e.ctx, "/v1/console/"+url.PathEscape(c.Machine), api.Act{Yes: true, Reason: c.Reason}, &revoked)
	return e.did(err, "%d links and sessions ended; screens that were open close within seconds", revoked.Revoked)
}

type consoleServeCmd struct{}

func (consoleServeCmd) Run(e *env) error {
	cfg, err := e.load()
	if err != nil {
		return err
	}
	if err := service.RunConsole(e.ctx, cfg, e.log); err != nil {
		return e.unfit(err)
	}
	return nil
}
