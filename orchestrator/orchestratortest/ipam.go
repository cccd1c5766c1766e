package orchestratortest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"slipway/orchestrator"
)

// Service is a world's address service, for the pools that name one. Its calls pass points as those to the hypervisor do; a sweep's do not.
type Service struct {
	World *World
	// Answer, when set, takes the place of what the service would say.
	Answer func(orchestrator.Reservation) (orchestrator.Reservation, error)

	estate *orchestrator.Estate
	kept   map[string]map[string]orchestrator.Reservation // pool → key
}

var _ orchestrator.Addresses = (*Service)(nil)

// Reserve implements orchestrator.Addresses: the highest free ones, so that nobody takes them for the ledger's own choice.
func (v *Service) Reserve(_ context.Context, pool string, r orchestrator.ReservationRequest) (orchestrator.Reservation, error) {
	p, err := v.World.enter("Reserve")
	if err != nil {
		return orchestrator.Reservation{}, err
	}
	reservation, ok := v.kept[pool][r.Key]
	if !ok {
		its, _ := v.estate.PoolByID(pool)
		reservation = orchestrator.Reservation{Key: r.Key, Machine: r.Machine, Private: v.free(pool, its.Private)}
		if r.Public {
			reservation.Public = v.free(pool, its.Public)
		}
		if !reservation.Private.IsValid() || r.Public && !reservation.Public.IsValid() {
			return orchestrator.Reservation{}, orchestrator.Errorf("Reserve", orchestrator.Exhausted, "no address is left in %s", pool)
		}
		if v.kept[pool] == nil {
			v.kept[pool] = map[string]orchestrator.Reservation{}
		}
		v.kept[pool][r.Key] = reservation
		v.World.Effects["reserve"]++
	}
	if v.Answer != nil {
		if reservation, err = v.Answer(reservation); err != nil {
			return orchestrator.Reservation{}, err
		}
	}
	return reservation, v.World.pass(p, After)
}

func (v *Service) free(pool string, s orchestrator.Subnet) netip.Addr {
	for a := netip.AddrFrom4([4]byte{s.Prefix.Addr().As4()[0], s.Prefix.Addr().As4()[1], s.Prefix.Addr().As4()[2], 254}); s.Prefix.Contains(a) && a != s.Prefix.Addr(); a = a.Prev() {
		taken := slices.ContainsFunc(slices.Collect(maps.Values(v.kept[pool])), func(r orchestrator.Reservation) bool { return r.Private == a || r.Public == a })
		if !taken && a != s.Gateway && !slices.Contains(s.Reserved, a) {
			return a
		}
	}
	return netip.Addr{}
}

// Confirm implements orchestrator.Addresses.
func (v *Service) Confirm(_ context.Context, pool, key string) error {
	if r, ok := v.kept[pool][key]; ok {
		r.Confirmed = true
		v.kept[pool][key] = r
	}
	return nil
}

// Release implements orchestrator.Addresses.
func (v *Service) Release(_ context.Context, pool, key string) error {
	delete(v.kept[pool], key)
	return nil
}

// Reservations implements orchestrator.Addresses.
func (v *Service) Reservations(_ context.Context, pool string) ([]orchestrator.Reservation, error) {
	var list []orchestrator.Reservation
	for _, key := range slices.Sorted(maps.Keys(v.kept[pool])) {
		list = append(list, v.kept[pool][key])
	}
	return list, nil
}

// sweep is what a worker does now and then.
func (s *Site) sweep() {
	s.Helper()
	for _, p := range s.Estate.Pools {
		if p.IPAM != "" {
			_, err := orchestrator.SweepReservations(s.ctx(), s.Store, s.World.Service, p.ID)
			s.must(err)
		}
	}
}

// describeReservations lists what the service keeps, without keys: they count the attempts.
func (s *Site) describeReservations() []string {
	s.sweep()
	var lines []string
	for pool, kept := range s.World.Service.kept {
		for _, r := range kept {
			lines = append(lines, fmt.Sprintf("reserved in %s: %s %s for %s, confirmed %t", pool, r.Private, r.Public, r.Machine, r.Confirmed))
		}
	}
	return lines
}

// nothingReserved checks that the service keeps nothing but what the store knows, at the latest after a sweep.
func (s *Site) nothingReserved() {
	s.Helper()
	s.sweep()
	records, err := s.Store.Addresses(s.ctx())
	s.must(err)
	for pool, kept := range s.World.Service.kept {
		for key, r := range kept {
			if !slices.ContainsFunc(records, func(a orchestrator.AddressRecord) bool {
				return a.Pool == pool && a.Address == r.Private && a.Machine == r.Machine
			}) {
				s.Errorf("the address service keeps %s under %s, which no machine has", r.Private, key)
			}
		}
	}
}
