package service

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"slipway/internal/config"
	"slipway/orchestrator"
)

// backends is a store that knows which pools' consoles are whose, and nothing else.
type backends struct {
	orchestrator.Store
	known map[string]orchestrator.ConsoleBackend
	err   error
}

func (b backends) ConsoleBackends(context.Context) (map[string]orchestrator.ConsoleBackend, error) {
	return b.known, b.err
}

// TestConsoleAddress: events have the address of whoever shows the pool's consoles at that moment.
func TestConsoleAddress(t *testing.T) {
	cfg := &config.Config{Groups: []config.Group{{ID: "consoles", Members: []config.Member{
		{Name: "xvp", Address: "xvp.example.net"}, {Name: "gateways", Gateway: true, Address: "console.example.net"},
	}}, {ID: "silent"}}}
	gateway := map[string]orchestrator.ConsoleBackend{"p": orchestrator.ConsoleGateway}
	for name, c := range map[string]struct {
		store backends
		group string
		want  string
	}{
		"xvp":          {backends{}, "consoles", "xvp.example.net"},
		"gateway":      {backends{known: gateway}, "consoles", "console.example.net"},
		"nobody said":  {backends{known: gateway}, "silent", ""},
		"no such":      {backends{known: gateway}, "gone", ""},
		"store is off": {backends{err: errors.New("away")}, "consoles", ""},
	} {
		s := &Service{Config: cfg, Store: c.store, log: slog.New(slog.DiscardHandler)}
		if got := s.consoleAddress(t.Context(), orchestrator.Placement{Pool: "p", Console: c.group, ConsolePort: 20000}); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
