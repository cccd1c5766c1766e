package service

import (
	"context"
	"net/http"
	"time"

	"slipway/internal/api"
)

const (
	// backlogLease keeps admitting to one worker at a time, so that orders are taken in their order.
	backlogLease = "backlog"
	admitEvery   = 500 * time.Millisecond
)

// admit takes the orders that waited for their tenants' turn.
func (s *Service) admit(ctx context.Context) {
	length := min(s.Config.Lease, 15*time.Second)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := s.Store.ReleaseLease(ctx, backlogLease, s.holder); err != nil {
			s.log.Debug("backlog's lease not given back, it runs out by itself", "error", err)
		}
	}()
	for sleep(ctx, admitEvery) {
		kept, err := s.Store.Kept(ctx)
		if err == nil && len(kept) > 0 {
			err = s.admitUnder(ctx, length)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("take kept orders", "error", err)
		}
	}
}

// admitUnder takes what has room, under the lease.
func (s *Service) admitUnder(ctx context.Context, length time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, length/2) // beyond it another worker may begin
	defer cancel()
	_, ours, err := s.Store.AcquireLease(ctx, backlogLease, s.holder, length)
	if err != nil || !ours {
		return err
	}
	n, err := s.Intake.Admit(ctx)
	if n > 0 {
		s.log.Info("kept orders taken", "orders", n)
	}
	return err
}

func (s *Service) getBacklog(r *http.Request) (any, error) {
	kept, err := s.Store.Kept(r.Context())
	if err != nil {
		return nil, err
	}
	out := make([]api.Backlog, len(kept))
	for i, t := range kept {
		out[i] = api.Backlog{Tenant: t.Tenant, Waiting: t.Kept, UnderWay: t.UnderWay, Limit: s.Config.TenantRuns, Oldest: t.Oldest}
	}
	return out, nil
}
