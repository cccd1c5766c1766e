package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"slipway/workers/appliance/apply"
)

// The test binary is also the agent that gets killed: with crashVar set to N it serves one request and dies at its Nth point.
const (
	crashVar = "SLIPWAY_TEST_AGENT_DIES_AT"
	dirVar   = "SLIPWAY_TEST_AGENT_DIR"
)

func TestMain(m *testing.M) {
	if at, err := strconv.Atoi(os.Getenv(crashVar)); err == nil {
		os.Exit(dyingAgent(at))
	}
	goleak.VerifyTestMain(m)
}

func dyingAgent(at int) int {
	n := 0
	die := func(string) {
		if n++; n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	s := &server{dir: filepath.Join(os.Getenv(dirVar), "etc"), point: die}
	a, err := New(Config{StateDir: filepath.Join(os.Getenv(dirVar), "state"), Units: map[string]Settings{"dhcp": {Driver: "fake"}}},
		Registry{"fake": func(Settings) (Unit, error) { return s, nil }}, nil)
	if err != nil {
		return 2
	}
	a.crash = die
	if err := a.Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
		return 3
	}
	return 0
}

// story is a state of the appliance before, the request that dies, and what may be asked for next.
type story struct {
	name   string
	before []apply.Request
	dies   apply.Request
}

func stories() []story {
	one := request(1, "a1\n", "b1\n")
	cut := request(2, "a2\n", "b2\n")
	cut.Cut = addrs("192.0.2.7")
	return []story{
		{name: "first", dies: request(2, "a2\n", "b2\n")},
		{name: "change", before: []apply.Request{one}, dies: request(2, "a2\n", "b2\n")},
		{name: "one file changes", before: []apply.Request{one}, dies: request(2, "a1\n", "b2\n")},
		{name: "with connections cut", before: []apply.Request{one}, dies: cut},
		{name: "does not start", before: []apply.Request{one}, dies: request(2, "a2\n", "nostart\n")},
		{name: "read-back fails", before: []apply.Request{one}, dies: request(2, "lost\n", "b2\n")},
	}
}

// next lists what a controller may ask for after the death: the same again, a good newer state, one that the tool refuses, one that does
// not start, and the one that was live.
func (s story) next() []apply.Request {
	next := []apply.Request{s.dies, request(3, "a3\n", "b3\n"), request(3, "bad\n", "b3\n"), request(3, "nostart\n", "b3\n")}
	return append(next, s.before...)
}

func (s story) states() map[int64]apply.Request {
	states := map[int64]apply.Request{s.dies.Generation: s.dies, 3: request(3, "a3\n", "b3\n")}
	for _, r := range s.before {
		states[r.Generation] = r
	}
	return states
}

// prepare makes the appliance as it was before.
func (s story) prepare(t *testing.T, dir string) bundle {
	t.Helper()
	b := newBundle(t, dir, nil)
	for _, r := range s.before {
		if answer := b.Apply(t.Context(), r); answer.Code != apply.Applied {
			t.Fatalf("prepare: %+v", answer)
		}
	}
	return b
}

// points counts where an apply can die, and lists the names.
func (s story) points(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	s.prepare(t, dir)
	var names []string
	newBundle(t, dir, func(point string) { names = append(names, point) }).Apply(t.Context(), s.dies)
	return names
}

// TestKilledAnywhereTheNextApplyHeals kills a real process at every point of every story, and asks for every next thing.
func TestKilledAnywhereTheNextApplyHeals(t *testing.T) {
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			points := s.points(t)
			if len(points) < 8 {
				t.Fatalf("only %d points: %v", len(points), points)
			}
			for at, point := range points {
				scene := newScene(t, s, func(dir string) { kill(t, dir, at+1, s.dies) })
				for i, next := range s.next() {
					t.Run(fmt.Sprintf("%s %d then %d", point, at, i), func(t *testing.T) {
						b := newBundle(t, scene.again(t), nil)
						s.judge(t, b, next, b.Apply(t.Context(), next))
					})
				}
			}
		})
	}
}

