package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/workers/appliance/apply"
)

func look1(t *testing.T, b bundle) apply.Answer {
	t.Helper()
	return b.Apply(t.Context(), apply.Request{Unit: "dhcp", ReadOnly: true, Rows: 1})
}

// everything below a directory, with what a write would move.
func everything(t *testing.T, dir string) map[string]time.Time {
	t.Helper()
	out := map[string]time.Time{}
	if err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			out[path+" "+info.Mode().String()] = info.ModTime()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestObserveTellsAndTouchesNothing(t *testing.T) {
	dir := t.TempDir()
	b := newBundle(t, dir, nil)
	before := everything(t, dir)
	got := look1(t, b)
	if got.Code != apply.Observed || len(got.Live.Files) != 2 || got.Live.Files[0].Exists || got.Live.Fault != "" || got.Generation != 0 {
		t.Errorf("before anything was applied: %+v", got)
	}
	if diff := cmp.Diff(before, everything(t, dir)); diff != "" {
		t.Errorf("touched %s", diff)
	}
	one := request(1, "a1\n", "b1\n")
	b.Apply(t.Context(), one)
	if err := os.Chmod(filepath.Join(b.server.dir, "b.conf"), 0o644); err != nil {
		t.Fatal(err)
	}
	before = everything(t, dir)
	got = look1(t, b)
	want := &apply.Live{Rows: 1, Files: []apply.LiveFile{
		{Name: "a.conf", Exists: true, SHA256: apply.Digest("a1\n"), Mode: 0o644, Want: 0o644, Content: "a1\n"},
		{Name: "b.conf", Exists: true, SHA256: apply.Digest("b1\n"), Mode: 0o644, Want: 0o600, Content: "b1\n"},
	}}
	if diff := cmp.Diff(apply.Answer{Code: apply.Observed, Generation: 1, SHA256: one.SHA256, Rows: 1, Live: want}, got); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(b.server.running()); err != nil {
		t.Fatal(err)
	}
	if got := look1(t, b); got.Live == nil || got.Live.Fault == "" {
		t.Errorf("the service is down: %+v", got)
	}
	if got := b.Apply(t.Context(), apply.Request{Unit: "dhcp", ReadOnly: true, Rows: 1, Files: one.Files}); got.Code != apply.Refused {
		t.Errorf("with files: %+v", got)
	}
	delete(before, b.server.running()+" -rw-------")
	after := everything(t, dir)
	delete(before, b.server.dir+" drwxr-xr-x") // the test itself removed a file from it
	delete(after, b.server.dir+" drwxr-xr-x")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("touched %s", diff)
	}
}

func TestObserveTellsOfTheShrinkGuardAndOfAnInterruptedApply(t *testing.T) {
	b := newBundle(t, t.TempDir(), nil)
	many := request(1, "a1\n", "b1\n")
	many.Rows = 100
	b.Apply(t.Context(), many)
	if got := look1(t, b); got.Live == nil || !strings.Contains(got.Live.Shrinks, "99 of 100") {
		t.Errorf("%+v", got)
	}
	if err := b.store("dhcp").saveJournal(journal{Next: live{Generation: 2}}); err != nil {
		t.Fatal(err)
	}
	if got := look1(t, b); got.Live == nil || got.Live.Interrupted != 2 {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(filepath.Join(b.state, "journal.json")); err != nil {
		t.Errorf("the journal: %v", err)
	}
}

func (b bundle) store(unit string) store { return store{filepath.Join(b.stateDir, unit)} }

func TestObserveWaitsForAnApply(t *testing.T) {
	b := newBundle(t, t.TempDir(), nil)
	b.Apply(t.Context(), request(1, "a1\n", "b1\n"))
	release, err := acquire(t.Context(), filepath.Join(b.state, "lock"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	b.lockWait = 50 * time.Millisecond
	if got := look1(t, b); got.Code != apply.Busy {
		t.Errorf("during an apply: %+v", got)
	}
	release()
	if got := look1(t, b); got.Code != apply.Observed {
		t.Errorf("after it: %+v", got)
	}
}

func TestExpect(t *testing.T) {
	b := newBundle(t, t.TempDir(), nil)
	b.Apply(t.Context(), request(1, "a1\n", "b1\n"))
	two := request(2, "a2\n", "b2\n")
	two.Expect = apply.SumLive(look1(t, b).Live.Files)
	path := filepath.Join(b.server.dir, "a.conf")
	for name, harm := range map[string]func() error{
		"content": func() error { return os.WriteFile(path, []byte("hand\n"), 0o644) },
		"mode":    func() error { return os.Chmod(path, 0o600) },
		"absence": func() error { return os.Remove(path) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if got := b.Apply(t.Context(), two); got.Code != apply.Moved || got.Generation != 1 || got.Reloaded {
			t.Errorf("%s: %+v", name, got)
		}
		if err := os.WriteFile(path, []byte("a1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Apply(t.Context(), two); got.Code != apply.Applied {
		t.Errorf("as seen: %+v", got)
	}
}

func TestLiveFilesPrintWithoutContent(t *testing.T) {
	f := apply.LiveFile{Name: "a", Exists: true, Content: "hunter2"}
	if s := f.String() + f.GoString(); strings.Contains(s, "hunter2") {
		t.Error(s)
	}
}
