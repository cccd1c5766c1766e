package main

import (
	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
)

type backlogCmd struct{}

func (backlogCmd) Run(e *env) error {
	var tenants []api.Backlog
	if err := e.get("/v1/backlog", &tenants); err != nil {
		return err
	}
	return e.print(tenants, func(t table.Writer) {
		t.AppendHeader(table.Row{"tenant", "orders waiting", "runs under way", "limit", "oldest"})
		for _, b := range tenants {
			t.AppendRow(table.Row{clip(b.Tenant, 40), b.Waiting, b.UnderWay, b.Limit, ago(b.Oldest)})
		}
	})
}
