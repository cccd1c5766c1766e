package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// vary writes the site's configuration to varied.yaml beside it, with one text in another's place; in the place of "" it is added: OLD NEW.
func vary(ts *testscript.TestScript, _ bool, args []string) {
	body, err := os.ReadFile(ts.Getenv("CONFIG"))
	ts.Check(err)
	text := string(body) + args[1] + "\n"
	if args[0] != "" {
		if !strings.Contains(string(body), args[0]) {
			ts.Fatalf("the configuration has no %q", args[0])
		}
		text = strings.Replace(string(body), args[0], args[1], 1)
	}
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("SITE"), "varied.yaml"), []byte(text), 0o600))
}
