// Package guestimage gives tests the images that scripts/guest-image.sh makes, for guests that QEMU boots.
package guestimage

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/testenv"
)

// Kinds of images.
const (
	Lab    = "lab"       // small, boots in seconds
	Debian = "debian-12" // whole, with systemd
	Text   = "text"      // boots nothing
)

// makeLimit is for a slow mirror.
const makeLimit = 15 * time.Minute

// Image is a folder of the cache. It is only read.
type Image struct {
	Dir      string
	HostKey  string // the template's, public
	LoginKey string // root's, private
}

// Get makes the image unless the cache has it. Root, QEMU and what the script needs have to be there.
func Get(tb testing.TB, kind string) Image {
	tb.Helper()
	testenv.NeedRoot(tb)
	for _, program := range []string{"qemu-system-x86_64", "qemu-img", "busybox", "mke2fs", "sfdisk", "cpio", "apt-get", "flock", "ssh-keygen"} {
		testenv.Need(tb, program)
	}
	if kind == Debian {
		testenv.Need(tb, "mmdebstrap")
	}
	ctx, cancel := context.WithTimeout(context.Background(), makeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(root(tb), "scripts", "guest-image.sh"), kind)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("guest-image.sh %s: %v: %s", kind, err, said.String())
	}
	image := Image{Dir: strings.TrimSpace(string(out))}
	if kind != Text {
		image.HostKey, image.LoginKey = read(tb, image.Dir, "host_key.pub"), read(tb, image.Dir, "login_key")
	}
	return image
}

func read(tb testing.TB, dir, name string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// root is the folder of the module, above the test's own.
func root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	tb.Fatal("no go.mod above the test")
	return ""
}
