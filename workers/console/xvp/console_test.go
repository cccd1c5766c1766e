package xvp_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
	controller "slipway/workers/appliance"
	"slipway/workers/appliance/carrier"
	"slipway/workers/console/consoletest"
	"slipway/workers/console/gateway"
	"slipway/workers/console/rfb"
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
		return groupOf(s, xvpAt(t, s, self))
	}})
}

// xvpAt is an xvp host at the site's address, with its agent.
func xvpAt(t *testing.T, s *consoletest.Site, program string) controller.Member {
	t.Helper()
	h := newHost(t, program)
	h.cfg.Start = append(h.cfg.Start, "-listen", s.Address)
	h.build(h.cfg)
	return controller.Member{Name: "console-1", Carrier: carrier.Local{Agent: newAppliance(t, h).agent}}
}

func groupOf(s *consoletest.Site, members ...controller.Member) controller.Group {
	return controller.Group{ID: consoletest.Group, Unit: orchestrator.Console, Interval: time.Millisecond, Render: renderFor(s), Members: members}
}

// TestConsolesMove: a pool's consoles go to the gateway and come back, on one address: the same ports and passwords, with a gateway that
// ends in the middle and one that takes its place. xvp is never told to bind what a gateway has: it would end, and be put back without them.
func TestConsolesMove(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(beXVP, "1")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	s := consoletest.NewSite(t, orchestrator.ConsoleXVP)
	s.Members("gateways", "console-1")
	follow := func(ctx context.Context, group string, generation int64) error {
		return gateway.AwaitGateways(ctx, s.Store, group, generation)
	}
	s.Use(groupOf(s, controller.Member{Name: "gateways", Follow: follow}, xvpAt(t, s, self)))
	stop := gatewayAt(t, s, "gateway-1")

	var consoles []*consoletest.Console
	for _, password := range []string{"one", "two", "three", "four", "five", "six", "seven"} { // more than the shrink guard lets go
		consoles = append(consoles, s.Add(password))
	}
	s.Apply()
	move := func(to orchestrator.ConsoleBackend, ports int) {
		t.Helper()
		if n, err := s.Store.MoveConsoles(t.Context(), consoletest.Pool, to, "1000:op", "a trial"); err != nil || n != len(consoles) {
			t.Fatalf("%d machines, %v", n, err)
		}
		s.Apply()
		s.Shows(consoles[0], "one")
		s.Shows(consoles[6], "seven")
		s.Listening(ports)
		members, err := s.Store.Members(t.Context(), consoletest.Group)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			if m.Problem != "" || m.Halted != "" {
				t.Errorf("after the move to %s: %+v", to, m)
			}
		}
	}
	move(orchestrator.ConsoleGateway, len(consoles))
	stop()
	gatewayAt(t, s, "gateway-2")
	s.Shows(consoles[3], "four")
	move(orchestrator.ConsoleXVP, 0)
	move(orchestrator.ConsoleGateway, len(consoles))
}

// gatewayAt is a gateway at the site's address, before screens of its own.
func gatewayAt(t *testing.T, s *consoletest.Site, holder string) (stop func()) {
	t.Helper()
	g, err := gateway.New(gateway.Config{Store: s.Store, Display: screen{}, Vault: s.Vault, URL: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		_ = g.ServePorts(ctx, gateway.PortsConfig{
			Store: s.Store, Groups: []string{consoletest.Group}, Holder: holder, Every: 20 * time.Millisecond,
			Listen: func(ctx context.Context, port uint16) (net.Listener, error) {
				return (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(s.Address, strconv.Itoa(int(port))))
			},
		})
	})
	stop = sync.OnceFunc(func() {
		cancel()
		serving.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// screen is any machine's: it echoes.
type screen struct{}

func (screen) OpenDisplay(context.Context, orchestrator.MachineRef) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		v, err := rfb.Greet(context.Background(), there, rfb.None)
		if err == nil && v.Admit(context.Background(), rfb.ServerInit{Width: 64, Height: 48}) == nil {
			_, _ = io.Copy(there, there)
		}
	}()
	return here, nil
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
