package main

import (
	"fmt"
	"net/url"

	"slipway/internal/api"
)

type machineCmd struct {
	Password passwordCmd `cmd:"" help:"Print the first password of a Windows machine's administrator; who asked is recorded."`
}

type passwordCmd struct {
	Machine string `arg:"" help:"Id, a prefix of it, run id, name, or tenant/name."`
	Reason  string `help:"Why, for the record."`
}

func (c passwordCmd) Run(e *env) error {
	var p api.Password
	if err := e.post("/v1/password/"+url.PathEscape(c.Machine), api.AskPassword{Reason: c.Reason}, &p); err != nil {
		return err
	}
	state := "as it was installed: the customer may have changed it since"
	if !p.Set {
		state = "as it will be: the machine is not installed yet"
	}
	return e.password(p, p.Password, "%s of %s/%s (%s), %s", p.Account, clean(p.Tenant), clean(p.Name), p.Machine, state)
}

// password prints a password alone on stdout, so that it can be piped, and what it is of on stderr; as JSON it prints the view.
func (e *env) password(view any, password, of string, args ...any) error {
	if e.Output == "json" {
		return e.print(view, nil)
	}
	fmt.Fprintf(e.stderr, of+"\n", args...)
	_, err := fmt.Fprintln(e.stdout, password)
	return err
}
