package driver

import (
	"context"
	"sync"
	"time"

	"slipway/orchestrator"
)

// Gate answers the engine from a copy of the holds that is at most Fresh old, so that a step costs no round trip for it. Safe for concurrent
// use.
type Gate struct {
	Store interface {
		Holds(ctx context.Context) ([]orchestrator.Hold, error)
	}
	Fresh time.Duration // default 1 s

	mu   sync.Mutex
	read time.Time
	held map[orchestrator.Subject]orchestrator.Hold
}

// Held implements orchestrator.Gate.
func (g *Gate) Held(ctx context.Context, subjects []orchestrator.Subject) (orchestrator.Hold, bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fresh := g.Fresh
	if fresh == 0 {
		fresh = time.Second
	}
	if g.held == nil || time.Since(g.read) >= fresh {
		asked := time.Now()
		holds, err := g.Store.Holds(ctx)
		if err != nil {
			return orchestrator.Hold{}, false, err
		}
		g.read, g.held = asked, map[orchestrator.Subject]orchestrator.Hold{}
		for _, h := range holds {
			g.held[h.Subject] = h
		}
	}
	for _, s := range subjects {
		if h, ok := g.held[s]; ok {
			return h, true, nil
		}
	}
	return orchestrator.Hold{}, false, nil
}

// Forget makes the next question read the store: something was put on hold here, or lifted.
func (g *Gate) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = nil
}
