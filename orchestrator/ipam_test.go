package orchestrator_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"slipway/orchestrator"
)

// keeper is an address service, and what the store says beside it.
type keeper struct {
	orchestrator.Addresses
	kept      []orchestrator.Reservation
	records   []orchestrator.AddressRecord
	machine   orchestrator.Machine
	unknown   error // of Machine
	runs      []orchestrator.RunView
	runsFail  error
	confirmed []string
	released  []string
}

func (k *keeper) Reservations(context.Context, string) ([]orchestrator.Reservation, error) {
	return k.kept, nil
}
func (k *keeper) Confirm(_ context.Context, _, key string) error {
	k.confirmed = append(k.confirmed, key)
	return nil
}
func (k *keeper) Release(_ context.Context, _, key string) error {
	k.released = append(k.released, key)
	return nil
}

// sweptStore is the store's side: Addresses is a method of it and an interface of the other.
type sweptStore struct{ k *keeper }

func (s sweptStore) Addresses(context.Context) ([]orchestrator.AddressRecord, error) {
	return s.k.records, nil
}
func (s sweptStore) Machine(context.Context, string) (orchestrator.Machine, error) {
	return s.k.machine, s.k.unknown
}
func (s sweptStore) Runs(context.Context, orchestrator.RunFilter) ([]orchestrator.RunView, error) {
	return s.k.runs, s.k.runsFail
}

// Addresses go back to their service only when the store knows their machine and knows that it has none of them; a store that is an older copy
// knows nothing of it.
func TestSweepReservations(t *testing.T) {
	t.Parallel()
	const machine = "m-1"
	private := netip.MustParseAddr("10.0.0.11")
	record := func(pool, machine, state string) []orchestrator.AddressRecord {
		return []orchestrator.AddressRecord{{Pool: pool, Address: private, Role: "private", Machine: machine, State: state}}
	}
	run := func(status orchestrator.Status) []orchestrator.RunView {
		return []orchestrator.RunView{{Run: orchestrator.Run{ID: "r", Status: status}}}
	}
	away := errors.New("away")
	for name, c := range map[string]struct {
		change              func(*keeper)
		confirmed, released bool
		err                 error
	}{
		"nobody's":                  {func(*keeper) {}, false, true, nil},
		"of a machine that is gone": {func(k *keeper) { k.runs = run(orchestrator.StatusDone) }, false, true, nil},
		"of a forgotten machine":    {func(k *keeper) { k.unknown = orchestrator.ErrNotFound }, false, false, nil},
		"bound":                     {func(k *keeper) { k.records = record("a", machine, orchestrator.AddressBound) }, true, false, nil},
		"bound and confirmed": {func(k *keeper) {
			k.records, k.kept[0].Confirmed = record("a", machine, orchestrator.AddressBound), true
		}, false, false, nil},
		"promised":                    {func(k *keeper) { k.records = record("a", machine, orchestrator.AddressReserved) }, false, false, nil},
		"resting":                     {func(k *keeper) { k.records = record("a", machine, orchestrator.AddressQuarantine) }, false, false, nil},
		"another machine has it":      {func(k *keeper) { k.records = record("a", "m-2", orchestrator.AddressBound) }, false, true, nil},
		"another pool has the number": {func(k *keeper) { k.records = record("b", machine, orchestrator.AddressBound) }, false, true, nil},
		"being placed":                {func(k *keeper) { k.runs = run(orchestrator.StatusWaiting) }, false, false, nil},
		"of a parked run":             {func(k *keeper) { k.runs = run(orchestrator.StatusParked) }, false, false, nil},
		"placed meanwhile":            {func(k *keeper) { k.machine.Placement.Pool, k.runs = "a", run(orchestrator.StatusRunning) }, false, true, nil},
		"the store is away":           {func(k *keeper) { k.unknown = away }, false, false, away},
		"it goes away meanwhile":      {func(k *keeper) { k.runsFail = away }, false, false, away},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := &keeper{kept: []orchestrator.Reservation{{Key: "r.1", Machine: machine, Private: private}}, machine: orchestrator.Machine{ID: machine}}
			c.change(k)
			swept, err := orchestrator.SweepReservations(t.Context(), sweptStore{k}, k, "a")
			if !errors.Is(err, c.err) {
				t.Errorf("%v, want %v", err, c.err)
			}
			want := func(yes bool) []string {
				if yes {
					return []string{"r.1"}
				}
				return nil
			}
			if !slices.Equal(k.confirmed, want(c.confirmed)) || !slices.Equal(k.released, want(c.released)) ||
				swept != (orchestrator.Swept{Confirmed: len(k.confirmed), Released: len(k.released)}) {
				t.Errorf("confirmed %v, released %v, told %+v", k.confirmed, k.released, swept)
			}
		})
	}
}
