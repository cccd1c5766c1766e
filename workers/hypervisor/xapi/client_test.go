package xapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/orchestrator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func always(r reply) func(string, []json.RawMessage) reply {
	return func(string, []json.RawMessage) reply { return r }
}

func TestCallLogsInOnceAndClosesItsSession(t *testing.T) {
	m := newMember(t, always(ok("8.3")))
	c := newClient(t, testConfig(m.URL))
	for range 3 {
		var v string
		if err := c.Call(t.Context(), "host.get_software_version", &v); err != nil || v != "8.3" {
			t.Fatalf("Call = %q, %v", v, err)
		}
	}
	if m.logins != 1 || !slices.Equal(m.origins, []string{"slipway"}) {
		t.Errorf("logins %d with originators %q, want one by slipway", m.logins, m.origins)
	}
	if err := c.Close(t.Context()); err != nil || m.sessions() != 0 {
		t.Errorf("Close = %v, %d sessions left", err, m.sessions())
	}
	if err := c.Call(t.Context(), "VM.start", nil, Ref("OpaqueRef:x")); orchestrator.KindOf(err) != orchestrator.Away || !errors.Is(err, errClosed) {
		t.Errorf("Call after Close = %v", err)
	}
}

func TestEndedSessionIsRenewedOnceForAllCallers(t *testing.T) {
	m := newMember(t, always(ok("")))
	c := newClient(t, testConfig(m.URL))
	if err := c.Call(t.Context(), "VM.get_all", nil); err != nil {
		t.Fatal(err)
	}
	m.endSessions()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := c.Call(t.Context(), "VM.start", nil, Ref("OpaqueRef:x")); err != nil {
				t.Errorf("Call: %v", err)
			}
		})
	}
	wg.Wait()
	if m.logins != 2 {
		t.Errorf("%d logins, want the first and one renewal", m.logins)
	}
}

func TestSessionThatNeverHoldsFailsWithoutShowingIt(t *testing.T) {
	m := newMember(t, nil)
	m.answer = func(string, []json.RawMessage) reply {
		return fails("SESSION_INVALID", fmt.Sprintf("OpaqueRef:session-%d", m.logins))
	}
	c := newClient(t, testConfig(m.URL))
	err := c.Call(t.Context(), "VM.start", nil, Ref("OpaqueRef:x"))
	if orchestrator.KindOf(err) != orchestrator.Transient || !HasCode(err, "SESSION_INVALID") || m.logins != 2 {
		t.Errorf("err %v, %d logins", err, m.logins)
	}
	if strings.Contains(err.Error(), "OpaqueRef:session") {
		t.Errorf("the session is in the error: %v", err)
	}
}

func TestEchoedSecretsAreTakenOut(t *testing.T) {
	m := newMember(t, always(fails("INTERNAL_ERROR", "rpc: login(root, "+testPassword+", OpaqueRef:session-1)")))
	c := newClient(t, testConfig(m.URL))
	err := c.Call(t.Context(), "VM.start", nil)
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("err = %v", err)
	}
	if all := err.Error() + fmt.Sprintf("%#v", e); strings.Contains(all, testPassword) || strings.Contains(all, "OpaqueRef:session-1") {
		t.Errorf("secrets in %s", all)
	}
}

func TestSlaveNamesItsMaster(t *testing.T) {
	master, slave := unstarted(always(ok("there"))), unstarted(nil)
	master.listen(t, "127.0.0.2:0")
	_, port, _ := net.SplitHostPort(master.Listener.Addr().String())
	slave.listen(t, "127.0.0.3:"+port)
	slave.login = func(int) (reply, bool) { return fails("HOST_IS_SLAVE", "127.0.0.2"), true }
	c := newClient(t, testConfig(slave.URL)) // the master is known to the slave alone: our port and scheme, its host
	var v string
	if err := c.Call(t.Context(), "VM.get_uuid", &v); err != nil || v != "there" {
		t.Fatalf("Call = %q, %v", v, err)
	}
}

func TestMasterBecomesSlaveDuringASession(t *testing.T) {
	first, second := newMember(t, nil), newMember(t, always(ok("there")))
	first.answer = always(fails("HOST_IS_SLAVE", "127.0.0.1"))
	c := newClient(t, testConfig(first.URL, second.URL))
	if err := c.Call(t.Context(), "VM.start", nil, Ref("OpaqueRef:x")); err != nil {
		t.Fatal(err)
	}
	if second.count("VM.start") != 1 {
		t.Error("the call did not reach the new master")
	}
}

