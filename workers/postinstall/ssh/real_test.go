package ssh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/testenv"
	"slipway/internal/testguest"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/workers/postinstall"
	"slipway/workers/postinstall/ssh"
)

// realBundle is a real guest behind a cable, and an installer at its other end.
type realBundle struct {
	guest     *testguest.Guest
	config    ssh.Config
	installer *ssh.Installer
	ref       orchestrator.Guest
	job       orchestrator.Job
}

func setupReal(t *testing.T, catalogue *postinstall.Catalogue) *realBundle {
	t.Helper()
	template, templateLine := keyPair(t)
	installerKey, installerLine := keyPair(t)
	machine, machineLine := keyPair(t)
	_, customer := keyPair(t)
	lab := testnet.New(t)
	inner, outer := lab.Namespace("guest"), lab.Namespace("installer")
	lab.Link(inner, "eth0", outer, "eth0")
	outer.MustRun("ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
	b := &realBundle{
		guest: testguest.Start(t, testguest.Config{
			Namespace: inner, Interface: "eth0", Address: netip.MustParsePrefix("192.0.2.10/24"),
			TemplateHostKey: template, AuthorizedKeys: []string{installerLine + " installer"},
		}),
		config: ssh.Config{
			Catalogue: catalogue, Key: signer(t, installerKey),
			TemplateKeys: func(string, string) []string { return []string{templateLine} },
			Dial: func(ctx context.Context, network, address string) (c net.Conn, err error) {
				outer.Do(func() { c, err = new(net.Dialer).DialContext(ctx, network, address) })
				return c, err
			},
		},
		ref: orchestrator.Guest{
			Machine: machineID, Pool: "paris", Image: "debian-12", Address: netip.MustParseAddrPort("192.0.2.10:22"), HostKey: machineLine,
		},
		job: orchestrator.Job{ID: "run-1-1", Hostname: "web1.example.net", SSHKeys: []string{customer + " alice@example.net"}, HostKeySecret: machine},
	}
	b.restart(t)
	return b
}

// restart makes an installer that knows nothing of what the last one did.
func (b *realBundle) restart(t *testing.T) {
	t.Helper()
	i, err := ssh.New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.installer = i
}

// observe asks again while sshd restarts with its new key: it takes no connection for a moment.
func (b *realBundle) observe(t *testing.T, job string, offset int64) orchestrator.JobStatus {
	t.Helper()
	var status orchestrator.JobStatus
	testnet.Until(t, 20*time.Second, "an answer about job "+job, func() bool {
		var err error
		status, err = b.installer.ObserveJob(t.Context(), b.ref, job, offset)
		if err != nil && orchestrator.KindOf(err) != orchestrator.Transient {
			t.Fatalf("observe %s: %v", job, err)
		}
		return err == nil
	})
	return status
}

// until observes a job until it is in a state, and returns its whole log.
func (b *realBundle) until(t *testing.T, job string, want orchestrator.JobState) (orchestrator.JobStatus, string) {
	t.Helper()
	var log strings.Builder
	var status orchestrator.JobStatus
	testnet.Until(t, 60*time.Second, fmt.Sprintf("job %s to be %s", job, want), func() bool {
		status = b.observe(t, job, status.Offset)
		log.Write(status.Log)
		return status.State == want
	})
	return status, log.String()
}

// withStep is the catalogue with one more step, a script of the test, before all others of the Debian entry.
func withStep(t *testing.T, script string) *postinstall.Catalogue {
	t.Helper()
	return edited(t, "\nsteps:\n", "\nsteps:\n  - {name: first, script: first.sh, timeout: 5m}\n", script)
}

// edited is the catalogue with the Debian manifest changed in one place, and a script of the test beside its own.
func edited(t *testing.T, old, changed, script string) *postinstall.Catalogue {
	t.Helper()
	fsys := fstest.MapFS{"debian/first.sh": {Data: []byte("#!/bin/bash\nset -euo pipefail\n" + script)}}
	files, err := os.ReadDir("../../../templates/postinstall/debian")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := file.Name()
		text, err := os.ReadFile("../../../templates/postinstall/debian/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "manifest.yaml" {
			if !strings.Contains(string(text), old) {
				t.Fatalf("the manifest has no %q", old)
			}
			text = []byte(strings.Replace(string(text), old, changed, 1))
		}
		fsys["debian/"+name] = &fstest.MapFile{Data: text}
	}
	c, err := postinstall.Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// brokenConn breaks once so many bytes have been written: in the middle of an upload.
type brokenConn struct {
	net.Conn
	left int
}

func (c *brokenConn) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		_ = c.Close()
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(p)
}

