package xvp_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"slipway/orchestrator"
	controller "slipway/workers/appliance"
	"slipway/workers/appliance/carrier"
	"slipway/workers/console/consoletest"
	"slipway/workers/console/xvp"
)

// TestXVPIsAConsoleBackend runs on the stand-in alone: xvp itself listens on every address of its host.
func TestXVPIsAConsoleBackend(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(beXVP, "1")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	consoletest.Exercise(t, consoletest.Harness{Backend: orchestrator.ConsoleXVP, Open: func(t *testing.T, s *consoletest.Site) controller.Group {
		h := newHost(t, self)
		h.cfg.Start = append(h.cfg.Start, "-listen", s.Address)
		h.build(h.cfg)
		return controller.Group{
			ID: consoletest.Group, Unit: orchestrator.Console, Interval: time.Millisecond, Render: renderFor(s),
			Members: []controller.Member{{Name: "console-1", Carrier: carrier.Local{Agent: newAppliance(t, h).agent}}},
		}
	}})
}

// renderFor writes the file as a worker does.
func renderFor(s *consoletest.Site) controller.Renderer {
	cfg := xvp.Config{Pools: []xvp.PoolConfig{{
		ID: consoletest.Pool, Name: "slipway-pool-a", Manager: "xvp", Password: orchestrator.NewSecret("account of xvp"),
		Hosts: []xvp.HostConfig{{Name: "xen1", Address: netip.MustParseAddr("127.0.0.1")}},
	}}}
	return func(texts []controller.Text) (controller.Rendering, map[string]string, error) {
		var entries []orchestrator.ConsoleEntry
		for _, text := range texts {
			var e orchestrator.ConsoleEntry
			if text.Backend == orchestrator.ConsoleGateway {
				continue
			}
			err := json.Unmarshal(text.Body, &e)
			sealed, decodeErr := base64.StdEncoding.DecodeString(e.Password)
			password, openErr := s.Vault.Open(e.Machine, orchestrator.SealedConsole, sealed)
			hex, encryptErr := xvp.EncryptVNC(password)
			if err := errors.Join(err, decodeErr, openErr, encryptErr); err != nil {
				return controller.Rendering{}, nil, err
			}
			e.Password = hex
			entries = append(entries, e)
		}
		files, lines, err := xvp.Render(os.DirFS("../../../templates"), cfg, entries)
		return controller.Rendering{Files: files, Owner: func(_ string, line int) string { return lines[line] }}, nil, err
	}
}