func TestUnreachableMasterIsReplacedByAnotherKnownAddress(t *testing.T) {
	slave, master := newMember(t, nil), newMember(t, always(ok("")))
	slave.login = func(int) (reply, bool) { return fails("HOST_IS_SLAVE", "127.0.0.9"), true } // nobody listens there
	c := newClient(t, testConfig(slave.URL, master.URL))
	if err := c.Call(t.Context(), "VM.start", nil); err != nil {
		t.Fatal(err)
	}
}

func TestRedirectsAreBounded(t *testing.T) {
	t.Run("at login", func(t *testing.T) {
		m := newMember(t, nil)
		n := 10
		m.login = func(int) (reply, bool) { n++; return fails("HOST_IS_SLAVE", fmt.Sprintf("127.0.0.%d", n)), true }
		err := newClient(t, testConfig(m.URL)).Call(t.Context(), "VM.start", nil)
		if orchestrator.KindOf(err) != orchestrator.Away || m.logins != 1 {
			t.Errorf("err %v after %d logins", err, m.logins)
		}
	})
	t.Run("between two that call each other master", func(t *testing.T) {
		a, b := newMember(t, always(fails("HOST_IS_SLAVE", "127.0.0.1"))), newMember(t, always(fails("HOST_IS_SLAVE", "127.0.0.1")))
		err := newClient(t, testConfig(a.URL, b.URL)).Call(t.Context(), "VM.start", nil)
		if orchestrator.KindOf(err) != orchestrator.Away || a.count("VM.start")+b.count("VM.start") > maxHops {
			t.Errorf("err %v after %d calls", err, a.count("VM.start")+b.count("VM.start"))
		}
	})
	t.Run("to something that is no host", func(t *testing.T) {
		for _, name := range []string{"", "evil/../x", "user@host", "a b", "x:y:z"} {
			m := newMember(t, nil)
			m.login = func(int) (reply, bool) { return fails("HOST_IS_SLAVE", name), true }
			if err := newClient(t, testConfig(m.URL)).Call(t.Context(), "VM.start", nil); err == nil || m.logins != 1 {
				t.Errorf("%q: err %v after %d logins", name, err, m.logins)
			}
		}
	})
	t.Run("by HTTP", func(t *testing.T) {
		other := newMember(t, always(ok("")))
		m := newMember(t, always(reply{raw: func(w http.ResponseWriter, r *http.Request, _ uint64) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}}))
		err := newClient(t, testConfig(m.URL)).Call(t.Context(), "VM.start", nil)
		if err == nil || len(other.calls) != 0 {
			t.Errorf("err %v, the other server got %q", err, other.calls)
		}
	})
}

func TestWrongPasswordIsTriedOnOneMemberOnly(t *testing.T) {
	refuse := func(int) (reply, bool) {
		return fails("SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"), true
	}
	a, b := newMember(t, nil), newMember(t, nil)
	a.login, b.login = refuse, refuse
	err := newClient(t, testConfig(a.URL, b.URL)).Call(t.Context(), "VM.start", nil)
	if !HasCode(err, "SESSION_AUTHENTICATION_FAILED") || a.logins+b.logins != 1 {
		t.Errorf("err %v after %d logins", err, a.logins+b.logins)
	}
}

