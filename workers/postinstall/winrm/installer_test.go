package winrm_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"slipway/internal/testnet"
	"slipway/orchestrator"
	sim "slipway/sim/winrm"
	"slipway/workers/postinstall"
	"slipway/workers/postinstall/winrm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	machineID = "6f1c1f0e-4f5e-4b7e-9d63-0a1b2c3d4e5f"
	image     = "windows-2022"
	login     = "template password"
)

func catalogue(t *testing.T) *postinstall.Catalogue {
	t.Helper()
	c, err := postinstall.Load(os.DirFS("../../../templates/postinstall"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// bundle is what a test starts with: a guest that runs, and an installer that may go in.
type bundle struct {
	guest     *sim.Server
	config    winrm.Config
	installer *winrm.Installer
	ref       orchestrator.Guest
	job       orchestrator.Job
	dials     atomic.Int64
	watch     *watch
}

func setup(t *testing.T, change func(*sim.Config, *winrm.Config)) *bundle {
	t.Helper()
	certificate, pin, err := sim.SelfSigned("WIN-TEMPLATE")
	if err != nil {
		t.Fatal(err)
	}
	key, public, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle{watch: new(watch)}
	guest := sim.Config{User: "slipway", Password: orchestrator.NewSecret(login), Certificate: &certificate}
	b.config = winrm.Config{
		Catalogue: catalogue(t), PollTimeout: time.Second, Log: slog.New(slog.DiscardHandler),
		Templates: func(pool, image string) winrm.Template {
			return winrm.Template{Password: orchestrator.NewSecret(login), PinSHA256: []string{pin}}
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			b.dials.Add(1)
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return b.watch.wrap(c), nil
		},
	}
	if change != nil {
		change(&guest, &b.config)
	}
	if b.guest, err = sim.New(guest); err != nil {
		t.Fatal(err)
	}
	address, err := b.guest.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.guest.Close() })
	b.ref = orchestrator.Guest{Machine: machineID, Pool: "p1", Image: image, Address: netip.MustParseAddrPort(address), HostKey: public}
	b.job = orchestrator.Job{ID: "run-1-1", Hostname: "web1.example.net", HostKeySecret: key, AdministratorPassword: orchestrator.NewSecret("Correct-Horse-9")}
	b.restart(t)
	return b
}

// restart is a new process of ours: nothing is remembered.
func (b *bundle) restart(t *testing.T) {
	t.Helper()
	i, err := winrm.New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.installer = i
}

func (b *bundle) observe(t *testing.T, offset int64) orchestrator.JobStatus {
	t.Helper()
	status, err := b.installer.ObserveJob(t.Context(), b.ref, b.job.ID, offset)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// until observes in parts, as the step does, and returns the whole log and every stage that was seen.
func (b *bundle) until(t *testing.T, want orchestrator.JobState) (orchestrator.JobStatus, string, []string) {
	t.Helper()
	var log strings.Builder
	var status orchestrator.JobStatus
	var stages []string
	testnet.Until(t, 30*time.Second, "job to be "+string(want), func() bool {
		status = b.observe(t, status.Offset)
		log.Write(status.Log)
		if len(stages) == 0 || stages[len(stages)-1] != status.Stage {
			stages = append(stages, status.Stage)
		}
		return status.State == want
	})
	return status, log.String(), stages
}

// watch sees what goes over the wire.
type watch struct {
	mu   sync.Mutex
	sent []byte
	cut  int // bytes after which the connection breaks; 0 is never
}

type watched struct {
	net.Conn
	w *watch
}

func (w *watch) wrap(c net.Conn) net.Conn { return &watched{c, w} }

func (c *watched) Write(p []byte) (int, error) {
	c.w.mu.Lock()
	c.w.sent = append(c.w.sent, p...)
	broken := c.w.cut > 0 && len(c.w.sent) > c.w.cut
	c.w.mu.Unlock()
	if broken {
		_ = c.Conn.Close()
	}
	return c.Conn.Write(p)
}

func TestInstallOverEachWay(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sim.Config, *winrm.Config){
		"ntlm over https":  nil,
		"basic over https": func(s *sim.Config, w *winrm.Config) { s.AllowBasic, w.Basic = true, true },
		"ntlm over http":   func(s *sim.Config, w *winrm.Config) { s.Certificate, w.HTTP = nil, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, change)
			evidence, err := b.installer.Probe(t.Context(), b.ref)
			if err != nil || !strings.Contains(evidence, "called WIN-TEMPLATE") || strings.Contains(evidence, "template's certificate") == b.config.HTTP {
				t.Fatalf("probe: %q, %v", evidence, err)
			}
			if status := b.observe(t, 0); status.State != orchestrator.JobUnknown {
				t.Errorf("before it was sent, the job is %s", status.State)
			}
			if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
				t.Fatal(err)
			}
			b.restart(t)
			status, log, _ := b.until(t, orchestrator.JobExited)
			if status.Exit != 0 || strings.Count(log, "== certificate\n") != 1 || !strings.Contains(log, "== hostname wants a restart\n") {
				t.Fatalf("exit code %d:\n%s", status.Exit, log)
			}
			if got := b.guest.Password("Administrator"); got != b.job.AdministratorPassword.Reveal() {
				t.Errorf("the administrator's password is %q", got)
			}
			if left := b.guest.Secrets(); len(left) > 0 {
				t.Errorf("secrets in the guest: %v", left)
			}

			b.ref.Own = true
			inspection, err := b.installer.Inspect(t.Context(), b.ref)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"hostname": "ok", "certificate": "ok", "administrator": "ok", "disk": "ok", "rdp": "ok", "firewall": "ok", "license": "ok"}
			if diff := cmp.Diff(want, inspection.Checks); diff != "" || !strings.HasPrefix(inspection.Identity, "S-1-5-21-") {
				t.Errorf("identity %q, checks (-want +got):\n%s", inspection.Identity, diff)
			}
			evidence, err = b.installer.Probe(t.Context(), b.ref)
			if err != nil || !strings.Contains(evidence, "called WEB1") || strings.Contains(evidence, "machine's certificate") == b.config.HTTP {
				t.Errorf("probe afterwards: %q, %v", evidence, err)
			}
			if !b.config.HTTP {
				stranger := b.ref
				stranger.Own, stranger.HostKey = false, ""
				if _, err := b.installer.Probe(t.Context(), stranger); orchestrator.KindOf(err) != orchestrator.Permanent {
					t.Errorf("with the template's pin alone: %v", err)
				}
			}

			if err := b.installer.Leave(t.Context(), b.ref); err != nil {
				t.Fatal(err)
			}
			if b.guest.Password("slipway") != "" {
				t.Error("the installer's account is still there")
			}
			// Once more, as after a crash of ours between the act and its record.
			err = b.installer.Leave(t.Context(), b.ref)
			if b.config.HTTP != (orchestrator.KindOf(err) == orchestrator.Permanent) || !b.config.HTTP && err != nil {
				t.Errorf("leaving again: %v", err)
			}
			st := b.guest.Stats()
			// Basic is proven with each message: once the account is gone, its last shell cannot be closed any more.
			if st.LongestLine > 4000 || st.LongestLine == 0 || st.OpenShells > 0 && !b.config.Basic || st.LargestBody > 160<<10 {
				t.Errorf("%+v", st)
			}
			if b.config.HTTP != (st.Encrypted > 0) || (st.Bindings > 0) != (!b.config.HTTP && !b.config.Basic) {
				t.Errorf("%+v", st)
			}
			for _, secret := range []string{login, b.job.AdministratorPassword.Reveal(), "Envelope"} {
				if strings.Contains(string(b.watch.sent), secret) {
					t.Errorf("%q went over the wire in the clear", secret)
				}
			}
		})
	}
}

