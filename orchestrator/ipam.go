package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// Addresses is somebody else's naming and address service, which decides for the pools that name it (Pool.IPAM) what a machine gets.
//
// The store stays the truth of what machines have: place reserves at the service first and writes the answer into the ledger with
// everything else, or nothing. Whatever a worker leaves behind that dies between the two is found by SweepReservations, which also
// confirms what was placed and releases what has rested long enough. So nothing but place ever waits for the service.
type Addresses interface {
	// Reserve gives the machine its addresses. It is idempotent by r.Key: the same key has the same answer until it is released. Kind
	// Exhausted when the service has none left, Transient when it does not answer or not in its own words, Permanent when it refuses.
	Reserve(ctx context.Context, pool string, r ReservationRequest) (Reservation, error)
	// Confirm tells that the machine has them, and Release that it has not any more; neither fails for a repetition, nor for a key that
	// the service does not know.
	Confirm(ctx context.Context, pool, key string) error
	Release(ctx context.Context, pool, key string) error
	// Reservations lists all that were made under a key of ours in this pool.
	Reservations(ctx context.Context, pool string) ([]Reservation, error)
}

// ReservationRequest says for whom.
type ReservationRequest struct {
	Key                             string // of one placing of one run; see Reservation.Run
	Machine, Tenant, Name, Hostname string
	Public                          bool // it needs a public partner as well
}

// Reservation is what the service keeps under a key.
type Reservation struct {
	Key             string
	Machine         string
	Private, Public netip.Addr // Public is zero where there is none
	// Hostname is the name that the service gives, "" when it leaves that to the order.
	Hostname  string
	Confirmed bool
}

// reservationKey names one placing: a run that was rewound is placed anew, under another attempt.
func reservationKey(run Run) string { return run.ID + "." + strconv.Itoa(run.Attempt) }

// PlaceKey is the key under which a step reserves.
func (s *Step) PlaceKey() string { return reservationKey(s.Run) }

// check judges an answer by what is known without the ledger: nothing that a service says is believed.
func (p Pool) check(r Reservation) error {
	if err := p.Private.holds(r.Private); err != nil {
		return fmt.Errorf("private address: %w", err)
	}
	if p.Strategy != NAT {
		if r.Public.IsValid() {
			return fmt.Errorf("public address: %s was given, and machines of a routed pool have none", r.Public)
		}
		return nil
	}
	if err := p.Public.holds(r.Public); err != nil {
		return fmt.Errorf("public address: %w", err)
	}
	return nil
}

// holds tells why an address cannot be a machine's in this subnet. Ranges, where there are any, bound what a service may give too.
func (s Subnet) holds(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return errors.New("none was given")
	case a.Is4() != s.Prefix.Addr().Is4():
		return fmt.Errorf("%s is of another family than %s", a, s.Prefix)
	case !s.Prefix.Contains(a):
		return fmt.Errorf("%s is outside of %s", a, s.Prefix)
	case s.Prefix.Bits() < 31 && (a == s.Prefix.Masked().Addr() || a == lastAddress(s.Prefix)):
		return fmt.Errorf("%s is the network or broadcast address of %s", a, s.Prefix)
	case a == s.Gateway:
		return fmt.Errorf("%s is the gateway", a)
	case slices.Contains(s.Reserved, a):
		return fmt.Errorf("%s is reserved by the configuration", a)
	case len(s.Ranges) > 0 && !s.Gives(a):
		return fmt.Errorf("%s is in none of the pool's ranges", a)
	}
	return nil
}

// CheckReservation says what is wrong with a service's answer, by what the pool is and by what is taken; kind Permanent.
func (l *Ledger) CheckReservation(p Pool, r Reservation) error {
	err := p.check(r)
	for _, a := range []netip.Addr{r.Private, r.Public} {
		if err == nil && a.IsValid() && l.Addresses[a] {
			err = fmt.Errorf("%s is taken already: it is another machine's, rests after one, or is foreign (slipway ip)", a)
		}
	}
	if err == nil && r.Hostname != "" {
		var c fieldCheck
		c.hostname("hostname", r.Hostname)
		if len(c.errs) > 0 {
			err = c.errs
		}
	}
	if err != nil {
		return Errorf("place", Permanent, "the address service %s gave what cannot be used: %w", p.IPAM, err)
	}
	return nil
}

// Rooms is where place looks before it asks a service; every Store is one.
type Rooms interface {
	Ledger(ctx context.Context) (*Ledger, error)
}

// Sweeping is what a sweep reads of the store.
type Sweeping interface {
	Addresses(ctx context.Context) ([]AddressRecord, error)
	Machine(ctx context.Context, id string) (Machine, error)
	Runs(ctx context.Context, f RunFilter) ([]RunView, error)
}

// Swept counts what a sweep did.
type Swept struct{ Confirmed, Released int }

// SweepReservations makes the service agree with the store: what a machine has is confirmed; what none has, rests or is about to get is
// released. A machine that is being placed keeps what was reserved for it. Running it at any moment, twice, or by two workers is safe: the
// service's list is read before the store, so that what is placed meanwhile is seen as placed.
func SweepReservations(ctx context.Context, store Sweeping, service Addresses, pool string) (swept Swept, err error) {
	reservations, err := service.Reservations(ctx, pool)
	if err != nil || len(reservations) == 0 {
		return swept, err
	}
	records, err := store.Addresses(ctx)
	if err != nil {
		return swept, err
	}
	type owned struct {
		machine string
		address netip.Addr
	}
	state := map[owned]string{}
	for _, r := range records {
		if r.Pool == pool {
			state[owned{r.Machine, r.Address}] = r.State
		}
	}
	var errs []error
	for _, r := range reservations {
		switch has := state[owned{r.Machine, r.Private}]; {
		case has == AddressBound && !r.Confirmed:
			if err := service.Confirm(ctx, pool, r.Key); err != nil {
				errs = append(errs, err)
				continue
			}
			swept.Confirmed++
		case has != "":
		default:
			placing, err := beingPlaced(ctx, store, r.Machine)
			if err != nil {
				return swept, errors.Join(append(errs, err)...)
			}
			if placing {
				continue
			}
			if err := service.Release(ctx, pool, r.Key); err != nil {
				errs = append(errs, err)
				continue
			}
			swept.Released++
		}
	}
	return swept, errors.Join(errs...)
}

// beingPlaced reports whether a reservation without an address in the store may still become one.
func beingPlaced(ctx context.Context, store Sweeping, machine string) (bool, error) {
	m, err := store.Machine(ctx, machine)
	if errors.Is(err, ErrNotFound) {
		return true, nil // rows of machines are for ever: the store is an older copy, and the machine may have the addresses
	}
	if err != nil {
		return false, err
	}
	if !m.Placement.IsZero() {
		return false, nil
	}
	runs, err := store.Runs(ctx, RunFilter{Machine: machine})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(runs, func(r RunView) bool { return r.Status.Active() }), nil
}
