package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/internal/demo"
	"slipway/internal/service"
	"slipway/orchestrator"
	"slipway/sim/xapi"
	"slipway/workers/intake/message"
)

// site is a site of simulators whose configuration a test may change before it starts a worker.
func site(t *testing.T) *demo.Site { return sites(t, 1) }

func sites(t *testing.T, pools int) *demo.Site {
	t.Helper()
	dir, err := os.MkdirTemp("", "sw") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s, err := demo.NewSite(t.Context(), dir, pools, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// work starts a worker; the returned function stops it and gives its end.
func work(t *testing.T, s *demo.Site, log io.Writer) (*service.Service, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	w, err := service.New(ctx, s.Config, service.Options{Log: slog.New(slog.NewTextHandler(log, nil)), Dial: s.Dial, Version: "1.2.3"})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.Run(ctx) }()
	var once sync.Once
	var ended error
	stop := func() error {
		once.Do(func() { cancel(); ended = <-served; w.Close() })
		return ended
	}
	t.Cleanup(func() { _ = stop() })
	return w, stop
}

func until(t *testing.T, what string, fact func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 4500 {
		if fact() {
			return
		}
		<-tick.C
	}
	t.Fatalf("it never happened: %s", what)
}

// free is an address that nobody listens on now.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func order() orchestrator.Order {
	return orchestrator.Order{Source: "panel", ID: "1", Type: orchestrator.OrderInstall, Tenant: "acme", Name: "web-1", Image: "debian-12",
		Plan: orchestrator.Plan{VCPUs: 1, MemoryMiB: 1024, DiskGiB: 20}, Firewall: []orchestrator.FirewallRule{},
		SSHKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKX0jJSTlTwXlXx0oMzxXxYoHTzkSOBcGzTBzjk2bEN7 customer"}}
}

func put(t *testing.T, w *service.Service, o orchestrator.Order) {
	t.Helper()
	m, err := message.EncodeOrder(o)
	if err == nil {
		err = w.Queue.PublishOrder(t.Context(), m)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A run that parks is told to the webhook and to the command, with its event; health, readiness and numbers are served meanwhile.
func TestParkedIsToldAndHealthIsServed(t *testing.T) {
	s := site(t)
	var mu sync.Mutex
	var posted []string
	refusals := 1
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if refusals > 0 { // the first try fails
			refusals--
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s", r.Method, r.Header.Get("Content-Type"))
		}
		posted = append(posted, string(body))
	}))
	defer hook.Close()
	heard := filepath.Join(t.TempDir(), "heard")
	s.Config.Notify = config.Notify{Webhook: hook.URL, Command: []string{"/bin/sh", "-c", `cat > "$0.new" && mv "$0.new" "$0"`, heard}}
	s.Config.Listen = free(t)
	if err := s.Fault(0, xapi.Fault{Method: "VM.start_on", Times: 1, Error: []string{"OPERATION_BLOCKED", "OpaqueRef:NULL", "maintenance"}}); err != nil {
		t.Fatal(err)
	}
	w, stop := work(t, s, io.Discard)

	url := "http://" + s.Config.Listen
	until(t, "health", func() bool { status, _ := get(t, url+"/healthz"); return status == http.StatusOK })
	if _, body := get(t, url+"/healthz"); !strings.Contains(body, `"version":"1.2.3"`) {
		t.Errorf("healthz: %s", body)
	}
	if status, body := get(t, url+"/readyz"); status != http.StatusOK || !strings.Contains(body, `"database":"ok"`) || !strings.Contains(body, `"queue":"ok"`) {
		t.Errorf("readyz: %d %s", status, body)
	}

	put(t, w, order())
	var event struct {
		Type string                 `json:"type"`
		Time time.Time              `json:"time"`
		Data orchestrator.EventData `json:"data"`
	}
	until(t, "the command is run", func() bool {
		text, err := os.ReadFile(heard)
		return err == nil && json.Unmarshal(text, &event) == nil
	})
	if event.Type != orchestrator.EventParked || event.Time.IsZero() || event.Data.Name != "web-1" || event.Data.Step != "start_machine" ||
		!strings.Contains(event.Data.Message, "OPERATION_BLOCKED") || !slices.Equal(event.Data.Exits, []string{"retry", "cancel", "rewind", "adopt"}) {
		t.Errorf("%+v", event)
	}
	mu.Lock()
	text, err := os.ReadFile(heard)
	if err != nil || len(posted) != 1 || posted[0] != string(text) {
		t.Errorf("posted %q, the command heard %q", posted, text)
	}
	mu.Unlock()

	_, numbers := get(t, url+"/metrics")
	for _, want := range []string{`slipway_runs{process="install",status="parked"} 1`, "slipway_outbox_unpublished 0", "slipway_runs_held 0", `slipway_addresses{pool="pool-a",state="bound"} 2`, "go_goroutines"} {
		if !strings.Contains(numbers, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
	if status, _ := get(t, url+"/nothing"); status != http.StatusNotFound {
		t.Errorf("an unknown path: %d", status)
	}
	if err := stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
}

// A webhook's address is a secret of the site's, also when it cannot be reached.
func TestWebhookAddressIsNotLogged(t *testing.T) {
	s := site(t)
	s.Config.Notify.Webhook = "http://" + free(t) + "/hunter2"
	if err := s.Fault(0, xapi.Fault{Method: "VM.start_on", Times: 1, Error: []string{"OPERATION_BLOCKED", "OpaqueRef:NULL", "maintenance"}}); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	w, _ := work(t, s, &log)
	put(t, w, order())
	until(t, "the notice is given up", func() bool { return strings.Contains(log.String(), "notice not delivered") })
	if strings.Contains(log.String(), "hunter2") {
		t.Error("the address stands in the log")
	}
}

// lockedBuffer is a log that a worker writes and a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A part that fails ends the worker, and says which.
func TestFailedPartEndsTheWorker(t *testing.T) {
	s := site(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s.Config.Listen = taken.Addr().String()
	w, err := service.New(t.Context(), s.Config, service.Options{Log: slog.New(slog.DiscardHandler), Dial: s.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "listen: ") {
		t.Errorf("error %v", err)
	}
}

// A socket that a dead worker left behind is taken over, and only the owner and the group may use it.
func TestSocket(t *testing.T) {
	s := site(t)
	if err := os.MkdirAll(filepath.Dir(s.Config.Socket), 0o750); err != nil {
		t.Fatal(err)
	}
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.Config.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	_, stop := work(t, s, io.Discard)
	client := api.NewClient(s.Config.Socket)
	defer client.Close()
	var runs []api.Run
	until(t, "the socket answers", func() bool { return client.Get(t.Context(), "/v1/runs", &runs) == nil })
	info, err := os.Stat(s.Config.Socket)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v: %v", info.Mode(), err)
	}
	var refused *api.Error
	if err := client.Get(t.Context(), "/v1/nothing", nil); !asRefusal(err, &refused) || refused.Code != api.CodeNotFound {
		t.Errorf("error %v", err)
	}
	if err := client.Post(t.Context(), "/v1/orders", bytes.Repeat([]byte("a"), 5<<20), nil); !asRefusal(err, &refused) || refused.Code != api.CodeRefused {
		t.Errorf("5 MiB: %v", err)
	}
	if err := client.Post(t.Context(), "/v1/retry/x", []byte("{"), nil); !asRefusal(err, &refused) || refused.Code != api.CodeRefused {
		t.Errorf("half an act: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func asRefusal(err error, to **api.Error) bool {
	e, ok := err.(*api.Error)
	*to = e
	return ok
}

// Check names what is wrong, each thing by itself, and finds all well on a site that is.
func TestCheck(t *testing.T) {
	s := site(t)
	w, err := service.New(t.Context(), s.Config, service.Options{Log: slog.New(slog.DiscardHandler), Dial: s.Dial}) // makes the database
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	dir := filepath.Dir(s.Path)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tc := range []struct {
		name  string
		spoil func(*config.Config)
		what  string // the one finding that fails; "" is none
		why   string
	}{
		{"well", func(*config.Config) {}, "", ""},
		{"vault key", func(c *config.Config) { c.VaultKey.File = write("short", "abc") }, "vault_key", "hex"},
		{"no vault key", func(c *config.Config) { c.VaultKey.File = dir + "/none" }, "vault_key", "no such file"},
		{"login key", func(c *config.Config) { c.LoginKey.File = dir + "/none" }, "login_key", "no such file"},
		{"login key that is none", func(c *config.Config) { c.LoginKey.File = write("nokey", "hello") }, "login_key", "ssh-keygen"},
		{"templates", func(c *config.Config) { c.Pools[0].Images["plan-9"] = c.Pools[0].Images["debian-12"] }, "templates", "plan-9"},
		{"database", func(c *config.Config) { c.Database = "sqlite:" + dir + "/none/x.db" }, "database", ""},
		{"queue", func(c *config.Config) { c.Queue = config.Queue{Kind: "amqp", URL: "amqp://u@" + free(t) + "/"} }, "queue", ""},
		{"pool away", func(c *config.Config) { c.Pools[0].XenAPI.Addresses = []string{"https://" + free(t)} }, "pool pool-a", ""},
		{"pool password", func(c *config.Config) { c.Pools[0].XenAPI.Password.File = write("wrong", "wrong") }, "pool pool-a", "SESSION_AUTHENTICATION_FAILED"},
		{"pool certificate", func(c *config.Config) { c.Pools[0].XenAPI.PinSHA256 = config.Words{strings.Repeat("ab", 32)} }, "pool pool-a", "pin"},
		{"network", func(c *config.Config) { c.Pools[0].Network = "5a0cb2ac-0000-4000-8000-000000000001" }, "pool pool-a", "has no network"},
		{"agent's file", func(c *config.Config) { c.Groups[0].Members[0].Local.Config = dir + "/none" }, "group dhcp-pool-a member dhcp-pool-a-1", "no such file"},
		{"webhook", func(c *config.Config) { c.Notify.Webhook = "http://" + free(t) + "/hunter2" }, "notify.webhook", "refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c, err := config.Load(s.Path)
			if err != nil {
				t.Fatal(err)
			}
			tc.spoil(c)
			var failed []string
			findings := 0
			for f := range service.Check(t.Context(), c, slog.New(slog.DiscardHandler)) {
				findings++
				if f.Err == nil {
					continue
				}
				failed = append(failed, f.What)
				if f.What == tc.what && !strings.Contains(f.Err.Error(), tc.why) {
					t.Errorf("%s: %v, want %q", f.What, f.Err, tc.why)
				}
				if strings.Contains(f.Err.Error(), "hunter2") {
					t.Errorf("%v", f.Err)
				}
			}
			// A template that no catalogue serves is missing in the pool as well.
			failed = slices.DeleteFunc(failed, func(what string) bool { return tc.what == "templates" && what == "pool pool-a" })
			switch {
			case tc.what == "" && len(failed) > 0, tc.what != "" && !slices.Equal(failed, []string{tc.what}):
				t.Errorf("failed: %v", failed)
			case findings < 9:
				t.Errorf("%d findings", findings)
			}
		})
	}
}

// A pool that hangs is all that an explanation blames.
func TestObserveBlamesThePoolThatHangs(t *testing.T) {
	a := newAudited(t)
	if err := a.site.Fault(0, xapi.Fault{Method: "VM.get_by_uuid", Times: 1000, Hang: true}); err != nil {
		t.Fatal(err)
	}
	if err := a.site.Fault(0, xapi.Fault{Method: "VM.get_all_records_where", Times: 1000, Hang: true}); err != nil {
		t.Fatal(err)
	}
	m, err := a.worker.Store.Machine(t.Context(), a.run.Machine)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	found := strings.Join(a.worker.Observe(ctx, m), "\n")
	for _, want := range []string{"pool pool-a could not be asked", "its console is xvp's", "group " + m.Placement.DHCP + " carries it"} {
		if !strings.Contains(found, want) {
			t.Errorf("no %q in:\n%s", want, found)
		}
	}
}

// What was not done is not in the audit trail as if it had been.
func TestTrailHasNoActThatDidNotHappen(t *testing.T) {
	s := site(t)
	w, _ := work(t, s, io.Discard)
	client := api.NewClient(s.Config.Socket)
	defer client.Close()
	until(t, "serve answers", func() bool { return client.Get(t.Context(), "/v1/workers", nil) == nil })
	trail := func() (lines []string) {
		acts, _, err := w.Store.Acts(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range acts {
			lines = append(lines, a.Verb+": "+a.Reason)
		}
		slices.Sort(lines)
		return lines
	}
	var refused *api.Error
	err := client.Post(t.Context(), "/v1/maintenance", api.SetMaintenance{Subject: "pool-a", Yes: true, Reason: "over"}, nil)
	if !asRefusal(err, &refused) || refused.Code != api.CodeNotFound || len(trail()) != 0 {
		t.Errorf("the end of a maintenance that is not: %v, %q", err, trail())
	}
	if err := client.Post(t.Context(), "/v1/dead/nosuch/requeue", nil, nil); !asRefusal(err, &refused) || refused.Code != api.CodeNotFound {
		t.Errorf("requeued: %v", err)
	}
	if err := client.Delete(t.Context(), "/v1/dead/nosuch", nil, nil); !asRefusal(err, &refused) || refused.Code != api.CodeNotFound {
		t.Errorf("dropped: %v", err)
	}
	lines := trail()
	for i, want := range []string{"drop-letter: ", "drop-letter: was not done: ", "requeue-letter: ", "requeue-letter: was not done: "} {
		if len(lines) != 4 || !strings.HasPrefix(lines[i], want) {
			t.Errorf("the trail has %q", lines)
			break
		}
	}
}

// What cannot be taken back, and what shows a secret, is asked why.
func TestGraveActsNeedAReason(t *testing.T) {
	a := newAudited(t)
	acts := func() int64 {
		_, head, err := a.worker.Store.Acts(t.Context(), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return head.ID
	}
	before := acts()
	for path, body := range map[string]any{
		"/v1/groups/dhcp-pool-a/approve-shrink":               api.Act{Yes: true, Reason: " "},
		"/v1/groups/dhcp-pool-a/members/dhcp-pool-a-1/resume": api.Act{Yes: true},
		"/v1/console-password/" + a.run.Machine:               api.AskPassword{},
		"/v1/password/" + a.run.Machine:                       api.AskPassword{},
		"/v1/secrets/rotate":                                  api.Rotate{Begin: true, Yes: true},
	} {
		var refused *api.Error
		err := a.client.Post(t.Context(), path, body, nil)
		if !asRefusal(err, &refused) || refused.Code != api.CodeRefused || len(refused.Fields) != 1 || refused.Fields[0].Field != "reason" {
			t.Errorf("%s without a reason: %v", path, err)
		}
	}
	if n := acts() - before; n != 0 {
		t.Errorf("%d acts were recorded", n)
	}
}