// Uploads are cut, starters race, we restart: the job runs once.
func TestOnceByID(t *testing.T) {
	t.Parallel()
	var ran atomic.Int64
	b := setup(t, func(s *sim.Config, _ *winrm.Config) {
		s.Step = func(_ context.Context, _, step string) (string, int, bool) {
			if step == "administrator" {
				ran.Add(1)
			}
			return "", 0, false
		}
	})
	b.watch.cut = 60 << 10
	err := b.installer.EnsureJob(t.Context(), b.ref, b.job)
	if kind := orchestrator.KindOf(err); kind != orchestrator.Transient && kind != orchestrator.Unknown {
		t.Fatalf("a connection that broke in the upload: %v, kind %s", err, kind)
	}
	b.watch.mu.Lock()
	b.watch.cut = 0
	b.watch.mu.Unlock()
	if status := b.observe(t, 0); status.State != orchestrator.JobUnknown {
		t.Errorf("after half an upload the job is %s", status.State)
	}
	b.restart(t)
	var starters sync.WaitGroup
	for range 4 {
		starters.Go(func() {
			// A starter may meet the job's own restart.
			if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil && orchestrator.KindOf(err) == orchestrator.Permanent {
				t.Error(err)
			}
		})
	}
	starters.Wait()
	if status, log, _ := b.until(t, orchestrator.JobExited); status.Exit != 0 || strings.Count(log, "== administrator\n") != 1 {
		t.Errorf("exit code %d:\n%s", status.Exit, log)
	}
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
		t.Errorf("asked for again after its end: %v", err)
	}
	if n := ran.Load(); n != 1 {
		t.Errorf("the script ran %d times", n)
	}
}

