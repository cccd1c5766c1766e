package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/internal/testserver"
	"slipway/orchestrator"
)

// floodOf is how many orders a flood has: SLIPWAY_FLOOD, or few enough for every run of the tests.
func floodOf(t *testing.T) int {
	t.Helper()
	text := os.Getenv("SLIPWAY_FLOOD")
	if text == "" {
		return 3000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1000 {
		t.Fatalf("SLIPWAY_FLOOD=%s is no number of orders from 1000 on", text)
	}
	return n
}

// memory is a process's resident memory in MiB, now and at most.
func memory(t *testing.T, pid int) (now, peak int) {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch name {
		case "VmRSS":
			now = kib / 1024
		case "VmHWM":
			peak = kib / 1024
		}
	}
	return now, peak
}

// One tenant's panel has gone mad and orders as fast as the broker takes it. Another tenant's order, behind all of that, becomes a machine;
// the mad one gets as many machines as it may, hears that it has reached its limit, and loses no order; the worker's memory does not grow
// with the flood.
func TestFloodFromOneTenant(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	const limit = 8
	n := floodOf(t)
	url := testserver.RabbitMQ(t)
	s := newSite(t, siteConfig{pools: 1, rabbitmq: url, tenantRuns: limit})
	w := s.serve("one")
	panel := listen(t, url)
	before, _ := memory(t, w.PID())

	_, key := keyPair(t)
	began := time.Now()
	flood(t, url, n, key)
	sent := time.Since(began)
	other := install(n+1, key)
	other["data"].(map[string]any)["tenant"] = "other"
	ordered := time.Now()
	publish(t, url, other.json(t))

	heard := func(typ, tenant string) int {
		count := 0
		for _, e := range panel.heard() {
			if e.Type == typ && strings.Contains(e.raw, `"tenant":"`+tenant+`"`) {
				count++
			}
		}
		return count
	}
	var accepted time.Duration
	testnet.Until(t, 10*time.Minute, "the other tenant's order to be accepted", func() bool {
		accepted = time.Since(ordered)
		return heard("slipway.run.accepted", "other") == 1
	})
	testnet.Until(t, 2*time.Minute, "the other tenant's machine", func() bool { return heard("slipway.run.done", "other") == 1 })
	done := time.Since(ordered)
	after, peak := memory(t, w.PID())

	if c := heard("slipway.tenant.limited", "acme"); c != 1 {
		t.Errorf("told %d times that the tenant is at its limit", c)
	}
	for _, e := range panel.heard() {
		if e.Type == "slipway.tenant.limited" && !strings.Contains(e.raw, fmt.Sprintf("tenant acme has %d orders under way", limit)) {
			t.Errorf("%s", e.raw)
		}
	}
	// Nothing is lost: each order is a run, or waits; one that is being taken is both for a moment.
	s.read(func(ctx context.Context, db orchestrator.Store) error {
		kept, err := db.Kept(ctx)
		if err != nil {
			return err
		}
		runs, err := db.Runs(ctx, orchestrator.RunFilter{Tenant: "acme", Limit: 2 * n})
		if err != nil {
			return err
		}
		if len(kept) != 1 || kept[0].UnderWay > limit || kept[0].Kept+len(runs) < n || kept[0].Kept+len(runs) > n+limit {
			t.Errorf("%d orders were sent: %d runs, and %+v", n, len(runs), kept)
		}
		return nil
	})
	if grown := peak - before; grown > 150 {
		t.Errorf("the worker grew by %d MiB", grown)
	}
	if out := s.cli("one", "backlog"); !strings.Contains(out, "acme") {
		t.Errorf("slipway backlog: %s", out)
	}
	t.Logf("%d orders sent in %s; another tenant's order behind them accepted after %s, its machine ready after %s; serve: %d MiB before, %d MiB after, %d MiB at most",
		n, sent.Round(time.Millisecond), accepted.Round(time.Millisecond), done.Round(time.Millisecond), before, after, peak)
}

// flood publishes n orders of one tenant as fast as the broker confirms them.
func flood(t *testing.T, url string, n int, key string) {
	t.Helper()
	ch := channel(t, url)
	const window = 1000
	var waiting []*amqp091.DeferredConfirmation
	settle := func(all bool) {
		for len(waiting) > 0 && (all || len(waiting) >= window) {
			if ok, err := waiting[0].WaitContext(t.Context()); err != nil || !ok {
				t.Fatalf("the broker did not take an order: %v", err)
			}
			waiting = waiting[1:]
		}
	}
	for i := range n {
		c, err := sendOrder(ch, install(i+1, key).json(t))
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
		settle(false)
	}
	settle(true)
}
