package xapi_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"

	"slipway/orchestrator"
	"slipway/workers/hypervisor/xapi"
)

// TestDisplayFollowsAMigration: each opening goes to the host where the VM is by then, though the one before went to another.
func TestDisplayFollowsAMigration(t *testing.T) {
	const machine, vm = "88888888-0000-4000-8000-000000000001", "99999999-0000-4000-8000-000000000001"
	listener, err := net.Listen("tcp4", "0.0.0.0:0") // every loopback address is a host
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	host, asked := "127.0.0.1", ""
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodConnect {
			asked = r.Context().Value(http.LocalAddrContextKey).(net.Addr).(*net.TCPAddr).IP.String()
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
				_ = conn.Close()
			}
			return
		}
		var call struct {
			Method string `json:"method"`
			ID     uint64 `json:"id"`
		}
		_ = json.NewDecoder(r.Body).Decode(&call)
		result := map[string]any{
			"session.login_with_password": "OpaqueRef:session",
			"VM.get_by_uuid":              "OpaqueRef:vm",
			"VM.get_record": map[string]any{
				"uuid": vm, "power_state": "Running", "consoles": []string{"OpaqueRef:c"}, "resident_on": "OpaqueRef:h",
				"other_config": map[string]string{"slipway_machine": machine, "slipway_self": vm},
			},
			"console.get_record": map[string]any{"protocol": "rfb", "location": "https://" + host + "/console?uuid=c"},
			"host.get_address":   host,
		}[call.Method]
		_ = json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "id": call.ID, "result": result})
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	front := fmt.Sprintf("http://127.0.0.1:%d", listener.Addr().(*net.TCPAddr).Port)
	b, err := xapi.NewBackend(map[string]xapi.PoolConfig{pool: {Config: xapi.Config{Addresses: []string{front}, User: "root", Password: password, Insecure: true}}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(t.Context()) })
	for _, at := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		mu.Lock()
		host = at
		mu.Unlock()
		conn, err := b.OpenDisplay(t.Context(), orchestrator.MachineRef{Pool: pool, Machine: machine, VM: vm})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		mu.Lock()
		if asked != at {
			t.Errorf("the VM is at %s, and the screen was asked for at %s", at, asked)
		}
		mu.Unlock()
	}
}