// The first boot answers in every way that is not ready, and a step restarts the guest twice more: each is a wait that operators see.
func TestRestartWindows(t *testing.T) {
	t.Parallel()
	hold := func(answers ...sim.Answer) (windows []sim.Window) {
		for _, a := range answers {
			windows = append(windows, sim.Window{Answer: a})
		}
		return windows
	}
	var disk atomic.Int64
	b := setup(t, func(s *sim.Config, _ *winrm.Config) {
		s.Boot = hold(sim.Refused, sim.Unavailable, sim.Unauthorized, sim.Setup)
		s.Restart = hold(sim.Refused, sim.Unavailable, sim.Unauthorized)
		s.Step = func(_ context.Context, _, step string) (string, int, bool) {
			if step == "disk" && disk.Add(1) == 1 {
				return "disk wants a restart of its own\n", 3010, true
			}
			return "", 0, false
		}
	})
	for _, want := range []string{"connection refused", "HTTP 503", "HTTP 401", "Windows Setup still runs (IMAGE_STATE_SPECIALIZE_RESEAL_TO_OOBE)"} {
		_, err := b.installer.Probe(t.Context(), b.ref)
		if orchestrator.KindOf(err) != orchestrator.Transient || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("probe: %v, want %q", err, want)
		}
		if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); orchestrator.KindOf(err) != orchestrator.Transient {
			t.Errorf("a job that came too early: %v", err)
		}
		b.guest.Advance()
	}
	if _, err := b.installer.Probe(t.Context(), b.ref); err != nil {
		t.Fatal(err)
	}
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
		t.Fatal(err)
	}
	var offset int64
	var log strings.Builder
	for boot := 1; boot <= 2; boot++ {
		for _, want := range []string{"restart: nothing answers", "restart: the guest answers, but WinRM is not up yet", "restart: WinRM is up, but lets nobody in yet"} {
			testnet.Until(t, 10*time.Second, want, func() bool {
				status := b.observe(t, offset)
				if status.State != orchestrator.JobRunning {
					t.Fatalf("in the restart, the job is %+v", status)
				}
				offset = status.Offset
				log.Write(status.Log)
				return strings.HasPrefix(status.Stage, want)
			})
			b.restart(t)
			b.guest.Advance()
		}
	}
	testnet.Until(t, 10*time.Second, "the end", func() bool {
		status := b.observe(t, offset)
		offset = status.Offset
		log.Write(status.Log)
		return status.State == orchestrator.JobExited && status.Exit == 0
	})
	want := "== administrator\nadministrator done\n== certificate\ncertificate done\n== disk\ndisk wants a restart of its own\n== disk wants a restart\n== rdp\nrdp done\n" +
		"== firewall\nfirewall done\n== hostname\ncomputer name set to WEB1\n== hostname wants a restart\n== license\nlicense done\n== checks\n"
	got, _, _ := strings.Cut(log.String(), "hostname=ok")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if st := b.guest.Stats(); st.Restarts != 2 {
		t.Errorf("%d restarts", st.Restarts)
	}
}

