package xapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
	sim "slipway/sim/xapi"
	"slipway/workers/console/rfb"
	"slipway/workers/hypervisor/xapi"
)

func TestDisplayIsWhereTheMachineRuns(t *testing.T) {
	w := open(t, sim.Config{Hosts: 3, SharedSR: true, HostAddress: "127.0.0.1", SameAddress: true})
	spec := w.spec(1, 1)
	vm := w.shape(t, spec, w.clone(t, spec).UUID)
	ref := spec.MachineRef
	ref.VM = vm.UUID

	if _, err := w.OpenDisplay(t.Context(), ref); !errors.Is(err, orchestrator.ErrNotRunning) || orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("the screen of a halted machine: %v", err)
	}
	task, err := w.StartMachine(t.Context(), ref, w.host)
	if err != nil {
		t.Fatal(err)
	}
	w.ended(t, task)
	conn, err := w.OpenDisplay(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	init, err := rfb.Handshake(t.Context(), conn, orchestrator.Secret{})
	if err != nil || init.Security != rfb.None || init.Width == 0 {
		t.Fatalf("%+v, %v", init, err)
	}

	stranger := ref
	stranger.Machine = w.spec(2, 1).Machine
	if _, err := w.OpenDisplay(t.Context(), stranger); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("the screen of somebody else's VM: %v", err)
	}
}

// TestDisplayOfAHostileHost: the session goes to the host of the VM and nowhere else, and no answer holds or fills us.
func TestDisplayOfAHostileHost(t *testing.T) {
	const session = "OpaqueRef:11111111-2222-3333-4444-555555555555"
	const machine = "88888888-0000-4000-8000-000000000001"
	location := "https://127.0.0.1/console?uuid=c"
	address := "127.0.0.1"
	answer := func(w http.ResponseWriter, r *http.Request) {}
	var got *http.Request
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			got = r
			answer(w, r)
			return
		}
		var call struct {
			Method string `json:"method"`
			ID     uint64 `json:"id"`
		}
		_ = json.NewDecoder(r.Body).Decode(&call)
		result := map[string]any{
			"session.login_with_password": session,
			"VM.get_by_uuid":              "OpaqueRef:vm",
			"VM.get_record": map[string]any{
				"uuid": "99999999-0000-4000-8000-000000000001", "power_state": "Running", "consoles": []string{"OpaqueRef:c"}, "resident_on": "OpaqueRef:h",
				"other_config": map[string]string{"slipway_machine": machine, "slipway_self": "99999999-0000-4000-8000-000000000001"},
			},
			"console.get_record": map[string]any{"protocol": "rfb", "location": location},
			"host.get_address":   address,
		}[call.Method]
		_ = json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "id": call.ID, "result": result})
	}))
	t.Cleanup(front.Close)
	b, err := xapi.NewBackend(map[string]xapi.PoolConfig{pool: {Config: xapi.Config{Addresses: []string{front.URL}, User: "root", Password: password, Insecure: true}}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(t.Context()) })
	ref := orchestrator.MachineRef{Pool: pool, Machine: machine, VM: "99999999-0000-4000-8000-000000000001"}
	raw := func(text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, text)
		}
	}
	for name, c := range map[string]struct {
		location, address string
		answer            func(http.ResponseWriter, *http.Request)
		want              string
		connects          bool
	}{
		"refused":            {answer: raw("HTTP/1.1 500 Internal Error\r\n\r\n"), want: "HTTP status 500", connects: true},
		"not let in":         {answer: raw("HTTP/1.1 401 Unauthorised\r\n\r\n"), want: "HTTP status 401", connects: true},
		"no HTTP":            {answer: raw("RFB 003.008\n\n"), want: "no HTTP", connects: true},
		"no answer at all":   {answer: raw(""), want: "without an answer", connects: true},
		"an endless head":    {answer: raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), want: "longer than", connects: true},
		"another host":       {location: "https://203.0.113.9/console?uuid=c", want: `"203.0.113.9"`},
		"no host":            {location: "https:///console?uuid=c", answer: raw("HTTP/1.1 200 OK\r\n\r\nRFB"), want: "", connects: true},
		"no console":         {location: "https://127.0.0.1/import?uuid=c", want: "no URL of a console"},
		"with an account":    {location: "https://a:b@127.0.0.1/console?uuid=c", want: "no URL of a console"},
		"address is hostile": {location: "https:///console?uuid=c", address: "127.0.0.1/evil?", want: "no host"},
	} {
		t.Run(name, func(t *testing.T) {
			location, address, answer, got = "https://127.0.0.1/console?uuid=c", "127.0.0.1", c.answer, nil
			if c.location != "" {
				location = c.location
			}
			if c.address != "" {
				address = c.address
			}
			conn, err := b.OpenDisplay(t.Context(), ref)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if early, err := io.ReadAll(conn); err != nil || string(early) != "RFB" {
					t.Errorf("what came with the head: %q, %v", early, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), session) {
				t.Errorf("%v, want %q and no session", err, c.want)
			}
			if (got != nil) != c.connects {
				t.Errorf("it connected: %v, want %v", got != nil, c.connects)
			}
			if got != nil {
				if cookie, err := got.Cookie("session_id"); err != nil || cookie.Value != session || got.URL.RawQuery != "uuid=c" {
					t.Errorf("asked %v with %v", got.URL, got.Header)
				}
			}
		})
	}
	t.Run("a location that cannot be has its own reason", func(t *testing.T) {
		location, address = "https://10.11.12.13/console?uuid=c", "127.0.0.1"
		if _, err := b.OpenDisplay(t.Context(), ref); !errors.Is(err, orchestrator.ErrDisplayPlace) || orchestrator.KindOf(err) != orchestrator.Transient {
			t.Errorf("a private host: %v", err)
		}
	})
	t.Run("silence", func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		location, address = "https://127.0.0.1/console?uuid=c", "127.0.0.1"
		answer = func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 200")
			<-hang
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		begun := time.Now()
		if _, err := b.OpenDisplay(ctx, ref); err == nil || time.Since(begun) > 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
	})
}
