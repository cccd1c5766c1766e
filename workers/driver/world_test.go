package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"slipway/orchestrator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a store of runs in memory, with what a test wants to go wrong. Its clock is the bubble's.
type world struct {
	orchestrator.Claims // what the driver does not use is nil

	mu       sync.Mutex
	runs     map[string]*orchestrator.Run
	machines map[string]orchestrator.Machine
	length   time.Duration

	away     bool          // nothing answers
	deaf     bool          // renewals fail
	stolen   string        // a run whose lease went to another
	slow     time.Duration // of one commit call
	ahead    time.Duration // how far the store's clock is ahead of ours
	claims   int
	calls    int // of Commit
	commits  int // in all calls
	renewals int
	released []string
	knows    map[string][]string // what each worker's last claim said
	stranger bool                // the last claim asked for strangers
}

var errAway = orchestrator.E("store", orchestrator.Transient, orchestrator.ErrStoreAway)

func newWorld() *world {
	return &world{runs: map[string]*orchestrator.Run{}, machines: map[string]orchestrator.Machine{}, knows: map[string][]string{}}
}

// add puts n runs at the start of a process.
func (w *world) add(p *orchestrator.Process, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		id := fmt.Sprintf("run-%03d", len(w.runs))
		run := p.NewRun(id, "machine-"+id, orchestrator.Order{Source: "panel", ID: id}, time.Now())
		w.runs[id] = &run
		w.machines[id] = orchestrator.Machine{ID: run.Machine, State: string(run.State)}
	}
}

func (w *world) Claim(_ context.Context, ask orchestrator.Ask) ([]orchestrator.Claim, error) {
	holder, limit, lease, room := ask.Holder, ask.Limit, ask.Lease, maps.Clone(ask.Room)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claims++
	if w.away {
		return nil, errAway
	}
	w.knows[ask.Holder], w.stranger = ask.Knows, ask.Strangers
	var out []orchestrator.Claim
	ids := make([]string, 0, len(w.runs))
	for id := range w.runs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		run := w.runs[id]
		free := run.Holder == "" || !time.Now().Before(run.LeaseUntil)
		due := run.Status == orchestrator.StatusReady || run.Status == orchestrator.StatusRunning || run.Status == orchestrator.StatusWaiting && !time.Now().Before(run.WakeAt)
		if !free || !due || len(out) == limit || !w.fit(run, ask) {
			continue
		}
		if left, bounded := room[w.machines[id].Placement.Pool]; bounded {
			if left <= 0 {
				continue
			}
			room[w.machines[id].Placement.Pool]--
		}
		run.Holder, run.LeaseUntil = holder, time.Now().Add(lease)
		run.Fence++
		run.UpdatedAt = time.Now().Add(w.ahead)
		w.length = lease
		out = append(out, orchestrator.Claim{Run: *run, Machine: w.machines[id]})
	}
	return out, nil
}

// fit reports whether a worker may take a run for where it stands: its own kind, or a stranger that nobody knows and that is overdue.
func (w *world) fit(run *orchestrator.Run, ask orchestrator.Ask) bool {
	place := orchestrator.Place(run.Process, run.State, run.Step, run.Undoing)
	if slices.Contains(ask.Knows, place) {
		return true
	}
	for _, knows := range w.knows {
		if slices.Contains(knows, place) {
			return false
		}
	}
	return ask.Strangers && time.Since(run.UpdatedAt) >= orchestrator.StrangerAfter
}

func (w *world) Renew(_ context.Context, holder string, runs map[string]int64, lease time.Duration) (lost []string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.renewals++
	if w.away || w.deaf {
		return nil, errAway
	}
	for id, fence := range runs {
		run := w.runs[id]
		if id == w.stolen || run.Holder != holder || run.Fence != fence {
			lost = append(lost, id)
			continue
		}
		run.LeaseUntil = time.Now().Add(lease)
	}
	return lost, nil
}

func (w *world) HandOver(ctx context.Context, holder string, runs map[string]int64) error {
	return w.ReleaseRuns(ctx, holder, runs)
}

func (w *world) ReleaseRuns(_ context.Context, holder string, runs map[string]int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return errAway
	}
	for id, fence := range runs {
		w.released = append(w.released, id)
		if run := w.runs[id]; run.Holder == holder && run.Fence == fence {
			run.Holder = ""
		}
	}
	return nil
}

func (w *world) Commit(ctx context.Context, commits []orchestrator.Commit) []orchestrator.CommitResult {
	w.mu.Lock()
	slow := w.slow
	w.mu.Unlock()
	if slow > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(slow):
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	results := make([]orchestrator.CommitResult, len(commits))
	for i, c := range commits {
		run := w.runs[c.Run.ID]
		switch {
		case w.away:
			results[i].Err = errAway
			continue
		case run.Fence != c.Run.Fence || run.Holder != c.Run.Holder:
			results[i].Err = orchestrator.E("commit", orchestrator.Conflict, orchestrator.ErrFenced)
			continue
		}
		if c.Decide != nil {
			if _, _, err := c.Decide(nil); err != nil {
				results[i].Err = err
				continue
			}
		}
		w.commits++
		*run = c.Run
		run.LeaseUntil = time.Now().Add(w.length)
		if c.Release {
			run.Holder = ""
		}
		if c.Machine != nil {
			w.machines[c.Run.ID] = *c.Machine
		}
		results[i].Opened = int64(w.commits)
	}
	return results
}

func (w *world) set(change func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

func (w *world) count(status orchestrator.Status) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, r := range w.runs {
		if r.Status == status {
			n++
		}
	}
	return n
}

type step = func(context.Context, *orchestrator.Step) (orchestrator.Outcome, error)

// process is a chain of steps.
func process(steps ...step) *orchestrator.Process {
	p := &orchestrator.Process{Name: "install"}
	for i, do := range steps {
		p.Rows = append(p.Rows, orchestrator.Row{
			From: orchestrator.State(fmt.Sprint("s", i)), Step: fmt.Sprint("step-", i), To: orchestrator.State(fmt.Sprint("s", i+1)), Do: do,
			Policy: orchestrator.Policy{Timeout: 24 * time.Hour, Budget: 24 * time.Hour},
		})
	}
	return p
}

func nothing(context.Context, *orchestrator.Step) (orchestrator.Outcome, error) {
	return orchestrator.Finished("done")
}

// worker is a driver with its committer over a world.
type worker struct {
	*Driver
	stop      chan struct{}
	interrupt context.CancelFunc
	ended     chan struct{} // when Run has returned
	finish    func()        // ends everything
}

func start(t *testing.T, w *world, p *orchestrator.Process, change func(*Config)) *worker {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	committer := NewCommitter(w)
	engine, err := orchestrator.NewEngine(orchestrator.EngineConfig{Processes: []*orchestrator.Process{p}, Estate: &orchestrator.Estate{}, Commit: committer.Commit, Actor: "worker", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Claims: w, Engine: engine, Holder: "worker", Log: log}
	if change != nil {
		change(&c)
	}
	out := &worker{Driver: New(c), stop: make(chan struct{}), ended: make(chan struct{})}
	ctx, interrupt := context.WithCancel(t.Context())
	commits, endCommits := context.WithCancel(t.Context())
	out.interrupt = interrupt
	var committing sync.WaitGroup
	committing.Go(func() { committer.Run(commits) })
	go func() { defer close(out.ended); out.Run(ctx, out.stop) }()
	out.finish = func() {
		interrupt()
		<-out.ended
		endCommits()
		committing.Wait()
	}
	return out
}

var errLost = errors.New("the answer was lost")

// pass lets the bubble's time go by, and everything in it come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
