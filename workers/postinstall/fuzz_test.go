package postinstall_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"slipway/workers/postinstall"
)

// FuzzManifest: whatever an entry of a site's own catalogue says, it is refused in words that name the file, or the catalogue can be used.
func FuzzManifest(f *testing.F) {
	seeds, err := filepath.Glob(templates + "/*/manifest.yaml")
	if err != nil || len(seeds) == 0 {
		f.Fatal(err, seeds)
	}
	for _, name := range seeds {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("extends: fuzz\nsteps: [{name: a, script: ../../x, timeout: -1s}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := postinstall.Load(fstest.MapFS{
			"fuzz/manifest.yaml": {Data: text}, "fuzz/a.sh": {Data: []byte("#!/bin/sh\n")}, "fuzz/check.sh": {Data: []byte("#!/bin/sh\n")},
		})
		if err != nil {
			if !strings.Contains(err.Error(), "fuzz") && !strings.Contains(err.Error(), "catalogue") {
				t.Errorf("a refusal that does not say of what: %v", err)
			}
			return
		}
		for _, image := range c.Images() {
			if _, err := c.Entry(image); err != nil {
				t.Errorf("%s: %v", image, err)
			}
		}
	})
}
