package service

import (
	"context"

	"slipway/orchestrator"
)

// Observe is what an explanation has found of a machine.
func (s *Service) Observe(ctx context.Context, m orchestrator.Machine) []string {
	return s.observe(ctx, m)
}
