package sqlstore

import (
	"context"
	"fmt"

	"slipway/orchestrator"
)

// Accept implements orchestrator.Intake. The order's row is inserted first: of several that bring the same order at once, one inserts it
// and the others wait for that one and then find it.
func (s *Store) Accept(ctx context.Context, a orchestrator.Acceptance) (orchestrator.Accepted, error) {
	var answer orchestrator.Accepted
	err := s.transact(ctx, "store.Accept", func(ctx context.Context, tx Tx) error {
		answer = orchestrator.Accepted{}
		i := intake{store: s, ctx: ctx, tx: tx, Acceptance: a, answer: &answer}
		inserted := 0
		err := one(ctx, tx, `INSERT INTO orders (source, id, tenant, body, run, process, state, step, row_hash, deadline, actor, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (source, id) DO NOTHING RETURNING run`, counted(&inserted),
			a.Order.Source, a.Order.ID, a.Order.Tenant, text(a.Order), a.Run.ID, a.Run.Process, string(a.Run.State), a.Run.Step, a.Run.RowHash,
			micros(a.Order.Deadline), a.Actor, micros(a.Now))
		switch {
		case err != nil:
			return err
		case inserted == 0:
			return i.again()
		case a.Order.Type == orchestrator.OrderUninstall:
			return i.uninstall()
		case a.Order.Type.Alters():
			return i.alter()
		case a.Order.Type == orchestrator.OrderConsole:
			return i.console()
		default:
			return i.install()
		}
	})
	if err != nil && s.db.Fault(err).Constraint == "machine_name" {
		return orchestrator.Accepted{}, orchestrator.FieldErrors{{
			Field: "name", Problem: fmt.Sprintf("the tenant has a machine named %q", a.Machine.Name), Fix: "use another name, or uninstall that machine first",
		}}
	}
	if err != nil {
		return orchestrator.Accepted{}, err
	}
	return answer, nil
}

// intake is one order in one transaction.
type intake struct {
	store *Store
	ctx   context.Context
	tx    Tx
	orchestrator.Acceptance
	answer *orchestrator.Accepted
}

// again answers an order that is known.
func (i *intake) again() error {
	var first orchestrator.Order
	var event int64
	err := one(i.ctx, i.tx, `SELECT body, machine, run, event FROM orders WHERE source = $1 AND id = $2`, func(row Row) error {
		return row.Scan(intoJSON(&first), &i.answer.Machine, &i.answer.Run, &event)
	}, i.Order.Source, i.Order.ID)
	if err != nil {
		return err
	}
	i.answer.Differs = first.Differences(i.Order)
	if len(i.answer.Differs) == 0 {
		i.answer.Repeated = true
		return one(i.ctx, i.tx, `UPDATE outbox SET published_at = 0 WHERE id = $1`, nil, event)
	}
	_, err = i.event(orchestrator.EventConflict, i.answer.Machine, orchestrator.EventData{
		Run: i.answer.Run, Machine: i.answer.Machine, Tenant: first.Tenant, Name: first.Name, Fields: i.answer.Differs,
		Message: "another order has this id", Source: i.Order.Source, OrderID: i.Order.ID,
	})
	return err
}

func (i *intake) install() error {
	m := i.Machine
	err := one(i.ctx, i.tx, `INSERT INTO machines (id, tenant, name, hostname, image, vcpus, memory_mib, disk_gib, firewall, ssh_keys, presence, state,
		pool_wanted, vm, disks, address, host_key, host_key_secret, console_password, identity, administrator_password, administrator_age, console_age, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, {now}, {now})`, nil,
		m.ID, m.Tenant, m.Name, m.Hostname, m.Image, m.Plan.VCPUs, m.Plan.MemoryMiB, m.Plan.DiskGiB, text(m.Firewall), list(m.SSHKeys), string(m.Presence), m.State,
		m.PoolWanted, m.VM, list(m.Disks), addr(m.Address), m.HostKey, []byte(m.HostKeySecret), []byte(m.ConsolePassword), m.Identity,
		[]byte(m.AdministratorPassword), m.AdministratorAge, m.ConsoleAge)
	if err == nil && i.Order.Type == orchestrator.OrderInstall {
		err = i.hostname(m, m.Hostname) // an import takes the name that is there
	}
	if err == nil && !m.Import.IsZero() {
		err = one(i.ctx, i.tx, `UPDATE machines SET imported = $2 WHERE id = $1`, nil, m.ID, text(m.Import))
	}
	if err != nil {
		return err
	}
	return i.start(m, true)
}

func (i *intake) uninstall() error {
	m, err := i.find("")
	if err != nil {
		return err
	}
	// The run is locked before anything of the machine, as commits do; what became of the machine meanwhile is read again.
	var active []orchestrator.Run
	err = one(i.ctx, i.tx, `SELECT `+runColumns+` FROM runs r WHERE r.machine = $1 AND r.status NOT IN ('done', 'canceled') {lock}`, collectRuns(&active), m.ID)
	if err != nil {
		return err
	}
	if m, err = i.find(""); err != nil {
		return err
	}
	if len(active) == 0 {
		return i.start(m, true)
	}
	run := active[0]
	if run.Process == i.Run.Process || run.SuccessorID != "" {
		return i.refuse("is being uninstalled already, by another order", "listen to that order's events")
	}
	err = one(i.ctx, i.tx, askCancel+`, successor = $3, successor_id = $4 WHERE id = $1`, nil,
		run.ID, fmt.Sprintf("order %s of %s: %s", i.Order.ID, i.Order.Source, i.Run.Process), i.Run.Process, i.Run.ID)
	if err != nil {
		return err
	}
	return i.start(m, false)
}