func TestRealGuestInstalledOnceThroughEverything(t *testing.T) {
	before := testguest.Identity(t)
	testenv.Need(t, "pgrep")
	// The first step leaves a mark, kills the sshd processes of all sessions, and goes on. On a busy machine the session that began it has ended
	// by then: the next one comes.
	b := setupReal(t, withStep(t, `
echo ran >>/root/ran
for ((i = 0; i < 1000; i++)); do
  if pgrep -f '^sshd: root@notty' >>/root/killed; then
    pkill -KILL -f '^sshd: root@notty' || true
    break
  fi
  sleep 0.05
done
`))

	evidence, err := b.installer.Probe(t.Context(), b.ref)
	if err != nil || !strings.Contains(evidence, "OpenSSH") || !strings.Contains(evidence, "template's host key") {
		t.Fatalf("probe: %q, %v", evidence, err)
	}
	if status := b.observe(t, b.job.ID, 0); status.State != orchestrator.JobUnknown {
		t.Errorf("before it was sent, the job is %s", status.State)
	}

	dial := b.config.Dial
	b.config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		return &brokenConn{Conn: c, left: 16 << 10}, err
	}
	b.restart(t)
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); orchestrator.KindOf(err) != orchestrator.Unknown {
		t.Errorf("a connection that broke in the upload: %v, kind %s", err, orchestrator.KindOf(err))
	}
	b.config.Dial = dial
	b.restart(t)

	// Several starters at once, each cut off by the job itself.
	var starters sync.WaitGroup
	for range 3 {
		starters.Go(func() {
			if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
				if kind := orchestrator.KindOf(err); kind != orchestrator.Unknown && kind != orchestrator.Transient {
					t.Errorf("cut off: %v, kind %s", err, kind)
				}
			}
		})
	}
	starters.Wait()
	b.restart(t)
	testnet.Until(t, 20*time.Second, "the job to be there after a restart", func() bool {
		err := b.installer.EnsureJob(t.Context(), b.ref, b.job)
		if kind := orchestrator.KindOf(err); err != nil && kind != orchestrator.Unknown && kind != orchestrator.Transient {
			t.Fatalf("after a restart: %v", err)
		}
		return err == nil
	})
	status, log := b.until(t, b.job.ID, orchestrator.JobExited)
	if status.Exit != 0 {
		t.Fatalf("exit code %d:\n%s", status.Exit, log)
	}
	if ran, err := b.guest.ReadFile("/root/ran"); err != nil || string(ran) != "ran\n" {
		t.Errorf("the script has left %q, %v: it must run once", ran, err)
	}
	if killed, err := b.guest.ReadFile("/root/killed"); err != nil || len(killed) == 0 {
		t.Errorf("no session was killed: %v", err)
	}
	if strings.Count(log, "== first\n") != 1 {
		t.Errorf("log, read in parts:\n%s", log)
	}

	// From here on, the machine's own key alone is accepted.
	b.ref.Own = true
	inspection, err := b.installer.Inspect(t.Context(), b.ref)
	if err != nil {
		t.Fatal(err)
	}
	want := orchestrator.Inspection{Identity: postinstall.MachineID(machineID), Checks: map[string]string{
		"hostname": "ok", "machine_id": "ok", "host_key": "ok", "host_keys": "ok", "authorized_keys": "ok",
	}}
	if diff := cmp.Diff(want, inspection); diff != "" {
		t.Errorf("inspection (-want +got):\n%s\n%s", diff, log)
	}
	stranger := b.ref
	stranger.Own, stranger.HostKey = false, ""
	if _, err := b.installer.Probe(t.Context(), stranger); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("with the template's key alone: %v", err)
	}
	if _, err := b.guest.ReadFile("/var/lib/slipway/jobs/" + b.job.ID + "/secrets/ssh_host_ed25519_key"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the private key in the job's folder: %v", err)
	}
	out, err := b.guest.Run(t.Context(), "bash", "-c", "hostname; stat -c %a /var/lib/slipway /var/lib/slipway/jobs/run-1-1/env /etc/ssh/ssh_host_ed25519_key /root/.ssh/authorized_keys")
	if diff := cmp.Diff("web1.example.net\n700\n600\n600\n600\n", out); err != nil || diff != "" {
		t.Errorf("inside (-want +got):\n%s%v", diff, err)
	}

	if err := b.installer.Leave(t.Context(), b.ref); err != nil {
		t.Fatal(err)
	}
	keys, err := b.guest.ReadFile("/root/.ssh/authorized_keys")
	if lines := strings.Split(string(keys), "\n"); err != nil || lines[0] != b.job.SSHKeys[0] || len(lines) != 3 || !strings.HasPrefix(lines[1], "restrict,command=") {
		t.Errorf("authorized_keys after leaving: %v\n%s", err, keys)
	}
	b.maintained(t)
	if diff := cmp.Diff(before, testguest.Identity(t)); diff != "" {
		t.Errorf("this machine has changed (-before +after):\n%s", diff)
	}
}

