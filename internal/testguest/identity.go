package testguest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Identity is what makes the machine that runs the tests itself, as one text: its name, accounts, host keys and what else a post-install
// changes. It is equal before and after a test that touched its guests alone.
func Identity(tb testing.TB) string {
	tb.Helper()
	var b strings.Builder
	name, err := os.Hostname()
	if err != nil {
		tb.Fatal(err)
	}
	fmt.Fprintln(&b, "hostname", name)
	for _, root := range []string{"/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow",
		"/etc/resolv.conf", "/etc/ssh", "/etc/sudoers.d", "/etc/systemd", "/root/.ssh", "/run/sshd.pid", "/var/lib/slipway", "/var/lib/dbus"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			text, err := os.ReadFile(path)
			if d.Type()&fs.ModeSymlink != 0 {
				target, _ := os.Readlink(path)
				text, err = []byte(target), nil
			}
			fmt.Fprintf(&b, "%s %s %x\n", path, info.Mode(), sha256.Sum256(text))
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			tb.Fatal(err)
		}
		if err != nil {
			fmt.Fprintln(&b, root, "absent")
		}
	}
	return b.String()
}