// A process that is gone without an exit code, by a crash or by a restart that nobody asked for, is lost; another job may follow.
func TestLostJob(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*bundle){
		"killed":    func(b *bundle) { b.guest.KillJob(b.job.ID) },
		"restarted": func(b *bundle) { b.guest.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hang := make(chan struct{})
			var once sync.Once
			b := setup(t, func(s *sim.Config, _ *winrm.Config) {
				s.Step = func(ctx context.Context, job, step string) (string, int, bool) {
					if job == "run-1-1" && step == "disk" {
						once.Do(func() { close(hang) })
						<-ctx.Done()
						return "", 1, true
					}
					return "", 0, false
				}
			})
			if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
				t.Fatal(err)
			}
			<-hang
			if status := b.observe(t, 0); status.State != orchestrator.JobRunning || status.Stage != "disk" {
				t.Errorf("while it hangs: %+v", status)
			}
			other := b.job
			other.ID = "run-1-2"
			if err := b.installer.EnsureJob(t.Context(), b.ref, other); orchestrator.KindOf(err) != orchestrator.Transient || !strings.Contains(err.Error(), "job run-1-1 still runs") {
				t.Errorf("another job beside one that runs: %v", err)
			}
			end(b)
			b.until(t, orchestrator.JobLost)
			if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
				t.Fatal(err)
			}
			if status := b.observe(t, 0); status.State != orchestrator.JobLost {
				t.Errorf("asked for again, the lost job is %s", status.State)
			}
			b.job = other
			if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
				t.Fatal(err)
			}
			if status, log, _ := b.until(t, orchestrator.JobExited); status.Exit != 0 {
				t.Errorf("the next job ended with %d:\n%s", status.Exit, log)
			}
		})
	}
}

func TestFailedStepAndLongLog(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200_000) + "\n"
	b := setup(t, func(s *sim.Config, _ *winrm.Config) {
		s.Step = func(_ context.Context, _, step string) (string, int, bool) {
			return long + "license: Windows has no product key\n", 1, step == "license"
		}
	})
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
		t.Fatal(err)
	}
	status, log, _ := b.until(t, orchestrator.JobExited)
	for range 10 { // the state comes before the end of the log
		next := b.observe(t, status.Offset)
		if len(next.Log) > 64<<10 {
			t.Fatalf("%d bytes at once", len(next.Log))
		}
		log += string(next.Log)
		status = next
	}
	if status.Exit != 1 || !strings.HasSuffix(log, long+"license: Windows has no product key\n== license failed with exit code 1\n") {
		t.Errorf("exit code %d, %d bytes", status.Exit, len(log))
	}
	if _, err := b.installer.Inspect(t.Context(), b.ref); err == nil || !strings.Contains(err.Error(), "no job has succeeded") {
		t.Errorf("inspection of a guest without a good job: %v", err)
	}
}

func TestWhoIsNotTheGuest(t *testing.T) {
	t.Parallel()
	_, otherKey, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name   string
		change func(*winrm.Config, *orchestrator.Guest)
		kind   orchestrator.Kind
		want   string
	}{
		{"another certificate", func(c *winrm.Config, _ *orchestrator.Guest) { pinned(c, strings.Repeat("ab", 32)) }, orchestrator.Permanent, "another machine answers there"},
		{"the template's after the machine's own", func(_ *winrm.Config, g *orchestrator.Guest) { g.Own = true }, orchestrator.Permanent, "another machine answers there"},
		{"no pin", func(c *winrm.Config, g *orchestrator.Guest) { pinned(c); g.HostKey = "" }, orchestrator.Permanent, `give pool "p1" the SHA-256`},
		{"a pin that is none", func(c *winrm.Config, _ *orchestrator.Guest) { pinned(c, "yes") }, orchestrator.Permanent, "is no SHA-256 in hex"},
		{"another host key", func(c *winrm.Config, g *orchestrator.Guest) { pinned(c); g.HostKey = otherKey }, orchestrator.Permanent, "another machine answers there"},
		{"no password", func(c *winrm.Config, _ *orchestrator.Guest) {
			c.Templates = func(string, string) winrm.Template { return winrm.Template{} }
		}, orchestrator.Permanent, "give it the password of the template's account slipway"},
		{"wrong password", func(c *winrm.Config, _ *orchestrator.Guest) {
			templates := c.Templates
			c.Templates = func(pool, image string) winrm.Template {
				t := templates(pool, image)
				t.Password = orchestrator.NewSecret("wrong")
				return t
			}
		}, orchestrator.Transient, "does not let user slipway in"},
		{"a linux image", func(_ *winrm.Config, g *orchestrator.Guest) { g.Image = "debian-12" }, orchestrator.Permanent, "not over winrm"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			row.change(&b.config, &b.ref)
			b.restart(t)
			_, err := b.installer.Probe(t.Context(), b.ref)
			if orchestrator.KindOf(err) != row.kind || !strings.Contains(fmt.Sprint(err), row.want) {
				t.Errorf("%v, kind %s", err, orchestrator.KindOf(err))
			}
			if strings.Contains(fmt.Sprint(err), login) {
				t.Error("the error shows the password")
			}
		})
	}
}

