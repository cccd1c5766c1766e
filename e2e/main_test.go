package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"slipway/internal/testserver"
)

// build makes the binary once for all tests of this process: the one that is shipped, without cgo.
var build = sync.OnceValues(func() (string, error) {
	if err := os.MkdirAll(binDir(), 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(binDir(), "slipway")
	cmd := exec.Command("go", "build", "-o", path, "slipway/cmd/slipway")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func binDir() string { return filepath.Join(os.TempDir(), fmt.Sprintf("slipway-e2e-%d", os.Getpid())) }

func binary(t *testing.T) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatalf("build slipway: %v", err)
	}
	return path
}

func TestMain(m *testing.M) {
	if file := os.Getenv(toolstackVar); file != "" {
		os.Exit(toolstackMain(file))
	}
	testserver.Main(m, func() error { return os.RemoveAll(binDir()) })
}
