package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Every pain is on the page, and has tests that exist.
func TestPainsAreNamedByTests(t *testing.T) {
	code := regexp.MustCompile("`([^`]+)`")
	tests := testsOf{}
	var found []string
	for line := range strings.Lines(read(t, "pains.md")) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if name := strings.TrimSpace(cells[0]); !strings.HasPrefix(name, "P") || len(cells) != 4 {
			if strings.HasPrefix(name, "P") && strings.HasPrefix(line, "|") {
				t.Errorf("%d cells: %s", len(cells), line)
			}
			continue
		}
		name, proof := strings.TrimSpace(cells[0]), strings.TrimSpace(cells[3])
		found = append(found, name)
		named := code.FindAllStringSubmatch(proof, -1)
		if len(named) == 0 {
			t.Errorf("%s names no test", name)
		}
		for _, test := range named {
			if err := tests.find(test[1]); err != nil {
				t.Errorf("%s: %s: %v", name, test[1], err)
			}
		}
	}
	var all []string
	for n := range 32 {
		all = append(all, fmt.Sprint("P", n+1))
	}
	if !slices.Equal(all, found) {
		t.Errorf("the page has the rows %v", found)
	}
}

// testsOf has the test functions and the texts of each folder that was looked into.
type testsOf map[string]folder

type folder struct {
	tests   map[string]bool
	texts   map[string]bool // string literals, where the names of a test's parts come from
	imports map[string]bool // folders of suites
}

// find looks for "folder.TestName" or "folder.TestName/part". A part is a text in the test's folder or in a suite that it imports, or a
// script.
func (f testsOf) find(name string) error {
	dir, test, ok := strings.Cut(name, ".")
	if !ok {
		return fmt.Errorf("no package")
	}
	test, parts, _ := strings.Cut(test, "/")
	here, err := f.look(dir)
	if err != nil {
		return err
	}
	if !here.tests[test] {
		return fmt.Errorf("%s has no such test", dir)
	}
	for part := range strings.SplitSeq(parts, "/") {
		if part == "" || here.texts[part] || exists(filepath.Join("..", dir, "testdata/script", part+".txtar")) {
			continue
		}
		inSuite := false
		for suite := range here.imports {
			there, err := f.look(suite)
			if err != nil {
				return err
			}
			inSuite = inSuite || there.texts[part]
		}
		if !inSuite {
			return fmt.Errorf("the test has no part %q", part)
		}
	}
	return nil
}

func (f testsOf) look(dir string) (folder, error) {
	if known, ok := f[dir]; ok {
		return known, nil
	}
	out := folder{tests: map[string]bool{}, texts: map[string]bool{}, imports: map[string]bool{}}
	files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil || len(files) == 0 {
		return out, fmt.Errorf("there is no Go in %s: %v", dir, err)
	}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return out, err
		}
		for _, imported := range file.Imports {
			if suite, ok := strings.CutPrefix(strings.Trim(imported.Path.Value, `"`), "slipway/"); ok && strings.HasSuffix(suite, "test") {
				out.imports[suite] = true
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && strings.HasSuffix(path, "_test.go") && strings.HasPrefix(n.Name.Name, "Test") {
					out.tests[n.Name.Name] = true
				}
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					out.texts[text] = true
				}
			}
			return true
		})
	}
	f[dir] = out
	return out, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
