package sqlstore

import (
	"fmt"

	"slipway/orchestrator"
)

// alter starts a run that changes a finished machine. The machine's row is locked, so that of several orders one finds no active run, and
// what the machine has now is what it has when the run begins.
func (i *intake) alter() error {
	m, err := i.find(" {lock}")
	if err != nil {
		return err
	}
	var active []orchestrator.Run
	err = one(i.ctx, i.tx, `SELECT `+runColumns+` FROM runs r WHERE r.machine = $1 AND r.status NOT IN ('done', 'canceled')`, collectRuns(&active), m.ID)
	if err != nil {
		return err
	}
	suspended := m.State == orchestrator.StateSuspended
	switch {
	case len(active) > 0:
		return i.refuse(fmt.Sprintf("has a run of %s under way, %s in state %s", active[0].Process, active[0].Status, active[0].State), "order again when that run has ended, or cancel it first")
	case m.State != orchestrator.StateReady && !suspended:
		return i.refuse("is not a finished machine: its state is "+m.State, "install it first")
	case suspended && i.Order.Type == orchestrator.OrderReconfigure:
		return i.refuse("is suspended", "unsuspend it first, then order this again")
	}
	if err := i.hostname(m); err != nil {
		return err
	}
	if i.Run.Alteration, err = i.Alter(m); err != nil {
		return err
	}
	return i.start(m, true)
}

// hostname refuses a name by which another machine of the tenant calls itself.
func (i *intake) hostname(m orchestrator.Machine) error {
	if i.Order.Hostname == "" || i.Order.Hostname == m.Hostname {
		return nil
	}
	var other string
	err := one(i.ctx, i.tx, `SELECT MIN(name) FROM machines WHERE tenant = $1 AND hostname = $2 AND id <> $3 AND presence <> 'absent'`,
		func(row Row) error { return row.Scan(intoString(&other)) }, m.Tenant, i.Order.Hostname, m.ID)
	if err != nil || other == "" {
		return err
	}
	return orchestrator.FieldErrors{{Field: "hostname", Problem: fmt.Sprintf("is in use by the tenant's machine %q", other), Fix: "use another name"}}
}
