package ipam

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/schemas"
	sim "slipway/sim/ipam"
	"slipway/workers/ipam/ipamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "s3cret-token"

func service() *sim.Service {
	in := func(p string, n int) []orchestrator.AddressRange {
		prefix := map[string]orchestrator.AddressRange{
			"private": {First: ipamtest.Private.Addr(), Last: ipamtest.Private.Addr()}, "public": {First: ipamtest.Public.Addr(), Last: ipamtest.Public.Addr()},
		}[p]
		for range n - 1 {
			prefix.Last = prefix.Last.Next()
		}
		return []orchestrator.AddressRange{prefix}
	}
	return sim.New(orchestrator.NewSecret(token), 3, map[string]sim.Pool{ipamtest.Pool: {Private: in("private", ipamtest.Size), Public: in("public", ipamtest.Size)}})
}

// serve answers over TLS and gives a client that trusts its certificate.
func serve(t *testing.T, h http.Handler) *Client {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return client(t, Config{URL: server.URL, CAFile: ca})
}

func client(t *testing.T, cfg Config) *Client {
	t.Helper()
	cfg.Name, cfg.Token = "corp", orchestrator.NewSecret(token)
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestReference(t *testing.T) {
	ipamtest.Exercise(t, func(*testing.T) orchestrator.Addresses { return service() })
}

// Over HTTP, with each body held against its schema.
func TestClient(t *testing.T) {
	compiled := schemasOf(t)
	ipamtest.Exercise(t, func(t *testing.T) orchestrator.Addresses { return serve(t, judged(t, compiled, service().Handler())) })
}

func TestPools(t *testing.T) {
	ipamtest.Exercise(t, func(t *testing.T) orchestrator.Addresses {
		return Pools{ipamtest.Pool: serve(t, service().Handler())}
	})
}

func schemasOf(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	names := []string{"request", "reservation", "reservations", "refusal"}
	for _, name := range names {
		text, ok := schemas.Get("ipam." + name)
		if !ok {
			t.Fatalf("there is no schema %s", name)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err == nil {
			err = c.AddResource("ipam."+name+".json", doc)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	compiled := map[string]*jsonschema.Schema{}
	for _, name := range names {
		schema, err := c.Compile("ipam." + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		compiled[name] = schema
	}
	return compiled
}

func judged(t *testing.T, compiled map[string]*jsonschema.Schema, h http.Handler) http.Handler {
	judge := func(name string, text []byte) {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err == nil {
			err = compiled[name].Validate(doc)
		}
		if err != nil {
			t.Errorf("%s: %v: %s", name, err, text)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			judge("request", text)
			r.Body = io.NopCloser(bytes.NewReader(text))
		}
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, r)
		switch text := answer.Body.Bytes(); {
		case answer.Code >= 400:
			judge("refusal", text)
		case r.Method == http.MethodPut:
			judge("reservation", text)
		case r.Method == http.MethodGet:
			judge("reservations", text)
		}
		for key, values := range answer.Header() {
			w.Header()[key] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// Whatever answers, the client ends in time with a kind and a reason, and never tells the token.
func TestHostileAnswers(t *testing.T) {
	ours := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, body)
		}
	}
	with := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for name, test := range map[string]struct {
		h     http.HandlerFunc
		kind  orchestrator.Kind
		words string
	}{
		"HTML":              {with(200, "text/html; charset=utf-8", "<html>Wartung"), orchestrator.Transient, `"text/html" instead of JSON`},
		"a proxy's page":    {with(502, "text/html", "<html>"), orchestrator.Transient, "502"},
		"half a body":       {ours(`{"key": "k", "mach`), orchestrator.Transient, "not the contract's"},
		"another shape":     {ours(`["a"]`), orchestrator.Transient, "not the contract's"},
		"no address":        {ours(`{"key":"k","machine":"m","private":"ten.zero"}`), orchestrator.Transient, "not the contract's"},
		"another key":       {ours(`{"key":"x","machine":"m","private":"10.0.0.1"}`), orchestrator.Permanent, `answered for key "x"`},
		"another machine":   {ours(`{"key":"k","machine":"x","private":"10.0.0.1"}`), orchestrator.Permanent, `machine "x"`},
		"refused":           {with(422, "application/json", `{"error":"refused","message":"tenant acme is blocked"}`), orchestrator.Permanent, "tenant acme is blocked"},
		"exhausted":         {with(409, "application/json", `{"error":"exhausted","message":"pool is full"}`), orchestrator.Exhausted, "no address left: pool is full"},
		"repeats the token": {with(422, "application/json", `{"error":"refused","message":"I know Bearer`+"\\u0020"+token+`"}`), orchestrator.Permanent, "Bearer [redacted]"},
		"busy":              {with(429, "application/json", `{"error":"unavailable","message":"slow down"}`), orchestrator.Transient, "slow down"},
		"broken":            {with(500, "application/json", `{"error":"unavailable","message":"no database"}`), orchestrator.Transient, "no database"},
		"wrong words":       {with(400, "application/json", `{}`), orchestrator.Transient, "400 Bad Request, and not in the contract's words"},
		"token":             {with(401, "text/plain", "who are you"), orchestrator.Transient, "does not take our token"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example/", http.StatusTemporaryRedirect)
		}, orchestrator.Transient, "307"},
		"a long message": {with(422, "application/json", `{"error":"refused","message":"`+strings.Repeat("x", 100_000)+`"}`), orchestrator.Permanent, strings.Repeat("x", 200)},
		"100 MB": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			pour(w, 100<<20)
		}, orchestrator.Transient, "longer than 1048576 bytes"},
		"endless and slow":   {func(w http.ResponseWriter, r *http.Request) { drip(w, r) }, orchestrator.Transient, "no whole answer within 300ms"},
		"silence":            {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, orchestrator.Transient, "no whole answer within 300ms"},
		"the line goes dead": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, orchestrator.Transient, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // only then does a server see that its client has gone
				test.h(w, r)
			}))
			c.cfg.Timeout = 300 * time.Millisecond
			if name == "100 MB" {
				c.cfg.Timeout = 10 * time.Second
			}
			_, err := c.Reserve(t.Context(), "a", orchestrator.ReservationRequest{Key: "k", Machine: "m"})
			if orchestrator.KindOf(err) != test.kind || !strings.Contains(fmt.Sprint(err), test.words) || !strings.Contains(fmt.Sprint(err), "ipam corp") || len(fmt.Sprint(err)) > 500 || strings.Contains(fmt.Sprint(err), token) {
				t.Errorf("kind %s: %v", orchestrator.KindOf(err), err)
			}
		})
	}
}

