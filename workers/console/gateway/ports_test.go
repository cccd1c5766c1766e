package gateway_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/workers/appliance"
	"slipway/workers/console/consoletest"
	"slipway/workers/console/gateway"
)

// standing is a gateway that shows a site's consoles at their ports, before screens that echo.
func standing(t *testing.T, s *consoletest.Site, holder string) (shown *screens, stop func()) {
	t.Helper()
	at := &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	shown = &screens{}
	g, err := gateway.New(gateway.Config{Store: s.Store, Display: shown, Vault: s.Vault, URL: at, CheckEvery: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		err := g.ServePorts(ctx, gateway.PortsConfig{
			Store: s.Store, Groups: []string{consoletest.Group}, Holder: holder, Every: 20 * time.Millisecond,
			Listen: func(ctx context.Context, port uint16) (net.Listener, error) {
				return (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(s.Address, strconv.Itoa(int(port))))
			},
		})
		if err != nil {
			t.Error("ports:", err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		serving.Wait()
	})
	t.Cleanup(stop)
	return shown, stop
}

// follows is the group as a worker has it.
func follows(s *consoletest.Site) appliance.Group {
	return appliance.Group{
		ID: consoletest.Group, Unit: orchestrator.Console, Interval: time.Millisecond,
		Render: func([]appliance.Text) (appliance.Rendering, map[string]string, error) {
			return appliance.Rendering{}, nil, nil
		},
		Members: []appliance.Member{{Name: "console-1", Follow: func(ctx context.Context, group string, generation int64) error {
			return gateway.AwaitGateways(ctx, s.Store, group, generation)
		}}},
	}
}

func TestPortsAreAConsoleBackend(t *testing.T) {
	consoletest.Exercise(t, consoletest.Harness{Backend: orchestrator.ConsoleGateway, Open: func(t *testing.T, s *consoletest.Site) appliance.Group {
		standing(t, s, "gateway-1")
		return follows(s)
	}})
}

// TestSessionsAtAPort: whoever looks when the password changes, or the console is closed, looks no longer; and a gateway that stops takes
// its ports and its report with it.
func TestSessionsAtAPort(t *testing.T) {
	s := consoletest.NewSite(t, orchestrator.ConsoleGateway)
	_, stop := standing(t, s, "gateway-1")
	s.Use(follows(s))
	changed, dropped, kept := s.Add("one"), s.Add("two"), s.Add("three")
	s.Apply()
	first, second, third := s.Shows(changed, "one"), s.Shows(dropped, "two"), s.Shows(kept, "three")
	s.Change(changed, "other")
	s.Drop(dropped)
	s.Apply()
	for name, conn := range map[string]net.Conn{"a new password": first, "a closed console": second} {
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%s: the session goes on: %v", name, err)
		}
	}
	s.Goes(third)
	stop()
	s.Closed(kept)
	if reports, err := s.Store.GatewayReports(t.Context(), consoletest.Group); err != nil || len(reports) > 0 {
		t.Errorf("a gateway that has gone reports %+v, %v", reports, err)
	}
}

// TestEveryGatewayCounts: a generation is confirmed when every gateway that runs has come to it, and none is waited for that has gone.
func TestEveryGatewayCounts(t *testing.T) {
	s := consoletest.NewSite(t, orchestrator.ConsoleGateway)
	report := func(holder string, generation int64, life time.Duration) {
		t.Helper()
		if err := s.Store.ReportGateway(t.Context(), orchestrator.GatewayReport{Group: consoletest.Group, Holder: holder, Generation: generation}, life); err != nil {
			t.Fatal(err)
		}
	}
	await := func(generation int64) error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return gateway.AwaitGateways(ctx, s.Store, consoletest.Group, generation)
	}
	if await(0) == nil {
		t.Error("confirmed by nobody")
	}
	report("a", 7, time.Hour)
	report("b", 6, time.Hour)
	if await(7) == nil {
		t.Error("confirmed though b is behind")
	}
	report("b", 0, 0)
	if err := await(7); err != nil {
		t.Errorf("b has gone: %v", err)
	}
}
