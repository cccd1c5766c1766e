package postinstall_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	xssh "golang.org/x/crypto/ssh"

	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/sim/guest"
	tmpl "slipway/templates"
	"slipway/workers/postinstall"
	"slipway/workers/postinstall/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gib = int64(1) << 30

// template is how a family's template looks, for the simulated guest.
type template struct {
	packager string
	selinux  bool
	disk     func(bytes int64) guest.Disk
}

func btrfsDisk(bytes int64) guest.Disk {
	d := guest.PlainDisk(bytes)
	d.FS = "btrfs"
	return d
}

var simulated = map[string]template{
	"debian":    {packager: "apt", disk: guest.PlainDisk},
	"lab":       {packager: "apt", disk: guest.PlainDisk},
	"ubuntu":    {packager: "apt", disk: guest.PlainDisk},
	"almalinux": {packager: "dnf", selinux: true, disk: guest.LVMDisk},
	"rocky":     {packager: "dnf", selinux: true, disk: guest.LVMDisk},
	"opensuse":  {packager: "zypper", disk: btrfsDisk},
}

// Stand-ins for the vendors' installers: they leave what the steps after them look for.
const (
	cpanelInstaller = `#!/bin/bash
set -euo pipefail
mkdir -p /usr/local/cpanel
echo ran >>/root/installer-runs
printf '#!/bin/bash\necho "Updating cPanel license...Done. Update succeeded."\n' >/usr/local/cpanel/cpkeyclt
printf 'license\n' >/usr/local/cpanel/cpanel.lisc
printf '#!/bin/bash\n' >/usr/local/cpanel/cpanel
`
	pleskInstaller = `#!/bin/bash
set -euo pipefail
mkdir -p /usr/sbin
echo ran >>/root/installer-runs
printf '%s\n' '#!/bin/bash' 'case "$*" in' '"bin keyinfo --list") printf "plesk_key_id: PLSK.01234567.0000\nlim_date: 20991231\n" ;;' 'version) echo 18.0 ;;' 'esac' >/usr/sbin/plesk
`
)

// vendors serves installers on loopback, and is the templates directory of an operator who has pinned them.
type vendors struct {
	server *httptest.Server
	dir    string
	files  map[string]string // by path; set before it is asked
}

func newVendors(t *testing.T, files map[string]string) *vendors {
	t.Helper()
	v := &vendors{dir: t.TempDir(), files: files}
	v.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := v.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(v.server.Close)
	for name, text := range files {
		v.pin(t, strings.TrimPrefix(name, "/"), text)
	}
	return v
}

