package xapi

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"slipway/orchestrator"
	sim "slipway/sim/xapi"
)

// canned answers each method with what a text has under its name, and lets anybody in: a pool without a network between.
type canned map[string]json.RawMessage

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	var req struct {
		Method string          `json:"method"`
		ID     json.RawMessage `json:"id"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return nil, err
	}
	result, ok := c[req.Method]
	switch {
	case req.Method == "session.login_with_password":
		result = json.RawMessage(`"OpaqueRef:session"`)
	case !ok:
		result = json.RawMessage(`{}`)
	}
	body := slices.Concat([]byte(`{"jsonrpc":"2.0","id":`), req.ID, []byte(`,"result":`), result, []byte(`}`))
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

// poolClasses are what an inventory and a look at a machine read.
var poolClasses = []string{"VM", "host", "host_metrics", "SR", "PBD", "VDI", "VBD", "VIF", "network", "VM_guest_metrics", "task"}

// simulated is what a simulated pool answers about all its objects.
func simulated(f testing.TB) []byte {
	f.Helper()
	server, err := sim.New(sim.Config{Password: orchestrator.NewSecret("x")})
	if err != nil {
		f.Fatal(err)
	}
	defer server.Close()
	front := httptest.NewServer(server.Handler())
	defer front.Close()
	client, err := New(Config{Addresses: []string{front.URL}, User: "root", Password: orchestrator.NewSecret("x"), Insecure: true})
	if err != nil {
		f.Fatal(err)
	}
	answers := canned{}
	for _, class := range poolClasses {
		var all json.RawMessage
		if err := client.Call(f.Context(), class+".get_all_records", &all); err != nil {
			f.Fatal(err)
		}
		answers[class+".get_all_records"] = all
	}
	if err := client.Close(f.Context()); err != nil {
		f.Fatal(err)
	}
	text, err := json.Marshal(answers)
	if err != nil {
		f.Fatal(err)
	}
	return text
}

// FuzzPool: whatever a pool says about its objects, an inventory promises nothing below zero and a look ends.
func FuzzPool(f *testing.F) {
	f.Add(simulated(f))
	f.Add([]byte(`{"VM.get_all_records":{"OpaqueRef:a":{"uuid":"a","is_a_template":true,"VBDs":["OpaqueRef:b"],"other_config":{"slipway_image":"debian-12","slipway_machine":"m"}}},
		"host.get_all_records":{"OpaqueRef:h":{"uuid":"h","memory_overhead":-9223372036854775808,"metrics":"OpaqueRef:m","cpu_info":{"cpu_count":"-3"}}},
		"host_metrics.get_all_records":{"OpaqueRef:m":{"memory_total":9223372036854775807,"live":true}},
		"SR.get_all_records":{"OpaqueRef:s":{"uuid":"s","physical_size":5}},
		"VDI.get_all_records":{"OpaqueRef:d":{"SR":"OpaqueRef:s","virtual_size":-5,"physical_utilisation":-7}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		answers := canned{}
		if json.Unmarshal(text, &answers) != nil {
			return
		}
		b, err := NewBackend(map[string]PoolConfig{"p": {Config: Config{Addresses: []string{"http://192.0.2.1"}, User: "u", Password: orchestrator.NewSecret("x"), Insecure: true}}}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.pools["p"].client.wire.http.Transport = answers
		if inv, err := b.Inventory(t.Context(), "p"); err == nil {
			for _, h := range inv.Hosts {
				if h.MemoryMiB < 0 || h.CPUs < 0 {
					t.Errorf("host %+v", h)
				}
			}
			for _, s := range inv.SRs {
				if s.Bytes < 0 {
					t.Errorf("storage %+v", s)
				}
			}
		}
		vm, err := b.FindMachine(t.Context(), orchestrator.MachineRef{Pool: "p", Machine: "m", LookOnly: true})
		if err == nil && vm.Machine != "m" {
			t.Errorf("somebody else's VM was found: %+v", vm)
		}
		_, _ = b.PendingClones(t.Context(), "p")
		if err := b.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzEvents: whatever event.from brings, a task's end is told once, and only of a task.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"token":"1,2","events":[{"id":"3","class":"task","operation":"mod","ref":"OpaqueRef:a","snapshot":{"status":"pending"}},{"class":"task","operation":"del","ref":"OpaqueRef:a"},{"class":"pool","operation":"add","ref":"OpaqueRef:p","snapshot":{}}]}`))
	f.Add([]byte(`{"events":[{"class":"task","operation":"add","ref":"DummyRef:x","snapshot":null},{"class":"task","ref":"OpaqueRef:b","snapshot":"x"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var batch eventBatch
		if json.Unmarshal(text, &batch) != nil {
			return
		}
		fo := follower{pending: map[Ref]bool{}, onTask: func(ref Ref, status TaskStatus) {
			if !ref.valid() || status == "" {
				t.Errorf("%q is %q", ref, status)
			}
		}}
		fo.report(batch, true)
		fo.report(batch, false)
	})
}

// raw answers every call with one text, whatever was asked.
type raw []byte

func (r raw) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(r)), Request: req}, nil
}

// FuzzResponse: whatever a server answers to a call, the call ends with a result of the right shape or an error that has no secret in it.
func FuzzResponse(f *testing.F) {
	const secret = "a password that the server echoes"
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"result":"x"}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"INTERNAL_ERROR","data":["login(root, ` + secret + `)"]}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"HOST_IS_SLAVE","data":["192.0.2.7/x"]}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":{},"data":null}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		w := &wire{http: &http.Client{Transport: raw(text)}, hide: secret}
		var result string
		err := w.post(t.Context(), &url.URL{Scheme: "http", Host: "192.0.2.1"}, "OpaqueRef:the-session", "VM.get_uuid", &result, []any{"OpaqueRef:the-session"})
		if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "OpaqueRef:the-session")) {
			t.Errorf("a secret is in %q", err)
		}
		if err != nil && orchestrator.KindOf(classify("xapi", err)) == "" {
			t.Errorf("no kind: %v", err)
		}
	})
}
