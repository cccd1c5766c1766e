package docs_test

import (
	"regexp"
	"strings"
	"testing"
)

// Every row about what brokers and databases do names tests that exist.
func TestTruthsAreNamedByTests(t *testing.T) {
	_, page, ok := strings.Cut(read(t, "reliability.md"), "\n## Brokers and databases\n")
	if !ok {
		t.Fatal("the page has no such section")
	}
	page, _, _ = strings.Cut(page, "\n## ")
	code := regexp.MustCompile("`([^`]+)`")
	tests := testsOf{}
	rows := 0
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| What happens |") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		if len(cells) != 4 {
			t.Errorf("%d cells: %s", len(cells), line)
			continue
		}
		named := code.FindAllStringSubmatch(cells[3], -1)
		if len(named) == 0 {
			t.Errorf("no test is named: %s", line)
		}
		for _, test := range named {
			if err := tests.find(test[1]); err != nil {
				t.Errorf("%s: %s: %v", strings.TrimSpace(cells[0]), test[1], err)
			}
		}
	}
	if rows < 30 {
		t.Errorf("only %d rows were found", rows)
	}
}
