package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"slipway/orchestrator"
	sim "slipway/sim/xapi"
	"slipway/workers/console/gateway"
	"slipway/workers/console/rfb"
	"slipway/workers/hypervisor/xapi"
)

// estate is a simulated pool of two hosts, 127.0.0.1 and 127.0.0.2, with one machine that runs.
type estate struct {
	*xapi.Backend
	admin    *xapi.Client
	vm       xapi.Ref
	uuid     string
	one, two xapi.Ref
}

func newEstate(t *testing.T) *estate {
	t.Helper()
	password := orchestrator.NewSecret("secret")
	pool, err := sim.New(sim.Config{Password: password, Hosts: 2, HostAddress: "127.0.0.1", SharedSR: true})
	if err != nil {
		t.Fatal(err)
	}
	cert, pin, err := sim.SelfSigned("127.0.0.1", "127.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "0.0.0.0:0") // both hosts, each at its address
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- pool.Serve(context.Background(), listener, &cert) }()
	cfg := xapi.Config{Addresses: []string{fmt.Sprintf("https://127.0.0.1:%d", listener.Addr().(*net.TCPAddr).Port)}, User: "root", Password: password, PinSHA256: []string{pin}}
	e := &estate{}
	if e.admin, err = xapi.New(cfg); err != nil {
		t.Fatal(err)
	}
	if e.Backend, err = xapi.NewBackend(map[string]xapi.PoolConfig{"p": {Config: cfg}}, nil, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		err := errors.Join(e.Backend.Close(ctx), e.admin.Close(ctx))
		pool.Close()
		if err := errors.Join(err, <-served); err != nil {
			t.Error(err)
		}
	})
	var templates []xapi.Ref
	e.call(t, &templates, "VM.get_by_name_label", "Debian 12")
	e.call(t, &e.vm, "VM.clone", templates[0], "web-1")
	e.call(t, &e.uuid, "VM.get_uuid", e.vm)
	e.call(t, nil, "VM.set_other_config", e.vm, map[string]string{"slipway_machine": oneID, "slipway_self": e.uuid})
	e.call(t, nil, "VM.provision", e.vm)
	e.call(t, nil, "VM.start", e.vm, false, false)
	e.call(t, &e.one, "VM.get_resident_on", e.vm)
	var hosts []xapi.Ref
	e.call(t, &hosts, "host.get_all")
	for _, h := range hosts {
		if h != e.one {
			e.two = h
		}
	}
	return e
}

func (e *estate) call(t *testing.T, result any, method string, args ...any) {
	t.Helper()
	if err := e.admin.Call(t.Context(), method, result, args...); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
}

// location is what the pool says of the machine's console.
func (e *estate) location(t *testing.T) (location string) {
	t.Helper()
	var consoles []xapi.Ref
	e.call(t, &consoles, "VM.get_consoles", e.vm)
	e.call(t, &location, "console.get_location", consoles[0])
	return location
}

// TestAMigrationIsFollowed: who looks at a machine that moves to another host is told that the screen went away, and gets the screen at its
// new place with what let them in before; so after a restart. A host that the machine has left shows nothing, so that it is the new one.
func TestAMigrationIsFollowed(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	g := newBefore(t, e, func(c *gateway.Config) { c.Store.(*oneMachine).machine.VM = e.uuid })
	cookie := g.pass(t)
	viewer := func() (net.Conn, error) {
		conn, err := net.Dial("tcp", g.vnc)
		if err == nil {
			_, err = rfb.HandshakeXVP(t.Context(), conn, "ann", "web-1", orchestrator.NewSecret("password"))
		}
		return conn, err
	}
	browser := func() (*websocket.Conn, net.Conn, error) {
		ws, _, err := websocket.Dial(t.Context(), g.base.String()+"/m/"+oneID+"/socket", &websocket.DialOptions{
			HTTPHeader: http.Header{"Cookie": {cookie}, "Origin": {g.base.String()}}, Subprotocols: []string{"binary"},
		})
		if err != nil {
			return nil, nil, err
		}
		conn := websocket.NetConn(t.Context(), ws, websocket.MessageBinary)
		_, err = rfb.Handshake(t.Context(), conn, orchestrator.Secret{})
		return ws, conn, err
	}
	pixel := func(conn net.Conn) error {
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return err
		}
		if _, err := conn.Write([]byte{3, 0, 0, 0, 0, 0, 0, 1, 0, 1}); err != nil { // FramebufferUpdateRequest
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, 4+12+4))
		return err
	}
	before := e.location(t)
	for _, event := range []struct {
		name  string
		moves bool
		call  func()
	}{
		{"a migration", true, func() { e.call(t, nil, "VM.pool_migrate", e.vm, e.two, map[string]string{}) }},
		{"the way back", true, func() { e.call(t, nil, "VM.pool_migrate", e.vm, e.one, map[string]string{}) }},
		{"a restart", false, func() { e.call(t, nil, "VM.hard_reboot", e.vm) }},
	} {
		client, err := viewer()
		ws, page, pageErr := browser()
		if err := errors.Join(err, pageErr); err != nil {
			t.Fatalf("before %s: %v", event.name, err)
		}
		if err := errors.Join(pixel(client), pixel(page)); err != nil {
			t.Fatalf("before %s: %v", event.name, err)
		}
		event.call()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: the VNC viewer's connection: %v", event.name, err)
		}
		if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != 4005 {
			t.Errorf("%s: the browser's connection: %v", event.name, err)
		}
		if now := e.location(t); (now != before) != event.moves {
			t.Errorf("%s: the console was at %s and is at %s", event.name, before, now)
		} else {
			before = now
		}
		_, _ = client.Close(), ws.CloseNow()
		until(t, "the screen after "+event.name, func() bool {
			client, err := viewer()
			if err != nil {
				return false
			}
			defer client.Close()
			ws, page, err := browser()
			if err != nil {
				return false
			}
			defer ws.CloseNow()
			return pixel(client) == nil && pixel(page) == nil
		})
	}
}