// TestKilledTwice dies at every point, and then at every point of the apply that heals.
func TestKilledTwice(t *testing.T) {
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			next := request(3, "a3\n", "b3\n")
			for at := range s.points(t) {
				scene := newScene(t, s, func(dir string) { dieInProcess(t, dir, at+1, s.dies) })
				for again := 1; dieInProcess(t, scene.again(t), again, next); again++ { // until the healing apply comes to its end
					b := newBundle(t, scene.dir, nil)
					s.judge(t, b, next, b.Apply(t.Context(), next))
					if t.Failed() {
						t.Fatalf("at %d, then %d", at+1, again)
					}
				}
			}
		})
	}
}

// scene is an appliance as a death left it, set up again as often as one likes in the same place: a journal names absolute paths.
type scene struct{ dir, kept string }

func newScene(t *testing.T, s story, death func(dir string)) scene {
	t.Helper()
	base := memoryDir(t)
	sc := scene{dir: filepath.Join(base, "appliance"), kept: filepath.Join(base, "kept")}
	s.prepare(t, sc.dir)
	death(sc.dir)
	if err := os.Rename(sc.dir, sc.kept); err != nil {
		t.Fatal(err)
	}
	return sc
}

func (sc scene) again(t *testing.T) (dir string) {
	t.Helper()
	if err := os.RemoveAll(sc.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(sc.dir, os.DirFS(sc.kept)); err != nil {
		t.Fatal(err)
	}
	restoreModes(t, sc.dir)
	return sc.dir
}

// judge says what must hold after a death and one more apply.
func (s story) judge(t *testing.T, b bundle, next apply.Request, answer apply.Answer) {
	t.Helper()
	first := len(s.before) == 0
	broken := func(r apply.Request) bool {
		return strings.Contains(r.Files[0].Content+r.Files[1].Content, wordNoStart) || strings.Contains(r.Files[1].Content, wordLost)
	}
	switch {
	case strings.Contains(next.Files[1].Content, wordBad) && answer.Code == apply.Culprit,
		broken(next) && answer.Code == apply.Restored:
	case (answer.Code == apply.Applied || answer.Code == apply.Unchanged) && answer.Generation == next.Generation:
	case next.Generation == 1 && answer.Code == apply.Newer && answer.Generation == 2:
	case first && answer.Code == apply.Broken && (answer.Generation == 0): // there was no service before, so none can be restored
		return
	default:
		t.Fatalf("asked for %d: %+v", next.Generation, answer)
	}
	if first && answer.Generation == 0 {
		b.tidy(t)
		return
	}
	b.whole(t, answer, s.states())
}

// kill runs the request in a process of its own that dies at the given point.
func kill(t *testing.T, dir string, at int, req apply.Request) {
	t.Helper()
	text, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashVar+"="+strconv.Itoa(at), dirVar+"="+dir)
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("not killed at point %d: %v: %s", at, err, out)
	}
}

// died is what an agent in this process panics with.
type died struct{}

// dieInProcess is kill without the process: cheaper, and it leaves the same behind, for what an agent defers lets go of its lock alone.
func dieInProcess(t *testing.T, dir string, at int, req apply.Request) (dead bool) {
	t.Helper()
	n := 0
	b := newBundle(t, dir, func(string) {
		if n++; n == at {
			panic(died{})
		}
	})
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(died); !ok {
				panic(p)
			}
			dead = true
		}
	}()
	b.Apply(t.Context(), req)
	return false
}

