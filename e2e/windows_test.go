package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"

	"slipway/internal/api"
	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/sim/winrm"
)

// windows is the one simulated Windows guest of a story: it holds its job in the middle, and again while it restarts, until it is let go on.
type windows struct {
	template winrm.Config
	disk     chan struct{} // closed when the job may go on

	mu  sync.Mutex
	sim *winrm.Server
	ran map[string]int // how often each step began, by job and step
}

// boot starts the guest as a sysprepped template does: nothing listens, then HTTP without WinRM, then no accounts, then Windows Setup. A
// restart goes on when the test says so.
func (w *windows) boot(g *guests, _, address string) (func(), error) {
	const moment = 300 * time.Millisecond
	config := w.template
	config.Boot = []winrm.Window{{Answer: winrm.Refused, For: moment}, {Answer: winrm.Unavailable, For: moment}, {Answer: winrm.Unauthorized, For: moment}, {Answer: winrm.Setup, For: moment}}
	config.Restart = []winrm.Window{{Answer: winrm.Refused}, {Answer: winrm.Unavailable}, {Answer: winrm.Unauthorized}}
	config.Grace = 50 * time.Millisecond
	config.Listen = func(_ context.Context, at string) (net.Listener, error) { return g.listen(at) }
	var rdp net.Listener
	var greeting sync.WaitGroup
	config.Step = func(ctx context.Context, job, step string) (string, int, bool) {
		w.mu.Lock()
		w.ran[job+" "+step]++
		w.mu.Unlock()
		switch step {
		case "disk":
			select {
			case <-w.disk:
			case <-ctx.Done():
			}
		case "rdp":
			l, err := g.listen(net.JoinHostPort(address, "3389"))
			if err != nil {
				return err.Error(), 1, true
			}
			rdp = l
			greeting.Go(func() { greet(l) })
		}
		return "", 0, false
	}
	sim, err := winrm.New(config)
	if err != nil {
		return nil, err
	}
	if _, err := sim.Start(g.ctx, net.JoinHostPort(address, "5986")); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sim = sim
	return func() {
		_ = sim.Close() // no step runs any more
		if rdp != nil {
			_ = rdp.Close()
		}
		greeting.Wait()
	}, nil
}

// greet says something to everybody who calls, until the listener is closed.
func greet(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte("remote desktop"))
		_ = conn.Close()
	}
}

func (w *windows) guest() *winrm.Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sim
}

func (w *windows) steps() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.ran)
}

