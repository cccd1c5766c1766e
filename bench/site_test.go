package bench_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/store"
	"slipway/workers/driver"
)

func TestMain(m *testing.M) { testserver.Main(m) }

// backends are the stores that are measured, on the disk as in production.
func backends() []backend {
	return []backend{
		{"sqlite", func(tb testing.TB) string { return "sqlite:" + filepath.Join(tb.TempDir(), "bench.db") }},
		{"postgres", func(tb testing.TB) string {
			return testserver.NewPostgreSQL(tb, "fsync=on", "full_page_writes=on").DSN(tb)
		}},
	}
}

type backend struct {
	name string
	dsn  func(testing.TB) string
}

// site is a store with an engine over it.
type site struct {
	store   countedStore
	process *orchestrator.Process
	engine  *orchestrator.Engine
	orders  int
}

type countedStore interface {
	orchestrator.Store
	store.Counting
}

func open(tb testing.TB, b backend, process *orchestrator.Process) *site {
	tb.Helper()
	dsn := b.dsn(tb)
	if err := store.Migrate(tb.Context(), dsn); err != nil {
		tb.Fatal(err)
	}
	opened, err := store.Open(tb.Context(), dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := opened.Close(); err != nil {
			tb.Error(err)
		}
	})
	counted, ok := opened.(countedStore)
	if !ok {
		tb.Fatalf("%T does not count", opened)
	}
	s := &site{store: counted, process: process}
	committer := driver.NewCommitter(counted)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { committer.Run(ctx) })
	tb.Cleanup(func() { cancel(); running.Wait() })
	s.engine, err = orchestrator.NewEngine(orchestrator.EngineConfig{
		Processes: []*orchestrator.Process{process}, Estate: &orchestrator.Estate{}, Commit: committer.Commit, Actor: holder,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

const holder = "bench"

// accept orders so many machines and returns their runs.
func (s *site) accept(tb testing.TB, n int) []string {
	tb.Helper()
	runs := make([]string, n)
	for i := range runs {
		s.orders++
		now := time.Now()
		order := orchestrator.Order{Source: "bench", ID: fmt.Sprint(s.orders), Type: orchestrator.OrderInstall, Tenant: "bench",
			Name: fmt.Sprintf("m%d", s.orders), Image: "debian-12", Plan: orchestrator.Plan{VCPUs: 1, MemoryMiB: 1024, DiskGiB: 10}}
		machine := orchestrator.Machine{ID: uuid.NewString(), Tenant: order.Tenant, Name: order.Name, Hostname: order.Name, Image: order.Image,
			Plan: order.Plan, Presence: orchestrator.Planned, State: string(s.process.Start()), CreatedAt: now, UpdatedAt: now}
		run := s.process.NewRun(uuid.NewString(), machine.ID, order, now)
		if _, err := s.store.Accept(tb.Context(), orchestrator.Acceptance{Order: order, Machine: machine, Run: run, Actor: holder, Now: now}); err != nil {
			tb.Fatal(err)
		}
		runs[i] = run.ID
	}
	return runs
}

func (s *site) claim(tb testing.TB, runs []string) []orchestrator.Claim {
	tb.Helper()
	claims := make([]orchestrator.Claim, len(runs))
	for i, run := range runs {
		var err error
		if claims[i], err = s.store.ClaimRun(tb.Context(), run, holder, 10*time.Minute); err != nil {
			tb.Fatal(err)
		}
	}
	return claims
}

// drive ticks all claims at once until each has been put down, and returns how long that took.
func (s *site) drive(tb testing.TB, claims []orchestrator.Claim) time.Duration {
	tb.Helper()
	var wg sync.WaitGroup
	started := time.Now()
	for i := range claims {
		wg.Go(func() {
			for more := true; more; {
				var err error
				if more, err = s.engine.Tick(tb.Context(), time.Now, &claims[i]); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(started)
}

// mustBeDone reads the runs back: what was counted is durable.
func (s *site) mustBeDone(tb testing.TB, runs []string) {
	tb.Helper()
	for _, id := range runs {
		run, err := s.store.Run(tb.Context(), id)
		if err != nil {
			tb.Fatal(err)
		}
		if run.Status != orchestrator.StatusDone || run.State != s.process.End() {
			tb.Fatalf("run %s is %s in state %s", id, run.Status, run.State)
		}
	}
}

const (
	rows    = 11 // as many as the install table has
	handles = 3  // a few, such as the tasks of clone and start and the job in the guest
)

// noop is a table whose steps do nothing, so that a step is its commits alone; the first ones record a handle each.
func noop(rows, handles int) *orchestrator.Process {
	p := &orchestrator.Process{Name: "noop"}
	for n := range rows {
		do := func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
			if n < handles {
				if err := s.Record(ctx, "task", "OpaqueRef:1"); err != nil {
					return orchestrator.Outcome{}, err
				}
			}
			return orchestrator.Finished("done")
		}
		p.Rows = append(p.Rows, orchestrator.Row{From: state(n), Step: fmt.Sprintf("step_%d", n), To: state(n + 1), Do: do})
	}
	return p
}

func state(n int) orchestrator.State { return orchestrator.State(fmt.Sprintf("state_%d", n)) }
