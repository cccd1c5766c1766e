package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/workers/appliance/apply"
)

func TestApplyThenTheSameIsUnchanged(t *testing.T) {
	b := newBundle(t, t.TempDir(), nil)
	one := request(1, "a1\n", "b1\n")
	if got := b.Apply(t.Context(), one); got.Code != apply.Applied || !got.Reloaded || got.Generation != 1 || got.SHA256 != one.SHA256 || got.Rows != 1 {
		t.Fatalf("first: %+v", got)
	}
	if got := b.Apply(t.Context(), one); got.Code != apply.Unchanged || got.Reloaded {
		t.Fatalf("again: %+v", got)
	}
	// A newer generation with the same text moves the number and restarts nothing.
	same := one
	same.Generation = 2
	if got := b.Apply(t.Context(), same); got.Code != apply.Unchanged || got.Generation != 2 || got.Reloaded {
		t.Fatalf("same text: %+v", got)
	}
	if n := b.server.starts(t); n != 1 {
		t.Errorf("%d starts for one state", n)
	}
	b.whole(t, b.Apply(t.Context(), same), map[int64]apply.Request{2: same})
}

func TestSameGenerationIsAppliedAgainWhenItIsNotLive(t *testing.T) {
	one := request(1, "a1\n", "b1\n")
	for name, harm := range map[string]func(b bundle) error{
		"the service died": func(b bundle) error { return os.Remove(b.server.running()) },
		"a file was edited": func(b bundle) error {
			return os.WriteFile(filepath.Join(b.server.dir, "a.conf"), []byte("mine"), 0o644)
		},
		"a file was removed":       func(b bundle) error { return os.Remove(filepath.Join(b.server.dir, "a.conf")) },
		"a file became everyone's": func(b bundle) error { return os.Chmod(filepath.Join(b.server.dir, "b.conf"), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, t.TempDir(), nil)
			b.Apply(t.Context(), one)
			if err := harm(b); err != nil {
				t.Fatal(err)
			}
			got := b.Apply(t.Context(), one)
			if got.Code != apply.Applied {
				t.Fatalf("%+v", got)
			}
			b.whole(t, got, map[int64]apply.Request{1: one})
		})
	}
	t.Run("other text", func(t *testing.T) {
		b := newBundle(t, t.TempDir(), nil)
		b.Apply(t.Context(), one)
		other := request(1, "a1 without the culprit\n", "b1\n")
		got := b.Apply(t.Context(), other)
		if got.Code != apply.Applied {
			t.Fatalf("%+v", got)
		}
		b.whole(t, got, map[int64]apply.Request{1: other})
	})
	t.Run("connections still to cut", func(t *testing.T) {
		b := newBundle(t, t.TempDir(), nil)
		b.Apply(t.Context(), one)
		cut := one
		cut.Cut = addrs("192.0.2.7")
		if got := b.Apply(t.Context(), cut); got.Code != apply.Applied || b.server.starts(t) != 2 {
			t.Fatalf("cut: %+v", got)
		}
		if got := b.Apply(t.Context(), cut); got.Code != apply.Unchanged {
			t.Fatalf("cut again: %+v", got)
		}
	})
}