func pinned(c *winrm.Config, pins ...string) {
	c.Templates = func(string, string) winrm.Template {
		return winrm.Template{Password: orchestrator.NewSecret(login), PinSHA256: pins}
	}
}

// A guest that takes the connection and says nothing holds a call no longer than its limits, whatever the environment's proxy.
func TestCallsEnd(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		for _, c := range conns {
			_ = c.Close()
		}
	})
	for _, http := range []bool{false, true} {
		b := setup(t, func(_ *sim.Config, w *winrm.Config) { w.HTTP, w.HandshakeTimeout = http, 100*time.Millisecond })
		b.ref.Address = netip.MustParseAddrPort(l.Addr().String())
		if _, err := b.installer.Probe(t.Context(), b.ref); orchestrator.KindOf(err) != orchestrator.Transient {
			t.Errorf("a silent guest: %v", err)
		}
		if status := b.observe(t, 7); status.State != orchestrator.JobRunning || status.Offset != 7 || !strings.HasPrefix(status.Stage, "restart: ") {
			t.Errorf("a silent guest, observed: %+v", status)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.installer.Probe(ctx, b.ref); orchestrator.KindOf(err) != orchestrator.Canceled {
			t.Errorf("a canceled call: %v", err)
		}
		if _, err := b.installer.ObserveJob(ctx, b.ref, b.job.ID, 0); orchestrator.KindOf(err) != orchestrator.Canceled {
			t.Errorf("a canceled look: %v", err)
		}
	}
}

