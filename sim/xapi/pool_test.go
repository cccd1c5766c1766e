package xapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
)

func TestStorageIsNeverOvercommitted(t *testing.T) {
	b := newBench(t, func(c *Config) { c.SRSize = 10 << 30; c.Templates = []Template{{Name: "Debian 12", DiskGiB: 2}} })
	full := []string{"SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""}
	for i := range 4 {
		b.must("VM.clone", b.template(), fmt.Sprint(i))
	}
	b.refuses(full, "VM.clone", b.template(), "one too many")
	if n := len(b.must("VM.get_by_name_label", "one too many").([]any)); n != 0 {
		t.Fatalf("a failed clone left %d VMs", n)
	}
	sr := b.must("pool.get_default_SR", b.must("pool.get_all").([]any)[0]).(string)
	if rec := b.record("SR", sr); fmt.Sprint(rec["virtual_allocation"]) != fmt.Sprint(10<<30) || len(rec["VDIs"].([]any)) != 5 {
		t.Fatalf("allocated %v with %d disks", rec["virtual_allocation"], len(rec["VDIs"].([]any)))
	}
	vdi := b.record("SR", sr)["VDIs"].([]any)[0].(string)
	b.refuses(full, "VDI.resize", vdi, 3<<30)
	b.must("VDI.destroy", vdi)
	b.must("VM.clone", b.template(), "fits again")
}

func TestHostMemoryIsNeverOvercommitted(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Hosts, c.HostMemory, c.SharedSR = 2, 8<<30, true })
	var mu sync.Mutex
	running, refused := 0, 0
	var wg sync.WaitGroup
	for i := range 8 {
		vm := b.machine(fmt.Sprint(i))
		b.must("VM.set_memory_limits", vm, 2<<30, 2<<30, 2<<30, 2<<30)
		wg.Go(func() {
			_, failed, err := b.raw(t.Context(), "VM.start", b.session, vm, false, false)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case failed == nil:
				running++
			case failed[0] == "NO_HOSTS_AVAILABLE":
				refused++
			default:
				t.Error(failed)
			}
		})
	}
	wg.Wait()
	if running != 6 || refused != 2 { // three of 2 GiB and their overhead beside dom0 in 8 GiB
		t.Fatalf("%d run, %d refused", running, refused)
	}
	for _, h := range b.must("host.get_all").([]any) {
		free, err := b.must("host.compute_free_memory", h).(json.Number).Int64()
		if err != nil || free < 0 || free > 2<<30 {
			t.Errorf("free memory %d, %v", free, err)
		}
	}
}

func TestMembersSendToTheMaster(t *testing.T) {
	s, err := New(Config{Password: orchestrator.NewSecret("secret"), Hosts: 3, HostAddress: "192.0.2.10"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	web := httptest.NewServer(s.SlaveHandler(2))
	defer web.Close()
	b := &bench{t: t, s: s, url: web.URL}
	b.refuses([]string{"HOST_IS_SLAVE", "192.0.2.10"}, "session.login_with_password", "root", "secret")
	b.refuses([]string{"HOST_IS_SLAVE", "192.0.2.10"}, "session.login_with_password", "root", "wrong")
	b.refuses([]string{"HOST_IS_SLAVE", "192.0.2.10"}, "VM.get_all", "OpaqueRef:x")
	b.must("session.slave_local_login_with_password", "root", "secret")
}

func TestPowerHook(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	b := newBench(t, func(c *Config) {
		c.OnPower = func(p Power) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %s %v %d", p.Name, p.State, p.Boot, len(p.VIFs)))
		}
	})
	vm := b.machine("a")
	b.must("VM.start", vm, true, false)
	b.must("VM.unpause", vm)
	b.must("VM.hard_reboot", vm)
	b.must("VM.clean_shutdown", vm)
	want := "a Paused true 1, a Running false 1, a Running true 1, a Halted false 1"
	waitFor(t, "all power changes", func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) == 4 })
	if got := strings.Join(seen, ", "); got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

