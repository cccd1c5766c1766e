package judge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/sim/xapi"
)

const deadline = 5 * time.Minute

// pool starts a simulated pool with TLS on loopback and gives its address.
func pool(t *testing.T) string {
	t.Helper()
	s, err := xapi.New(xapi.Config{
		Password: orchestrator.NewSecret("judge"), Seed: 3, DefaultOS: true,
		GuestAddress: func(string) (string, bool) { return "192.0.2.9", true },
	})
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := xapi.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln, &cert) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return "https://" + ln.Addr().String()
}

// run gives a client the pool's address and account by environment, and its output.
func run(t *testing.T, dir string, env []string, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.WaitDelay = dir, 5*time.Second
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// modules installs the pinned packages once per lock file, outside of the source tree, and gives the directory.
func modules(t *testing.T, npm string) string {
	t.Helper()
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "slipway", "xapi-judge-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(filepath.Join(dir, "complete")); err != nil {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		copyFiles(t, dir, "package.json", "package-lock.json")
		run(t, dir, nil, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		if err := os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	copyFiles(t, dir, "xo_client.mjs")
	return dir
}

func copyFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		tmp, err := os.CreateTemp(dir, name+".*")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tmp.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := tmp.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp.Name(), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

var tally = regexp.MustCompile(`(?m)^(\d+) passed, 0 failed, 0 skipped$`)

func TestXenOrchestraClient(t *testing.T) {
	node, npm := testenv.Need(t, "node"), testenv.Need(t, "npm")
	dir := modules(t, npm)
	for _, transport := range []string{"json-rpc", "xml-rpc"} {
		t.Run(transport, func(t *testing.T) {
			out := run(t, dir, []string{
				"XAPI_URL=" + pool(t), "XAPI_USER=root", "XAPI_PASS=judge", "XAPI_TRANSPORT=" + transport, "XAPI_WAIT_IP=1", "XAPI_TIMEOUT=20",
			}, node, "xo_client.mjs")
			if m := tally.FindStringSubmatch(out); m == nil || !strings.Contains(out, "PASS VM.destroy") || !strings.Contains(out, "1 disks") {
				t.Fatalf("not everything passed:\n%s", out)
			}
			if strings.Contains(out, "NOT_IMPLEMENTED") {
				t.Fatalf("a class that is listed has no records:\n%s", out)
			}
		})
	}
}

func TestXenAPIPython(t *testing.T) {
	// Debian's interpreter, not another one that comes first in PATH: the module is installed for it.
	const python = "/usr/bin/python3"
	testenv.Need(t, "python3")
	if _, err := os.Stat("/usr/lib/python3/dist-packages/os_xenapi/client/XenAPI.py"); err != nil {
		testenv.Need(t, "python3-os-xenapi")
	}
	// -c keeps the checks of a self-signed certificate out: XenAPI.py has no way to pin one.
	unverified := "import ssl, runpy; ssl._create_default_https_context = ssl._create_unverified_context; runpy.run_path('xenapi_client.py')"
	out := run(t, ".", []string{"XAPI_URL=" + pool(t), "XAPI_USER=root", "XAPI_PASS=judge", "PYTHONDONTWRITEBYTECODE=1"}, python, "-c", unverified)
	if n := strings.Count(out, "PASS "); n != 9 {
		t.Fatalf("%d steps passed, want 9:\n%s", n, out)
	}
}
