// Package docs_test holds the pages against the program.
package docs_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"slipway/internal/config"
	"slipway/orchestrator"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// keys walks the configuration: "pools[].xenapi.user" and its like, without those inside a Secret, which are the same everywhere.
func keys(t reflect.Type, path string, found *[]string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		switch t.Kind() {
		case reflect.Slice:
			path += "[]"
		case reflect.Map:
			path += ".*"
		}
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for f := range t.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if key == "" || key == "-" {
			continue
		}
		at := key
		if path != "" {
			at = path + "." + key
		}
		before := len(*found)
		if f.Type != reflect.TypeFor[config.Secret]() {
			keys(f.Type, at, found)
		}
		if len(*found) == before {
			*found = append(*found, at)
		}
	}
}

func TestEveryConfigurationKeyIsDescribed(t *testing.T) {
	rows := map[string]string{} // first cell to row
	for _, line := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|.*$").FindAllStringSubmatch(read(t, "operations.md"), -1) {
		rows[line[1]] = line[0]
	}
	var all []string
	keys(reflect.TypeFor[config.Config](), "", &all)
	if len(all) < 50 {
		t.Fatalf("only %d keys were found: %q", len(all), all)
	}
	for _, key := range all {
		if _, ok := rows[key]; ok {
			continue
		}
		// A key may be described in the row of what it is part of.
		parent, leaf := key[:max(0, strings.LastIndex(key, "."))], key[strings.LastIndex(key, ".")+1:]
		if row, ok := rows[strings.TrimSuffix(parent, ".*")]; ok && strings.Contains(row, "`"+leaf+"`") {
			continue
		}
		t.Errorf("operations.md does not describe %s: add a row `%s`", key, key)
	}
	known := map[string]bool{}
	for _, key := range all {
		for key != "" {
			known[key], known[strings.TrimSuffix(key, ".*")], known[strings.TrimSuffix(key, "[]")] = true, true, true
			key = key[:max(0, strings.LastIndex(key, "."))]
		}
	}
	first, _, _ := strings.Cut(read(t, "operations.md"), "\n## Verbs")
	_, table, _ := strings.Cut(first, "\n## Configuration")
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		if !known[m[1]] {
			t.Errorf("operations.md describes %s, which the configuration does not have", m[1])
		}
	}
}

func TestEveryMetricIsDescribed(t *testing.T) {
	page := read(t, "operations.md")
	found := regexp.MustCompile(`"(slipway_[a-z_]+)"`).FindAllStringSubmatch(read(t, "../internal/service/health.go"), -1)
	if len(found) == 0 {
		t.Fatal("no metric was found in internal/service/health.go")
	}
	for _, m := range found {
		if !strings.Contains(page, "`"+m[1]) {
			t.Errorf("operations.md does not describe %s", m[1])
		}
	}
}

func TestEveryKindIsDescribed(t *testing.T) {
	page := read(t, "operations.md")
	for _, kind := range orchestrator.Kinds() {
		if !strings.Contains(page, "\n| `"+string(kind)+"` |") {
			t.Errorf("operations.md does not say what %s means", kind)
		}
	}
}

func TestEveryVerbIsDescribed(t *testing.T) {
	page := read(t, "operations.md")
	verbs := regexp.MustCompile("(?m)^\t[A-Z]\\w* +\\w+Cmd +`cmd:\"\"( name:\"\\w+\")? help").FindAllString(read(t, "../cmd/slipway/main.go"), -1)
	if len(verbs) < 15 {
		t.Fatalf("only %d verbs were found in cmd/slipway/main.go", len(verbs))
	}
	for _, line := range verbs {
		verb := strings.ToLower(strings.Fields(line)[0])
		if !strings.Contains(page, "`slipway "+verb) {
			t.Errorf("operations.md does not describe slipway %s", verb)
		}
	}
}

func TestEveryExitCodeIsDescribed(t *testing.T) {
	page := read(t, "operations.md")
	for _, m := range regexp.MustCompile(`(?m)^\texit[A-Z]\w* += (\d)`).FindAllStringSubmatch(read(t, "../cmd/slipway/main.go"), -1) {
		if !strings.Contains(page, "\n| "+m[1]+" |") {
			t.Errorf("operations.md does not describe exit code %s", m[1])
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("adr/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(append(pages, more...), "../README.md") {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}
