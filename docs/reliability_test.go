package docs_test

import (
	"regexp"
	"strings"
	"testing"
)

// Every row about what brokers and databases do names tests that exist.
func TestTruthsAreNamedByTests(t *testing.T) { namedByTests(t, "Brokers and databases", 30) }

// So does every row about what hostile parties do.
func TestHostileBehaviourIsNamedByTests(t *testing.T) { namedByTests(t, "A hostile world", 20) }

func TestVersionsAreNamedByTests(t *testing.T) { namedByTests(t, "Two versions on one database", 7) }

// namedByTests reads the tables of a section of reliability.md: four cells, of which the last names tests.
func namedByTests(t *testing.T, section string, least int) {
	t.Helper()
	_, page, ok := strings.Cut(read(t, "reliability.md"), "\n## "+section+"\n")
	if !ok {
		t.Fatal("the page has no such section")
	}
	page, _, _ = strings.Cut(page, "\n## ")
	code := regexp.MustCompile("`([^`]+)`")
	tests := testsOf{}
	rows, lines := 0, strings.Split(page, "\n")
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if head := i+1 < len(lines) && strings.HasPrefix(lines[i+1], "|---"); head || !strings.HasPrefix(line, "| ") {
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
				t.Errorf("%s: %s: %v", strings.TrimSpace(cells[1]), test[1], err)
			}
		}
	}
	if rows < least {
		t.Errorf("only %d rows were found", rows)
	}
}
