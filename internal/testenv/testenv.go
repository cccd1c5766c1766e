// Package testenv says what a test needs from the machine, and keeps the two ways of running the tests honest:
// `make test` fails on anything that is missing, `make test-quick` leaves it out and lists it at the end.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// QuickVar set to "1" makes a missing need a skip instead of a failure.
const QuickVar = "SLIPWAY_TEST_QUICK"

// LeftOutVar names a file to which every skipped need is appended, one "need<TAB>test" line each.
const LeftOutVar = "SLIPWAY_TEST_LEFT_OUT"

// Need returns the absolute path of a program. Directories that Debian keeps out of an ordinary user's PATH are looked into as well.
// A missing program fails the test, or skips it in a quick run.
func Need(tb testing.TB, program string) string {
	tb.Helper()
	if path, ok := Find(program); ok {
		return path
	}
	leaveOut(tb, program)
	return ""
}

// Find looks for a program in PATH and in the directories where Debian puts servers.
func Find(program string) (string, bool) {
	if path, err := exec.LookPath(program); err == nil {
		if abs, err := filepath.Abs(path); err == nil {
			return abs, true
		}
	}
	dirs := []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/lib/rabbitmq/bin"}
	if more, err := filepath.Glob("/usr/lib/postgresql/*/bin"); err == nil {
		dirs = append(dirs, more...)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, true
		}
	}
	return "", false
}

// NeedRoot is for tests that make network namespaces or run servers as other users.
func NeedRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		leaveOut(tb, "root")
	}
}

func leaveOut(tb testing.TB, need string) {
	tb.Helper()
	if os.Getenv(QuickVar) != "1" {
		tb.Fatalf("%s is not on this machine: `make test` installs what the tests need, `make test-quick` leaves it out", need)
	}
	if path := os.Getenv(LeftOutVar); path != "" {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			tb.Fatalf("record what is left out: %v", err)
		}
		_, err = f.WriteString(need + "\t" + tb.Name() + "\n")
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			tb.Fatalf("record what is left out: %v", err)
		}
	}
	tb.Skipf("left out: %s is not on this machine", need)
}