func TestRefusals(t *testing.T) {
	live := request(7, "a7\n", "b7\n")
	live.Fence, live.Rows = 5, 1000
	edit := func(f func(*apply.Request)) apply.Request {
		r := request(8, "a8\n", "b8\n")
		r.Fence, r.Rows = 5, 1000
		f(&r)
		return r
	}
	for name, tc := range map[string]struct {
		req  apply.Request
		want apply.Code
		says string
	}{
		"unknown unit": {edit(func(r *apply.Request) { r.Unit = "console" }), apply.Refused, "dhcp"},
		"path as unit": {edit(func(r *apply.Request) { r.Unit = "../dhcp" }), apply.Refused, "not on this appliance"},
		"wrong hash":   {edit(func(r *apply.Request) { r.SHA256 = strings.Repeat("0", 64) }), apply.Refused, "hash"},
		"file missing": {edit(func(r *apply.Request) { r.Files = r.Files[:1]; r.SHA256 = apply.Sum(r.Files) }), apply.Refused, "a.conf"},
		"file too many": {edit(func(r *apply.Request) {
			r.Files = append(r.Files, apply.File{Name: "../x"})
			r.SHA256 = apply.Sum(r.Files)
		}), apply.Refused, "../x"},
		"file twice":         {edit(func(r *apply.Request) { r.Files = append(r.Files, r.Files[0]); r.SHA256 = apply.Sum(r.Files) }), apply.Refused, "twice"},
		"negative":           {edit(func(r *apply.Request) { r.Rows = -1 }), apply.Refused, "negative"},
		"lower fence":        {edit(func(r *apply.Request) { r.Fence = 4 }), apply.Stale, "fence 4"},
		"lower both":         {edit(func(r *apply.Request) { r.Fence, r.Generation = 4, 3 }), apply.Stale, "fence 4"},
		"lower generation":   {edit(func(r *apply.Request) { r.Fence, r.Generation = 6, 6 }), apply.Newer, "generation 7 is live"},
		"too many rows gone": {edit(func(r *apply.Request) { r.Rows = 979 }), apply.Shrink, "21 of 1000"},
		"tool refuses": {edit(func(r *apply.Request) {
			r.Files[1].Content = "fine\nbad\n"
			r.SHA256 = apply.Sum(r.Files)
		}), apply.Culprit, "syntax error"},
		"tool cannot judge": {edit(func(r *apply.Request) {
			r.Files[1].Content = "unjudged\n"
			r.SHA256 = apply.Sum(r.Files)
		}), apply.Unsupported, "fell over"},
		"does not start": {edit(func(r *apply.Request) {
			r.Files[1].Content = "nostart\n"
			r.SHA256 = apply.Sum(r.Files)
		}), apply.Restored, "does not start"},
		"read-back fails": {edit(func(r *apply.Request) {
			r.Files[1].Content = "lost\n"
			r.SHA256 = apply.Sum(r.Files)
		}), apply.Restored, "read back"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, t.TempDir(), nil)
			if got := b.Apply(t.Context(), live); got.Code != apply.Applied {
				t.Fatalf("%+v", got)
			}
			got := b.Apply(t.Context(), tc.req)
			if got.Code != tc.want || !strings.Contains(got.Message, tc.says) {
				t.Fatalf("got %+v, want %s saying %q", got, tc.want, tc.says)
			}
			if tc.want == apply.Culprit && (got.File != "a.conf" || got.Line != 2) {
				t.Errorf("blames %s line %d", got.File, got.Line)
			}
			if tc.req.Unit == "dhcp" {
				b.whole(t, got, map[int64]apply.Request{7: live})
			}
			if starts := b.server.starts(t); tc.want != apply.Restored && starts != 1 {
				t.Errorf("%d starts: a refusal restarts nothing", starts)
			}
		})
	}
}

func TestFenceIsRememberedWhateverBecomesOfTheRequest(t *testing.T) {
	b := newBundle(t, t.TempDir(), nil)
	bad := request(1, "bad\n", "b\n")
	bad.Fence = 9
	if got := b.Apply(t.Context(), bad); got.Code != apply.Culprit {
		t.Fatalf("%+v", got)
	}
	late := request(2, "a\n", "b\n")
	late.Fence = 8
	if got := b.Apply(t.Context(), late); got.Code != apply.Stale {
		t.Fatalf("an older controller after fence 9: %+v", got)
	}
}

func TestShrinkGuard(t *testing.T) {
	for _, tc := range []struct {
		from, to int
		halts    bool
	}{{0, 0, false}, {5, 0, false}, {6, 0, true}, {10, 5, false}, {10, 4, true}, {1000, 980, false}, {1000, 979, true}, {10, 4000, false}} {
		if got := shrinks(tc.from, tc.to, 0) != ""; got != tc.halts {
			t.Errorf("%d to %d: halts %v", tc.from, tc.to, got)
		}
	}
	b := newBundle(t, t.TempDir(), nil)
	many, few := request(1, "a1\n", "b\n"), request(2, "a2\n", "b\n")
	many.Rows, few.Rows = 100, 3
	b.Apply(t.Context(), many)
	if got := b.Apply(t.Context(), few); got.Code != apply.Shrink || got.Rows != 100 {
		t.Fatalf("%+v", got)
	}
	few.ShrinkApproved = true
	if got := b.Apply(t.Context(), few); got.Code != apply.Applied || got.Rows != 3 {
		t.Fatalf("approved: %+v", got)
	}
}

// counted counts lines, so that the guard does not depend on what a controller or a lost state says.
type counted struct{ *server }

func (counted) CountRows(files map[string][]byte) int {
	return bytes.Count(files["a.conf"], []byte("\n"))
}