// An order for Windows that a panel publishes becomes a machine in use, though serve is killed in the middle of the job and once more while
// the guest restarts: the job runs once. The password reaches the customer's key and the operator, and is nowhere else.
func TestWindowsOrderBecomesMachine(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	certificate, pin, err := winrm.SelfSigned("WIN-TEMPLATE")
	if err != nil {
		t.Fatal(err)
	}
	login := rand.Text() // of the template
	win := &windows{disk: make(chan struct{}), ran: map[string]int{}, template: winrm.Config{User: "slipway", Password: secretOf(login), Certificate: &certificate}}
	url := testserver.RabbitMQ(t)
	s := newSite(t, siteConfig{
		pools: 1, rabbitmq: url, lease: 2 * time.Second, boot: win.boot,
		images: map[string]string{"windows-2022": "{winrm: {password: {file: windows.password}, pin_sha256: \"" + pin + "\"}}"},
	})
	s.write("windows.password", login)
	w := s.serve("worker")
	workers := []*worker{w}
	panel := listen(t, url)
	customer, customerLine := keyPair(t)
	o := install(1, customerLine)
	data := o["data"].(map[string]any)
	data["name"], data["hostname"], data["image"] = "win-1", "win-1.acme.example", "windows-2022"
	data["firewall"] = []any{map[string]any{"protocol": "tcp", "source": "0.0.0.0/0", "ports": []any{3389}}}
	publish(t, url, o.json(t))

	at := func(words string) {
		t.Helper()
		testnet.Until(t, 60*time.Second, "the run to say "+words, func() bool {
			runs := s.mustRuns(w)
			return len(runs) == 1 && strings.Contains(runs[0].Reason, words)
		})
	}
	at("post-install is at disk")
	_ = w.Kill()
	w = s.serve("worker")
	workers = append(workers, w)
	close(win.disk)
	at("restart: nothing answers at the guest's address")
	_ = w.Kill()
	w = s.serve("worker")
	workers = append(workers, w)
	at("restart: nothing answers at the guest's address")
	win.guest().Advance()
	at("restart: the guest answers, but WinRM is not up yet")
	win.guest().Advance()
	at("restart: WinRM is up, but lets nobody in yet")
	win.guest().Advance()
	s.done(w, 1, 90*time.Second)
	done := panel.await(t, "slipway.run.done", "order-0001")
	panel.inOrder(t)
	s.counted(1)
	s.bootedOnce()

	journal := s.cli("worker", "show", "win-1")
	t.Logf("the journal:\n%s", journal)
	var m api.Machine
	if err := json.Unmarshal([]byte(s.cli("worker", "-o", "json", "show", "win-1")), &m); err != nil {
		t.Fatal(err)
	}
	if m.State != "production_ready" || !strings.HasPrefix(m.Identity, "S-1-5-21-") || done.Data.State != "production_ready" {
		t.Errorf("state %s, identity %s; the panel heard %s", m.State, m.Identity, done.Data.State)
	}
	var jobs, steps []string
	for key, n := range win.steps() {
		job, step, _ := strings.Cut(key, " ")
		jobs, steps = append(jobs, job), append(steps, step)
		if n != 1 {
			t.Errorf("step %s of job %s was begun %d times", step, job, n)
		}
	}
	slices.Sort(jobs)
	slices.Sort(steps)
	if diff := cmp.Diff([]string{"administrator", "certificate", "checks", "disk", "firewall", "hostname", "license", "rdp"}, steps); diff != "" || len(slices.Compact(jobs)) != 1 {
		t.Errorf("jobs %v, steps (-want +got):\n%s", slices.Compact(jobs), diff)
	}
	ended := map[string]string{} // step to process
	for _, a := range s.journal() {
		if a.Outcome != orchestrator.OutcomeDone && a.Outcome != orchestrator.OutcomeSkipped || a.Number != 1 || ended[a.Step] != "" {
			t.Errorf("the journal has %s, attempt %d, %s: %s", a.Step, a.Number, a.Outcome, a.Message)
		}
		ended[a.Step] = processOf(a.Actor)
	}
	if ended["post_install"] == ended["verify"] || ended["verify"] != pid(w) {
		t.Errorf("which process ended which step: %v, the last one is %s", ended, pid(w))
	}

	sim := win.guest()
	if st := sim.Stats(); st.Restarts != 1 || st.Bindings == 0 {
		t.Errorf("%+v", st)
	}
	password := sim.Password("Administrator")
	if left := sim.Password("slipway"); left != "" || len(sim.Secrets()) > 0 {
		t.Errorf("the installer has left its account, or secrets: %v", sim.Secrets())
	}
	t.Run("the operator reads the password, and it is recorded", func(t *testing.T) {
		var told api.Password
		if err := json.Unmarshal([]byte(s.cli("worker", "-o", "json", "machine", "password", "acme/win-1", "--reason", "ticket 4711")), &told); err != nil {
			t.Fatal(err)
		}
		if told.Password != password || !told.Set || told.Account != "Administrator" {
			t.Errorf("the guest has another password than the operator is told for %s, set %v", told.Account, told.Set)
		}
		testnet.Until(t, 5*time.Second, "serve to log it", func() bool { return w.said("administrator's password read") && w.said("ticket 4711") })
	})
	t.Run("the customer's key opens the password in the event", func(t *testing.T) {
		identity, err := agessh.ParseIdentity([]byte(customer))
		if err != nil {
			t.Fatal(err)
		}
		opened, err := age.Decrypt(armor.NewReader(strings.NewReader(done.Data.Age)), identity)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(opened); err != nil || string(text) != password {
			t.Errorf("the guest has another password than the event: %v", err)
		}
	})
	t.Run("the password is nowhere in the clear", func(t *testing.T) {
		for _, e := range panel.heard() {
			if strings.Contains(e.raw, password) || strings.Contains(e.raw, login) {
				t.Errorf("event %s has it", e.Type)
			}
		}
		for _, w := range workers {
			if said := w.Output() + journal; strings.Contains(said, password) || strings.Contains(said, login) {
				t.Error("a log or the journal has it")
			}
		}
	})
	t.Run("a customer gets to Remote Desktop alone", func(t *testing.T) {
		public := m.Placement.Public
		if words, err := listening(s.customer, netip.AddrPortFrom(public, 3389).String(), 5*time.Second); err != nil || words != "remote desktop" {
			t.Errorf("%q, %v", words, err)
		}
		if words, err := listening(s.customer, netip.AddrPortFrom(public, 5986).String(), 300*time.Millisecond); err == nil {
			t.Errorf("WinRM answers a customer: %q", words)
		}
	})
}
