package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/workers/appliance/apply"
)

// server is a unit whose service is a file: `running` holds what it has loaded, and is missing while it is down. So it survives the
// agent's death as a real one does. The words in a state's text say what goes wrong with it.
type server struct {
	dir    string // targets and running live here
	point  func(string)
	absent bool // the judging tool is not installed
}

const (
	wordBad      = "bad"      // the tool refuses it
	wordUnjudged = "unjudged" // the tool fails
	wordNoStart  = "nostart"  // the service stops and does not start with it
	wordLost     = "lost"     // the service starts and the read-back fails
)

func (s *server) Targets() map[string]Target {
	return map[string]Target{
		"a.conf": {Path: filepath.Join(s.dir, "a.conf")},
		"b.conf": {Path: filepath.Join(s.dir, "b.conf"), Mode: 0o600},
	}
}

func (s *server) running() string { return filepath.Join(s.dir, "running") }

func (s *server) Check(_ context.Context, dir string) error {
	if s.absent {
		return &fs.PathError{Op: "fork/exec", Path: "/usr/sbin/tool", Err: fs.ErrNotExist}
	}
	for _, name := range []string{"a.conf", "b.conf"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(text), "\n") {
			switch line {
			case wordBad:
				return &Fault{File: name, Line: i + 1, Message: "syntax error"}
			case wordUnjudged:
				return errors.New("the tool fell over")
			}
		}
	}
	return nil
}

func (s *server) loaded() (string, error) {
	a, err := os.ReadFile(filepath.Join(s.dir, "a.conf"))
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(s.dir, "b.conf"))
	return string(a) + "|" + string(b), err
}

func (s *server) Reload(_ context.Context, change Change) error {
	text, err := s.loaded()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(s.running()); err != nil {
		return err
	}
	s.at("service down")
	if strings.Contains(text, wordNoStart) {
		return errors.New("it does not start")
	}
	f, err := os.OpenFile(filepath.Join(s.dir, "starts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fmt.Fprintf(f, "%v %v\n", change.Restoring, change.Cut)
	if err := f.Close(); err != nil {
		return err
	}
	return os.WriteFile(s.running(), []byte(text), 0o600)
}

func (s *server) Prove(context.Context) error {
	text, err := s.loaded()
	if err != nil {
		return err
	}
	now, err := os.ReadFile(s.running())
	if err != nil {
		return err
	}
	if string(now) != text || strings.Contains(text, wordLost) {
		return fmt.Errorf("it runs with %q", now)
	}
	return nil
}

func (s *server) at(point string) {
	if s.point != nil {
		s.point(point)
	}
}

// starts counts the service's starts.
func (s *server) starts(tb testing.TB) int {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "starts"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		tb.Fatal(err)
	}
	return bytes.Count(text, []byte("\n"))
}

type bundle struct {
	*Agent
	server *server
	state  string
}

func newBundle(tb testing.TB, dir string, crash func(string)) bundle {
	tb.Helper()
	s := &server{dir: filepath.Join(dir, "etc"), point: crash}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	registry := Registry{"fake": func(Settings) (Unit, error) { return s, nil }}
	state := filepath.Join(dir, "state")
	a, err := New(Config{StateDir: state, Units: map[string]Settings{"dhcp": {Driver: "fake"}}}, registry, nil)
	if err != nil {
		tb.Fatal(err)
	}
	a.crash = crash
	return bundle{Agent: a, server: s, state: filepath.Join(state, "dhcp")}
}

// request makes generation g's state out of two texts.
func request(g int64, a, b string) apply.Request {
	files := []apply.File{{Name: "b.conf", Content: b}, {Name: "a.conf", Content: a}}
	return apply.Request{Unit: "dhcp", Fence: 1, Generation: g, Files: files, SHA256: apply.Sum(files), Rows: 1}
}

// whole fails the test unless the service runs with the generation that the answer names, and nothing of the apply lies about.
func (b bundle) whole(tb testing.TB, answer apply.Answer, states map[int64]apply.Request) {
	tb.Helper()
	want, ok := states[answer.Generation]
	if !ok || answer.SHA256 != want.SHA256 {
		tb.Fatalf("the answer names generation %d, hash %s: %+v", answer.Generation, answer.SHA256, answer)
	}
	for _, f := range want.Files {
		text, err := os.ReadFile(filepath.Join(b.server.dir, f.Name))
		if err != nil || string(text) != f.Content {
			tb.Errorf("%s holds %q (%v), and the answer %+v means %q", f.Name, text, err, answer, f.Content)
		}
		info, err := os.Stat(filepath.Join(b.server.dir, f.Name))
		if mode := b.server.Targets()[f.Name].Mode; err == nil && mode != 0 && info.Mode().Perm() != mode {
			tb.Errorf("%s has mode %v", f.Name, info.Mode())
		}
	}
	if err := b.server.Prove(tb.Context()); err != nil {
		tb.Errorf("service: %v", err)
	}
	b.tidy(tb)
}

func (b bundle) tidy(tb testing.TB) {
	tb.Helper()
	for _, pattern := range []string{b.server.dir + "/.slipway*", b.state + "/journal.json", b.state + "/.slipway*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			tb.Errorf("left behind: %v", left)
		}
	}
}
