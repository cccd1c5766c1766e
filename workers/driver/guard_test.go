package driver_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"slipway/orchestrator"
	"slipway/store/sqlite"
	"slipway/store/storetest"
	"slipway/workers/driver"
)

// Two workers share the count, by the database's clock: what began longer ago than the window is forgotten, and a halt is not.
func TestGuard(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s, err := sqlite.NewMemory(t.Context(), func() time.Time { now = now.Add(time.Millisecond); return now })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	log := new(bytes.Buffer)
	worker := func() *driver.Guard {
		return &driver.Guard{Store: s, Gate: &driver.Gate{Store: s, Fresh: time.Nanosecond}, Limits: map[string]int{"uninstall": 3}, Window: 10 * time.Minute,
			Log: slog.New(slog.NewTextHandler(log, nil))}
	}
	one, two := worker(), worker()
	n := 0
	claim := func(process string) orchestrator.Claim {
		t.Helper()
		n++
		installed, err := s.Accept(t.Context(), storetest.Install(n, now))
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.ClaimRun(t.Context(), installed.Run, "w", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		c.Run.Status = orchestrator.StatusDone
		if err := s.Commit(t.Context(), []orchestrator.Commit{{Run: c.Run, Release: true}})[0].Err; err != nil {
			t.Fatal(err)
		}
		id := uuid.NewString()
		_, err = s.Accept(t.Context(), orchestrator.Acceptance{
			Order: orchestrator.Order{Source: "panel", ID: id, Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: installed.Machine}, Actor: "intake", Now: now,
			Run: orchestrator.Run{ID: id, Process: process, State: "begun", Status: orchestrator.StatusReady, Step: "x", Attempt: 1},
		})
		if err != nil {
			t.Fatal(err)
		}
		if c, err = s.ClaimRun(t.Context(), id, "w", time.Hour); err != nil {
			t.Fatal(err)
		}
		return c
	}
	ask := func(g *driver.Guard, process string) (orchestrator.Hold, bool) {
		t.Helper()
		c := claim(process)
		halt, halted, err := g.Begin(t.Context(), c.Run, c.Machine)
		if err != nil {
			t.Fatal(err)
		}
		return halt, halted
	}
	for i, pause := range []time.Duration{0, 4 * time.Minute, 4 * time.Minute, 4 * time.Minute} { // the first of these four is no longer counted at the last
		now = now.Add(pause)
		if halt, halted := ask([]*driver.Guard{one, two}[i%2], "uninstall"); halted {
			t.Fatalf("number %d: %+v", i, halt)
		}
	}
	halt, halted := ask(one, "uninstall")
	if !halted || !strings.HasPrefix(halt.Reason, "3 began within 10m0s") || strings.Count(log.String(), "halted") != 1 {
		t.Fatalf("%t, %+v; the log has %q", halted, halt, log)
	}
	now = now.Add(24 * time.Hour)
	if again, halted := ask(two, "uninstall"); !halted || again.Reason != halt.Reason {
		t.Errorf("a day later: %t, %+v", halted, again)
	}
	if _, halted := ask(worker(), "uninstall"); !halted {
		t.Error("a worker that was started anew lets it begin")
	}
	if _, halted := ask(one, "suspend"); halted {
		t.Error("what has no bound is halted")
	}
	if _, held, err := one.Gate.Held(context.Background(), []orchestrator.Subject{halt.Subject}); held || err != nil {
		t.Errorf("what is under way in the pool is held, %v", err)
	}
	if _, err := s.EndHalt(t.Context(), halt.Subject, "uninstall", "0:root", "meant"); err != nil {
		t.Fatal(err)
	}
	if _, halted := ask(two, "uninstall"); halted {
		t.Error("halted after its end")
	}
}
