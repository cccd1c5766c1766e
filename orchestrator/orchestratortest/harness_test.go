package orchestratortest_test

import (
	"os"
	"path/filepath"
	"testing"

	"slipway/orchestrator"
	"slipway/orchestrator/importing"
	"slipway/orchestrator/install"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/reconfigure"
	"slipway/orchestrator/suspend"
	"slipway/orchestrator/uninstall"
	"slipway/orchestrator/unsuspend"
	"slipway/store"
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

// One suite for both strategies of networks: a row that works behind NAT alone does not pass.
func onBothNetworks(t *testing.T, subject orchestratortest.Subject) {
	for strategy, pool := range map[orchestrator.Strategy]string{orchestrator.NAT: orchestratortest.PoolNAT, orchestrator.Routed: orchestratortest.PoolRouted} {
		t.Run(string(strategy), func(t *testing.T) {
			t.Parallel()
			subject := subject
			subject.Pool, subject.NewStore = pool, stores(t)
			orchestratortest.Exercise(t, subject)
		})
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	onBothNetworks(t, orchestratortest.Subject{Process: install.Name, Over: []string{uninstall.Name}, Build: build})
}

func TestUninstall(t *testing.T) {
	t.Parallel()
	onBothNetworks(t, orchestratortest.Subject{Process: uninstall.Name, Given: []string{install.Name}, Build: build})
}

func TestReconfigure(t *testing.T) {
	t.Parallel()
	orchestratortest.Exercise(t, orchestratortest.Subject{Process: reconfigure.Name, Pool: orchestratortest.PoolNAT, Given: []string{install.Name}, Over: []string{uninstall.Name}, Build: build, NewStore: stores(t)})
}

func TestSuspend(t *testing.T) {
	t.Parallel()
	orchestratortest.Exercise(t, orchestratortest.Subject{Process: suspend.Name, Pool: orchestratortest.PoolNAT, Given: []string{install.Name}, Over: []string{uninstall.Name}, Build: build, NewStore: stores(t)})
}

func TestUnsuspend(t *testing.T) {
	t.Parallel()
	orchestratortest.Exercise(t, orchestratortest.Subject{Process: unsuspend.Name, Pool: orchestratortest.PoolNAT, Given: []string{install.Name, suspend.Name}, Over: []string{uninstall.Name}, Build: build, NewStore: stores(t)})
}

// Where a service gives the addresses, place is another step; from the clone on nothing differs.
func TestInstallWithAddressService(t *testing.T) {
	t.Parallel()
	orchestratortest.Exercise(t, orchestratortest.Subject{Process: install.Name, Pool: orchestratortest.PoolIPAM, Until: "StartClone", Build: build, NewStore: stores(t)})
}

// A way back, or an uninstall that takes over in the middle, never touches the VM: the world counts it as a violation.
func TestImport(t *testing.T) {
	t.Parallel()
	orchestratortest.Exercise(t, orchestratortest.Subject{Process: importing.Name, Over: []string{uninstall.Name}, Build: build, NewStore: stores(t),
		Prepare: (*orchestratortest.Site).AddStranger})
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