func TestLostAnswers(t *testing.T) {
	slow := func(release <-chan struct{}) reply {
		return reply{raw: func(_ http.ResponseWriter, r *http.Request, _ uint64) {
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}}
	}
	release := make(chan struct{})
	defer close(release)
	tests := []struct {
		name   string
		reply  reply
		method string
		want   orchestrator.Kind
	}{
		{"dropped after a change", dropped(), "VM.start", orchestrator.Unknown},
		{"dropped after an asynchronous change", dropped(), "Async.VM.clone", orchestrator.Unknown},
		{"dropped after a read", dropped(), "VM.get_record", orchestrator.Away},
		{"slow change", slow(release), "VM.start", orchestrator.Unknown},
		{"slow read", slow(release), "VM.get_record", orchestrator.Away},
		{"no JSON for a read", text(200, "GARBAGE"), "VM.get_record", orchestrator.Transient},
		{"HTTP 500", text(500, "<html>"), "VM.start", orchestrator.Unknown},
		{"no JSON", text(200, "GARBAGE\x1b[2J"), "VM.start", orchestrator.Unknown},
		{"JSON of another shape", text(200, `[1,2]`), "VM.start", orchestrator.Unknown},
		{"deep JSON", text(200, strings.Repeat("[", 1<<20)), "VM.start", orchestrator.Unknown},
		{"somebody else's answer", text(200, `{"jsonrpc":"2.0","result":"","id":999999}`), "VM.start", orchestrator.Unknown},
		{"no id", text(200, `{"jsonrpc":"2.0","result":""}`), "VM.start", orchestrator.Unknown},
		{"wrong result type", ok(map[string]int{"GARBAGE": 1}), "VM.start", orchestrator.Unknown},
		{"wrong error data", text(200, `{"jsonrpc":"2.0","error":{"message":"X","data":[{"a":1}]},"id":2}`), "VM.start", orchestrator.Unknown},
		{"endless", reply{raw: func(w http.ResponseWriter, _ *http.Request, _ uint64) {
			block := bytes.Repeat([]byte("x"), 1<<20)
			for range 2 * maxAnswer / len(block) {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}}, "VM.start", orchestrator.Unknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMember(t, always(tt.reply))
			cfg := testConfig(m.URL)
			if strings.HasPrefix(tt.name, "slow") {
				cfg.CallTimeout = 100 * time.Millisecond
			}
			var v string
			err := newClient(t, cfg).Call(t.Context(), tt.method, &v)
			if got := orchestrator.KindOf(err); got != tt.want {
				t.Errorf("kind %s (%v), want %s", got, err, tt.want)
			}
			if strings.Contains(err.Error(), "GARBAGE") || len(err.Error()) > 600 {
				t.Errorf("foreign bytes in the error: %.600s", err)
			}
			if n := m.count(tt.method); tt.want == orchestrator.Unknown && n != 1 {
				t.Errorf("a change was sent %d times", n)
			}
		})
	}
}

func TestReadIsRepeatedAfterADroppedAnswer(t *testing.T) {
	var n atomic.Int32
	m := newMember(t, func(string, []json.RawMessage) reply {
		if n.Add(1) == 1 {
			return dropped()
		}
		return ok("there")
	})
	c := newClient(t, testConfig(m.URL))
	var v string
	if err := c.Call(t.Context(), "VM.get_uuid", &v); err != nil || v != "there" {
		t.Fatalf("Call = %q, %v", v, err)
	}
	if m.sessions() != 1 {
		t.Errorf("%d sessions, want the abandoned one logged out", m.sessions())
	}
}

func TestCallerWhoLeavesDoesNotEndTheSession(t *testing.T) {
	arrived := make(chan struct{})
	m := newMember(t, func(method string, _ []json.RawMessage) reply {
		if method != "VM.start" {
			return ok("")
		}
		return reply{raw: func(_ http.ResponseWriter, r *http.Request, _ uint64) {
			close(arrived)
			<-r.Context().Done()
		}}
	})
	c := newClient(t, testConfig(m.URL))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if err := c.Call(ctx, "VM.start", nil); orchestrator.KindOf(err) != orchestrator.Unknown {
		t.Errorf("a change that was left alone: %v", err)
	}
	if err := c.Call(t.Context(), "VM.get_all", nil); err != nil || m.logins != 1 {
		t.Errorf("the next call: %v after %d logins", err, m.logins)
	}
}

// A pool that has fallen silent costs one caller at a time its patience; the others hear at once that it is away, until it lets somebody in.
func TestSilenceIsWaitedForByOne(t *testing.T) {
	entered, silent := make(chan struct{}, 8), make(chan struct{})
	m := newMember(t, always(ok("")))
	m.login = func(n int) (reply, bool) {
		if n == 1 {
			return dropped(), true
		}
		entered <- struct{}{}
		<-silent
		return reply{}, false
	}
	cfg := testConfig(m.URL)
	cfg.CallTimeout = 30 * time.Second
	c := newClient(t, cfg)
	if err := c.Call(t.Context(), "VM.start", nil); orchestrator.KindOf(err) != orchestrator.Away {
		t.Fatalf("the first: %v", err)
	}
	looking := make(chan error, 1)
	go func() { looking <- c.Call(t.Context(), "VM.start", nil) }()
	<-entered
	began := time.Now()
	for range 10 {
		if err := c.Call(t.Context(), "VM.start", nil); orchestrator.KindOf(err) != orchestrator.Away {
			t.Errorf("while another looks: %v", err)
		}
	}
	if took := time.Since(began); took > maxLogin {
		t.Errorf("ten callers waited %s for another's silence", took)
	}
	close(silent)
	if err := <-looking; err != nil {
		t.Errorf("the one who looked: %v", err)
	}
	if err := c.Call(t.Context(), "VM.start", nil); err != nil || m.count("VM.start") != 2 {
		t.Errorf("when it is back: %v after %d calls", err, m.count("VM.start"))
	}
}

