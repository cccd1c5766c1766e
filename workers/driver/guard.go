package driver

import (
	"context"
	"log/slog"
	"time"

	"slipway/orchestrator"
)

// Guard lets a bounded number of each process' runs begin in a pool within a time, all workers of a store together. Safe for concurrent use.
type Guard struct {
	Store interface {
		Begin(ctx context.Context, b orchestrator.Beginning, tell func(orchestrator.Hold) orchestrator.Event) (orchestrator.Hold, bool, error)
	}
	Gate   *Gate          // knows of a halt without asking the store for every run that waits for its end
	Limits map[string]int // by process; one that is not named is not bounded
	Window time.Duration
	Log    *slog.Logger
}

// Begin implements orchestrator.Guard.
func (g *Guard) Begin(ctx context.Context, run orchestrator.Run, m orchestrator.Machine) (halt orchestrator.Hold, halted bool, err error) {
	limit, bounded := g.Limits[run.Process]
	if !bounded {
		return orchestrator.Hold{}, false, nil
	}
	subject := orchestrator.PoolSubject(m.Placement.Pool)
	if halt, halted, err = g.Gate.Halted(ctx, subject, run.Process); halted || err != nil {
		return halt, halted, err
	}
	first := false
	halt, halted, err = g.Store.Begin(ctx, orchestrator.Beginning{Run: run, Tenant: m.Tenant, Subject: subject, Limit: limit, Window: g.Window},
		func(h orchestrator.Hold) orchestrator.Event {
			first = true
			return orchestrator.NewEvent(orchestrator.EventHalted, h.Since, orchestrator.EventData{
				Process: run.Process, Pool: subject.Pool(), Message: h.String(), Source: run.Order.Source, OrderID: run.Order.ID,
			})
		})
	if halted && first && err == nil {
		g.Log.Warn("halted: too many begin", "process", run.Process, "pool", subject.Pool(), "reason", halt.Reason)
	}
	if halted {
		g.Gate.Forget()
	}
	return halt, halted, err
}
