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
	held map[question]orchestrator.Hold
}

// question is what is asked: is the subject held in that way?
type question struct {
	subject orchestrator.Subject
	kind    orchestrator.HoldKind
}

// Held implements orchestrator.Gate.
func (g *Gate) Held(ctx context.Context, subjects []orchestrator.Subject) (orchestrator.Hold, bool, error) {
	for _, s := range subjects {
		if h, ok, err := g.holds(ctx, question{s, orchestrator.HoldMaintenance}); ok || err != nil {
			return h, ok, err
		}
	}
	return orchestrator.Hold{}, false, nil
}

// Halted is the halt that keeps runs of a process from beginning there.
func (g *Gate) Halted(ctx context.Context, s orchestrator.Subject, process string) (orchestrator.Hold, bool, error) {
	return g.holds(ctx, question{s, orchestrator.HaltOf(process)})
}

func (g *Gate) holds(ctx context.Context, q question) (orchestrator.Hold, bool, error) {
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
		g.read, g.held = asked, map[question]orchestrator.Hold{}
		for _, h := range holds {
			g.held[question{h.Subject, h.Kind}] = h
		}
	}
	h, ok := g.held[q]
	return h, ok, nil
}

// Forget makes the next question read the store: something was put on hold here, or lifted.
func (g *Gate) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = nil
}
