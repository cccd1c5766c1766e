package ssh

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"slipway/workers/postinstall"
)

// archive packs a bundle for the runner: the same bundle gives the same bytes. Everything is readable by its owner, root, alone.
func archive(b postinstall.Bundle) ([]byte, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	// A write into memory fails only for a header that tar cannot express; Close reports it too.
	dir := func(name string) {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o700, ModTime: epoch, Format: tar.FormatUSTAR})
	}
	file := func(name string, content []byte) error {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(content)), ModTime: epoch, Format: tar.FormatUSTAR})
		if err == nil {
			_, err = w.Write(content)
		}
		return err
	}
	type entry struct {
		name    string
		content []byte
	}
	var steps strings.Builder
	var entries []entry
	for _, step := range b.Steps {
		fmt.Fprintf(&steps, "%s %d\n", step.Name, int(step.Timeout/time.Second))
		entries = append(entries, entry{"scripts/" + step.Name, step.Script})
	}
	for _, name := range slices.Sorted(maps.Keys(b.Files)) {
		entries = append(entries, entry{"files/" + name, b.Files[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(b.Secrets)) {
		entries = append(entries, entry{"secrets/" + name, []byte(b.Secrets[name].Reveal())})
	}
	entries = append(entries, entry{"env", environment(b.Env)}, entry{"steps", []byte(steps.String())}, entry{"complete", nil})
	for _, name := range []string{"scripts", "files", "secrets"} {
		dir(name)
	}
	for _, e := range entries {
		if err := file(e.name, e.content); err != nil {
			return nil, fmt.Errorf("pack %s of job %s: %w", e.name, b.Job, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack job %s: %w", b.Job, err)
	}
	return buf.Bytes(), nil
}

// epoch is every file's time: sane for tools that dislike 1970.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// environment renders parameters as a file that bash can source: whatever a value holds, it stays one value.
func environment(env map[string]string) []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, "%s=%s\n", name, quote(env[name]))
	}
	return b.Bytes()
}
