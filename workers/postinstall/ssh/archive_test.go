package ssh

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/workers/postinstall"
)

var awkward = []string{
	"", "plain", "two words", "it's", "''", `\`, `"$(reboot)"`, "`reboot`", "$HOME", "a\nb\n", "-n", "!history", "\x01\x7f", "ünïcode", "*", "~", "#x", "; rm -rf /",
}

// What goes into the file must come out of bash, byte for byte.
func TestEnvironmentSurvivesBash(t *testing.T) {
	t.Parallel()
	bash := testenv.Need(t, "bash")
	for _, value := range awkward {
		file := filepath.Join(t.TempDir(), "env")
		if err := os.WriteFile(file, environment(map[string]string{"A": "before", "VALUE": value, "Z": "after"}), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), bash, "-c", `set -euo pipefail; . "$1"; printf '%s|%s|%s' "$A" "$VALUE" "$Z"`, "bash", file).CombinedOutput()
		if err != nil || string(out) != "before|"+value+"|after" {
			t.Errorf("%q came back as %q, %v", value, out, err)
		}
	}
}

func TestQuoteIsOneWord(t *testing.T) {
	t.Parallel()
	sh := testenv.Need(t, "sh")
	for _, text := range append(awkward, runner) {
		out, err := exec.CommandContext(t.Context(), sh, "-c", "printf '[%s]' "+quote(text)).Output()
		if err != nil || string(out) != "["+text+"]" {
			t.Errorf("%.60q came back as %.60q, %v", text, out, err)
		}
	}
}

func TestArchiveUnpacksWithTar(t *testing.T) {
	t.Parallel()
	tar := testenv.Need(t, "tar")
	b := postinstall.Bundle{
		Job:     "run-1",
		Steps:   []postinstall.Step{{Name: "one", Timeout: 90 * time.Second, Script: []byte("#!/bin/bash\n")}},
		Env:     map[string]string{"B": "2", "A": "1"},
		Files:   map[string][]byte{"f": []byte("file")},
		Secrets: map[string]orchestrator.Secret{"s": orchestrator.NewSecret("hidden")},
	}
	packed, err := archive(b)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := archive(b); err != nil || !bytes.Equal(packed, again) {
		t.Errorf("the same bundle gave other bytes, %v", err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), tar, "-x", "-f", "-", "-C", dir)
	cmd.Stdin = bytes.NewReader(packed)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	got := map[string]string{}
	for _, name := range []string{"scripts/one", "files/f", "secrets/s", "env", "steps", "complete"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
		got[name] = string(text)
	}
	want := map[string]string{
		"scripts/one": "#!/bin/bash\n", "files/f": "file", "secrets/s": "hidden", "env": "A='1'\nB='2'\n", "steps": "one 90\n", "complete": "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unpacked (-want +got):\n%s", diff)
	}

	b.Files["../../etc/passwd"] = nil
	if _, err := archive(b); err == nil {
		t.Error("a file's name led out of the job's folder")
	}
}
