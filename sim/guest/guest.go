package guest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Config is how a guest comes out of its template.
type Config struct {
	// Dir is the guest's disk: a folder that is its own. What a new guest needs is put there; a disk that was used before is kept.
	Dir string
	// Hostname and MachineID are the template's; "" are "template" and 32 digits that all guests share, as clones do.
	Hostname, MachineID string
	// HostKey is the template's private host key, OpenSSH PEM.
	HostKey []byte
	// User is who may log in: "" is root. Another one has sudo.
	User string
	// AuthorizedKeys are the lines in that user's file: the installer's key.
	AuthorizedKeys []string
	// Packages are those that are installed already, besides bash and openssh-server.
	Packages []string
	// Packager is the system's package manager: "apt", "dnf" or "zypper"; "" is apt. The others' programs are not found.
	Packager string
	// SELinux says whether the guest has it, as far as scripts see.
	SELinux bool
	// Disk is what / is on; the zero value is PlainDisk of 20 GiB.
	Disk Disk
	// Fetch answers curl; nil is a guest that reaches nobody.
	Fetch  func(ctx context.Context, url string) ([]byte, error)
	Faults Faults
	Log    *slog.Logger // nil: nothing is logged
}

// Guest is one simulated machine. Its methods may be called concurrently.
type Guest struct {
	user     string
	log      *slog.Logger
	root     *os.Root
	packager string
	fetch    func(ctx context.Context, url string) ([]byte, error)

	mu       sync.Mutex
	faults   Faults
	hostname string // the kernel's, not /etc/hostname
	packages map[string]bool
	holder   string // who holds the package lock, "" when free
	drive    Disk
	labeled  map[string]bool // files whose SELinux label was restored since they were written
	boot     *boot           // nil while it is off
	boots    int
	signer   ssh.Signer // what sshd serves
	ran      []string   // scripts that were begun, in order
}

const templateMachineID = "00000000000000000000000000000c10"

// New lays out the disk. The guest is off.
func New(config Config) (*Guest, error) {
	root, err := os.OpenRoot(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the guest's disk: %w", err)
	}
	g := &Guest{
		user: config.User, log: config.Log, root: root, faults: config.Faults, packager: config.Packager, fetch: config.Fetch,
		labeled:  map[string]bool{},
		packages: map[string]bool{"bash": true, "openssh-server": true},
	}
	if g.packager == "" {
		g.packager = "apt"
	}
	if config.Disk.Name == "" {
		config.Disk = PlainDisk(20 * gib)
	}
	g.SetDisk(config.Disk)
	if g.user == "" {
		g.user = "root"
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	for _, name := range config.Packages {
		g.packages[name] = true
	}
	if _, err := root.Stat("etc/passwd"); err == nil {
		return g, nil
	}
	if err := g.layOut(config); err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("lay out the guest's disk: %w", err)
	}
	return g, nil
}

