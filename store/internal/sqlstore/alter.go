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
	if i.Order.Hostname != "" && i.Order.Hostname != m.Hostname {
		if err := i.hostname(m, i.Order.Hostname); err != nil {
			return err
		}
	}
	if i.Run.Alteration, err = i.Alter(m); err != nil {
		return err
	}
	return i.start(m, true)
}