func TestBadJobs(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for _, row := range []struct {
		name   string
		change func(*orchestrator.Job, *orchestrator.Guest)
		want   string
	}{
		{"16 characters", func(j *orchestrator.Job, _ *orchestrator.Guest) { j.Hostname = "abcdefghijklmnop.example.net" }, `"abcdefghijklmnop" has 16 characters before the first dot, and a Windows computer name at most 15`},
		{"all digits", func(j *orchestrator.Job, _ *orchestrator.Guest) { j.Hostname = "12345" }, "all digits"},
		{"a quote", func(j *orchestrator.Job, _ *orchestrator.Guest) { j.Hostname = `web'";$(restart)` }, "is no name"},
		{"a newline", func(j *orchestrator.Job, _ *orchestrator.Guest) { j.Hostname = "a\nb" }, "is no name"},
		{"no password", func(j *orchestrator.Job, _ *orchestrator.Guest) { j.AdministratorPassword = orchestrator.Secret{} }, "administrator password: there is none"},
		{"weak password", func(j *orchestrator.Job, _ *orchestrator.Guest) {
			j.AdministratorPassword = orchestrator.NewSecret("onlylowercase")
		}, "at least three of"},
		{"short password", func(j *orchestrator.Job, _ *orchestrator.Guest) {
			j.AdministratorPassword = orchestrator.NewSecret("Sh0rt!")
		}, "use 12 to 127"},
		{"foreign password", func(j *orchestrator.Job, _ *orchestrator.Guest) {
			j.AdministratorPassword = orchestrator.NewSecret("Pässword-1234")
		}, "not printable ASCII"},
		{"host key", func(j *orchestrator.Job, _ *orchestrator.Guest) {
			j.HostKeySecret = orchestrator.NewSecret("top secret")
		}, "the host key is no"},
		{"machine", func(_ *orchestrator.Job, g *orchestrator.Guest) { g.Machine = "../x" }, "is no uuid"},
		{"job id", func(j *orchestrator.Job, _ *orchestrator.Guest) { j.ID = `..\x` }, "use at most 100"},
	} {
		job, ref := b.job, b.ref
		row.change(&job, &ref)
		err := b.installer.EnsureJob(t.Context(), ref, job)
		if orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(fmt.Sprint(err), row.want) {
			t.Errorf("%s: %v", row.name, err)
		}
		for _, secret := range []string{"top secret", "Sh0rt!", "onlylowercase", "Pässword-1234"} {
			if strings.Contains(fmt.Sprint(err), secret) {
				t.Errorf("%s: the error shows %q", row.name, secret)
			}
		}
	}
	if b.dials.Load() != 0 {
		t.Error("a bad job was sent")
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := winrm.Config{Catalogue: catalogue(t), Templates: func(string, string) winrm.Template { return winrm.Template{} }}
	for name, change := range map[string]func(*winrm.Config){
		"no catalogue":               func(c *winrm.Config) { c.Catalogue = nil },
		"no templates":               func(c *winrm.Config) { c.Templates = nil },
		"basic over HTTP would show": func(c *winrm.Config) { c.HTTP, c.Basic = true, true },
	} {
		c := good
		change(&c)
		if _, err := winrm.New(c); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for http, want := range map[bool]uint16{false: 5986, true: 5985} {
		var log strings.Builder
		c := good
		c.HTTP, c.Log = http, slog.New(slog.NewTextHandler(&log, nil))
		i, err := winrm.New(c)
		if err != nil {
			t.Fatal(err)
		}
		ports, err := i.Ports(image)
		if diff := cmp.Diff([]uint16{want}, ports); err != nil || diff != "" {
			t.Errorf("ports: %v\n%s", err, diff)
		}
		if strings.Contains(log.String(), "no certificate proves") != http {
			t.Errorf("log: %q", log.String())
		}
	}
}

// PowerShell's first start takes longer than one question for output may: the fault in between means "ask again".
func TestSlowPowerShell(t *testing.T) {
	t.Parallel()
	b := setup(t, func(s *sim.Config, _ *winrm.Config) { s.Slow = 1500 * time.Millisecond })
	if _, err := b.installer.Probe(t.Context(), b.ref); err != nil {
		t.Error(err)
	}
	if st := b.guest.Stats(); st.TimedOut != 1 || st.Commands != 1 {
		t.Errorf("%+v", st)
	}
	// A call that is given up leaves no shell behind.
	b.config.CommandTimeout = 500 * time.Millisecond
	b.restart(t)
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("a call that took too long: %v, kind %s", err, orchestrator.KindOf(err))
	}
	if st := b.guest.Stats(); st.OpenShells != 0 || st.Shells != 2 {
		t.Errorf("%+v", st)
	}
}

// A shell quota that others have used up is a fault, and a fault is an error.
func TestNoShellLeft(t *testing.T) {
	t.Parallel()
	b := setup(t, func(s *sim.Config, _ *winrm.Config) { s.MaxShells = -1 })
	_, err := b.installer.Probe(t.Context(), b.ref)
	if orchestrator.KindOf(err) != orchestrator.Transient || !strings.Contains(fmt.Sprint(err), "2150859174") {
		t.Errorf("%v", err)
	}
}

// Over HTTP somebody in the middle can answer as he likes: nothing but a login ever leaves us in the clear.
func TestNothingInTheClear(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"lets everybody in":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) },
		"fails":                func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"offers Basic":         func(w http.ResponseWriter, _ *http.Request) { refuse(w, `Basic realm="WSMAN"`) },
		"challenges with junk": func(w http.ResponseWriter, _ *http.Request) { refuse(w, "Negotiate AAAA") },
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(answer)
			t.Cleanup(server.Close)
			b := setup(t, func(s *sim.Config, w *winrm.Config) { s.Certificate, w.HTTP = nil, true })
			b.ref.Address = netip.MustParseAddrPort(server.Listener.Addr().String())
			if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err == nil {
				t.Error("a job was started there")
			}
			b.watch.mu.Lock()
			defer b.watch.mu.Unlock()
			if sent := string(b.watch.sent); strings.Contains(sent, "Envelope") || strings.Contains(sent, "Basic") || !strings.Contains(sent, "Negotiate") {
				t.Errorf("sent:\n%s", sent)
			}
		})
	}
}

func refuse(w http.ResponseWriter, how string) {
	w.Header().Set("WWW-Authenticate", how)
	w.WriteHeader(http.StatusUnauthorized)
}
