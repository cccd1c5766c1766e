package ipam

import (
	"context"

	"slipway/orchestrator"
)

// Pools sends each pool's calls to the service that the pool names.
type Pools map[string]*Client

var _ orchestrator.Addresses = Pools(nil)

func (p Pools) of(pool string) (*Client, error) {
	if c := p[pool]; c != nil {
		return c, nil
	}
	return nil, orchestrator.Errorf("ipam", orchestrator.Permanent, "pool %s has no address service", pool)
}

// Reserve implements orchestrator.Addresses.
func (p Pools) Reserve(ctx context.Context, pool string, r orchestrator.ReservationRequest) (orchestrator.Reservation, error) {
	c, err := p.of(pool)
	if err != nil {
		return orchestrator.Reservation{}, err
	}
	return c.Reserve(ctx, pool, r)
}

// Confirm implements orchestrator.Addresses.
func (p Pools) Confirm(ctx context.Context, pool, key string) error {
	c, err := p.of(pool)
	if err != nil {
		return err
	}
	return c.Confirm(ctx, pool, key)
}

// Release implements orchestrator.Addresses.
func (p Pools) Release(ctx context.Context, pool, key string) error {
	c, err := p.of(pool)
	if err != nil {
		return err
	}
	return c.Release(ctx, pool, key)
}

// Reservations implements orchestrator.Addresses.
func (p Pools) Reservations(ctx context.Context, pool string) ([]orchestrator.Reservation, error) {
	c, err := p.of(pool)
	if err != nil {
		return nil, err
	}
	return c.Reservations(ctx, pool)
}

// Close ends idle connections.
func (p Pools) Close() {
	for _, c := range p {
		c.Close()
	}
}