func TestShrinkGuardCountsTheLiveFiles(t *testing.T) {
	b := newBundle(t, t.TempDir(), nil)
	b.units["dhcp"] = counted{b.server}
	many := request(1, strings.Repeat("row\n", 50), "b\n")
	many.Rows = 50
	b.Apply(t.Context(), many)
	if err := os.RemoveAll(b.state); err != nil { // the agent's memory is lost, the files are not
		t.Fatal(err)
	}
	few := request(2, "row\n", "b\n")
	few.Rows = 50 // and the controller is wrong about what it sends
	if got := b.Apply(t.Context(), few); got.Code != apply.Shrink {
		t.Fatalf("%+v", got)
	}
}

// Only rows that are here can go: a machine that was dropped and never was here, or has gone already, excuses nobody else's.
func TestShrinkGuardKnowsWhatRunsHaveDropped(t *testing.T) {
	for name, tc := range map[string]struct {
		left [][]string
		want apply.Code
	}{
		"nothing":                 {nil, apply.Shrink},
		"all but five":            {[][]string{{"m-1"}, {"x", "m-2"}, {"m-3"}}, apply.Applied},
		"one too few":             {[][]string{{"m-1"}, {"m-2"}}, apply.Shrink},
		"one that never was here": {[][]string{{"m-1"}, {"m-2"}, {"m-9"}}, apply.Shrink},
		"a part of another's":     {[][]string{{"m-1"}, {"m-2"}, {"m"}}, apply.Shrink},
		"one by two words":        {[][]string{{"m-1", "m-2"}, {"m-3"}}, apply.Shrink},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, t.TempDir(), nil)
			b.units["dhcp"] = counted{b.server}
			if got := b.Apply(t.Context(), request(1, "host m-1 {\n:m-2;\n(m-3)\n"+strings.Repeat("row\n", 7), "b\n")); got.Code != apply.Applied {
				t.Fatalf("%+v", got)
			}
			few := request(2, "row\nrow\n", "b\n")
			few.Rows, few.Left = 2, tc.left
			if got := b.Apply(t.Context(), few); got.Code != tc.want {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestCheckOnlyTouchesNothing(t *testing.T) {
	b := newBundle(t, t.TempDir(), nil)
	one := request(3, "a1\n", "b1\n")
	b.Apply(t.Context(), one)
	before := snapshot(t, filepath.Dir(b.server.dir))
	for text, want := range map[string]apply.Code{"good\n": apply.Checked, "bad\n": apply.Culprit, "nostart\n": apply.Checked} {
		half := request(2, text, "b\n") // a bisecting controller is below the live generation, and below its rows
		half.Rows, half.CheckOnly, half.Fence = 0, true, 99
		if got := b.Apply(t.Context(), half); got.Code != want || got.Generation != 3 || got.Reloaded {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if diff := cmp.Diff(before, snapshot(t, filepath.Dir(b.server.dir))); diff != "" {
		t.Errorf("changed: %s", diff)
	}
}

func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		info, _ := entry.Info()
		found[path] = info.Mode().String() + info.ModTime().String() + string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestBrokenWhenTheOldStateDoesNotWorkEither(t *testing.T) {
	b := newBundle(t, t.TempDir(), nil)
	old := request(1, "a1\n", "b1\n")
	b.Apply(t.Context(), old)
	if err := os.WriteFile(filepath.Join(b.server.dir, "a.conf"), []byte("nostart"), 0o644); err != nil { // by an operator's hand
		t.Fatal(err)
	}
	if got := b.Apply(t.Context(), request(2, "lost\n", "b2\n")); got.Code != apply.Broken {
		t.Fatalf("%+v", got)
	}
	// Nobody's row is to blame while the appliance itself is broken, not even one that the tool refuses.
	if got := b.Apply(t.Context(), request(3, "bad\n", "b3\n")); got.Code != apply.Broken || !strings.Contains(got.Message, "syntax error") {
		t.Fatalf("%+v", got)
	}
	good := request(4, "a4\n", "b4\n")
	got := b.Apply(t.Context(), good)
	if got.Code != apply.Applied {
		t.Fatalf("the cure: %+v", got)
	}
	b.whole(t, got, map[int64]apply.Request{4: good})
}

func TestDeadlineAfterTheSwapRestores(t *testing.T) {
	dir := t.TempDir()
	b := newBundle(t, dir, nil)
	old := request(1, "a1\n", "b1\n")
	b.Apply(t.Context(), old)
	ctx, cancel := context.WithCancel(t.Context())
	b.crash = func(point string) {
		if point == "placed" {
			cancel()
		}
	}
	got := b.Apply(ctx, request(2, "a2\n", "b2\n"))
	if got.Code != apply.Restored {
		t.Fatalf("%+v", got)
	}
	b.whole(t, got, map[int64]apply.Request{1: old})
}

func TestIrregularTargetIsRefused(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"symbolic link": func(path string) error { return os.Symlink("elsewhere", path) },
		"directory":     func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, t.TempDir(), nil)
			if err := make(filepath.Join(b.server.dir, "a.conf")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(b.server.dir, "elsewhere"), []byte("theirs"), 0o644); err != nil {
				t.Fatal(err)
			}
			got := b.Apply(t.Context(), request(1, "a1\n", "b1\n"))
			if got.Code != apply.Unsupported || !strings.Contains(got.Message, "regular") {
				t.Fatalf("%+v", got)
			}
			if text, _ := os.ReadFile(filepath.Join(b.server.dir, "elsewhere")); string(text) != "theirs" {
				t.Errorf("the link's target holds %q", text)
			}
			b.tidy(t)
		})
	}
}

