package xapi

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	full := []string{"SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""}
	t.Run("error before", func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.Faults = []Fault{{Method: "VM.clone", Nth: 2, Error: full}} })
		b.must("VM.clone", b.template(), "a")
		b.refuses(full, "VM.clone", b.template(), "b")
		b.must("VM.clone", b.template(), "c")
		if n := len(b.must("VM.get_by_name_label", "b").([]any)); n != 0 {
			t.Fatalf("%d VMs", n)
		}
	})
	t.Run("error of a task", func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.Faults = []Fault{{Method: "VM.clone", Error: full}} })
		rec := b.task(b.must("Async.VM.clone", b.template(), "a"))
		if rec["status"] != "failure" || rec["error_info"].([]any)[0] != full[0] {
			t.Fatalf("%v", rec)
		}
	})
	t.Run("answer lost after the effect", func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.Faults = []Fault{{Method: "VM.clone", Nth: 1, When: After, Close: true}} })
		if _, _, err := b.raw(t.Context(), "VM.clone", b.session, b.template(), "a"); err == nil {
			t.Fatal("the answer was to be lost")
		}
		if n := len(b.must("VM.get_by_name_label", "a").([]any)); n != 1 {
			t.Fatalf("%d VMs, want the one whose answer was lost", n)
		}
	})
	t.Run("hang before the effect", func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.Faults = []Fault{{Method: "VM.clone", Times: 1, Hang: true}} })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, _, err := b.raw(ctx, "VM.clone", b.session, b.template(), "a"); err == nil {
			t.Fatal("an answer came")
		}
		if n := len(b.must("VM.get_by_name_label", "a").([]any)); n != 0 {
			t.Fatalf("%d VMs", n)
		}
	})
	t.Run("the same seed fails the same calls", func(t *testing.T) {
		pattern := func() string {
			b := newBench(t, func(c *Config) { c.Faults = []Fault{{Method: "task.create", Probability: 0.5, Error: []string{"X"}}} })
			var out strings.Builder
			for range 20 {
				_, failed := b.call("task.create", "a", "")
				out.WriteString(map[bool]string{true: "x", false: "."}[failed != nil])
			}
			return out.String()
		}
		if a, c := pattern(), pattern(); a != c || !strings.Contains(a, "x") || !strings.Contains(a, ".") {
			t.Fatalf("%s and %s", a, c)
		}
	})
}

func TestLoadFaults(t *testing.T) {
	for name, c := range map[string]struct{ text, problem string }{
		"good":          {`[{"method":"VM.start","nth":3,"when":"after","close":true}]`, ""},
		"unknown field": {`[{"method":"VM.start","nht":3,"close":true}]`, "nht"},
		"no effect":     {`[{"method":"VM.start"}]`, "exactly one of error, hang and close"},
		"two effects":   {`[{"method":"VM.start","hang":true,"close":true}]`, "exactly one"},
		"bad when":      {`[{"method":"VM.start","hang":true,"when":"later"}]`, "before or after"},
		"bad method":    {`[{"method":"start","hang":true}]`, "VM.start"},
		"no list":       {`{}`, "list of faults"},
	} {
		path := filepath.Join(t.TempDir(), "faults.json")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadFaults(path)
		if c.problem == "" && err != nil || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%s: got %v, want %q", name, err, c.problem)
		}
	}
}
