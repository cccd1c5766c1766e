package orchestratortest_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/orchestrator/install"
	"slipway/orchestrator/orchestratortest"
	"slipway/orchestrator/uninstall"
	"slipway/store"
)

func build(w *orchestratortest.World, d orchestrator.Desired) []*orchestrator.Process {
	return []*orchestrator.Process{
		install.New(install.Ports{Hypervisor: w, Desired: d, Installer: w, Prober: orchestratortest.Prober{World: w}, Vault: orchestratortest.Vault{}}),
		uninstall.New(uninstall.Ports{Hypervisor: w, Desired: d}),
	}
}

func TestFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	began := time.Now()
	if err := store.Migrate(t.Context(), "sqlite:"+path); err != nil {
		t.Fatal(err)
	}
	t.Log("migrate", time.Since(began))
	b, _ := os.ReadFile(path)
	t.Log(len(b))
	st, err := store.Open(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	began = time.Now()
	s := orchestratortest.NewSite(t, 1, st, build)
	t.Log("site", time.Since(began))
	began = time.Now()
	s.Begin("install")
	s.Settle()
	t.Log("install", time.Since(began), len(s.Commits))
	for _, l := range s.Journal() {
		t.Log(l)
	}
	for _, l := range s.Describe() {
		t.Log(l)
	}
	s.Begin("uninstall")
	s.Settle()
	for _, l := range s.Journal() {
		t.Log(l)
	}
	for _, l := range s.Describe() {
		t.Log(l)
	}
}
