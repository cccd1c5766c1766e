package sqlstore

import (
	"slipway/orchestrator"
)

const machineColumns = `m.id, m.tenant, m.name, m.hostname, m.image, m.vcpus, m.memory_mib, m.disk_gib, m.firewall, m.ssh_keys, m.presence, m.state,
	m.pool_wanted, m.pool, m.host, m.sr, m.private, m.public, m.mac, m.console_port, m.dhcp_group, m.firewall_group, m.console_group,
	m.vm, m.disks, m.address, m.host_key, m.host_key_secret, m.console_password, m.administrator_password, m.administrator_age, m.console_age, m.identity,
	m.suspension, m.dns, m.imported, m.created_at, m.updated_at`

func machineFields(m *orchestrator.Machine) []any {
	p := &m.Placement
	return []any{
		&m.ID, &m.Tenant, &m.Name, &m.Hostname, &m.Image, &m.Plan.VCPUs, &m.Plan.MemoryMiB, &m.Plan.DiskGiB, intoJSON(&m.Firewall), intoJSON(&m.SSHKeys),
		(*string)(&m.Presence), &m.State,
		&m.PoolWanted, &p.Pool, &p.Host, &p.SR, intoAddr(&p.Private), intoAddr(&p.Public), &p.MAC, &p.ConsolePort, &p.DHCP, &p.Firewall, &p.Console,
		&m.VM, intoJSON(&m.Disks), intoAddr(&m.Address), &m.HostKey, intoBytes(&m.HostKeySecret), intoBytes(&m.ConsolePassword),
		intoBytes(&m.AdministratorPassword), &m.AdministratorAge, &m.ConsoleAge, &m.Identity, intoJSON(&m.Suspension),
		intoJSON(&m.DNS), intoJSON(&m.Import), intoTime(&m.CreatedAt), intoTime(&m.UpdatedAt),
	}
}

func collectMachines(out *[]orchestrator.Machine) func(Row) error {
	return func(row Row) error {
		var m orchestrator.Machine
		if err := row.Scan(machineFields(&m)...); err != nil {
			return err
		}
		if len(m.Disks) == 0 {
			m.Disks = nil
		}
		*out = append(*out, m)
		return nil
	}
}

const runColumns = `r.id, r.machine, r.process, r.state, r.status, r.step, r.row_hash, r.undoing, r.attempt, r.failures, r.conflicts, r.step_since,
	r.handles, r.reason, r.kind, r.wake_at, r.wake_key, r.deadline, r.order_source, r.order_id, r.cancel, r.successor, r.successor_id, r.request, r.rewound, r.alteration,
	r.holder, r.fence, r.lease_until, r.begun_at, r.created_at, r.updated_at`

func runFields(r *orchestrator.Run) []any {
	return []any{
		&r.ID, &r.Machine, &r.Process, (*string)(&r.State), (*string)(&r.Status), &r.Step, &r.RowHash, intoBool(&r.Undoing),
		&r.Attempt, &r.Failures, &r.Conflicts, intoTime(&r.StepSince),
		intoHandles(&r.Handles), &r.Reason, (*string)(&r.Kind), intoTime(&r.WakeAt), &r.WakeKey, intoTime(&r.Deadline), &r.Order.Source, &r.Order.ID,
		&r.Cancel, &r.Successor, &r.SuccessorID, intoJSON(&r.Request), &r.Rewound, intoJSON(&r.Alteration), &r.Holder, &r.Fence, intoTime(&r.LeaseUntil), intoTime(&r.Begun), intoTime(&r.CreatedAt), intoTime(&r.UpdatedAt),
	}
}

func collectRuns(out *[]orchestrator.Run) func(Row) error {
	return func(row Row) error {
		var r orchestrator.Run
		if err := row.Scan(runFields(&r)...); err != nil {
			return err
		}
		*out = append(*out, r)
		return nil
	}
}

const attemptColumns = `a.id, a.run, a.machine, a.step, a.from_state, a.to_state, a.number, a.undo, a.started, a.ended, a.outcome, a.kind, a.message,
	a.detail, a.actor, a.handles`

func collectAttempts(out *[]orchestrator.Attempt) func(Row) error {
	return func(row Row) error {
		var a orchestrator.Attempt
		err := row.Scan(&a.ID, &a.Run, &a.Machine, &a.Step, (*string)(&a.From), (*string)(&a.To), &a.Number, intoBool(&a.Undo),
			intoTime(&a.Started), intoTime(&a.Ended), &a.Outcome, (*string)(&a.Kind), &a.Message, intoRaw(&a.Detail), &a.Actor, intoHandles(&a.Handles))
		*out = append(*out, a)
		return err
	}
}

const eventColumns = `e.id, e.type, e.machine, e.seq, e.time, e.order_source, e.order_id, e.data`

func collectEvents(out *[]orchestrator.Event) func(Row) error {
	return func(row Row) error {
		var e orchestrator.Event
		err := row.Scan(&e.ID, &e.Type, &e.Machine, &e.Seq, intoTime(&e.Time), &e.Order.Source, &e.Order.ID, intoRaw(&e.Data))
		*out = append(*out, e)
		return err
	}
}