func TestNothingSentIsAwayAndFailsOver(t *testing.T) {
	dead := newMember(t, nil)
	dead.Close()
	c := newClient(t, testConfig(dead.URL))
	if err := c.Call(t.Context(), "VM.start", nil); orchestrator.KindOf(err) != orchestrator.Away {
		t.Errorf("kind %s: %v", orchestrator.KindOf(err), err)
	}
	first, second := newMember(t, always(ok(""))), newMember(t, always(ok("")))
	c = newClient(t, testConfig(first.URL, second.URL))
	if err := c.Call(t.Context(), "VM.get_all", nil); err != nil {
		t.Fatal(err)
	}
	c.wire.http.CloseIdleConnections()
	first.Close()
	if err := c.Call(t.Context(), "VM.start", nil); err != nil || second.count("VM.start") != 1 {
		t.Errorf("a change that was not sent did not go to the other member: %v", err)
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	const bound = 3
	var now, most atomic.Int32
	arrived, release := make(chan struct{}, 20), make(chan struct{})
	m := newMember(t, func(method string, _ []json.RawMessage) reply {
		if method == "pool.get_all" {
			return ok([]Ref{})
		}
		most.Store(max(most.Load(), now.Add(1)))
		arrived <- struct{}{}
		<-release
		now.Add(-1)
		return ok("")
	})
	cfg := testConfig(m.URL)
	cfg.Concurrency = bound
	c := newClient(t, cfg)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := c.Call(t.Context(), "VM.start", nil); err != nil {
				t.Error(err)
			}
		})
	}
	for range bound {
		<-arrived
	}
	other := newClient(t, testConfig(m.URL)) // while it comes and goes, whoever is not held arrives as well
	for range 100 {
		if err := other.Call(t.Context(), "pool.get_all", nil); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Call(ctx, "VM.start", nil); orchestrator.KindOf(err) != orchestrator.Away {
		t.Errorf("a call that found no slot: %v", err)
	}
	close(release)
	wg.Wait()
	if got := most.Load(); got > bound {
		t.Errorf("%d calls at once, bound is %d", got, bound)
	}
}

func TestConfigIsRefusedByField(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no address", func(c *Config) { c.Addresses = nil }, "addresses: none"},
		{"no URL", func(c *Config) { c.Addresses = []string{"xen1"} }, "write https://HOST"},
		{"account in the URL", func(c *Config) { c.Addresses = []string{"https://root:hunter2@xen1"} }, "carries an account"},
		{"other scheme", func(c *Config) { c.Addresses = []string{"ftp://xen1"} }, "use https"},
		{"plain http", func(c *Config) { c.Addresses, c.Insecure = []string{"http://xen1"}, false }, "plain http"},
		{"https without proof", func(c *Config) { c.Insecure = false }, "ca_file or pin_sha256"},
		{"two proofs", func(c *Config) { c.PinSHA256 = []string{"00"} }, "choose one"},
		{"short pin", func(c *Config) { c.Insecure, c.PinSHA256 = false, []string{"00"} }, "64 hex digits"},
		{"no CA file", func(c *Config) { c.Insecure, c.CAFile = false, "/nonexistent" }, "ca_file"},
		{"no user", func(c *Config) { c.User = "" }, "user: empty"},
		{"no password", func(c *Config) { c.Password = orchestrator.Secret{} }, "password: empty"},
		{"negative", func(c *Config) { c.Concurrency = -1 }, "must not be negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig("https://xen1")
			tt.change(&cfg)
			_, err := New(cfg)
			if orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New = %v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("password in %v", err)
			}
		})
	}
}

func TestInsecureIsLoggedAndSecretsAreNot(t *testing.T) {
	var out bytes.Buffer
	m := newMember(t, always(fails("SESSION_INVALID", "OpaqueRef:session-1")))
	cfg := testConfig(m.URL)
	cfg.Logger = slog.New(slog.NewTextHandler(&out, nil))
	c := newClient(t, cfg)
	_ = c.Call(t.Context(), "VM.start", nil)
	if s := out.String(); !strings.Contains(s, "insecure") || strings.Contains(s, testPassword) || strings.Contains(s, "OpaqueRef:session") {
		t.Errorf("log:\n%s", s)
	}
}
