package ssh_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/sim/guest"
	"slipway/workers/postinstall/ssh"
)

func wantKind(t *testing.T, what string, err error, want orchestrator.Kind) {
	t.Helper()
	if got := orchestrator.KindOf(err); got != want {
		t.Errorf("%s: kind %q, want %q: %v", what, got, want, err)
	}
}

// ensure repeats EnsureJob as the engine would, until it succeeds; it returns the first error.
func (b *testBundle) ensure(t *testing.T) (first error) {
	t.Helper()
	testnet.Until(t, 10*time.Second, "the job to be started", func() bool {
		err := b.installer.EnsureJob(t.Context(), b.ref, b.job)
		if first == nil {
			first = err
		}
		return err == nil
	})
	return first
}

func fingerprint(t *testing.T, line string) string {
	t.Helper()
	key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return xssh.FingerprintSHA256(key)
}

func TestHostKeys(t *testing.T) {
	t.Parallel()
	b := setup(t, "debian-12", "root")
	shown := fingerprint(t, b.template)

	t.Run("another key", func(t *testing.T) {
		g := b.ref
		g.Own = true // the template's does not count any more
		_, err := b.installer.Probe(t.Context(), g)
		wantKind(t, "probe", err, orchestrator.Permanent)
		if err == nil || !strings.Contains(err.Error(), shown) || !strings.Contains(err.Error(), fingerprint(t, g.HostKey)) {
			t.Errorf("both fingerprints must be named: %v", err)
		}
	})
	t.Run("no key is known", func(t *testing.T) {
		config := b.config
		config.TemplateKeys = func(string, string) []string { return nil }
		config.Dial = func(context.Context, string, string) (net.Conn, error) {
			t.Error("dialled a guest that nobody can recognize")
			return nil, errors.New("no")
		}
		i, err := ssh.New(config)
		if err != nil {
			t.Fatal(err)
		}
		g := b.ref
		g.HostKey = ""
		_, err = i.Probe(t.Context(), g)
		wantKind(t, "probe", err, orchestrator.Permanent)
	})
	t.Run("a key that is no key", func(t *testing.T) {
		g := b.ref
		g.HostKey = "ssh-ed25519 nonsense"
		_, err := b.installer.Probe(t.Context(), g)
		wantKind(t, "probe", err, orchestrator.Permanent)
	})
	t.Run("only types that the guest does not have", func(t *testing.T) {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		key, err := xssh.NewPublicKey(private.Public())
		if err != nil {
			t.Fatal(err)
		}
		g := b.ref
		g.HostKey, g.Own = string(xssh.MarshalAuthorizedKey(key)), true
		_, err = b.installer.Probe(t.Context(), g)
		wantKind(t, "probe", err, orchestrator.Permanent)
	})
}

// The template has an RSA key and the machine will have an ed25519 one: each is accepted in its time.
func TestATemplateWithAnotherTypeOfKey(t *testing.T) {
	t.Parallel()
	b := setup(t, "debian-12", "root")
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, err := xssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	public, err := xssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	b.template = string(xssh.MarshalAuthorizedKey(public))
	g, err := guest.New(guest.Config{
		Dir: t.TempDir(), HostKey: pem.EncodeToMemory(block),
		AuthorizedKeys: []string{string(xssh.MarshalAuthorizedKey(b.config.Key.PublicKey()))},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	b.guest = g
	b.boot(t)
	if err := b.ensure(t); err != nil {
		t.Fatal(err)
	}
	if status, log := b.follow(t, b.job.ID); status.Exit != 0 || status.State != orchestrator.JobExited {
		t.Errorf("job %s, exit code %d:\n%s", status.State, status.Exit, log)
	}
	if b.guest.HostKey().Type() != xssh.KeyAlgoED25519 {
		t.Errorf("the guest shows a %s key", b.guest.HostKey().Type())
	}
}

func TestAGuestThatIsNotReady(t *testing.T) {
	t.Parallel()
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		b := setup(t, "debian-12", "root")
		b.guest.Stop()
		_, err := b.installer.Probe(t.Context(), b.ref)
		wantKind(t, "probe", err, orchestrator.Transient)
	})
	t.Run("the account comes later", func(t *testing.T) {
		t.Parallel()
		b := setup(t, "debian-12", "root")
		b.guest.SetFaults(guest.Faults{RefuseLogins: 1})
		_, err := b.installer.Probe(t.Context(), b.ref)
		wantKind(t, "first probe", err, orchestrator.Transient)
		if _, err := b.installer.Probe(t.Context(), b.ref); err != nil {
			t.Errorf("second probe: %v", err)
		}
	})
	t.Run("it says nothing", func(t *testing.T) {
		t.Parallel()
		b := setup(t, "debian-12", "root")
		b.guest.SetFaults(guest.Faults{Mute: true})
		b.config.HandshakeTimeout = 50 * time.Millisecond
		_, err := b.make(t).Probe(t.Context(), b.ref)
		wantKind(t, "probe", err, orchestrator.Transient)
		if err == nil || !strings.Contains(err.Error(), "no SSH handshake within 50ms") {
			t.Errorf("the limit must be named: %v", err)
		}
	})
	t.Run("we are stopped", func(t *testing.T) {
		t.Parallel()
		b := setup(t, "debian-12", "root")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := b.installer.Probe(ctx, b.ref)
		wantKind(t, "probe", err, orchestrator.Canceled)
	})
}

