package install

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"slipway/orchestrator"
)

// handleAddresses is "POOL KEY" of what was asked of a pool's address service. It is recorded before the service is asked, so that whoever
// goes on asks for the same.
const handleAddresses = "addresses"

// place promises the machine everything it needs in the transaction that commits the step, or nothing. Where a pool's addresses are
// a service's to give, they are reserved there first; see orchestrator.Addresses.
func place(service orchestrator.Addresses, rooms orchestrator.Rooms) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		request := orchestrator.PlaceRequest{Machine: s.Machine.ID, Image: s.Machine.Image, Plan: s.Machine.Plan, Pool: s.Machine.PoolWanted}
		if s.Machine.Presence == orchestrator.Absent { // the run was rewound: the name is the machine's again before it gets a place
			s.Machine.Presence = orchestrator.Planned
			return orchestrator.WaitFor("", time.Millisecond, "waiting to be placed again")
		}
		why, err := reserveAddresses(ctx, s, service, rooms, &request)
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		if why != "" {
			return orchestrator.WaitFor(orchestrator.WakeCapacity, servicePoll, "%s", why)
		}
		outcome, _ := orchestrator.Finished("host, storage, addresses, MAC and console port are reserved")
		outcome.Decide = func(ledger *orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
			if request.Given != nil {
				pool, _ := s.Estate.PoolByID(request.Pool)
				if err := ledger.CheckReservation(pool, *request.Given); err != nil {
					return orchestrator.Placement{}, nil, err
				}
			}
			return ledger.Place(s.Estate, request)
		}
		return outcome, nil
	}
}

// servicePoll is how soon an address service that did not answer is asked again.
const servicePoll = 15 * time.Second

// reserveAddresses completes the request when the pool that it leads to has its addresses from a service; why says what is waited for.
// A service that is away is like a pool that is full: it holds the run for as long as it takes, and parks nobody.
func reserveAddresses(ctx context.Context, s *orchestrator.Step, service orchestrator.Addresses, rooms orchestrator.Rooms, request *orchestrator.PlaceRequest) (why string, err error) {
	if !given(s.Estate, request.Pool) {
		return "", nil
	}
	ledger, err := rooms.Ledger(ctx)
	if err != nil {
		return "", err
	}
	request.Looking = true
	where, _, err := ledger.Place(s.Estate, *request)
	request.Looking = false
	if orchestrator.KindOf(err) == orchestrator.Exhausted {
		return "", nil // the transaction says so too, with what it considered
	}
	if err != nil {
		return "", err
	}
	pool, _ := s.Estate.PoolByID(where.Pool)
	if pool.IPAM == "" {
		return "", nil
	}
	held, key, _ := strings.Cut(s.Handle(handleAddresses), " ")
	if held != pool.ID { // what another pool's service was asked for is given back by the sweep
		key = s.PlaceKey()
		if err := s.Record(ctx, handleAddresses, pool.ID+" "+key); err != nil {
			return "", err
		}
	}
	m := s.Machine
	reservation, err := service.Reserve(ctx, pool.ID, orchestrator.ReservationRequest{
		Key: key, Machine: m.ID, Tenant: m.Tenant, Name: m.Name, Hostname: m.Hostname, Public: pool.Strategy == orchestrator.NAT,
	})
	switch orchestrator.KindOf(err) {
	case "":
	case orchestrator.Transient, orchestrator.Unknown, orchestrator.Exhausted:
		return "waiting for the address service " + pool.IPAM + ": " + err.Error(), nil
	default:
		return "", err
	}
	if ledger, err = rooms.Ledger(ctx); err != nil { // as it is after the answer
		return "", err
	}
	if err := ledger.CheckReservation(pool, reservation); err != nil {
		_ = s.Record(ctx, handleAddresses, "") // forgotten without a commit of its own: the next attempt asks under another key
		return "", err
	}
	if reservation.Hostname != "" && m.Hostname == m.Name {
		m.Hostname = reservation.Hostname
	}
	request.Pool, request.Given = pool.ID, &reservation
	return "", nil
}

// given reports whether a machine of this order may get its addresses from a service.
func given(estate *orchestrator.Estate, pool string) bool {
	for _, p := range estate.Pools {
		if p.IPAM != "" && (pool == "" || p.ID == pool) {
			return true
		}
	}
	return false
}

// releasePlacement gives everything back. The machine is absent by now: create_machine's undo has recorded it, or it was never placed.
func releasePlacement(_ context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
	if s.Machine.Placement.IsZero() {
		s.Machine.Presence = orchestrator.Absent
		return orchestrator.Finished("nothing was promised")
	}
	outcome, _ := orchestrator.Finished("reservations are released")
	outcome.Changes = []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: s.Estate.QuarantineOrDefault()}}
	return outcome, nil
}
