package sqlstore

import (
	"context"
	"errors"
	"fmt"

	"slipway/orchestrator"
)

// leaseConstraint is broken by the commit of a worker that lost its lease.
const leaseConstraint = "run_lease"

// meanings says in an operator's words what a constraint keeps from happening.
var meanings = map[string]string{
	leaseConstraint:       "another worker holds the run",
	"machine_name":        "the tenant has a machine of this name",
	"machine_identity":    "another machine has this machine-id or SID: the guest's identity was not reset",
	"machines_pkey":       "the machine exists already",
	"runs_pkey":           "the run exists already",
	"run_active":          "the machine has an active run",
	"addresses_pkey":      "the address is taken",
	"address_of_machine":  "the machine has an address of this role",
	"address_kept":        "the address stays with its machine until that is recorded absent",
	"macs_pkey":           "the MAC is taken",
	"mac_of_machine":      "the machine has a MAC",
	"mac_given":           "no MAC is free under the pool's prefix",
	"mac_kept":            "the MAC stays with its machine until that is recorded absent",
	"port_key":            "the console port is taken",
	"port_of_machine":     "the machine has a console port",
	"port_kept":           "the console port stays with its machine until that is recorded absent",
	"reservation_machine": "the machine has a placement",
	"reservation_kept":    "room stays with its machine until that is recorded absent",
	"host_room":           "the host has no room",
	"sr_room":             "the storage has no room",
	"entries.generation":  "the group is not configured, or is one of another unit",
}

// fail classifies: an Error of the domain stays as it is, a broken constraint is Conflict, a database that is away Transient.
func (s *Store) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	var known *orchestrator.Error
	var fields orchestrator.FieldErrors
	if errors.As(err, &known) || errors.As(err, &fields) {
		return err
	}
	fault := s.db.Fault(err)
	switch {
	case fault.Constraint == leaseConstraint:
		return orchestrator.Errorf(op, orchestrator.Conflict, "%w", orchestrator.ErrFenced)
	case fault.Constraint != "":
		meaning, ok := meanings[fault.Constraint]
		if !ok {
			meaning = "a rule of the store was broken"
		}
		return orchestrator.Errorf(op, orchestrator.Conflict, "%s (%s): %w", meaning, fault.Constraint, err)
	case errors.Is(err, context.Canceled):
		return orchestrator.Errorf(op, orchestrator.Canceled, "%w: %w", orchestrator.ErrStoreAway, err)
	case fault.Away:
		s.doubted.Store(true)
		if fault.Full {
			return orchestrator.Errorf(op, orchestrator.Transient, "%w: %w", orchestrator.ErrStoreFull, err)
		}
		return away(op, err)
	default:
		return orchestrator.E(op, orchestrator.Permanent, err)
	}
}

func away(op string, err error) error {
	return orchestrator.Errorf(op, orchestrator.Transient, "%w: %w", orchestrator.ErrStoreAway, err)
}

func notFound(op, format string, args ...any) error {
	return orchestrator.Errorf(op, orchestrator.Permanent, "%s: %w", fmt.Sprintf(format, args...), orchestrator.ErrNotFound)
}