// on makes a fault for the first command that begins with a verb.
func on(verb string, fault guest.Fault) guest.Faults {
	var once sync.Once
	return guest.Faults{Command: func(words string) (f guest.Fault) {
		if strings.HasPrefix(words, "slipway "+verb) {
			once.Do(func() { f = fault })
		}
		return f
	}}
}

func TestAJobRunsOnceThoughAnswersAreLost(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, verb string
		fault      guest.Fault
	}{
		{"before the upload", "upload", guest.DropBefore},
		{"after the upload", "upload", guest.DropAfter},
		{"before the start", "start", guest.DropBefore},
		{"after the start", "start", guest.DropAfter},
		{"silence in the upload", "upload", guest.Hang},
		{"silence at the start", "start", guest.Hang},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, "debian-12", "root")
			b.config.KeepaliveInterval, b.config.KeepaliveTimeout = 20*time.Millisecond, 300*time.Millisecond
			b.installer = b.make(t)
			b.guest.SetFaults(on(row.verb, row.fault))
			wantKind(t, "first", b.ensure(t), orchestrator.Unknown)
			// Patience again: silence was short for that call alone.
			b.config.KeepaliveInterval, b.config.KeepaliveTimeout = 0, 0
			b.installer = b.make(t)
			if status, log := b.follow(t, b.job.ID); status.State != orchestrator.JobExited || status.Exit != 0 {
				t.Fatalf("job %s, exit code %d:\n%s", status.State, status.Exit, log)
			}
			if got := strings.Join(b.guest.Ran(), " "); got != "identity users disk packages cleanup checks" {
				t.Errorf("ran %s", got)
			}
		})
	}
}

func TestAManyStartedJobRunsOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, "debian-12", "root")
	var starters sync.WaitGroup
	for range 8 {
		starters.Go(func() {
			if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
				wantKind(t, "start beside others", err, orchestrator.Transient)
			}
		})
	}
	starters.Wait()
	b.ensure(t)
	status, log := b.follow(t, b.job.ID)
	if got := strings.Join(b.guest.Ran(), " "); got != "identity users disk packages cleanup checks" || status.State != orchestrator.JobExited {
		t.Errorf("ran %s; job %s, exit code %d:\n%s", got, status.State, status.Exit, log)
	}
}

func TestAScriptThatFails(t *testing.T) {
	t.Parallel()
	b := setup(t, "debian-12", "root")
	b.guest.SetFaults(guest.Faults{Script: func(name string) int {
		if name == "users" {
			return 7
		}
		return 0
	}})
	b.ensure(t)
	status, log := b.follow(t, b.job.ID)
	if status.State != orchestrator.JobExited || status.Exit != 7 || status.Stage != "users" || !strings.Contains(log, "users failed with exit code 7") {
		t.Errorf("%s, exit code %d at %q:\n%s", status.State, status.Exit, status.Stage, log)
	}
	_, err := b.installer.Inspect(t.Context(), b.ref)
	wantKind(t, "inspect a guest where nothing succeeded", err, orchestrator.Transient)

	// The next attempt starts over; its scripts find what the first has left.
	b.guest.SetFaults(guest.Faults{})
	b.job.ID = "run-1-2"
	b.ensure(t)
	if status, log := b.follow(t, b.job.ID); status.State != orchestrator.JobExited || status.Exit != 0 {
		t.Errorf("second attempt: %s, exit code %d:\n%s", status.State, status.Exit, log)
	}
}

