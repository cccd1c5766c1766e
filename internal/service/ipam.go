package service

import (
	"context"
	"fmt"
	"time"

	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/workers/ipam"
)

// openIPAM makes a client for each service, under every pool that names it.
func openIPAM(cfg *config.Config) (ipam.Pools, error) {
	pools := ipam.Pools{}
	for i, s := range cfg.IPAM {
		token, err := s.Token.Read()
		if err != nil {
			return nil, fmt.Errorf("ipam[%d].token: %w", i, err)
		}
		client, err := ipam.New(ipam.Config{Name: s.ID, URL: s.URL, Token: token, CAFile: s.CAFile})
		if err != nil {
			return nil, fmt.Errorf("ipam[%d]: %w", i, err)
		}
		for _, p := range cfg.Pools {
			if p.IPAM == s.ID {
				pools[p.ID] = client
			}
		}
	}
	return pools, nil
}

// Of a sweep: how often, and for how long one pool's may last.
const (
	sweepEvery   = time.Minute
	sweepTimeout = 5 * time.Minute
)

// sweepAddresses makes the address services agree with the store, now and then. Workers do it side by side: a sweep may be repeated.
func (s *Service) sweepAddresses(ctx context.Context) {
	if len(s.addresses) == 0 {
		return
	}
	defer s.addresses.Close()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		for pool := range s.addresses {
			s.sweepPool(ctx, pool)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Service) sweepPool(ctx context.Context, pool string) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	swept, err := orchestrator.SweepReservations(ctx, s.Store, s.addresses, pool)
	if err != nil && ctx.Err() == nil {
		s.log.Warn("sweep the address service", "pool", pool, "error", err)
	}
	if swept != (orchestrator.Swept{}) {
		s.log.Info("address service swept", "pool", pool, "confirmed", swept.Confirmed, "released", swept.Released)
	}
}

// checkIPAM asks a pool's service for its reservations.
func checkIPAM(ctx context.Context, cfg *config.Config, pool string) (string, error) {
	services, err := openIPAM(cfg)
	if err != nil {
		return "", err
	}
	defer services.Close()
	reservations, err := services.Reservations(ctx, pool)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d reservations", len(reservations)), nil
}
