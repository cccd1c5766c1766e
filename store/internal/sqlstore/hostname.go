package sqlstore

import (
	"fmt"

	"slipway/orchestrator"
)

// hostname refuses a name for m by which another machine of the tenant calls itself, or may once a run that is under way has ended or has been
// taken back. Of several orders for one name at once, each sees what the others before it began.
func (i *intake) hostname(m orchestrator.Machine, name string) error {
	if lock, ok := i.store.db.LockHostname(m.Tenant, name); ok {
		if _, err := i.tx.Run(i.ctx, lock); err != nil {
			return err
		}
	}
	other := ""
	err := one(i.ctx, i.tx, `SELECT m.name, m.hostname, COALESCE(r.alteration, '') FROM machines m
		LEFT JOIN runs r ON r.machine = m.id AND r.status NOT IN ('done', 'canceled')
		WHERE m.tenant = $1 AND m.id <> $2 AND m.presence <> 'absent' AND (m.hostname = $3 OR r.alteration <> '') ORDER BY m.name`,
		func(row Row) error {
			var machine, has string
			var a orchestrator.Alteration
			err := row.Scan(&machine, &has, intoJSON(&a))
			if other == "" && (has == name || a.Former.Hostname == name || a.Wanted.Hostname == name) {
				other = machine
			}
			return err
		}, m.Tenant, m.ID, name)
	if err != nil || other == "" {
		return err
	}
	return orchestrator.FieldErrors{{Field: "hostname", Problem: fmt.Sprintf("is in use by the tenant's machine %q", other), Fix: "use another name"}}
}