func TestARebootLosesTheJob(t *testing.T) {
	t.Parallel()
	b := setup(t, "debian-12", "root")
	b.guest.HoldPackageLock("unattended-upgr")
	b.ensure(t)
	testnet.Until(t, 10*time.Second, "the job to say what it waits for", func() bool {
		status, err := b.installer.ObserveJob(t.Context(), b.ref, b.job.ID, 0)
		return err == nil && status.Stage == "packages: waiting, /var/lib/dpkg/lock-frontend is held by unattended-upgr (pid 212)"
	})
	b.guest.Stop()
	b.guest.HoldPackageLock("")
	b.boot(t)
	if status, _ := b.follow(t, b.job.ID); status.State != orchestrator.JobLost {
		t.Fatalf("after a reboot the job is %s", status.State)
	}
	b.job.ID = "run-1-2"
	b.ensure(t)
	if status, log := b.follow(t, b.job.ID); status.State != orchestrator.JobExited || status.Exit != 0 {
		t.Errorf("second attempt: %s, exit code %d:\n%s", status.State, status.Exit, log)
	}
	if want := "identity users disk packages identity users disk packages cleanup checks"; strings.Join(b.guest.Ran(), " ") != want {
		t.Errorf("ran %v, want %s", b.guest.Ran(), want)
	}
}

func TestMissingPackagesAreInstalled(t *testing.T) {
	t.Parallel()
	b := setup(t, "debian-12", "root")
	b.config.Catalogue = edited(t, "packages: []", "packages: [bash, rsync]", "")
	b.installer = b.make(t)
	b.ensure(t)
	status, log := b.follow(t, b.job.ID)
	if status.Exit != 0 || !b.guest.Installed("rsync") || !strings.Contains(log, "installing rsync\n") {
		t.Errorf("exit code %d:\n%s", status.Exit, log)
	}
}

func TestALostLookIsTransient(t *testing.T) {
	t.Parallel()
	b := setup(t, "debian-12", "root")
	b.guest.SetFaults(on("observe", guest.DropAfter))
	_, err := b.installer.ObserveJob(t.Context(), b.ref, b.job.ID, 0)
	wantKind(t, "observe", err, orchestrator.Transient)
	status, err := b.installer.ObserveJob(t.Context(), b.ref, b.job.ID, 0)
	if err != nil || status.State != orchestrator.JobUnknown {
		t.Errorf("a job that was never sent is %s, %v", status.State, err)
	}
}

func TestBadInputIsRefusedBeforeAConnection(t *testing.T) {
	t.Parallel()
	b := setup(t, "debian-12", "root")
	b.config.Dial = func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialled for a request that must be refused")
		return nil, errors.New("no")
	}
	i := b.make(t)
	unknown := b.ref
	unknown.Image = "plan9"
	_, err := i.Probe(t.Context(), unknown)
	wantKind(t, "unknown image", err, orchestrator.Permanent)
	if err == nil || !strings.Contains(err.Error(), "debian-12, debian-13, lab, leap-15") {
		t.Errorf("the known images must be named: %v", err)
	}
	if _, err := i.Ports("plan9"); orchestrator.KindOf(err) != orchestrator.Permanent {
		t.Errorf("ports of an unknown image: %v", err)
	}
	for _, id := range []string{"", "a b", "../x", "$(reboot)", "a'b", "-x", strings.Repeat("a", 101)} {
		job := b.job
		job.ID = id
		wantKind(t, "job id "+id, i.EnsureJob(t.Context(), b.ref, job), orchestrator.Permanent)
		_, err := i.ObserveJob(t.Context(), b.ref, id, 0)
		wantKind(t, "observe job id "+id, err, orchestrator.Permanent)
	}
	_, err = i.ObserveJob(t.Context(), b.ref, "a", -1)
	wantKind(t, "negative offset", err, orchestrator.Permanent)
}
