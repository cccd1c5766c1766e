// Package testguest boots real guests for tests: the machine's own Debian behind network, mount, UTS, IPC and PID namespaces, on a
// throw-away overlay root, with its own hostname, machine id, users and host keys, a real sshd and a real DHCP client.
//
// The machine that runs the test is only read: its root is the overlay's lower layer, the upper one is a tmpfs that ends with the guest,
// all mounts are private, /proc/sys cannot be written, and capabilities that reach beyond namespaces are dropped.
package testguest

import (
	"context"
	_ "embed"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/orchestrator"
)

//go:embed outside.sh
var outside string

//go:embed inside.sh
var inside string

const bootTimeout = 20 * time.Second

// Config is the template and its place in the network.
type Config struct {
	Namespace *testnet.Namespace
	// Interface is the guest's, in the namespace; "" leaves the network as it is.
	Interface string
	MAC       string // "" keeps the interface's
	// Address is static; the zero Prefix asks DHCP.
	Address netip.Prefix
	Gateway netip.Addr

	TemplateHostKey orchestrator.Secret // OpenSSH PEM, ed25519
	AuthorizedKeys  []string            // of root
	Hostname        string              // "" is "template"
	MachineID       string              // "" is one that all guests share
}

// TemplateMachineID is the machine id of a guest that was given none.
const TemplateMachineID = "00000000000000000000000000000c10"

// Guest is a guest that runs. The end of the test ends it.
type Guest struct {
	tb      testing.TB
	ns      *testnet.Namespace
	process *testnet.Process
	init    int // pid of its process 1, as the machine sees it
}

// Start boots a guest and returns once its sshd listens; an address from DHCP may come later. Root and the programs are needed.
func Start(tb testing.TB, config Config) *Guest {
	tb.Helper()
	testenv.NeedRoot(tb)
	for _, program := range []string{"unshare", "nsenter", "mount", "pivot_root", "setpriv", "sshd", "ssh-keygen", "udhcpc", "ip"} {
		testenv.Need(tb, program)
	}
	dir := tb.TempDir()
	if err := stage(dir, config); err != nil {
		tb.Fatalf("test guest: %v", err)
	}
	g := &Guest{tb: tb, ns: config.Namespace}
	g.process = config.Namespace.Start("unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
		"bash", filepath.Join(dir, "files", "outside.sh"), dir)
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the guest said:\n%s", g.Output())
		}
	})
	testnet.Until(tb, bootTimeout, "the guest's sshd to listen", func() bool {
		select {
		case <-g.process.Done():
			tb.Fatalf("the guest ended at its boot:\n%s", g.Output())
		default:
		}
		return strings.Contains(g.Output(), "Server listening on ")
	})
	// unshare has one child: process 1.
	pid := g.process.PID()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err == nil {
		g.init, err = strconv.Atoi(strings.TrimSpace(string(children)))
	}
	if err != nil {
		tb.Fatalf("test guest: find its process 1: %v", err)
	}
	return g
}

// stage writes what the boot scripts read.
func stage(dir string, config Config) error {
	signer, err := ssh.ParsePrivateKey([]byte(config.TemplateHostKey.Reveal()))
	if err != nil {
		return fmt.Errorf("template's host key: %w", err)
	}
	if config.Hostname == "" {
		config.Hostname = "template"
	}
	if config.MachineID == "" {
		config.MachineID = TemplateMachineID
	}
	address, gateway := "", ""
	if config.Address.IsValid() {
		address = config.Address.String()
	}
	if config.Gateway.IsValid() {
		gateway = config.Gateway.String()
	}
	boot := fmt.Sprintf("TEMPLATE_HOSTNAME='%s'\nINTERFACE='%s'\nMAC='%s'\nADDRESS='%s'\nGATEWAY='%s'\n",
		config.Hostname, config.Interface, config.MAC, address, gateway)
	for _, f := range []struct{ name, text string }{
		{"outside.sh", outside},
		{"inside.sh", inside},
		{"boot", boot},
		{"root/etc/hostname", config.Hostname + "\n"},
		{"root/etc/machine-id", config.MachineID + "\n"},
		{"root/etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\t" + config.Hostname + "\n"},
		{"root/etc/passwd", passwd},
		{"root/etc/group", group},
		// Keys only: no password of the machine comes along.
		{"root/etc/shadow", "root:*:20000:0:99999:7:::\nsshd:!:20000::::::\n"},
		{"root/etc/gshadow", ""},
		{"root/etc/ssh/sshd_config", sshdConfig},
		{"root/etc/ssh/ssh_host_ed25519_key", config.TemplateHostKey.Reveal()},
		{"root/etc/ssh/ssh_host_ed25519_key.pub", string(ssh.MarshalAuthorizedKey(signer.PublicKey()))},
		{"root/root/.ssh/authorized_keys", strings.Join(config.AuthorizedKeys, "\n") + "\n"},
		{"root/var/lib/dhcp/.keep", ""},
	} {
		path := filepath.Join(dir, "files", f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(f.text), mode(f.name)); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(dir, "disk"), 0o700)
}

func mode(name string) os.FileMode {
	if strings.HasSuffix(name, "_key") || strings.HasSuffix(name, "shadow") || strings.HasSuffix(name, "authorized_keys") {
		return 0o600
	}
	return 0o644
}

const passwd = `root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
_apt:x:42:65534::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin
`

const group = `root:x:0:
daemon:x:1:
tty:x:5:
shadow:x:42:
sudo:x:27:
nogroup:x:65534:
`

// PAM reads the machine's own configuration and is left out.
const sshdConfig = `PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
LogLevel VERBOSE
`

// Output is what the guest's boot, DHCP client and sshd have said.
func (g *Guest) Output() string { return g.process.Output() }

// guard refuses to run anything that would not be inside.
const guard = `[[ $(stat -f -c %T /) == overlayfs ]] || { echo "not inside of the guest" >&2; exit 1; }; cd / && PATH=/usr/sbin:/usr/bin:/sbin:/bin exec "$@"`

// Run runs a program inside, as root, outside of any SSH session.
func (g *Guest) Run(ctx context.Context, argv ...string) (string, error) {
	g.tb.Helper()
	return g.ns.Run(ctx, append([]string{"nsenter", "--target", strconv.Itoa(g.init), "--mount", "--uts", "--ipc", "--pid", "--root",
		"bash", "-c", guard, "guest"}, argv...)...)
}

// ReadFile reads a file of the guest by its path there; a link that leads elsewhere would be followed on the machine.
func (g *Guest) ReadFile(path string) ([]byte, error) {
	return os.ReadFile(filepath.Join("/proc", strconv.Itoa(g.init), "root", path))
}

// Stop pulls the plug and waits until nothing of it runs. Its disk is gone.
func (g *Guest) Stop() { _ = g.process.Kill() }
