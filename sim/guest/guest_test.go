package guest_test

import (
	"bytes"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"slipway/sim/guest"
	"slipway/workers/postinstall"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type testBundle struct {
	guest  *guest.Guest
	dir    string
	client *ssh.Client
}

func setup(t *testing.T) *testBundle {
	t.Helper()
	hostKey, _, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	login, loginLine, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := &testBundle{dir: t.TempDir()}
	b.guest, err = guest.New(guest.Config{Dir: b.dir, HostKey: []byte(hostKey.Reveal()), AuthorizedKeys: []string{loginLine}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.guest.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.guest.Start(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey([]byte(login.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	b.client, err = ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(b.guest.HostKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.client.Close() })
	return b
}

// run returns what a command printed on both outputs and its exit code.
func (b *testBundle) run(t *testing.T, command string) (string, int) {
	t.Helper()
	session, err := b.client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	// SSH carries the two streams apart: how they lay between each other is not to be had.
	var stdout, stderr bytes.Buffer
	session.Stdout, session.Stderr = &stdout, &stderr
	err = session.Run(command)
	out := stdout.String() + stderr.String()
	if exit, ok := err.(*ssh.ExitError); ok {
		return out, exit.ExitStatus()
	}
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return out, 0
}

// A script must see and change its guest's disk alone, however it asks.
func TestScriptsCannotLeaveTheGuest(t *testing.T) {
	b := setup(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("top secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A link that somebody put on the disk, out of it.
	if err := os.Symlink(outside, filepath.Join(b.dir, "tmp", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside+".sh", []byte("#!/bin/bash\necho top secret\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside+".sh", filepath.Join(b.dir, "tmp", "script")); err != nil {
		t.Fatal(err)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	for _, row := range []struct{ name, command string }{
		{"absolute path", "cat " + outside},
		{"redirect", "read -r x <" + outside + "; echo $x"},
		{"dots", "cat " + up + outside},
		{"dots by redirect", "read -r x <" + up + outside + "; echo $x"},
		{"link", "cat /tmp/link"},
		{"link by redirect", "read -r x </tmp/link; echo $x"},
		{"source", ". " + outside},
		{"write", "echo changed >" + outside},
		{"append through a link", "echo changed >>/tmp/link"},
		{"remove", "rm -rf " + outside},
		{"move", "mv " + outside + " /tmp/x && cat /tmp/x"},
		{"link to it", "ln " + outside + " /tmp/x && cat /tmp/x"},
		{"program by path", outside},
		{"test", "[[ -e " + outside + " ]] && echo top secret"},
		{"glob", "echo " + filepath.Dir(outside) + "/s*et | grep -qxF -e " + outside + " -- /dev/null; for f in " + filepath.Dir(outside) + "/*; do [[ $f == */secret ]] && echo top secret; done"},
		{"cd", "cd " + filepath.Dir(outside) + " && echo top secret"},
		{"process substitution", "cat <(echo top secret)"},
		{"process substitution in eval", "eval 'cat <(echo top secret)'"},
		{"hostname", "hostname evil"},
		{"unknown program", "python3 -c 'print(\"top secret\")'"},
		{"bash in bash", "bash -c 'cat " + outside + "'"},
		{"script out there", outside + ".sh"},
		{"script through a link", "/tmp/script"},
		{"checksum", "sha256sum -- " + outside + " && echo top secret"},
		{"fetched over it", "curl --output " + outside + " -- http://127.0.0.1:1/"},
		{"table of another disk", "sfdisk --dump " + outside + " && echo top secret"},
	} {
		t.Run(row.name, func(t *testing.T) {
			out, _ := b.run(t, row.command)
			if strings.Contains(out, "top secret") && !strings.Contains(out, "print(") {
				t.Errorf("%s printed %q", row.command, out)
			}
		})
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "top secret\n" {
		t.Errorf("the file outside is %q, %v", text, err)
	}
	if after, _ := os.Hostname(); after != name {
		t.Errorf("the hostname of this machine is %q now", after)
	}
	if got := b.guest.Hostname(); got != "evil" {
		t.Errorf("the guest's hostname is %q", got)
	}
}

func TestCommands(t *testing.T) {
	b := setup(t)
	for _, row := range []struct {
		command, want string
		code          int
	}{
		{"echo out; exit 3", "out\n", 3},
		{"nosuch", "nosuch: command not found\n", 127},
		{"mkdir /tmp/a && mkdir /tmp/a", "mkdir: cannot create directory '/tmp/a': file exists\n", 1},
		{"echo x >/tmp/b && ln /tmp/b /tmp/c && ln /tmp/b /tmp/c", "ln: failed to create hard link '/tmp/c': file exists\n", 1},
		{"mkdir /tmp/d /tmp/e; echo 1 >/tmp/d/f; echo 2 >/tmp/e/f; mv -T /tmp/d /tmp/e 2>/dev/null || cat /tmp/e/f", "2\n", 0},
		{"timeout 0.05 sleep 10", "", 124},
		{"command -v tar; command -v python3", "/usr/bin/tar\n", 1},
		{"printf abcdef >/tmp/g; tail -c +3 /tmp/g | head -c 2", "cd", 0},
		{"set -e; umask 077; getent passwd nobody; echo not reached", "", 2},
		{"hostname; cat /etc/machine-id", "template\n00000000000000000000000000000c10\n", 0},
		{"findmnt -n -r -v -o SOURCE,FSTYPE /", "/dev/xvda2 ext4\n", 0},
		{"lsblk -P -b -p -s -d -o NAME,SIZE -- /dev/xvda2", "NAME=\"/dev/xvda2\" TYPE=\"part\" SIZE=\"4291821568\" LOG-SEC=\"512\"\n", 0},
		{"dnf -q -y install -- rsync", "dnf: command not found\n", 127},
		{"restorecon /etc/hostname", "restorecon: command not found\n", 127},
		{"curl --output /tmp/x -- http://127.0.0.1/", "curl: Could not resolve host\n", 6},
		{"printf abc >/tmp/abc; sha256sum -- /tmp/abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  /tmp/abc\n", 0},
		{"printf '#!/bin/bash\necho $0 $1\n' >/tmp/own; /tmp/own x; printf 'ELF' >/tmp/elf; /tmp/elf", "/tmp/own x\n/tmp/elf: No such file or directory\n", 127},
		{"pvresize /dev/xvda2", "pvresize: Failed to find physical volume [\"/dev/xvda2\"]\n", 5},
		{"sudo -n bash -c 'echo $SUDO_USER $0 $1' name arg", "root name arg\n", 0},
	} {
		if out, code := b.run(t, row.command); out != row.want || code != row.code {
			t.Errorf("%s: %q, exit code %d; want %q, %d", row.command, out, code, row.want, row.code)
		}
	}
}

// A process belongs to its boot: a stop ends it, and the next boot has another id and the same disk.
func TestStopEndsWhatRuns(t *testing.T) {
	b := setup(t)
	before, _ := b.run(t, "read -r id </proc/sys/kernel/random/boot_id; echo $id; echo kept >/tmp/kept; setsid sleep 1000 </dev/null >/dev/null 2>&1 &")
	b.guest.Stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.guest.Start(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if kept, err := b.guest.ReadFile("/tmp/kept"); err != nil || string(kept) != "kept\n" {
		t.Errorf("the disk after a reboot: %q, %v", kept, err)
	}
	if b.guest.Boots() != 2 || before == "" {
		t.Errorf("boots: %d, id before: %q", b.guest.Boots(), before)
	}
}