// askCancel asks a run to unwind: whoever holds it hears of it with the next commit, and one that nobody holds is made due. The first who
// asked stays in the row.
const askCancel = `UPDATE runs SET cancel = CASE WHEN cancel = '' THEN $2 ELSE cancel END,
	asked = CASE WHEN holder = '' THEN 0 ELSE 1 END,
	status = CASE WHEN holder = '' THEN 'canceling' ELSE status END,
	wake_at = CASE WHEN holder = '' THEN {now} ELSE wake_at END,
	updated_at = {now}`

// find looks for the machine that an order names; end is put behind the SELECT. A tenant cannot see another's machines.
func (i *intake) find(end string) (orchestrator.Machine, error) {
	var found []orchestrator.Machine
	o := i.Order
	sql := `SELECT ` + machineColumns + ` FROM machines m WHERE m.tenant = $1 AND m.id = $2`
	what := o.Machine
	if o.Machine == "" {
		sql = `SELECT ` + machineColumns + ` FROM machines m WHERE m.tenant = $1 AND m.name = $2 AND m.presence <> 'absent'`
		what = o.Name
	}
	if err := one(i.ctx, i.tx, sql+end, collectMachines(&found), o.Tenant, what); err != nil {
		return orchestrator.Machine{}, err
	}
	if len(found) == 0 {
		return orchestrator.Machine{}, i.refuse("is not a machine of the tenant", "use the id from the accepted event, or the name in the order")
	}
	m := found[0]
	switch {
	case m.Presence == orchestrator.Absent:
		return m, i.refuse("is removed already", "nothing is left to do")
	case o.Name != "" && o.Name != m.Name:
		return m, i.refuse(fmt.Sprintf("is named %q, the order names %q", m.Name, o.Name), "give the id or the name, or both of the same machine")
	}
	return m, nil
}

func (i *intake) refuse(problem, fix string) error {
	field := "machine"
	if i.Order.Machine == "" {
		field = "name"
	}
	return orchestrator.FieldErrors{{Field: field, Problem: problem, Fix: fix}}
}

// start commits the run, now or when its predecessor has ended, and the accepted event.
func (i *intake) start(m orchestrator.Machine, now bool) error {
	run := i.Run
	run.Machine = m.ID
	run.Order, run.Deadline = orchestrator.OrderKey{Source: i.Order.Source, ID: i.Order.ID}, i.Order.Deadline
	i.answer.Run, i.answer.Machine = run.ID, m.ID
	if now {
		if _, err := i.tx.Run(i.ctx, insertRun(run)); err != nil {
			return err
		}
	}
	event, err := i.event(orchestrator.EventAccepted, m.ID, orchestrator.EventData{
		Run: run.ID, Machine: m.ID, Tenant: m.Tenant, Name: m.Name, Process: run.Process, State: run.State, Status: orchestrator.StatusReady, Step: run.Step,
		Source: i.Order.Source, OrderID: i.Order.ID,
	})
	if err != nil {
		return err
	}
	return one(i.ctx, i.tx, `UPDATE orders SET machine = $3, event = $4 WHERE source = $1 AND id = $2`, nil, i.Order.Source, i.Order.ID, m.ID, event)
}

func (i *intake) event(typ, machine string, data orchestrator.EventData) (id int64, err error) {
	e := orchestrator.NewEvent(typ, i.Now, data)
	_, err = i.tx.Run(i.ctx,
		Stmt{SQL: `UPDATE machines SET seq = seq + 1 WHERE id = $1`, Args: []any{machine}},
		Stmt{
			SQL: `INSERT INTO outbox (type, machine, seq, time, order_source, order_id, data)
				VALUES ($1, $2, COALESCE((SELECT seq FROM machines WHERE id = $2), 0), $3, $4, $5, $6) RETURNING id`,
			Args: []any{e.Type, machine, micros(e.Time), e.Order.Source, e.Order.ID, string(e.Data)},
			Scan: func(row Row) error { return row.Scan(&id) },
		})
	return id, err
}

// Refuse implements orchestrator.Intake. An order without an id cannot be recognized again: its event is repeated.
func (s *Store) Refuse(ctx context.Context, key orchestrator.OrderKey, event orchestrator.Event) error {
	return s.update(ctx, "store.Refuse", Stmt{
		SQL: `INSERT INTO outbox (type, machine, seq, time, order_source, order_id, data) VALUES ('slipway.order.refused', '', 0, $1, $2, $3, $4)
			ON CONFLICT (order_source, order_id) WHERE type = 'slipway.order.refused' AND order_id <> '' DO UPDATE SET published_at = 0, data = excluded.data`,
		Args: []any{micros(event.Time), key.Source, key.ID, string(event.Data)},
	})
}