// pin writes an add-on's pin.yaml for an installer of that text.
func (v *vendors) pin(t *testing.T, addon, text string) {
	t.Helper()
	dir := filepath.Join(v.dir, "postinstall", addon)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	yaml := fmt.Sprintf("url: %s/%s\nsha256: %x\n", v.server.URL, addon, sha256.Sum256([]byte(text)))
	if err := os.WriteFile(filepath.Join(dir, "pin.yaml"), []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (v *vendors) catalogue(t *testing.T) *postinstall.Catalogue {
	t.Helper()
	entries, err := fs.Sub(tmpl.Open(v.dir), "postinstall")
	if err != nil {
		t.Fatal(err)
	}
	c, err := postinstall.Load(entries)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fetch is the guests' way to the vendors, and to nobody else.
func (v *vendors) fetch(ctx context.Context, url string) ([]byte, error) {
	if !strings.HasPrefix(url, v.server.URL+"/") {
		return nil, fmt.Errorf("%s is not reached from here", url)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := v.server.Client().Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, 1<<20))
}

// site is one machine out of its template, and the installer that knows it.
type site struct {
	entry     postinstall.Entry
	guest     *guest.Guest
	installer *ssh.Installer
	ref       orchestrator.Guest
	job       orchestrator.Job
	template  string // public host key
	customer  string
	home      string
}

func newSite(t *testing.T, v *vendors, image string) *site {
	t.Helper()
	catalogue := v.catalogue(t)
	entry, err := catalogue.Entry(image)
	if err != nil {
		t.Fatal(err)
	}
	look, ok := simulated[entry.Family]
	if !ok {
		t.Fatalf("say in this test how a template of %s looks", entry.Family)
	}
	key := func() (orchestrator.Secret, string) {
		private, public, err := postinstall.NewHostKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return private, public
	}
	templateKey, templateLine := key()
	loginKey, loginLine := key()
	machineKey, machineLine := key()
	_, customer := key()
	signer, err := xssh.ParsePrivateKey([]byte(loginKey.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{entry: entry, template: templateLine, customer: customer + " alice", home: "/root"}
	if entry.Account != "root" {
		s.home = "/home/" + entry.Account
	}
	s.guest, err = guest.New(guest.Config{
		Dir: t.TempDir(), HostKey: []byte(templateKey.Reveal()), User: entry.User, AuthorizedKeys: []string{loginLine},
		Packager: look.packager, SELinux: look.selinux, Disk: look.disk(20 * gib), Fetch: v.fetch,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.guest.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.guest.Start(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	s.installer, err = ssh.New(ssh.Config{
		Catalogue: catalogue, Key: signer, TemplateKeys: func(string, string) []string { return []string{templateLine} },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.ref = orchestrator.Guest{
		Machine: "6f1c1f0e-4f5e-4b7e-9d63-0a1b2c3d4e5f", Pool: "paris", Image: image, Address: netip.MustParseAddrPort(l.Addr().String()), HostKey: machineLine,
	}
	s.job = orchestrator.Job{ID: "run-1-1", Hostname: "web1.example.net", SSHKeys: []string{s.customer}, HostKeySecret: machineKey}
	return s
}

func (s *site) start(t *testing.T, id string) {
	t.Helper()
	s.job.ID = id
	if err := s.installer.EnsureJob(t.Context(), s.ref, s.job); err != nil {
		t.Fatal(err)
	}
}

// finish follows a job to its end.
func (s *site) finish(t *testing.T) (orchestrator.JobStatus, string) {
	t.Helper()
	var log strings.Builder
	var status orchestrator.JobStatus
	testnet.Until(t, 60*time.Second, "job "+s.job.ID+" to end", func() bool {
		var err error
		if status, err = s.installer.ObserveJob(t.Context(), s.ref, s.job.ID, status.Offset); err != nil {
			t.Fatal(err)
		}
		log.Write(status.Log)
		return status.State != orchestrator.JobRunning
	})
	if status.State != orchestrator.JobExited {
		t.Fatalf("job %s is %s:\n%s", s.job.ID, status.State, log.String())
	}
	return status, log.String()
}

func (s *site) succeed(t *testing.T) string {
	t.Helper()
	status, log := s.finish(t)
	if status.Exit != 0 {
		t.Fatalf("job %s ended with %d at %s:\n%s", s.job.ID, status.Exit, status.Stage, log)
	}
	return log
}

func (s *site) read(t *testing.T, name string) string {
	t.Helper()
	text, err := s.guest.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// state is all that a post-install changes in a machine, and what it runs.
func (s *site) state(t *testing.T) map[string]string {
	t.Helper()
	disk := s.guest.Disk()
	state := map[string]string{
		"kernel's hostname": s.guest.Hostname(),
		"host key":          string(xssh.MarshalAuthorizedKey(s.guest.HostKey())),
		"disk":              fmt.Sprintf("%v, %d bytes on %s", disk.Partitions, disk.FSBytes, disk.FS),
	}
	if disk.Group != nil {
		state["volume group"] = fmt.Sprintf("%+v", *disk.Group)
	}
	if s.entry.AddOn != "" {
		state["installer"] = s.read(t, "/root/installer-runs")
	}
	for _, name := range []string{"/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/passwd", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub", s.home + "/.ssh/authorized_keys"} {
		state[name] = s.read(t, name)
	}
	for _, name := range s.entry.Packages {
		state["package "+name] = fmt.Sprint(s.guest.Installed(name))
	}
	return state
}

// Every entry that the catalogue finds keeps the same promises. A folder that is added is held to them without a line here, except for
// how its template looks.
func TestContractOfEveryEntry(t *testing.T) {
	t.Parallel()
	v := newVendors(t, map[string]string{"/cpanel": cpanelInstaller, "/plesk": pleskInstaller})
	for _, image := range v.catalogue(t).Images() {
		entry, err := v.catalogue(t).Entry(image)
		if err != nil {
			t.Fatal(err)
		}
		if entry.Transport != postinstall.TransportSSH {
			continue // its own package holds it to the same
		}
		t.Run(image, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, v, image)

			// Bad parameters reach no guest.
			for name, bad := range map[string]orchestrator.Job{
				"hostname":  {ID: "run-0-1", Hostname: "$(reboot)", SSHKeys: s.job.SSHKeys, HostKeySecret: s.job.HostKeySecret},
				"no keys":   {ID: "run-0-1", Hostname: "web1", HostKeySecret: s.job.HostKeySecret},
				"two lines": {ID: "run-0-1", Hostname: "web1", SSHKeys: []string{s.customer + "\n" + s.customer}, HostKeySecret: s.job.HostKeySecret},
				"host key":  {ID: "run-0-1", Hostname: "web1", SSHKeys: s.job.SSHKeys},
				"job id":    {ID: "../run", Hostname: "web1", SSHKeys: s.job.SSHKeys, HostKeySecret: s.job.HostKeySecret},
			} {
				if err := s.installer.EnsureJob(t.Context(), s.ref, bad); orchestrator.KindOf(err) != orchestrator.Permanent {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := s.guest.ReadFile("/var/lib/slipway/jobs/run-0-1/env"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a refused job has come to the guest: %v", err)
			}

			// While somebody else installs, the job waits and says for whom.
			s.guest.HoldPackageLock("unattended")
			s.start(t, "run-1-1")
			testnet.Until(t, 30*time.Second, "the job to say who holds the lock", func() bool {
				status, err := s.installer.ObserveJob(t.Context(), s.ref, s.job.ID, 0)
				if err == nil && status.State == orchestrator.JobExited {
					t.Fatalf("ended with %d:\n%s", status.Exit, status.Log)
				}
				return err == nil && strings.Contains(status.Stage, "is held by unattended (pid ")
			})
			s.start(t, "run-1-1")
			s.guest.HoldPackageLock("")
			log := s.succeed(t)

			// Asked for again, it does not run again.
			s.start(t, "run-1-1")
			if status, _ := s.finish(t); status.Exit != 0 {
				t.Errorf("asked for again, it ended with %d", status.Exit)
			}
			var want, ran []string
			for _, step := range s.entry.Steps {
				want = append(want, step.Name)
			}
			for _, name := range s.guest.Ran() {
				if slices.Contains(want, name) {
					ran = append(ran, name)
				}
			}
			if diff := cmp.Diff(want, ran); diff != "" {
				t.Errorf("steps (-want +ran):\n%s%s", diff, log)
			}

			s.ref.Own = true
			inspection, err := s.installer.Inspect(t.Context(), s.ref)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"hostname", "machine_id", "host_key", "host_keys", "authorized_keys"} {
				if _, ok := inspection.Checks[name]; !ok {
					t.Errorf("nothing checks %s", name)
				}
			}
			if s.entry.AddOn != "" && inspection.Checks[s.entry.AddOn] == "" {
				t.Errorf("nothing checks %s", s.entry.AddOn)
			}
			if _, ok := inspection.Checks["selinux"]; ok != simulated[s.entry.Family].selinux {
				t.Errorf("SELinux is checked: %t", ok)
			}
			for name, result := range inspection.Checks {
				if result != "ok" {
					t.Errorf("check %s: %s", name, result)
				}
			}

			// Nothing of the template's identity is left.
			if inspection.Identity != postinstall.MachineID(s.ref.Machine) || strings.Contains(s.read(t, "/etc/machine-id"), "c10") {
				t.Errorf("identity is %q", inspection.Identity)
			}
			state := s.state(t)
			if host := strings.TrimSpace(state["host key"]); host == s.template || host != s.ref.HostKey {
				t.Errorf("the guest shows the host key %s", host)
			}
			if strings.Contains(state["/etc/hosts"], "template") || state["/etc/hostname"] != "web1.example.net\n" || s.guest.Hostname() != "web1.example.net" {
				t.Errorf("names: %q, %q, %q", state["/etc/hosts"], state["/etc/hostname"], s.guest.Hostname())
			}
			if _, err := s.guest.ReadFile("/var/lib/slipway/jobs/run-1-1/secrets/ssh_host_ed25519_key"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the private host key lies in the job's folder: %v", err)
			}
			if disk := s.guest.Disk(); disk.FSBytes < 20*gib-16<<20 {
				t.Errorf("the file system has %d bytes of %d:\n%s", disk.FSBytes, disk.Bytes, log)
			}
			if s.entry.AddOn != "" && state["installer"] != "ran\n" {
				t.Errorf("the installer of %s has left %q", s.entry.AddOn, state["installer"])
			}
			for _, name := range s.entry.Packages {
				if !s.guest.Installed(name) {
					t.Errorf("package %s is missing", name)
				}
			}

			// A second job finds it all done.
			s.start(t, "run-1-2")
			log = s.succeed(t)
			if diff := cmp.Diff(state, s.state(t)); diff != "" {
				t.Errorf("the second job changed (-first +second):\n%s%s", diff, log)
			}

			if err := s.installer.Leave(t.Context(), s.ref); err != nil {
				t.Fatal(err)
			}
			file := s.home + "/.ssh/authorized_keys"
			left := s.read(t, file)
			if lines := strings.Split(left, "\n"); lines[0] != s.customer || len(lines) != 3 || !strings.HasPrefix(lines[1], "restrict,command=") {
				t.Errorf("authorized_keys after leaving:\n%s", left)
			}
			if err := s.installer.Leave(t.Context(), s.ref); err != nil {
				t.Errorf("left twice: %v", err)
			}

			// What stays takes another key and another name, and gives the former ones back.
			other := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIM3iPYeUcyvKhL5gE7fMta8g76VmVqqlzYuF8sil6c26 bob"
			change := orchestrator.GuestChange{Hostname: "shop.example.net", Drop: []string{s.customer}, Keys: []string{other}}
			if err := s.installer.ChangeGuest(t.Context(), s.ref, change); err != nil {
				t.Fatal(err)
			}
			if got := s.read(t, file); got != strings.Replace(left, s.customer, other, 1) || s.guest.Hostname() != "shop.example.net" {
				t.Errorf("hostname %s, authorized_keys:\n%s", s.guest.Hostname(), got)
			}
			back := orchestrator.GuestChange{Hostname: "web1.example.net", Drop: []string{other}, Keys: []string{s.customer}}
			if err := s.installer.ChangeGuest(t.Context(), s.ref, back); err != nil {
				t.Fatal(err)
			}
			if got := s.read(t, file); got != left || s.read(t, "/etc/hosts") != state["/etc/hosts"] {
				t.Errorf("taken back:\n%s%s", got, s.read(t, "/etc/hosts"))
			}
		})
	}
}