func (g *Guest) layOut(config Config) error {
	signer, err := ssh.ParsePrivateKey(config.HostKey)
	if err != nil {
		return fmt.Errorf("template's host key: %w", err)
	}
	if config.Hostname == "" {
		config.Hostname = "template"
	}
	if config.MachineID == "" {
		config.MachineID = templateMachineID
	}
	passwd, group := "root:x:0:0:root:/root:/bin/bash\n", "root:x:0:\nsudo:x:27:\n"
	home := "/root"
	if g.user != "root" {
		home = "/home/" + g.user
		passwd += passwdLine(g.user, 1000)
		group += g.user + ":x:1000:\n"
	}
	key := "etc/ssh/ssh_host_" + keyName(signer.PublicKey().Type()) + "_key"
	for _, dir := range []string{"dev", "etc/ssh", "etc/sudoers.d", "run/systemd/system", "tmp", "root", "run", "var/lib/dpkg", "var/lib/apt/lists", "var/lib/dnf", "var/log", "var/log/journal/" + config.MachineID, home[1:] + "/.ssh"} {
		if err := g.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if config.SELinux {
		if err := g.root.MkdirAll("sys/fs/selinux", 0o755); err != nil {
			return err
		}
		if err := g.root.WriteFile("sys/fs/selinux/enforce", []byte("1"), 0o644); err != nil {
			return err
		}
	}
	for _, f := range []struct{ name, text string }{
		{"etc/hostname", config.Hostname + "\n"},
		{"etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\t" + config.Hostname + "\n"},
		{"etc/machine-id", config.MachineID + "\n"},
		{"etc/group", group},
		{key, string(config.HostKey)},
		{key + ".pub", string(ssh.MarshalAuthorizedKey(signer.PublicKey()))},
		{"root/.bash_history", "apt-get update\n"},
		{home[1:] + "/.ssh/authorized_keys", strings.Join(config.AuthorizedKeys, "\n") + "\n"},
		{"etc/passwd", passwd}, // last: it says that the disk is complete
	} {
		if err := g.root.WriteFile(f.name, []byte(f.text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func keyName(keyType string) string {
	switch keyType {
	case ssh.KeyAlgoED25519:
		return "ed25519"
	case ssh.KeyAlgoRSA:
		return "rsa"
	default:
		return "ecdsa"
	}
}

// boot is the time from power on to power off.
type boot struct {
	id      string
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	server  net.Listener
	conns   map[net.Conn]bool
	procs   map[int]*process
	lastPID int
}

// Start powers the guest on; its sshd takes connections from l until Stop; the end of ctx cuts it off too, and Stop
// waits for what is left. A guest that runs already is an error.
func (g *Guest) Start(ctx context.Context, l net.Listener) error {
	signer, err := g.loadHostKey()
	if err != nil {
		return err
	}
	name, err := g.root.ReadFile("etc/hostname")
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.boot != nil {
		return errors.New("the guest is running already")
	}
	b := &boot{id: uuid(), server: l, conns: map[net.Conn]bool{}, procs: map[int]*process{}, lastPID: 300}
	b.ctx, b.cancel = context.WithCancel(ctx)
	g.boot, g.signer, g.hostname = b, signer, strings.TrimSpace(string(name))
	g.boots++
	b.wg.Go(func() { g.serve(b) })
	context.AfterFunc(b.ctx, func() { g.hangUp(b) })
	return nil
}

// hangUp closes the listener and every connection of a boot that is over.
func (g *Guest) hangUp(b *boot) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = b.server.Close()
	for c := range b.conns {
		_ = c.Close()
	}
}

// Stop pulls the plug: the listener and all connections are closed, scripts end in their middle. The disk stays. It returns when
// nothing of the guest runs any more; stopping a guest that is off does nothing.
func (g *Guest) Stop() {
	g.mu.Lock()
	b := g.boot
	if b == nil {
		g.mu.Unlock()
		return
	}
	g.boot = nil
	g.mu.Unlock()
	b.cancel()
	g.hangUp(b)
	b.wg.Wait()
}

// Close stops the guest and lets go of its disk, which stays where it is.
func (g *Guest) Close() error {
	g.Stop()
	return g.root.Close()
}

// Hostname is what the kernel would say.
func (g *Guest) Hostname() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hostname
}

// HostKey is the public host key that sshd shows, nil before the first start.
func (g *Guest) HostKey() ssh.PublicKey {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.signer == nil {
		return nil
	}
	return g.signer.PublicKey()
}

// Boots counts the starts.
func (g *Guest) Boots() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.boots
}

// Ran lists the scripts that were begun by bash, in order, by their base names.
func (g *Guest) Ran() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.ran...)
}

// ReadFile reads a file of the guest by its absolute path there.
func (g *Guest) ReadFile(name string) ([]byte, error) { return g.root.ReadFile(rel(name)) }

// WriteFile writes a file of the guest by its absolute path there, as somebody else would who is logged in.
func (g *Guest) WriteFile(name string, text []byte) error {
	return g.root.WriteFile(rel(name), text, 0o600)
}

// Installed reports whether a package is.
func (g *Guest) Installed(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.packages[name]
}

// HoldPackageLock makes a process of that name hold the package manager's lock; "" lets it go.
func (g *Guest) HoldPackageLock(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holder = name
	if file := pidLock(g.packager); file != "" {
		if name == "" {
			_ = g.root.Remove(rel(file))
			return
		}
		// A disk that cannot be written shows in the test that waits for the lock.
		_ = g.root.WriteFile(rel(file), []byte(strconv.Itoa(holderPID)), 0o644)
	}
}

func (g *Guest) loadHostKey() (ssh.Signer, error) {
	for _, name := range []string{"ed25519", "ecdsa", "rsa"} {
		text, err := g.root.ReadFile("etc/ssh/ssh_host_" + name + "_key")
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return ssh.ParsePrivateKey(text)
	}
	return nil, errors.New("sshd: no hostkeys available -- exiting")
}

// rel maps an absolute path of the guest to one below its root. os.Root refuses whatever would lead out of it, links included.
func rel(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

func uuid() string {
	var b [16]byte
	_, _ = io.ReadFull(rand.Reader, b[:])
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}