// dieAt is dieInProcess at the first point of that name.
func dieAt(t *testing.T, dir, point string, req apply.Request) {
	t.Helper()
	var names []string
	probe := memoryDir(t)
	if err := os.CopyFS(probe, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	restoreModes(t, probe)
	newBundle(t, probe, func(name string) { names = append(names, name) }).Apply(t.Context(), req)
	at := slices.Index(names, point)
	if at < 0 || !dieInProcess(t, dir, at+1, req) {
		t.Fatalf("no death at %q of %v", point, names)
	}
}

func TestConnectionsAreCutAgainAfterADeath(t *testing.T) {
	dir := memoryDir(t)
	b := newBundle(t, dir, nil)
	b.Apply(t.Context(), request(1, "a1\n", "b1\n"))
	two := request(2, "a2\n", "b2\n")
	two.Cut = addrs("192.0.2.7")
	dieAt(t, dir, "reloaded", two) // perhaps before the last connection was cut: nobody knows
	before := b.server.starts(t)
	answer := b.Apply(t.Context(), two)
	b.whole(t, answer, map[int64]apply.Request{2: two})
	if b.server.starts(t) != before+1 {
		t.Errorf("not cut again: %+v", answer)
	}
}

// TestDeathWhileTheSameStateIsPutBack: the record says that the state is live, and the files are half of it.
func TestDeathWhileTheSameStateIsPutBack(t *testing.T) {
	dir := memoryDir(t)
	b := newBundle(t, dir, nil)
	one := request(1, "a1\n", "b1\n")
	b.Apply(t.Context(), one)
	for _, name := range []string{"a.conf", "b.conf"} {
		if err := os.WriteFile(filepath.Join(b.server.dir, name), []byte("edited\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dieAt(t, dir, "renamed a.conf", one)
	if answer := b.Apply(t.Context(), request(2, "bad\n", "b2\n")); answer.Code != apply.Culprit {
		t.Fatalf("%+v", answer)
	}
	if err := b.server.Prove(t.Context()); err != nil {
		t.Errorf("the service and its files differ: %v", err)
	}
	b.tidy(t)
}

func TestMixtureIsNeverLoaded(t *testing.T) {
	dir := memoryDir(t)
	b := newBundle(t, dir, nil)
	one := request(1, "a1\n", "b1\n")
	b.Apply(t.Context(), one)
	dieAt(t, dir, "renamed a.conf", request(2, "a2\n", "b2\n"))
	before := b.server.starts(t)
	b.whole(t, b.Apply(t.Context(), request(3, "bad\n", "b3\n")), map[int64]apply.Request{1: one})
	if n := b.server.starts(t) - before; n != 1 {
		t.Errorf("%d starts to undo half a change", n)
	}
}

func TestFilesWrittenBySomebodyElseMeanwhile(t *testing.T) {
	b := newBundle(t, memoryDir(t), nil)
	b.units["dhcp"] = directory{b.server}
	b.crash = func(point string) {
		if point == "reloaded" {
			_ = os.WriteFile(filepath.Join(b.server.dir, "a.conf"), []byte("theirs"), 0o644)
			b.crash = nil
		}
	}
	if answer := b.Apply(t.Context(), request(1, "a1\n", "b1\n")); answer.Code != apply.Restored || !strings.Contains(answer.Message, "somebody else") {
		t.Errorf("%+v", answer)
	}
}

func TestDamagedBackupIsNotPutBack(t *testing.T) {
	dir := memoryDir(t)
	b := newBundle(t, dir, nil)
	b.Apply(t.Context(), request(1, "a1\n", "b1\n"))
	dieAt(t, dir, "renamed a.conf", request(2, "a2\n", "b2\n"))
	if err := os.WriteFile(filepath.Join(b.state, "backup", digest([]byte("a1\n"))), []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	answer := b.Apply(t.Context(), request(3, "a3\n", "b3\n"))
	if answer.Code != apply.Broken || !strings.Contains(answer.Message, "damaged") {
		t.Errorf("%+v", answer)
	}
}

// memoryDir is a directory in memory where there is one: these tests make some ten thousand files durable, which no kill can tell.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-agent-")
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

// restoreModes gives b.conf its mode back, which CopyFS does not keep under every umask.
func restoreModes(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "etc", "b.conf")
	if _, err := os.Stat(path); err == nil {
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}
