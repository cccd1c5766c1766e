package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/store"
)

// victimVar makes this test binary the process that TestKilledProcessLosesNothing kills: it holds the database's name.
const victimVar = "SLIPWAY_STORE_TEST_VICTIM"

func TestMain(m *testing.M) {
	if dsn := os.Getenv(victimVar); dsn != "" {
		if err := commitForever(dsn); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testserver.Main(m)
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		dsn  string
		kind orchestrator.Kind
		says string
	}{
		"unknown scheme":     {"mysql://root:hunter2@localhost/slipway", orchestrator.Permanent, "sqlite:PATH"},
		"no scheme":          {"/var/lib/slipway.sqlite", orchestrator.Permanent, "sqlite:PATH"},
		"no path":            {"sqlite:", orchestrator.Permanent, "sqlite:PATH"},
		"not migrated":       {"sqlite:" + filepath.Join(dir, "new.sqlite"), orchestrator.Permanent, "slipway migrate"},
		"no directory":       {"sqlite:" + filepath.Join(dir, "none", "new.sqlite"), orchestrator.Transient, "cannot be reached"},
		"nobody listens":     {"postgres://slipway:hunter2@127.0.0.1:1/slipway", orchestrator.Transient, "cannot be reached"},
		"not a postgres URL": {"postgres://slipway:hunter2@127.0.0.1:port/slipway", orchestrator.Permanent, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := store.Open(t.Context(), test.dsn)
			if err == nil || s != nil {
				t.Fatalf("%v, %v", s, err)
			}
			if orchestrator.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.says) {
				t.Errorf("kind %s: %v", orchestrator.KindOf(err), err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func TestMigrateIsRepeatable(t *testing.T) {
	for name, dsn := range map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "a.sqlite"), "postgres": testserver.PostgreSQL(t)} {
		t.Run(name, func(t *testing.T) {
			done := make(chan error)
			for range 3 { // at once, as several processes that start would
				go func() { done <- store.Migrate(t.Context(), dsn) }()
			}
			for range 3 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			s, err := store.Open(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := s.(store.Counting); !ok {
				t.Error("it does not count")
			}
			if err := errors.Join(s.Ping(t.Context()), s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// commitForever takes orders in and commits a journal line and an event for each run of a group, and says how far it has got.
func commitForever(dsn string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := store.Open(ctx, dsn)
	if err != nil {
		return err
	}
	defer s.Close()
	var group []orchestrator.Commit
	for range 4 {
		answer, err := accept(ctx, s, uuid.NewString())
		if err != nil {
			return err
		}
		claim, err := s.ClaimRun(ctx, answer.Run, "victim", time.Minute)
		if err != nil {
			return err
		}
		group = append(group, orchestrator.Commit{Run: claim.Run})
	}
	for n := 1; ; n++ {
		for i := range group {
			group[i].Run.Attempt = n
			group[i].Opened = &orchestrator.Attempt{Step: "x", Number: n, Outcome: orchestrator.OutcomeOpen}
			group[i].Events = []orchestrator.Event{orchestrator.NewEvent(orchestrator.EventStepDone, time.Now(), orchestrator.EventData{Attempt: n})}
		}
		for _, result := range s.Commit(ctx, group) {
			if result.Err != nil {
				return result.Err
			}
		}
		fmt.Println(n)
	}
}

// TestKilledProcessLosesNothing kills a process that commits as fast as it can: what it was told of is there, and of what was under way
// there is all or nothing.
func TestKilledProcessLosesNothing(t *testing.T) {
	for name, dsn := range map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "a.sqlite"), "postgres": testserver.PostgreSQL(t)} {
		t.Run(name, func(t *testing.T) {
			if err := store.Migrate(t.Context(), dsn); err != nil {
				t.Fatal(err)
			}
			for _, after := range []int{1, 17, 40} {
				acknowledged := killAfter(t, dsn, after)
				check(t, dsn, acknowledged)
			}
		})
	}
}

// killAfter runs a victim, kills it when it has said so many lines, and returns the last number that it said.
func killAfter(t *testing.T, dsn string, lines int) int {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), victimVar+"="+dsn)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := 0
	scanner := bufio.NewScanner(out)
	for scanner.Scan() {
		if last, err = strconv.Atoi(scanner.Text()); err != nil {
			t.Fatal(err)
		}
		if last == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // it was killed
	if last < lines {
		t.Fatalf("the victim ended by itself after %d commits", last)
	}
	return last
}

// check looks at the runs that the last victim held.
func check(t *testing.T, dsn string, acknowledged int) {
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	runs, err := s.Runs(t.Context(), orchestrator.RunFilter{Limit: 4}) // the newest
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.Unpublished(t.Context(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	seq := map[string]int64{}
	for _, e := range events {
		seq[e.Machine] = e.Seq
	}
	for _, run := range runs {
		lines, err := s.Attempts(t.Context(), run.Machine)
		if err != nil {
			t.Fatal(err)
		}
		if run.Attempt < acknowledged || run.Attempt != runs[0].Attempt || len(lines) != run.Attempt || seq[run.Machine] != int64(run.Attempt)+1 {
			t.Errorf("%d commits were acknowledged; the run is at %d, its journal at %d, its events at %d, another run of the group at %d",
				acknowledged, run.Attempt, len(lines), seq[run.Machine], runs[0].Attempt)
		}
	}
}

// accept takes one install in.
func accept(ctx context.Context, s orchestrator.Store, id string) (orchestrator.Accepted, error) {
	machine := uuid.NewString()
	return s.Accept(ctx, orchestrator.Acceptance{
		Order:   orchestrator.Order{Source: "panel", ID: id, Type: orchestrator.OrderInstall, Tenant: "acme", Name: id},
		Machine: orchestrator.Machine{ID: machine, Tenant: "acme", Name: id, Hostname: id, Presence: orchestrator.Planned},
		Run:     orchestrator.Run{ID: uuid.NewString(), Process: "install", State: "queued", Step: "place"}, Now: time.Now(),
	})
}

func TestDatabaseGoesAwayAndComesBack(t *testing.T) {
	server := testserver.NewPostgreSQL(t)
	dsn := server.DSN(t)
	if err := store.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	answer, err := accept(t.Context(), s, "one")
	if err != nil {
		t.Fatal(err)
	}
	claim, err := s.ClaimRun(t.Context(), answer.Run, "a", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	group := []orchestrator.Commit{{Run: claim.Run}, {Run: claim.Run}}
	server.Kill9(t)

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, acceptErr := accept(ctx, s, "two")
	_, claimErr := s.Claim(ctx, orchestrator.Ask{Holder: "a", Limit: 1, Lease: time.Minute})
	_, runErr := s.Run(ctx, answer.Run)
	for what, err := range map[string]error{
		"Accept": acceptErr, "Claim": claimErr, "Run": runErr, "Ping": s.Ping(ctx), "MarkPublished": s.MarkPublished(ctx, []int64{1}),
		"Commit": s.Commit(ctx, group)[0].Err, "Commit, second of the group": s.Commit(ctx, group)[1].Err,
	} {
		if !errors.Is(err, orchestrator.ErrStoreAway) || orchestrator.KindOf(err) != orchestrator.Transient {
			t.Errorf("%s: kind %q: %v", what, orchestrator.KindOf(err), err)
		}
	}

	server.Start(t)
	claim.Run.State = "placed"
	if result := s.Commit(t.Context(), []orchestrator.Commit{{Run: claim.Run}}); result[0].Err != nil {
		t.Fatalf("the lease has outlived the server, and yet: %v", result[0].Err)
	}
	if run, err := s.Run(t.Context(), answer.Run); err != nil || run.State != "placed" {
		t.Errorf("%+v, %v", run, err)
	}
}

func TestDeadlineIsStoreAway(t *testing.T) {
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "a.sqlite")
	if err := store.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if _, err := accept(ctx, s, "one"); !errors.Is(err, orchestrator.ErrStoreAway) || orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("a deadline: %v", err)
	}
	if result := s.Commit(ctx, []orchestrator.Commit{{}}); !errors.Is(result[0].Err, orchestrator.ErrStoreAway) {
		t.Errorf("a commit's deadline: %v", result[0].Err)
	}
	if _, err := accept(t.Context(), s, "one"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
