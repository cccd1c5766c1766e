package demo

import (
	"context"
	"slices"
)

// Call asks a pool, from 0, in an administrator's name and over the wire: what somebody does there past slipway.
func (s *Site) Call(ctx context.Context, pool int, result any, method string, args ...any) error {
	c, err := s.world.pools[pool].client()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // the session ends with the simulator at the latest
	return c.Call(ctx, method, result, args...)
}

// Report is what a guest of a pool, from 0, says of itself: the address behind a MAC.
func (s *Site) Report(pool int, mac, address string) {
	s.world.pools[pool].sim.ReportGuest(mac, address)
}

// Typed are the keys, as X keysyms, that viewers have pressed at the screen of the VM of that name.
func (s *Site) Typed(vm string) []uint32 {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	return slices.Clone(s.world.keys[vm])
}
