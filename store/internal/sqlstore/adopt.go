package sqlstore

import (
	"context"

	"slipway/orchestrator"
)

// adoptedSeq is the number that an adopted machine's events go on from: the forgotten ones had lower numbers, and a panel may have seen them.
const adoptedSeq = 1000

// Adopt implements orchestrator.Operators. The compiler of commits writes the placement and the entries, as a step's commit would.
func (s *Store) Adopt(ctx context.Context, a orchestrator.Adoption) error {
	const op = "store.Adopt"
	m := a.Machine
	c := compiler{commit: &orchestrator.Commit{Run: orchestrator.Run{Machine: m.ID}, Changes: []orchestrator.Change{orchestrator.ClaimForeign{}}}, result: &orchestrator.CommitResult{}}
	c.add(`INSERT INTO machines (id, tenant, name, hostname, image, vcpus, memory_mib, disk_gib, firewall, ssh_keys, presence, state,
		pool_wanted, vm, disks, address, host_key, console_password, dns, seq, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, {now}, {now})`,
		m.ID, m.Tenant, m.Name, m.Hostname, m.Image, m.Plan.VCPUs, m.Plan.MemoryMiB, m.Plan.DiskGiB, text(m.Firewall), list(m.SSHKeys), string(m.Presence), m.State,
		m.PoolWanted, m.VM, list(m.Disks), addr(m.Address), m.HostKey, []byte(m.ConsolePassword), filled(m.DNS), int64(adoptedSeq))
	c.add(`INSERT INTO orders (source, id, tenant, body, machine, run, process, state, step, row_hash, deadline, actor, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, 'install', '', '', '', 0, $7, {now})`, a.Order.Source, a.Order.ID, a.Order.Tenant, text(a.Order), m.ID, a.Run, a.Actor)
	d := decision{placement: m.Placement}
	c.claim(d)
	c.promise(d)
	c.change(orchestrator.BindAddresses{})
	for _, e := range a.Entries {
		c.change(e)
	}
	// It is known from now on; the next inventory counts anew.
	c.add(`UPDATE pools SET strange = strange - 1 WHERE id = $1 AND strange > 0`, m.Placement.Pool)
	c.stmts = append(c.stmts, wake(orchestrator.WakeCapacity))
	return s.transact(ctx, op, func(ctx context.Context, tx Tx) error {
		if err := s.lockLedger(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Run(ctx, c.stmts...); err != nil {
			if constraint := s.db.Fault(err).Constraint; constraint != "" {
				return orchestrator.Errorf(op, orchestrator.Conflict, "something of machine %s is another one's by now (%s): %w", m.ID, constraint, err)
			}
			return err
		}
		return act(ctx, tx, a.Actor, "adopt-forgotten", m.ID, a.Reason)
	})
}
