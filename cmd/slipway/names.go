package main

import (
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
)

// namesCmd shows what in the DNS does not agree with the machines.
type namesCmd struct{}

func (namesCmd) Run(e *env) error {
	var names []api.Name
	if err := e.get("/v1/names", &names); err != nil {
		return err
	}
	if e.Output == "json" {
		return e.print(names, nil)
	}
	agree := 0
	err := e.print(nil, func(t table.Writer) {
		t.AppendHeader(table.Row{"zone", "name", "holds", "machine", "problem"})
		for _, n := range names {
			if n.Problem == "" {
				agree++
				continue
			}
			t.AppendRow(table.Row{n.Zone, dash(n.Name), dash(strings.Join(n.Holds, " ")), dash(n.Machine), n.Problem})
		}
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "%d names agree, %d lines do not\n", agree, len(names)-agree)
	return err
}
