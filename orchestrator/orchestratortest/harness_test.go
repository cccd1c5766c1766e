package orchestratortest_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/importing"
	"slipway/orchestrator/install"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/reconfigure"
	"slipway/orchestrator/suspend"
	"slipway/orchestrator/uninstall"
	"slipway/orchestrator/unsuspend"
	"slipway/store"
	"slipway/store/sqlite"
)

func build(w *orchestratortest.World, d orchestrator.Desired) []*orchestrator.Process {
	return orchestratortest.Tables(w, w, d)
}

// stores makes SQLite stores, each a copy of one that was migrated once.
func stores(t *testing.T) func(testing.TB) orchestratortest.Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "empty.db")
	if err := store.Migrate(t.Context(), "sqlite:"+path); err != nil {
		t.Fatal(err)
	}
	empty, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return func(t testing.TB) orchestratortest.Store {
		t.Helper()
		path := filepath.Join(fastDir(t), "store.db")
		if err := os.WriteFile(path, empty, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(t.Context(), "sqlite:"+path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
}

// memories makes stores in memory, and gives those back to be used again that a test is done with. They have the statements, constraints and
// triggers of the others: what those make of a disk is their own suite's matter.
func memories(t *testing.T) func(testing.TB) orchestratortest.Store {
	t.Helper()
	var mu sync.Mutex
	var free []*sqlite.Memory
	t.Cleanup(func() {
		for _, m := range free {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return func(user testing.TB) orchestratortest.Store {
		user.Helper()
		mu.Lock()
		defer mu.Unlock()
		var m *sqlite.Memory
		var err error
		if n := len(free); n > 0 {
			m, free = free[n-1], free[:n-1]
			err = m.Reset()
		} else {
			m, err = sqlite.NewMemory(context.WithoutCancel(t.Context()), time.Now)
		}
		if err != nil {
			user.Fatal(err)
		}
		user.Cleanup(func() {
			mu.Lock()
			defer mu.Unlock()
			free = append(free, m)
		})
		return m
	}
}

// tally counts what the tests of this package disturb, for the page.
var tally = orchestratortest.NewTally()

func exercise(t *testing.T, subject orchestratortest.Subject) {
	subject.Build, subject.NewStore, subject.Tally = build, memories(t), tally
	orchestratortest.Exercise(t, subject)
}

// One suite for both strategies of networks: a row that works behind NAT alone does not pass.
func onBothNetworks(t *testing.T, subject orchestratortest.Subject) {
	for strategy, pool := range map[orchestrator.Strategy]string{orchestrator.NAT: orchestratortest.PoolNAT, orchestrator.Routed: orchestratortest.PoolRouted} {
		t.Run(string(strategy), func(t *testing.T) {
			t.Parallel()
			subject := subject
			subject.Pool = pool
			exercise(t, subject)
		})
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	onBothNetworks(t, orchestratortest.Subject{Process: install.Name, Over: []string{uninstall.Name}})
}

func TestUninstall(t *testing.T) {
	t.Parallel()
	onBothNetworks(t, orchestratortest.Subject{Process: uninstall.Name, Given: []string{install.Name}})
}

func TestReconfigure(t *testing.T) {
	t.Parallel()
	exercise(t, orchestratortest.Subject{Process: reconfigure.Name, Given: []string{install.Name}, Over: []string{uninstall.Name}})
}

func TestSuspend(t *testing.T) {
	t.Parallel()
	exercise(t, orchestratortest.Subject{Process: suspend.Name, Given: []string{install.Name}, Over: []string{uninstall.Name}})
}

func TestUnsuspend(t *testing.T) {
	t.Parallel()
	exercise(t, orchestratortest.Subject{Process: unsuspend.Name, Given: []string{install.Name, suspend.Name}, Over: []string{uninstall.Name}})
}

// Where a service gives the addresses, place is another step; from the clone on nothing differs.
func TestInstallWithAddressService(t *testing.T) {
	t.Parallel()
	exercise(t, orchestratortest.Subject{Process: install.Name, Pool: orchestratortest.PoolIPAM, Until: "StartClone"})
}

// A way back, or an uninstall that takes over in the middle, never touches the VM: the world counts it as a violation.
func TestImport(t *testing.T) {
	t.Parallel()
	exercise(t, orchestratortest.Subject{Process: importing.Name, Over: []string{uninstall.Name}, Prepare: (*orchestratortest.Site).AddStranger})
}

// fastDir is in memory where the machine has such a place: what is proven here does not need a disk, and hundreds of stores do not wait for one.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