func TestRealGuestTellsLostFromRunning(t *testing.T) {
	b := setupReal(t, withStep(t, `
echo ran >>/root/ran
# The job's own process dies first; this child of it goes on.
until [[ -e /root/go ]]; do sleep 0.05; done
`))
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 10*time.Second, "the script to begin", func() bool {
		_, err := b.guest.ReadFile("/root/ran")
		return err == nil
	})
	other := b.job
	other.ID = "run-1-2"
	if err := b.installer.EnsureJob(t.Context(), b.ref, other); err == nil || !strings.Contains(err.Error(), "job run-1-1 still runs") {
		t.Errorf("another job beside one that runs: %v", err)
	}

	claim, err := b.guest.ReadFile("/var/lib/slipway/jobs/run-1-1/claim")
	if err != nil {
		t.Fatal(err)
	}
	pid, _, _ := strings.Cut(string(claim), " ")
	if _, err := b.guest.Run(t.Context(), "kill", "-KILL", pid); err != nil {
		t.Fatal(err)
	}
	if status := b.observe(t, b.job.ID, 0); status.State != orchestrator.JobRunning || status.Stage != "first" {
		t.Errorf("while a process of the job is left, it is %s at %q", status.State, status.Stage)
	}
	if _, err := b.guest.Run(t.Context(), "touch", "/root/go"); err != nil {
		t.Fatal(err)
	}
	b.until(t, b.job.ID, orchestrator.JobLost)

	// What is lost is not started again under its own id, but under another.
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
		t.Fatal(err)
	}
	if status := b.observe(t, b.job.ID, 0); status.State != orchestrator.JobLost {
		t.Errorf("asked for again, the lost job is %s", status.State)
	}
	if err := b.installer.EnsureJob(t.Context(), b.ref, other); err != nil {
		t.Fatal(err)
	}
	if status, log := b.until(t, other.ID, orchestrator.JobExited); status.Exit != 0 {
		t.Errorf("the next job ended with exit code %d:\n%s", status.Exit, log)
	}
}

func TestRealGuestWaitsForThePackageLock(t *testing.T) {
	python := testenv.Need(t, "/usr/bin/python3") // in the guest too, unlike one in a home
	b := setupReal(t, catalogue(t))
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		// Ends with an error only when the test does.
		out, err := b.guest.Run(ctx, python, "-c", `
import fcntl, os, time
f = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(f, fcntl.LOCK_EX)
open("/root/locked", "w").close()
while not os.path.exists("/root/go"): time.sleep(0.05)`)
		if err != nil && ctx.Err() == nil {
			t.Errorf("hold the lock: %v: %s", err, out)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	testnet.Until(t, 10*time.Second, "the lock to be held", func() bool {
		_, err := b.guest.ReadFile("/root/locked")
		return err == nil
	})
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
		t.Fatal(err)
	}
	var status orchestrator.JobStatus
	testnet.Until(t, 30*time.Second, "the job to say what it waits for", func() bool {
		status = b.observe(t, b.job.ID, 0)
		return strings.Contains(status.Stage, "/var/lib/dpkg/lock-frontend is held by python3 (pid ")
	})
	if status.State != orchestrator.JobRunning {
		t.Errorf("a job that waits is %s", status.State)
	}
	if _, err := b.guest.Run(t.Context(), "touch", "/root/go"); err != nil {
		t.Fatal(err)
	}
	if status, log := b.until(t, b.job.ID, orchestrator.JobExited); status.Exit != 0 {
		t.Errorf("exit code %d:\n%s", status.Exit, log)
	}
}