// pour writes until nobody reads.
func pour(w io.Writer, n int) {
	block := bytes.Repeat([]byte(" "), 1<<16)
	for range n / len(block) {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func drip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
			if _, err := w.Write([]byte(" ")); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
		}
	}
}

func TestListThatNeverEnds(t *testing.T) {
	n := 0
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"reservations": []any{}, "next": "a"})
	}))
	if _, err := c.Reservations(t.Context(), "a"); orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), "round and round") || n != 2 {
		t.Errorf("%d pages, %v", n, err)
	}
}

// A list that is longer than a pool can be, or that comes byte by byte for ever, ends, and takes no more memory than the longest that is read.
func TestListThatIsTooMuch(t *testing.T) {
	page := strings.TrimSuffix(strings.Repeat(`{"key":"k","machine":"m","private":"10.0.0.1","state":"confirmed"},`, 15_000), ",")
	n := 0
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"reservations":[%s],"next":"%09d"}`, page, n)
	}))
	var err error
	grown := testenv.Heap(t, func() { _, err = c.Reservations(t.Context(), "a") })
	if orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(fmt.Sprint(err), "more than 262144 reservations") || !strings.Contains(fmt.Sprint(err), "ipam corp") {
		t.Errorf("after %d pages: %v", n, err)
	}
	if grown > 150*testenv.Mebibyte {
		t.Errorf("it took %d MiB", grown/testenv.Mebibyte)
	}
	slow := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		tick := time.NewTimer(15 * time.Millisecond)
		defer tick.Stop()
		select {
		case <-r.Context().Done():
		case <-tick.C:
		}
		n++
		fmt.Fprintf(w, `{"reservations":[],"next":"%09d"}`, n)
	}))
	slow.cfg.Timeout = 20 * time.Millisecond
	if _, err := slow.Reservations(t.Context(), "a"); orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("%v", err)
	}
}

func TestCertificateIsVerified(t *testing.T) {
	server := httptest.NewTLSServer(service().Handler())
	t.Cleanup(server.Close)
	server.Config.ErrorLog = nil
	c := client(t, Config{URL: server.URL})
	if _, err := c.Reservations(t.Context(), ipamtest.Pool); orchestrator.KindOf(err) != orchestrator.Transient || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
}

func TestCanceled(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Reservations(ctx, "a"); err == nil {
		t.Error("no error")
	}
}

func TestURLs(t *testing.T) {
	for raw, words := range map[string]string{
		"https://ipam.example.net": "", "https://ipam.example.net/base/": "", "http://127.0.0.1:8080": "", "http://[::1]:1": "",
		"": "not a URL", "ipam.example.net": "not a URL", "ftp://x": "not a URL", "http://ipam.example.net": "not encrypted", "http://localhost:1": "not encrypted",
		"https://user:pw@x": "token goes beside", "https://x?token=1": "token goes beside",
	} {
		if _, err := ParseURL(raw); words == "" && err != nil || words != "" && (err == nil || !strings.Contains(err.Error(), words)) {
			t.Errorf("%q: %v", raw, err)
		}
	}
	if _, err := New(Config{URL: "https://x", CAFile: "/nonexistent"}); err == nil {
		t.Error("a missing ca_file is no error")
	}
}
