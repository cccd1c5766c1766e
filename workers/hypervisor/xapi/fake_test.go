package xapi

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"slipway/orchestrator"
)

// reply is what a fake member does with one call.
type reply struct {
	result any
	fail   []string                                                // code and parameters
	raw    func(w http.ResponseWriter, r *http.Request, id uint64) // anything else on the wire
}

func ok(v any) reply             { return reply{result: v} }
func fails(code ...string) reply { return reply{fail: code} }

// dropped closes the connection after reading the call: the answer is lost.
func dropped() reply {
	return reply{raw: func(w http.ResponseWriter, _ *http.Request, _ uint64) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	}}
}

// text answers with a body of its own.
func text(status int, body string) reply {
	return reply{raw: func(w http.ResponseWriter, _ *http.Request, _ uint64) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}}
}

// member is one host of a fake pool: it lets anybody in, and asks answer about every other call. For wire-level faults only; what xapi
// means is the simulator's matter.
type member struct {
	*httptest.Server
	mu      sync.Mutex
	calls   []string // "method" in order
	logins  int
	live    map[string]bool
	origins []string
	login   func(n int) (reply, bool) // overrides a login
	answer  func(method string, args []json.RawMessage) reply
}

func newMember(t *testing.T, answer func(method string, args []json.RawMessage) reply) *member {
	t.Helper()
	m := unstarted(answer)
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Server.Close)
	return m
}

func unstarted(answer func(method string, args []json.RawMessage) reply) *member {
	return &member{live: map[string]bool{}, answer: answer}
}

// listen starts the member on an address of its own.
func (m *member) listen(t *testing.T, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	m.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: m}}
	m.Server.Start()
	t.Cleanup(m.Server.Close)
}

func (m *member) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Method string            `json:"method"`
		Params []json.RawMessage `json:"params"`
		ID     uint64            `json:"id"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, "bad", http.StatusInternalServerError)
		return
	}
	rep := m.reply(req.Method, req.Params)
	switch {
	case rep.raw != nil:
		rep.raw(w, r, req.ID)
	case rep.fail != nil:
		json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "id": req.ID, "error": map[string]any{"code": 1, "message": rep.fail[0], "data": rep.fail[1:]}})
	default:
		json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "id": req.ID, "result": rep.result})
	}
}

func (m *member) reply(method string, params []json.RawMessage) reply {
	m.mu.Lock()
	m.calls = append(m.calls, method)
	var session string
	if len(params) > 0 {
		json.Unmarshal(params[0], &session)
	}
	switch method {
	case "session.login_with_password":
		defer m.mu.Unlock()
		m.logins++
		if m.login != nil {
			if rep, own := m.login(m.logins); own {
				return rep
			}
		}
		var origin string
		if len(params) == 4 {
			json.Unmarshal(params[3], &origin)
		}
		m.origins = append(m.origins, origin)
		ref := fmt.Sprintf("OpaqueRef:session-%d", m.logins)
		m.live[ref] = true
		return ok(ref)
	case "session.logout":
		defer m.mu.Unlock()
		delete(m.live, session)
		return ok("")
	}
	if !m.live[session] {
		m.mu.Unlock()
		return fails("SESSION_INVALID", session)
	}
	m.mu.Unlock()
	return m.answer(method, params[1:])
}

// endSessions is a toolstack restart.
func (m *member) endSessions() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.live)
}

func (m *member) sessions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.live)
}

func (m *member) count(method string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, c := range m.calls {
		if c == method {
			n++
		}
	}
	return n
}

const testPassword = "correct horse battery"

func testConfig(addresses ...string) Config {
	return Config{Addresses: addresses, User: "root", Password: orchestrator.NewSecret(testPassword), Insecure: true}
}

func newClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() { c.wire.http.CloseIdleConnections() })
	return c
}