// A customer with an account of his own; and a second job changes nothing that the first has done.
func TestRealGuestTwiceIsLikeOnce(t *testing.T) {
	b := setupReal(t, edited(t, "\naccount: root\n", "\naccount: alice\n", ""))
	install := func(id string) string {
		t.Helper()
		job := b.job
		job.ID = id
		if err := b.installer.EnsureJob(t.Context(), b.ref, job); err != nil {
			t.Fatal(err)
		}
		if status, log := b.until(t, id, orchestrator.JobExited); status.Exit != 0 {
			t.Fatalf("%s: exit code %d:\n%s", id, status.Exit, log)
		}
		state, err := b.guest.Run(t.Context(), "bash", "-c", `
for f in /etc/hostname /etc/hosts /etc/machine-id /etc/passwd /etc/ssh/* /home/alice/.ssh /home/alice/.ssh/* /root/.ssh/*; do
    stat -c '%n %U:%G %a' "$f"
    if [[ -f $f ]]; then sha256sum <"$f"; fi
done; hostname`)
		if err != nil {
			t.Fatal(err)
		}
		return state
	}
	first := install("run-1-1")
	for _, want := range []string{"/home/alice/.ssh alice:alice 700", "/home/alice/.ssh/authorized_keys alice:alice 600"} {
		if !strings.Contains(first, want+"\n") {
			t.Errorf("%s is not so:\n%s", want, first)
		}
	}
	if keys, err := b.guest.ReadFile("/home/alice/.ssh/authorized_keys"); err != nil || string(keys) != b.job.SSHKeys[0]+"\n" {
		t.Errorf("alice's keys: %q, %v", keys, err)
	}
	if diff := cmp.Diff(first, install("run-1-2")); diff != "" {
		t.Errorf("the second job changed (-first +second):\n%s", diff)
	}
}

func TestRealGuestLongLogIsReadInParts(t *testing.T) {
	b := setupReal(t, withStep(t, "head -c 200000 /dev/zero | tr '\\0' x; echo\nexit 3\n"))
	if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
		t.Fatal(err)
	}
	b.until(t, b.job.ID, orchestrator.JobExited)
	var log strings.Builder
	var offset int64
	for range 10 {
		status := b.observe(t, b.job.ID, offset)
		if len(status.Log) > 64<<10 || status.Exit != 3 || status.Offset != offset+int64(len(status.Log)) {
			t.Fatalf("at %d: %d bytes, next %d, exit code %d", offset, len(status.Log), status.Offset, status.Exit)
		}
		log.Write(status.Log)
		offset = status.Offset
	}
	if want := "== first\n" + strings.Repeat("x", 200000) + "\n== first failed with exit code 3\n"; log.String() != want {
		t.Errorf("the log has %d bytes, want %d", log.Len(), len(want))
	}
}

// Claims that crashes, other boots and reused pids leave behind.
func TestRealGuestJudgesClaims(t *testing.T) {
	python := testenv.Need(t, "/usr/bin/python3")
	b := setupReal(t, catalogue(t))
	// A session leader that has ended and that nobody collects, beside processes that live.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		out, err := b.guest.Run(ctx, python, "-c", `
import os, time
if os.fork() == 0:
    os.setsid()
    open("/root/zombie", "w").write(open("/proc/self/stat").read())
    os._exit(0)
time.sleep(1000)`)
		if err != nil && ctx.Err() == nil {
			t.Errorf("make a zombie: %v: %s", err, out)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	read := func(path string) string {
		var text []byte
		testnet.Until(t, 10*time.Second, path, func() bool {
			var err error
			text, err = b.guest.ReadFile(path)
			return err == nil && len(text) > 0
		})
		return strings.TrimSpace(string(text))
	}
	boot := read("/proc/sys/kernel/random/boot_id")
	fields := func(stat string) (pid, start string) {
		_, rest, _ := strings.Cut(stat, ") ")
		return strings.Fields(stat)[0], strings.Fields(rest)[19]
	}
	zombie, zombieStart := fields(read("/root/zombie"))
	testnet.Until(t, 10*time.Second, "the zombie to be one", func() bool {
		state, err := b.guest.Run(t.Context(), "cat", "/proc/"+zombie+"/stat")
		return err == nil && strings.Contains(state, ") Z ")
	})
	_, initStart := fields(read("/proc/1/stat"))

	for i, row := range []struct {
		name, claim string
		want        orchestrator.JobState
	}{
		{"a process that lives", "1 " + initStart + " " + boot, orchestrator.JobRunning},
		{"its pid in another boot", "1 " + initStart + " 00000000-0000-4000-8000-000000000000", orchestrator.JobLost},
		{"its pid, used again", "1 1" + initStart + " " + boot, orchestrator.JobLost},
		{"a zombie", zombie + " " + zombieStart + " " + boot, orchestrator.JobLost},
		{"a process that has gone", "31999 12345 " + boot, orchestrator.JobLost},
		{"a claim that a crash emptied", "", orchestrator.JobLost},
	} {
		id := fmt.Sprintf("claim-%d", i)
		if _, err := b.guest.Run(t.Context(), "bash", "-c", `mkdir -p "/var/lib/slipway/jobs/$1" && printf '%s' "$2" >"/var/lib/slipway/jobs/$1/claim"`, "bash", id, row.claim); err != nil {
			t.Fatal(err)
		}
		if got := b.observe(t, id, 0); got.State != row.want {
			t.Errorf("%s: job is %s, want %s", row.name, got.State, row.want)
		}
	}
}
