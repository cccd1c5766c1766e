package rest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/schemas"
	"slipway/workers/monitoring/monitoringtest"
	"slipway/workers/monitoring/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token   = "token-that-nobody-sees"
	machine = "30000000-0000-4000-8000-000000000001"
)

func hostOf(machine string) orchestrator.MonitoredHost {
	return orchestrator.MonitoredHost{Machine: machine, Tenant: "acme", Name: "web", Hostname: "web", Pool: "pool-a", Image: "debian-12", Address: netip.MustParseAddr("198.51.100.10")}
}

// service keeps hosts as the contract has it; it takes nothing that its schema does not.
type service struct {
	t      *testing.T
	schema *jsonschema.Schema
	mu     sync.Mutex
	hosts  map[string]map[string]any
}

func newService(t *testing.T) *service {
	t.Helper()
	text, ok := schemas.Get("monitoring.host")
	if !ok {
		t.Fatal("there is no schema")
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("monitoring.host.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("monitoring.host.json")
	if err != nil {
		t.Fatal(err)
	}
	return &service{t: t, schema: schema, hosts: map[string]map[string]any{}}
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, under := strings.CutPrefix(r.URL.Path, "/api/v1/hosts/")
	if !under || r.Header.Get("Authorization") != "Bearer "+token {
		s.t.Errorf("%s %s, %q", r.Method, r.URL, r.Header.Get("Authorization"))
	}
	switch known := s.hosts[id]; r.Method {
	case http.MethodPut:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Error(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		if err == nil {
			err = s.schema.Validate(value)
		}
		if err != nil || r.Header.Get("Content-Type") != "application/json" {
			s.t.Errorf("%s: %v", body, err)
		}
		fields := value.(map[string]any)
		if fields["id"] != id {
			s.t.Errorf("%s under %s", body, id)
		}
		fields["added_by_the_service"] = []any{"yes"}
		s.hosts[id] = fields
		if known == nil {
			w.WriteHeader(http.StatusCreated)
		}
	case http.MethodGet:
		if known == nil {
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(known); err != nil {
			s.t.Error(err)
		}
	case http.MethodDelete:
		if known == nil {
			http.NotFound(w, r)
			return
		}
		delete(s.hosts, id)
		w.WriteHeader(http.StatusNoContent)
	}
}

// client reaches a handler over TLS, trusting its certificate.
func client(t *testing.T, h http.Handler, change func(*rest.Config)) *rest.Client {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := rest.Config{URL: server.URL + "/api/v1", Token: orchestrator.NewSecret(token), Roots: roots, Timeout: 2 * time.Second}
	if change != nil {
		change(&c)
	}
	out, err := rest.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	return out
}

func TestSuite(t *testing.T) { monitoringtest.Exercise(t, client(t, newService(t), nil)) }

func TestKinds(t *testing.T) {
	answer := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://elsewhere.example.net/")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	const permanent, transient, unknown = orchestrator.Permanent, orchestrator.Transient, orchestrator.Unknown
	for name, tt := range map[string]struct {
		handler          http.HandlerFunc
		change           func(*rest.Config)
		put, get, remove orchestrator.Kind
		says             string
	}{
		"400":         {answer(400, "no such image\n in here"), nil, permanent, permanent, permanent, "answers 400 Bad Request: no such image in here"},
		"401":         {answer(401, "what is "+token+"?"), nil, permanent, permanent, permanent, "does not take the token): what is [redacted]?"},
		"404":         {answer(404, ""), nil, permanent, permanent, "", "404"},
		"409":         {answer(409, "taken"), nil, permanent, permanent, permanent, "409"},
		"429":         {answer(429, ""), nil, transient, transient, transient, "429"},
		"503":         {answer(503, strings.Repeat("x", 5000)), nil, transient, transient, transient, "503"},
		"a redirect":  {answer(307, ""), nil, permanent, permanent, permanent, "redirect"},
		"not a host":  {answer(200, "<html>"), nil, "", permanent, "", "no host"},
		"endless":     {answer(200, strings.Repeat("x", 70<<10)), nil, permanent, permanent, permanent, "more than"},
		"hung up":     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, unknown, transient, unknown, ""},
		"silent":      {func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() }, func(c *rest.Config) { c.Timeout = 100 * time.Millisecond }, unknown, transient, unknown, "no answer in 100ms"},
		"not trusted": {answer(200, ""), func(c *rest.Config) { c.Roots = x509.NewCertPool() }, permanent, permanent, permanent, "certificate"},
		"away": {answer(200, ""), func(c *rest.Config) {
			c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:1")
			}
		}, transient, transient, transient, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, tt.handler, tt.change)
			for method, one := range map[string]struct {
				want orchestrator.Kind
				do   func() error
			}{
				"put":    {tt.put, func() error { return c.EnsureHost(t.Context(), hostOf(machine)) }},
				"get":    {tt.get, func() error { _, err := c.ObserveHost(t.Context(), machine); return err }},
				"remove": {tt.remove, func() error { return c.RemoveHost(t.Context(), machine) }},
			} {
				err := one.do()
				if got := orchestrator.KindOf(err); got != one.want {
					t.Errorf("%s: %s, want %s: %v", method, got, one.want, err)
				}
				if err == nil || errors.Is(err, orchestrator.ErrNotFound) {
					continue
				}
				if !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), token) || len(err.Error()) > 500 {
					t.Errorf("%s: %v", method, err)
				}
			}
		})
	}
}

// A service that answers without end, byte by byte or at once, or that packs a gigabyte into a few bytes, is cut off.
func TestAnswersThatAreTooMuch(t *testing.T) {
	block := bytes.Repeat([]byte("x\x1b[2J"), 16<<10)
	var member bytes.Buffer
	z := gzip.NewWriter(&member)
	if _, err := z.Write(block); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	packed := bytes.Repeat(member.Bytes(), 1<<10) // made before the client's clock runs
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		change  func(*rest.Config)
		want    string
	}{
		"without end": {func(w http.ResponseWriter, _ *http.Request) {
			for _, err := w.Write(block); err == nil; _, err = w.Write(block) {
			}
		}, nil, "answers with more than 65536 bytes"},
		"byte by byte": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if _, err := io.WriteString(w, " "); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
			}
		}, func(c *rest.Config) { c.Timeout = 200 * time.Millisecond }, "no answer in 200ms"},
		"packed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(packed)
		}, nil, "answers with more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, tt.handler, tt.change)
			var err error
			grown := testenv.Heap(t, func() { _, err = c.ObserveHost(t.Context(), machine) })
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "monitoring at ") || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 500 {
				t.Errorf("%v", err)
			}
			if grown > 16*testenv.Mebibyte {
				t.Errorf("it took %d MiB", grown/testenv.Mebibyte)
			}
		})
	}
}

func TestCanceled(t *testing.T) {
	c := client(t, newService(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.EnsureHost(ctx, hostOf(machine)); orchestrator.KindOf(err) != orchestrator.Canceled {
		t.Error(err)
	}
}

func TestURLIsNotRepeated(t *testing.T) {
	for _, bad := range []string{"", "ftp://secret.example.net", "https://", "secret\x00"} {
		if _, err := rest.New(rest.Config{URL: bad}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
