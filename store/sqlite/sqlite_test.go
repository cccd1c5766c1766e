package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/orchestrator"
	"slipway/store/sqlite"
	"slipway/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	storetest.Exercise(t, storetest.Harness{New: func(t testing.TB) storetest.Database { return newFile(t) }, TripsPerCommit: 1})
}

type file struct {
	path string
}

func newFile(t testing.TB) file {
	t.Helper()
	path := filepath.Join(t.TempDir(), "slipway db?#%.sqlite")
	if err := sqlite.Migrate(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	return file{path: path}
}

func (f file) Open(t testing.TB) storetest.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), f.path)
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

func (f file) do(use func(*sql.DB) error) error {
	db, err := sql.Open("sqlite", "file:"+escape(f.path)+"?_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)")
	if err != nil {
		return err
	}
	defer db.Close()
	return use(db)
}

func (f file) Exec(ctx context.Context, text string) error {
	return f.do(func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, text)
		return err
	})
}

func (f file) Value(ctx context.Context, text string) (n int64, err error) {
	err = f.do(func(db *sql.DB) error { return db.QueryRowContext(ctx, text).Scan(&n) })
	return n, err
}

func escape(path string) string { return (&url.URL{Path: path}).EscapedPath() }

func BenchmarkCommit(b *testing.B) {
	storetest.Benchmark(b, storetest.Harness{New: func(t testing.TB) storetest.Database { return newFile(t) }})
}

func TestWriterWaitsForAnotherProcess(t *testing.T) {
	f := newFile(t)
	s := f.Open(t)
	err := f.do(func(db *sql.DB) error {
		conn, err := db.Conn(t.Context())
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.ExecContext(t.Context(), `BEGIN IMMEDIATE`); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := s.MarkPublished(ctx, []int64{1}); !errors.Is(err, orchestrator.ErrStoreAway) || orchestrator.KindOf(err) != orchestrator.Transient {
			t.Errorf("while another writes: %v", err)
		}
		if _, err := s.Runs(t.Context(), orchestrator.RunFilter{}); err != nil {
			t.Errorf("readers wait for nobody: %v", err)
		}
		waited := make(chan error)
		go func() { waited <- s.MarkPublished(t.Context(), []int64{1}) }()
		_, err = conn.ExecContext(t.Context(), `COMMIT`)
		return errors.Join(err, <-waited)
	})
	if err != nil {
		t.Error(err)
	}
}

func BenchmarkHistory(b *testing.B) {
	storetest.BenchHistory(b, storetest.Harness{New: func(t testing.TB) storetest.Database { return newFile(t) }}, 100_000)
}

// The store in memory answers as the one in a file does.
func TestMemory(t *testing.T) {
	storetest.Exercise(t, storetest.Harness{New: func(t testing.TB) storetest.Database { return newMemory(t) }, TripsPerCommit: 1})
}

type memory struct{ *sqlite.Memory }

func newMemory(t testing.TB) memory {
	t.Helper()
	m, err := sqlite.NewMemory(t.Context(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return memory{m}
}

func (m memory) Open(testing.TB) storetest.Store { return m.Memory }

// Reset leaves nothing, and numbers begin anew.
func TestMemoryReset(t *testing.T) {
	m := newMemory(t)
	for range 2 {
		if err := m.SyncGroups(t.Context(), []orchestrator.Group{{ID: "dhcp", Unit: orchestrator.DHCP, MinApplied: 1}}, nil); err != nil {
			t.Fatal(err)
		}
		if groups, err := m.Groups(t.Context()); err != nil || len(groups) != 1 {
			t.Fatalf("%v, %v", groups, err)
		}
		if err := m.Reset(); err != nil {
			t.Fatal(err)
		}
		if groups, err := m.Groups(t.Context()); err != nil || len(groups) != 0 {
			t.Fatalf("after the reset: %v, %v", groups, err)
		}
	}
}