func TestBusyAndOneAtATime(t *testing.T) {
	dir := t.TempDir()
	b := newBundle(t, dir, nil)
	one := request(1, "a1\n", "b1\n")
	b.Apply(t.Context(), one)
	release, err := acquire(t.Context(), filepath.Join(b.state, "lock"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	b.lockWait = 30 * time.Millisecond
	if got := b.Apply(t.Context(), request(2, "a2\n", "b2\n")); got.Code != apply.Busy || got.Generation != 1 {
		t.Errorf("%+v", got)
	}
	release()

	b.lockWait = time.Minute
	var wg sync.WaitGroup
	for g := range 10 {
		wg.Go(func() { b.Apply(t.Context(), request(int64(g+2), "a\n", "b\n")) })
	}
	wg.Wait()
	last := request(11, "a\n", "b\n")
	b.whole(t, b.Apply(t.Context(), last), map[int64]apply.Request{11: last})
	if n := b.server.starts(t); n != 2 {
		t.Errorf("%d starts for two texts", n)
	}
}

func TestDirectoryAppliance(t *testing.T) {
	s := &server{dir: t.TempDir()}
	cfg := Config{StateDir: t.TempDir(), Units: map[string]Settings{"dhcp": {Driver: "fake", Service: serviceNone}}}
	a, err := New(cfg, Registry{"fake": func(Settings) (Unit, error) { return s, nil }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	one := request(1, "nostart\n", "b\n")
	if got := a.Apply(t.Context(), one); got.Code != apply.Applied || got.Reloaded || got.Message != "" {
		t.Fatalf("%+v", got)
	}
	if got := a.Apply(t.Context(), one); got.Code != apply.Unchanged {
		t.Fatalf("%+v", got)
	}
	if got := a.Apply(t.Context(), request(2, "bad\n", "b\n")); got.Code != apply.Culprit {
		t.Fatalf("judged by the tool all the same: %+v", got)
	}
	s.absent = true
	if got := a.Apply(t.Context(), request(2, "bad\n", "b\n")); got.Code != apply.Applied || !strings.Contains(got.Message, "not judged") {
		t.Fatalf("without the tool: %+v", got)
	}
}

func TestServeRefusesWhatItDoesNotUnderstand(t *testing.T) {
	good, err := json.Marshal(request(1, "a1\n", "b1\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		stdin string
		want  apply.Code
	}{
		"good":          {string(good) + "\n", apply.Applied},
		"empty":         {"", apply.Refused},
		"cut off":       {string(good[:len(good)-3]), apply.Refused},
		"unknown field": {strings.Replace(string(good), `{"unit"`, `{"sudo":true,"unit"`, 1), apply.Refused},
		"two requests":  {string(good) + string(good), apply.Refused},
		"no JSON":       {"slipway agent apply", apply.Refused},
		"too long":      {`{"unit":"` + strings.Repeat("x", MaxRequest) + `"}`, apply.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			b := newBundle(t, t.TempDir(), nil)
			if err := b.Serve(t.Context(), strings.NewReader(tc.stdin), &out); err != nil {
				t.Fatal(err)
			}
			var got apply.Answer
			if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Code != tc.want || bytes.Count(out.Bytes(), []byte("\n")) != 1 ||
				strings.Contains(got.Message, "more than") != (name == "too long") {
				t.Errorf("%q: %v", out.String(), err)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	good, _ := json.Marshal(request(1, "a1\n", "b1\n"))
	f.Add(good)
	f.Add([]byte(`{"unit":"dhcp","files":[{"name":"x"}],"cut":["1.2.3.4"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if req, err := Decode(bytes.NewReader(text)); err == nil {
			_ = validate(req, []place{{name: "a.conf"}})
		}
	})
}