func TestSessionsAreCollected(t *testing.T) {
	b := newBench(t, nil)
	first := b.session
	b.session = ""
	var last string
	for range sessionsPerOriginator + 3 {
		last = b.must("session.login_with_password", "root", "secret", "2.21", "test").(string)
	}
	if n := b.s.Sessions("test"); n != sessionsPerOriginator {
		t.Fatalf("%d sessions", n)
	}
	b.refuses([]string{"SESSION_INVALID", first}, "VM.get_all", first)
	b.must("VM.get_all", last)
}

// The two pools of the scale target, at once, have to be comfortable: a thousand machines through their whole life.
func TestAThousandMachines(t *testing.T) {
	const n = 500
	var wg sync.WaitGroup
	for range 2 {
		b := newBench(t, func(c *Config) { c.Hosts, c.HostMemory, c.SharedSR = 4, 1<<40, true })
		work := make(chan int)
		for range 8 {
			wg.Go(func() {
				for i := range work {
					b.life(i)
				}
			})
		}
		wg.Go(func() {
			defer close(work)
			for i := range n {
				work <- i
			}
		})
	}
	wg.Wait()
}

// life is what a client does for one machine, by tasks and events.
func (b *bench) life(i int) {
	do := func(method string, params ...any) any {
		result, failed, err := b.raw(b.t.Context(), method, append([]any{b.session}, params...)...)
		if err != nil || failed != nil {
			b.t.Errorf("machine %d: %s: %v %v", i, method, failed, err)
		}
		return result
	}
	task := func(method string, params ...any) string {
		ref, _ := do("Async."+method, params...).(string)
		token := ""
		for range 50 {
			if status := do("task.get_status", ref); status != "pending" {
				break
			}
			a, _ := do("event.from", []string{"task/" + ref}, token, 10.0).(map[string]any)
			token, _ = a["token"].(string)
		}
		text, _ := do("task.get_result", ref).(string)
		do("task.destroy", ref)
		return strings.TrimSuffix(strings.TrimPrefix(text, "<value>"), "</value>")
	}
	list, _ := do("VM.get_by_name_label", "Debian 12").([]any)
	vm := task("VM.clone", list[0], fmt.Sprintf("m%d", i))
	task("VM.provision", vm)
	task("VM.start", vm, false, false)
}

func TestMainServesOverTLS(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- Main(ctx, Options{Listen: "127.0.0.1:0", Password: orchestrator.NewSecret("secret"), TLS: true, Hosts: 2}, w)
	}()
	lines := make([]byte, 0, 400)
	buf := make([]byte, 200)
	for bytes.Count(lines, []byte("\n")) < 2 {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, buf[:n]...)
	}
	var roles [2]string
	var pin string
	for i, line := range strings.Split(strings.TrimSpace(string(lines)), "\n") {
		var url string
		if n, err := fmt.Sscanf(line, "%s %s sha256:%s", &roles[i], &url, &pin); n != 3 {
			t.Fatalf("%q: %v", line, err)
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(c tls.ConnectionState) error {
			if sum := sha256.Sum256(c.PeerCertificates[0].Raw); hex.EncodeToString(sum[:]) != pin {
				return fmt.Errorf("not the pinned certificate")
			}
			return nil
		}}}
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		body := `{"jsonrpc":"2.0","method":"session.login_with_password","params":["root","secret"],"id":1}`
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/jsonrpc", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		a, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(a.Body)
		_ = a.Body.Close()
		transport.CloseIdleConnections()
		if want := []string{"OpaqueRef:", "HOST_IS_SLAVE\",\"data\":[\"127.0.0.1\"]"}[i]; err != nil || !strings.Contains(string(text), want) {
			t.Fatalf("%s: %s, %v", line, text, err)
		}
	}
	if roles != [2]string{"master", "member"} {
		t.Fatalf("roles %v", roles)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
