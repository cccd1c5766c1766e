package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/sys/unix"

	"slipway/internal/api"
)

// boards is a serve that answers only about boards, one after another, the last one for ever. It can go away and come back.
type boards struct {
	t      *testing.T
	socket string
	mu     sync.Mutex
	script []any // api.Board or *api.Error
	asked  []api.Watch
	server *http.Server
	done   chan struct{}
}

func newBoards(t *testing.T, script ...any) *boards {
	t.Helper()
	dir, err := os.MkdirTemp("", "sw") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	b := &boards{t: t, socket: filepath.Join(dir, "s"), script: script}
	b.start()
	t.Cleanup(func() {
		b.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *boards) start() {
	listener, err := net.Listen("unix", b.socket)
	if err != nil {
		b.t.Fatal(err)
	}
	server, done := &http.Server{Handler: http.HandlerFunc(b.answer), ReadHeaderTimeout: time.Second}, make(chan struct{})
	b.server, b.done = server, done
	go func() { defer close(done); _ = server.Serve(listener) }()
}

func (b *boards) stop() {
	_ = b.server.Close()
	<-b.done
}

func (b *boards) answer(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ask api.Watch
	if r.URL.Path != "/v1/watch" || json.NewDecoder(r.Body).Decode(&ask) != nil {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	b.asked = append(b.asked, ask)
	now := b.script[0]
	if len(b.script) > 1 {
		b.script = b.script[1:]
	}
	if refusal, ok := now.(*api.Error); ok {
		w.WriteHeader(http.StatusServiceUnavailable)
		now = refusal
	}
	_ = json.NewEncoder(w).Encode(now)
}

func (b *boards) questions() []api.Watch {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]api.Watch(nil), b.asked...)
}

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// at is a run on a board at noon.
func at(name, status, step string, change ...func(*api.Watched)) api.Watched {
	w := api.Watched{Run: api.Run{Machine: "m-" + name, Run: "r-" + name, Tenant: "acme", Name: name, Process: "install", State: "started", Status: status, Step: step,
		Created: noon.Add(-2 * time.Minute), Updated: noon.Add(-30 * time.Second)}, Image: "debian-12", Since: noon.Add(-41 * time.Second), Done: 7, Steps: 11}
	for _, f := range change {
		f(&w)
	}
	return w
}

func because(reason string) func(*api.Watched) { return func(w *api.Watched) { w.Reason = reason } }

func board(runs ...api.Watched) api.Board { return api.Board{Now: noon, Runs: runs} }

// watch runs the verb and gives its exit code and words.
func watch(t *testing.T, b *boards, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, append([]string{"--socket", b.socket, "watch"}, args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// A script learns from the exit code how it ended, and waits until it has.
func TestWatchEndsWithTheRuns(t *testing.T) {
	ready, parked, canceled := at("a", "done", ""), at("b", "parked", "create_machine", because("the pool is gone")), at("c", "canceled", "", because("no money"))
	waiting := at("b", "waiting", "create_machine")
	for name, tc := range map[string]struct {
		args   []string
		script []any
		code   int
		out    []string // in stdout or stderr
	}{
		"ready":             {[]string{"a"}, []any{board(at("a", "running", "verify")), board(ready)}, exitOK, []string{"acme/a running", "acme/a done"}},
		"parked":            {[]string{"b"}, []any{board(parked)}, exitFailure, []string{"parked at create_machine: the pool is gone", "next: slipway explain m-b"}},
		"canceled":          {[]string{"c"}, []any{board(canceled)}, exitFailure, []string{"canceled: no money", "next: slipway show m-c"}},
		"one of several":    {[]string{"a", "b", "c"}, []any{board(ready, waiting, canceled), board(ready, parked, canceled)}, exitFailure, []string{"2 of 3 are parked or canceled", "acme/b parked: the pool is gone", "slipway list --status parked"}},
		"all of several":    {[]string{"--pool", "p"}, []any{board(at("a", "waiting", "verify"), at("d", "done", "")), board(ready, at("d", "done", ""))}, exitOK, nil},
		"nothing":           {[]string{"--all"}, []any{board()}, exitOK, []string{"nothing is under way"}},
		"unknown":           {[]string{"x"}, []any{&api.Error{Code: api.CodeNotFound, Message: "no machine"}}, exitNotFound, nil},
		"neither":           {nil, []any{board()}, exitUsage, []string{"nothing to watch"}},
		"both":              {[]string{"a", "--all"}, []any{board()}, exitUsage, nil},
		"away at the start": {[]string{"a"}, []any{&api.Error{Code: api.CodeAway, Message: "the database cannot be reached"}}, exitAway, nil},
		"away on the way":   {[]string{"a"}, []any{board(at("a", "running", "verify")), &api.Error{Code: api.CodeAway, Message: "the database cannot be reached"}, board(ready)}, exitOK, []string{"waiting for serve: the database", "serve is back"}},
		"away too long":     {[]string{"a", "--patience", "1ms"}, []any{board(at("a", "running", "verify")), &api.Error{Code: api.CodeAway, Message: "the database cannot be reached"}}, exitAway, []string{"has been away for"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out, errs := watch(t, newBoards(t, tc.script...), tc.args...)
			if code != tc.code {
				t.Errorf("exit code %d, want %d\n%s%s", code, tc.code, out, errs)
			}
			for _, want := range tc.out {
				if !strings.Contains(strings.Join(strings.Fields(out+errs), " "), want) {
					t.Errorf("%q is not in\n%s%s", want, out, errs)
				}
			}
		})
	}
}

// A line per change, and no more; with -o json each is a value on a line of its own.
func TestWatchTellsChangesOnly(t *testing.T) {
	running, waits := at("a", "running", "await_guest"), at("a", "waiting", "await_guest", because("waiting for the guest"))
	booted := at("a", "waiting", "await_guest", because("waiting for the guest"), func(w *api.Watched) {
		left := 71.0
		w.Left, w.Of, w.Guest = &left, 12, []api.Stage{{Stage: api.StageBooting, At: noon}}
	})
	script := []any{board(running), board(running), board(waits), board(waits), board(booted), board(at("a", "done", ""))}
	_, out, _ := watch(t, newBoards(t, script...), "a")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 4 || !strings.Contains(lines[2], "[booting ") || !strings.Contains(lines[2], "(~1m11s left)") {
		t.Errorf("lines:\n%s", out)
	}
	_, out, _ = watch(t, newBoards(t, script...), "a", "-o", "json")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 {
		t.Fatalf("lines:\n%s", out)
	}
	for _, line := range lines {
		var w api.Watched
		if err := json.Unmarshal([]byte(line), &w); err != nil || w.Name != "a" {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// What was shown is asked for again by its id: a name may come to mean another machine, and a run that is over is active no more.
func TestWatchKeepsToWhatItShowed(t *testing.T) {
	b := newBoards(t, board(at("a", "running", "verify")), board(at("a", "done", "")))
	watch(t, b, "acme/a")
	if asked := b.questions(); len(asked) != 2 || asked[0].What[0] != "acme/a" || len(asked[1].What) != 0 || asked[1].Machines[0] != "m-a" {
		t.Errorf("asked %+v", asked)
	}
	b = newBoards(t, board(at("a", "running", "verify")), board(at("a", "done", "")))
	watch(t, b, "--pool", "p")
	if asked := b.questions(); len(asked) != 2 || asked[1].Pool != "p" || !asked[1].Active || len(asked[1].Runs) != 1 || asked[1].Runs[0] != "r-a" {
		t.Errorf("asked %+v", asked)
	}
}

// A board that is watched for ever does not fill up with what is over.
func TestFollowForgetsWhatIsLongOver(t *testing.T) {
	old := at("old", "done", "", func(w *api.Watched) { w.Updated = noon.Add(-watchOver) })
	b := newBoards(t, board(old, at("a", "done", ""), at("p", "parked", "verify")))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said, ended := &words{}, make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"--socket", b.socket, "watch", "--all", "--follow"}, strings.NewReader(""), said, said)
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 6000 {
		if len(b.questions()) > 1 {
			break
		}
		<-tick.C
	}
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("interrupted, it ended with %d: %s", code, said)
	}
	if asked := b.questions(); len(asked) < 2 || strings.Join(asked[1].Runs, " ") != "r-a r-p" {
		t.Errorf("asked %+v", asked)
	}
}

// serve is restarted under a watcher: it goes on when the socket answers again.
func TestWatchGoesOnWhenServeIsRestarted(t *testing.T) {
	b := newBoards(t, board(at("a", "running", "verify")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	said, ended := &words{}, make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"--socket", b.socket, "watch", "a"}, strings.NewReader(""), said, said)
	}()
	said.until(t, "acme/a running")
	b.stop()
	said.until(t, "waiting for serve: serve does not answer on "+b.socket)
	b.mu.Lock()
	b.script = []any{board(at("a", "done", ""))}
	b.mu.Unlock()
	b.start()
	if code := <-ended; code != exitOK {
		t.Errorf("it ended with %d: %s", code, said)
	}
	said.until(t, "serve is back")
}

// words are what a verb says while it runs.
type words struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func (w *words) until(t *testing.T, said string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 6000 {
		if strings.Contains(w.String(), said) {
			return
		}
		<-tick.C
	}
	t.Fatalf("it never said %q:\n%s", said, w)
}

// Whatever is on a board, a frame is neither wider nor higher than the terminal, and only our own sequences are in it.
func TestFramesFit(t *testing.T) {
	left := 3725.0
	runs := []api.Watched{
		at("web-1", "waiting", "await_guest", because("waiting for the guest: dial tcp 198.18.0.10:22: connection refused"), func(w *api.Watched) {
			w.Left, w.Of, w.Slow = &left, 40, true
			w.Guest = []api.Stage{{Stage: api.StageBooting, At: noon.Add(-40 * time.Second)}, {Stage: api.StageAddressed, At: noon.Add(-20 * time.Second)}}
		}),
		at(strings.Repeat("日本", 40), "parked", "create_machine", because(strings.Repeat("広い", 100))),
		at(hostile, "waiting", hostile, because(hostile), func(w *api.Watched) { w.Guest = []api.Stage{{Stage: hostile, At: noon}} }),
		at("e\u0301\u202etxt", "done", ""), at("gone", "canceled", ""), at("back", "canceling", "place", func(w *api.Watched) { w.Undoing = true }),
	}
	for i := range 40 {
		runs = append(runs, at(fmt.Sprint("more-", i), "running", "verify"))
	}
	for _, color := range []bool{true, false} {
		for _, n := range []int{0, 1, 3, 6, 46} {
			for _, size := range [][2]int{{1, 1}, {2, 2}, {10, 3}, {40, 5}, {80, 24}, {100, 50}, {130, 10}, {200, 60}} {
				s := newScreen(io.Discard, color, nil)
				lines := s.frame(board(runs[:n]...), "gone: "+hostile, size[0], size[1])
				if len(lines) > size[1] {
					t.Errorf("%d lines on %d", len(lines), size[1])
				}
				for _, line := range lines {
					if w := text.StringWidthWithoutEscSequences(line); w > size[0] {
						t.Errorf("%d cells on %d: %q", w, size[0], line)
					}
					bare := line
					for _, code := range []string{"0", red, green, yellow, dim, bold} {
						bare = strings.ReplaceAll(bare, "\x1b["+code+"m", "")
					}
					if !color && bare != line {
						t.Errorf("colour: %q", line)
					}
					if strings.ContainsAny(bare, "\x1b\x07\r\n\u009b\u2028\u202e") {
						t.Errorf("drives the terminal: %q", bare)
					}
				}
			}
		}
	}
}

// What a frame of an ordinary terminal says.
func TestFrameSaysWhereAGuestIs(t *testing.T) {
	left := 71.0
	s := newScreen(io.Discard, false, nil)
	frame := strings.Join(s.frame(board(
		at("web-1", "waiting", "await_guest", because("connection refused"), func(w *api.Watched) {
			w.Left, w.Of = &left, 12
			w.Guest = []api.Stage{{Stage: api.StageBooting, At: noon.Add(-40 * time.Second)}, {Stage: api.StageAddressed, At: noon.Add(-15 * time.Second)}}
		}),
		at("web-2", "running", "place", func(w *api.Watched) { w.Done = 0 }),
	), "", 120, 24), "\n")
	for _, want := range []string{"2 runs, 2 under way", "7/11 await_guest", "41s", "~1m11s", "addressed 15s: connection refused", "████",
		"booting " + noon.Add(-40*time.Second).Local().Format("15:04:05") + " 25s → addressed " + noon.Add(-15*time.Second).Local().Format("15:04:05") + " 15s"} {
		if !strings.Contains(frame, want) {
			t.Errorf("%q is not in\n%s", want, frame)
		}
	}
	if strings.Count(frame, "~") != 1 {
		t.Errorf("an estimate where there is no history:\n%s", frame)
	}
}

// On a real terminal the board is drawn in place, on a screen of its own, and the last one stays behind.
func TestWatchOnATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	for _, noColor := range []string{"", "1"} {
		t.Setenv("NO_COLOR", noColor)
		master, slave := pty(t, 100, 20)
		b := newBoards(t, board(at("a", "running", "verify")), board(at("a", "done", "")))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		said := make(chan string, 1)
		go func() {
			all, _ := io.ReadAll(master) // ends with an error when the other side is closed
			said <- string(all)
		}()
		code := run(ctx, []string{"--socket", b.socket, "watch", "a"}, strings.NewReader(""), slave, io.Discard)
		_ = slave.Close()
		out := <-said
		if code != exitOK || strings.Count(out, enterScreen) != 1 || strings.Count(out, leaveScreen) != 1 || strings.Count(out, beginFrame) != 2 {
			t.Errorf("code %d: %q", code, out)
		}
		_, after, _ := strings.Cut(out, leaveScreen)
		if !strings.Contains(after, "acme/a") || !strings.Contains(after, "done") {
			t.Errorf("left behind: %q", after)
		}
		if colored := strings.Contains(out, "\x1b["+green+"m"); colored != (noColor == "") {
			t.Errorf("NO_COLOR=%q: %q", noColor, out)
		}
	}
}

// pty is a terminal: what is written to slave is read from master.
func pty(t *testing.T, width, height uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestSince(t *testing.T) {
	for in, want := range map[string]time.Duration{"90m": 90 * time.Minute, "7d": 7 * 24 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := sinceOf(in, noon); err != nil || !got.Equal(noon.Add(-want)) {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	if got, err := sinceOf("2026-04-01", noon); err != nil || got.Format(time.DateOnly) != "2026-04-01" {
		t.Errorf("a day: %v, %v", got, err)
	}
	for _, in := range []string{"", "d", "-1d", "0d", "-5m", "99999999d", "yesterday", "7 d"} {
		if got, err := sinceOf(in, noon); err == nil {
			t.Errorf("%q is %v", in, got)
		}
	}
}
