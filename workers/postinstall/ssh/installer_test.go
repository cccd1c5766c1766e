package ssh_test

import (
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	xssh "golang.org/x/crypto/ssh"

	"slipway/orchestrator"
	"slipway/sim/guest"
	"slipway/workers/postinstall"
	"slipway/workers/postinstall/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const machineID = "6f1c1f0e-4f5e-4b7e-9d63-0a1b2c3d4e5f"

// bundle is a guest out of its template, and an installer that knows it.
type testBundle struct {
	guest     *guest.Guest
	address   netip.AddrPort
	installer *ssh.Installer
	config    ssh.Config
	ref       orchestrator.Guest
	job       orchestrator.Job
	template  string // public line
	customer  string
}

func keyPair(t *testing.T) (orchestrator.Secret, string) {
	t.Helper()
	private, public, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func signer(t *testing.T, private orchestrator.Secret) xssh.Signer {
	t.Helper()
	s, err := xssh.ParsePrivateKey([]byte(private.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func catalogue(t *testing.T) *postinstall.Catalogue {
	t.Helper()
	c, err := postinstall.Load(os.DirFS("../../../templates/postinstall"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func setup(t *testing.T, image, user string) *testBundle {
	t.Helper()
	template, templateLine := keyPair(t)
	installerKey, installerLine := keyPair(t)
	machine, machineLine := keyPair(t)
	_, customer := keyPair(t)
	g, err := guest.New(guest.Config{
		Dir: t.TempDir(), HostKey: []byte(template.Reveal()), User: user, AuthorizedKeys: []string{installerLine + " installer@slipway"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	b := &testBundle{guest: g, template: templateLine, customer: customer + " alice@example.net"}
	b.boot(t)
	b.config = ssh.Config{
		Catalogue: catalogue(t), Key: signer(t, installerKey),
		TemplateKeys: func(pool, image string) []string { return []string{b.template} },
	}
	b.installer = b.make(t)
	b.ref = orchestrator.Guest{Machine: machineID, Pool: "paris", Image: image, Address: b.address, HostKey: machineLine}
	b.job = orchestrator.Job{ID: "run-1-1", Hostname: "web1.example.net", SSHKeys: []string{b.customer}, HostKeySecret: machine}
	return b
}

func (b *testBundle) make(t *testing.T) *ssh.Installer {
	t.Helper()
	i, err := ssh.New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// boot powers the guest on at a new address.
func (b *testBundle) boot(t *testing.T) {
	t.Helper()
	l := listen(t)
	if err := b.guest.Start(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	b.address = netip.MustParseAddrPort(l.Addr().String())
	b.ref.Address = b.address
}

// follow observes the job until it does not run any more, and returns its last state and its whole log.
func (b *testBundle) follow(t *testing.T, job string) (orchestrator.JobStatus, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var log strings.Builder
	var offset int64
	for {
		status, err := b.installer.ObserveJob(ctx, b.ref, job, offset)
		if err != nil {
			t.Fatalf("observe: %v", err)
		}
		log.Write(status.Log)
		offset = status.Offset
		if status.State != orchestrator.JobRunning {
			return status, log.String()
		}
	}
}

func TestInstallsEachEntry(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ image, user, home string }{
		{"debian-12", "root", "/root"},
		{"ubuntu-24.04", "ubuntu", "/home/ubuntu"},
	} {
		t.Run(row.image, func(t *testing.T) {
			t.Parallel()
			b := setup(t, row.image, row.user)
			evidence, err := b.installer.Probe(t.Context(), b.ref)
			if err != nil || !strings.Contains(evidence, "template's host key") {
				t.Fatalf("probe: %q, %v", evidence, err)
			}
			if err := b.installer.EnsureJob(t.Context(), b.ref, b.job); err != nil {
				t.Fatal(err)
			}
			status, log := b.follow(t, b.job.ID)
			if status.State != orchestrator.JobExited || status.Exit != 0 {
				t.Fatalf("job %s with exit code %d:\n%s", status.State, status.Exit, log)
			}
			b.ref.Own = true
			inspection, err := b.installer.Inspect(t.Context(), b.ref)
			if err != nil {
				t.Fatal(err)
			}
			want := orchestrator.Inspection{Identity: postinstall.MachineID(machineID), Checks: map[string]string{
				"hostname": "ok", "machine_id": "ok", "host_key": "ok", "host_keys": "ok", "authorized_keys": "ok",
			}}
			if diff := cmp.Diff(want, inspection); diff != "" {
				t.Errorf("inspection (-want +got):\n%s\nlog:\n%s", diff, log)
			}
			if got := b.guest.Hostname(); got != b.job.Hostname {
				t.Errorf("hostname is %q", got)
			}
			if got := strings.TrimSpace(string(xssh.MarshalAuthorizedKey(b.guest.HostKey()))); got != b.ref.HostKey {
				t.Errorf("the guest shows %s, want %s", got, b.ref.HostKey)
			}
			if b.secretIsThere() {
				t.Error("the private host key still lies in the job's folder")
			}

			if err := b.installer.Leave(t.Context(), b.ref); err != nil {
				t.Fatal(err)
			}
			keys, err := b.guest.ReadFile(row.home + "/.ssh/authorized_keys")
			if err != nil {
				t.Fatal(err)
			}
			if lines := strings.Split(string(keys), "\n"); lines[0] != b.customer || len(lines) != 3 || !strings.HasPrefix(lines[1], "restrict,command=") {
				t.Errorf("authorized_keys after leaving:\n%s", keys)
			}
			if _, err := b.installer.Inspect(t.Context(), b.ref); orchestrator.KindOf(err) != orchestrator.Permanent {
				t.Errorf("after leaving: %v", err)
			}
		})
	}
}

func (b *testBundle) secretIsThere() bool {
	_, err := b.guest.ReadFile("/var/lib/slipway/jobs/" + b.job.ID + "/secrets/ssh_host_ed25519_key")
	return err == nil
}
