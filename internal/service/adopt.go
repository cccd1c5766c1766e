package service

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"slipway/internal/api"
	"slipway/orchestrator"
	"slipway/workers/console"
)

// adoptForgotten takes up a machine that the database has forgotten: of the pools' VMs the one that carries its tag. Nothing of the VM is
// changed, and nobody logs in to its guest; what it has becomes the machine's own again, or nothing does.
func (s *Service) adoptForgotten(ctx context.Context, machine string, ask api.Act) (any, error) {
	pool, vm, err := s.forgotten(ctx, machine)
	if err != nil {
		return nil, err
	}
	card, err := orchestrator.ParseCard(vm.Card)
	if err != nil {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("VM %s carries the tag of machine %s, and %v", vm.UUID, machine, err),
			Next: fmt.Sprintf("xe vm-param-remove uuid=%s param-name=other-config param-key=slipway_machine; slipway import %s %s", vm.UUID, pool.ID, vm.UUID)}
	}
	if err := card.Fits(pool, machine, vm); err != nil {
		return nil, err
	}
	a := card.Adopt(vm, uuid.Must(uuid.NewV7()).String())
	p := a.Machine.Placement
	public := "no public address"
	if p.Public.IsValid() {
		public = p.Public.String()
	}
	answer := api.Acted{
		Found: []string{fmt.Sprintf("pool %s has VM %s (%s), MAC %s, %d disks; the database does not know its machine", pool.ID, vm.UUID, vm.Power, p.MAC, len(vm.Disks))},
		Plan: []string{
			fmt.Sprintf("make it machine %s (%s/%s) again, production_ready, with %s, %s and console port %d, as order %s of %s asked for it",
				machine, card.Tenant, card.Name, p.Private, public, p.ConsolePort, card.Order.ID, card.Order.Source),
			fmt.Sprintf("put its host block, its %d rules and its console, with a new password, into its groups; a halted member gets them when it is resumed", len(card.Firewall)),
			"leave the VM and its guest as they are; what was changed of the machine since its install is not known: see slipway plan before the members are resumed",
		},
	}
	if !ask.Yes {
		return answer, nil
	}
	if strings.TrimSpace(ask.Reason) == "" {
		return nil, orchestrator.FieldErrors{{Field: "reason", Problem: "is missing", Fix: "say why with --reason; it goes into the record"}}
	}
	password, err := console.NewPassword(rand.Reader)
	if err == nil {
		a.Machine.ConsolePassword, err = s.Vault.Seal(machine, orchestrator.SealedConsole, password)
	}
	if err != nil {
		return nil, err
	}
	a.Machine.DNS, _ = orchestrator.NameOf(pool, a.Machine)
	a.Actor, a.Reason = actor(ctx), ask.Reason
	if a.Entries, err = entriesOf(a.Machine); err != nil {
		return nil, err
	}
	if err := s.Store.Adopt(ctx, a); err != nil {
		return nil, err
	}
	s.log.Info("forgotten machine adopted by an operator", "actor", actor(ctx), "machine", machine, "vm", vm.UUID, "pool", pool.ID, "reason", ask.Reason)
	s.driver.Nudge()
	answer.Done = true
	return answer, nil
}

// forgotten finds the VM. A pool that cannot be read may have it.
func (s *Service) forgotten(ctx context.Context, machine string) (orchestrator.Pool, orchestrator.Stranger, error) {
	var failed error
	for _, pool := range s.Estate.Pools {
		there, err := s.readTagged(ctx, pool.ID)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("pool %s: %w", pool.ID, err))
			continue
		}
		for _, vm := range there.vms {
			if vm.machine != machine || vm.clone {
				continue
			}
			found, err := s.Xapi.FindStranger(ctx, pool.ID, vm.uuid)
			return pool, found, err
		}
	}
	if failed == nil {
		failed = &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no machine has the id, run or name %q, and no VM carries such a tag", machine), Next: "slipway audit --kind newer"}
	}
	return orchestrator.Pool{}, orchestrator.Stranger{}, failed
}

// entriesOf are a finished machine's entries.
func entriesOf(m orchestrator.Machine) (out []orchestrator.PutEntry, err error) {
	put := func(group string, unit orchestrator.Unit, entry any) {
		body, failed := json.Marshal(entry)
		err = errors.Join(err, failed)
		if group != "" {
			out = append(out, orchestrator.PutEntry{Group: group, Unit: unit, Body: body})
		}
	}
	put(m.Placement.DHCP, orchestrator.DHCP, m.HostEntry(m.Hostname))
	put(m.Placement.Firewall, orchestrator.Firewall, m.OpenEntry(m.Firewall))
	put(m.Placement.Console, orchestrator.Console, m.ConsoleEntry(m.ConsolePassword))
	return out, err
}
