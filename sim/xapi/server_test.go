package xapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/orchestrator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a pool with a client that speaks JSON-RPC.
type bench struct {
	t       *testing.T
	s       *Server
	url     string
	session string
}

func newBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	cfg := Config{Password: orchestrator.NewSecret("secret"), Seed: 1}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s.Handler())
	t.Cleanup(func() { s.Close(); web.Close() })
	b := &bench{t: t, s: s, url: web.URL}
	b.session = b.must("session.login_with_password", "root", "secret", "2.21", "test").(string)
	return b
}

// raw does one call and gives the result or the code with its parameters.
func (b *bench) raw(ctx context.Context, method string, params ...any) (any, []string, error) {
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return nil, nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+"/jsonrpc", bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer w.Body.Close()
	text, err := io.ReadAll(w.Body)
	if err != nil {
		return nil, nil, err
	}
	var a struct {
		Result any
		Error  *struct {
			Message string
			Data    []string
		}
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&a); err != nil {
		return nil, nil, fmt.Errorf("%s: %w: %s", method, err, text)
	}
	if a.Error != nil {
		return nil, append([]string{a.Error.Message}, a.Error.Data...), nil
	}
	return a.Result, nil, nil
}

func (b *bench) call(method string, params ...any) (any, []string) {
	b.t.Helper()
	if b.session != "" {
		params = append([]any{b.session}, params...)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	result, failed, err := b.raw(ctx, method, params...)
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	return result, failed
}

func (b *bench) must(method string, params ...any) any {
	b.t.Helper()
	result, failed := b.call(method, params...)
	if failed != nil {
		b.t.Fatalf("%s%v: %v", method, params, failed)
	}
	return result
}

func (b *bench) refuses(want []string, method string, params ...any) {
	b.t.Helper()
	result, failed := b.call(method, params...)
	if strings.Join(failed, "|") != strings.Join(want, "|") {
		b.t.Fatalf("%s%v: got %v %v, want %v", method, params, failed, result, want)
	}
}

func (b *bench) record(class string, ref any) map[string]any {
	b.t.Helper()
	return b.must(class+".get_record", ref).(map[string]any)
}

func (b *bench) template() string {
	b.t.Helper()
	return b.must("VM.get_by_name_label", "Debian 12").([]any)[0].(string)
}

// task waits for a task to finish and gives its record.
func (b *bench) task(ref any) map[string]any {
	b.t.Helper()
	token := ""
	for range 100 {
		if rec := b.record("task", ref); rec["status"] != "pending" {
			return rec
		}
		token = b.must("event.from", []string{"task/" + ref.(string)}, token, 10.0).(map[string]any)["token"].(string)
	}
	b.t.Fatalf("task %v did not finish", ref)
	return nil
}

func (b *bench) async(method string, params ...any) string {
	b.t.Helper()
	rec := b.task(b.must("Async."+method, params...))
	if rec["status"] != "success" {
		b.t.Fatalf("%s: %v", method, rec["error_info"])
	}
	return strings.TrimSuffix(strings.TrimPrefix(rec["result"].(string), "<value>"), "</value>")
}

func TestLifeOfAMachine(t *testing.T) {
	b := newBench(t, nil)
	vm := b.async("VM.clone", b.template(), "run-1-1")
	if !b.record("VM", vm)["is_a_template"].(bool) {
		t.Fatal("the clone of a template has to be a template")
	}
	b.refuses([]string{"VM_IS_TEMPLATE", vm, "start"}, "VM.start", vm, false, false)
	b.async("VM.provision", vm)
	b.refuses([]string{"PROVISION_ONLY_ALLOWED_ON_TEMPLATE"}, "VM.provision", vm)
	b.must("VM.set_memory_limits", vm, 1<<30, 1<<30, 1<<30, 1<<30)
	b.must("VM.set_VCPUs_max", vm, 2)
	b.must("VM.set_VCPUs_at_startup", vm, 2)
	for _, vif := range b.must("VM.get_VIFs", vm).([]any) {
		b.must("VIF.destroy", vif)
	}
	network := b.must("network.get_by_name_label", "Pool-wide network associated with eth0").([]any)[0]
	vif := b.must("VIF.create", map[string]any{
		"device": "0", "network": network, "VM": vm, "MAC": "02:16:3e:00:00:01", "MTU": 1500, "other_config": map[string]any{},
		"qos_algorithm_type": "", "qos_algorithm_params": map[string]any{},
	})
	b.async("VM.start", vm, false, false)
	rec := b.record("VM", vm)
	if rec["power_state"] != Running || rec["resident_on"] == nullRef || len(rec["consoles"].([]any)) != 1 {
		t.Fatalf("after the start: %v", rec)
	}
	b.refuses([]string{"VM_BAD_POWER_STATE", vm, "halted", "running"}, "VM.start", vm, false, false)
	b.s.ReportGuest("02:16:3E:00:00:01", "192.0.2.7")
	if n := b.record("VM_guest_metrics", rec["guest_metrics"])["networks"].(map[string]any); n["0/ip"] != "192.0.2.7" {
		t.Fatalf("networks %v", n)
	}
	b.async("VM.clean_shutdown", vm)
	vdis := []any{}
	for _, vbd := range b.must("VM.get_VBDs", vm).([]any) {
		if d := b.record("VBD", vbd)["VDI"]; d != nullRef {
			vdis = append(vdis, d)
		}
	}
	b.async("VM.destroy", vm)
	b.refuses([]string{"HANDLE_INVALID", "VM", vm}, "VM.get_record", vm)
	b.refuses([]string{"HANDLE_INVALID", "VIF", vif.(string)}, "VIF.get_record", vif)
	for _, vdi := range vdis {
		b.record("VDI", vdi)
		b.async("VDI.destroy", vdi)
	}
	if len(vdis) != 1 {
		t.Fatalf("%d disks, want 1", len(vdis))
	}
}
