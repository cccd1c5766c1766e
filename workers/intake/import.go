package intake

import (
	"context"
	"crypto/rand"

	"slipway/orchestrator"
	"slipway/orchestrator/importing"
	"slipway/workers/console"
)

// importSource is the source of the orders that operators make of imports.
const importSource = "operator"

// Import commits the import of a VM that has been looked at: order is an OrderImport without Source and ID, and size is the VM's. Its machine
// gets a console password of its own, and no other secret: its guest is not ours. A refusal is FieldErrors.
func (i *Intake) Import(ctx context.Context, order orchestrator.Order, size orchestrator.Plan, actor string) (orchestrator.Accepted, error) {
	now := i.Now()
	order.Source, order.ID, order.Type = importSource, newID(), orchestrator.OrderImport
	if err := order.Validate(); err != nil {
		return orchestrator.Accepted{}, err
	}
	process := i.Processes[importing.Name]
	m := orchestrator.Machine{
		ID: newID(), Tenant: order.Tenant, Name: order.Name, Hostname: order.GuestName(), Image: order.Image, Plan: size, Firewall: order.Firewall,
		PoolWanted: order.Pool, Import: order.Import, Presence: orchestrator.Planned, State: string(process.Start()), CreatedAt: now, UpdatedAt: now,
	}
	password, err := console.NewPassword(rand.Reader)
	if err != nil {
		return orchestrator.Accepted{}, err
	}
	if m.ConsolePassword, err = i.Vault.Seal(m.ID, orchestrator.SealedConsole, password); err != nil {
		return orchestrator.Accepted{}, err
	}
	accepted, err := i.Store.Accept(ctx, orchestrator.Acceptance{Order: order, Machine: m, Run: process.NewRun(newID(), m.ID, order, now), Actor: actor, Now: now})
	if err != nil {
		return orchestrator.Accepted{}, err
	}
	i.Log.Info("import", "pool", order.Pool, "vm", order.Import.VM, "machine", accepted.Machine, "run", accepted.Run, "actor", actor)
	i.Accepted()
	return accepted, nil
}
