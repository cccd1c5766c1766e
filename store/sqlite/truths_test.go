package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/store/sqlite"
	"slipway/store/storetest"
)

func isAway(t *testing.T, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, orchestrator.ErrStoreAway) || orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("answered %v, kind %q", err, orchestrator.KindOf(err))
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in: %v", word, err)
		}
	}
}

// ordered is when all orders were made, so that an order again is the same.
var ordered = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func accept(t *testing.T, s storetest.Store, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if _, err := s.Accept(t.Context(), storetest.Install(n, ordered)); err != nil {
			t.Fatalf("order %d: %v", n, err)
		}
	}
}

// whole is how many orders a database has, when each of them is one machine, one run and one event.
func whole(t *testing.T, f file) int {
	t.Helper()
	counts := map[int64]bool{}
	var orders int64
	for _, text := range []string{`SELECT count(*) FROM orders`, `SELECT count(*) FROM machines`, `SELECT count(*) FROM runs`, `SELECT coalesce(sum(seq), 0) FROM machines`} {
		n, err := f.Value(t.Context(), text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		counts[n], orders = true, n
	}
	if len(counts) != 1 {
		t.Errorf("orders, machines, runs and events are not as many as each other: %v", counts)
	}
	err := f.do(func(db *sql.DB) error {
		var said string
		if err := db.QueryRowContext(t.Context(), `PRAGMA integrity_check`).Scan(&said); err != nil || said != "ok" {
			return fmt.Errorf("integrity: %q, %w", said, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return int(orders)
}

// Two workers that share one file take turns: every order of either is one run.
func TestTwoWorkersShareAFile(t *testing.T) {
	f := newFile(t)
	const each = 40
	var work sync.WaitGroup
	for w := range 2 {
		s := f.Open(t)
		work.Go(func() {
			for n := range each {
				if _, err := s.Accept(t.Context(), storetest.Install(w*each+n, ordered)); err != nil {
					t.Errorf("worker %d, order %d: %v", w, n, err)
				}
				claims, err := s.Claim(t.Context(), orchestrator.Ask{Holder: fmt.Sprint("worker ", w), Limit: 1, Lease: time.Minute})
				if err != nil || len(claims) > 1 {
					t.Errorf("worker %d claims %d, %v", w, len(claims), err)
				}
			}
		})
	}
	work.Wait()
	if n := whole(t, f); n != 2*each {
		t.Errorf("%d orders of %d", n, 2*each)
	}
	if n, err := f.Value(t.Context(), `SELECT count(*) FROM runs WHERE fence <> 1`); err != nil || n != 0 {
		t.Errorf("%d runs were given out otherwise than once, %v", n, err)
	}
}

// smallDisk says to the test's own child process where its small disk is.
const smallDisk = "SLIPWAY_TEST_SMALL_DISK"

// The disk is full: what was not written is refused, what is read is answered, and all goes on once there is room. The disk is a file system
// in memory, in a mount namespace of a process of its own.
func TestDiskFull(t *testing.T) {
	if dir := os.Getenv(smallDisk); dir != "" {
		diskFull(t, dir)
		return
	}
	testenv.NeedRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const script = `mount -t tmpfs -o size=4m none "$1" && exec "$0" -test.run '^TestDiskFull$' -test.v`
	cmd := exec.CommandContext(ctx, testenv.Need(t, "unshare"), "--mount", "--propagation=private", "--", "/bin/sh", "-c", script, os.Args[0], t.TempDir())
	cmd.Env = append(os.Environ(), smallDisk+"="+cmd.Args[len(cmd.Args)-1])
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDiskFull") {
		t.Errorf("%v\n%s", err, out)
	}
}

func diskFull(t *testing.T, dir string) {
	f := file{path: filepath.Join(dir, "slipway.db")}
	if err := sqlite.Migrate(t.Context(), f.path); err != nil {
		t.Fatal(err)
	}
	s := f.Open(t)
	accept(t, s, 0, 5)
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Machines(t.Context()); err != nil { // somebody reads all the time, so that the log stays
		t.Error(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	taken := 5
	var refused error
	for ; taken < 1000; taken++ {
		if _, refused = s.Accept(t.Context(), storetest.Install(taken, ordered)); refused != nil {
			break
		}
	}
	isAway(t, refused, "takes no writes: its disk is full")
	isAway(t, s.Ping(t.Context()), "takes no writes: its disk is full")
	isAway(t, s.TryWrite(t.Context()), "takes no writes: its disk is full")
	if machines, err := s.Machines(t.Context()); err != nil || len(machines) != taken {
		t.Errorf("%d machines of %d orders are read: %v", len(machines), taken, err)
	}
	if err := errors.Join(filler.Close(), os.Remove(filler.Name())); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("with room: %v", err)
	}
	accept(t, s, taken, taken+5)
	if n := whole(t, f); n != taken+5 {
		t.Errorf("%d orders of %d", n, taken+5)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := whole(t, f); n != taken+5 {
		t.Errorf("%d orders of %d after the end", n, taken+5)
	}
}

// A write-ahead log that is cut or damaged anywhere, as by a disk that lied about a write when the power went: the store opens to the state
// after one of the commits, and goes on.
func TestTornLog(t *testing.T) {
	f := newFile(t)
	s := f.Open(t)
	const orders = 12
	accept(t, s, 0, orders)
	database, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(f.path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if len(log) < 20<<10 {
		t.Fatalf("the log has only %d bytes", len(log))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	damage := map[string][]byte{"whole": log, "gone": nil, "header cut": log[:20], "zeros": make([]byte, len(log))}
	for n := 1; n < 8; n++ {
		at := len(log) * n / 8
		damage[fmt.Sprintf("cut at %d/8", n)] = log[:at]
		garbled := append([]byte(nil), log...)
		for i := at; i < at+64; i++ {
			garbled[i] ^= 0xa5
		}
		damage[fmt.Sprintf("garbled at %d/8", n)] = garbled
	}
	left := map[int]bool{}
	for name, log := range damage {
		t.Run(name, func(t *testing.T) {
			torn := file{path: filepath.Join(t.TempDir(), "torn.sqlite")}
			for path, text := range map[string][]byte{torn.path: database, torn.path + "-wal": log} {
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := sqlite.Migrate(t.Context(), torn.path) // what a start does
			if err != nil {
				t.Fatal(err)
			}
			s := torn.Open(t)
			n := whole(t, torn)
			left[n] = true
			if n > orders || name == "whole" && n != orders {
				t.Errorf("%d orders of %d", n, orders)
			}
			accept(t, s, 100, 103)
			if after := whole(t, torn); after != n+3 {
				t.Errorf("%d orders, and %d after three more", n, after)
			}
		})
	}
	if len(left) < 4 {
		t.Errorf("the damages left %v orders: too much alike to prove anything", left)
	}
}

// A file that is no database, or a damaged one, ends the start with its name and what SQLite says; it stays as it is.
func TestDamagedFile(t *testing.T) {
	f := newFile(t)
	s := f.Open(t)
	accept(t, s, 0, 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	schemaPage := append([]byte(nil), good...)
	for i := 100; i < 4096; i++ {
		schemaPage[i] = 0xff
	}
	for name, text := range map[string][]byte{
		"something else": []byte(strings.Repeat("not a database\n", 1000)),
		"cut":            good[:5000],
		"a bad page":     schemaPage,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.sqlite")
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			for verb, err := range map[string]error{
				"migrate": sqlite.Migrate(t.Context(), path),
				"open":    func() error { _, err := sqlite.Open(t.Context(), path); return err }(),
			} {
				if orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), path+" is damaged or is no database") {
					t.Errorf("%s: %v", verb, err)
				}
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(text) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}
