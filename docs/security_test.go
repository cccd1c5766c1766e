package docs_test

import (
	"regexp"
	"strings"
	"testing"
)

// Every defence on the page of security names tests that exist, and so does the page of reliability where it names any.
func TestDefencesAreNamedByTests(t *testing.T) {
	named := regexp.MustCompile("`([a-z0-9/]+\\.Test[^`]+)`")
	tests := testsOf{}
	check := func(page, text string) (n int) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			n++
			if err := tests.find(m[1]); err != nil {
				t.Errorf("%s: %s: %v", page, m[1], err)
			}
		}
		return n
	}
	text := read(t, "security.md")
	if n := check("security.md", text); n < 50 {
		t.Errorf("security.md names %d tests: the page was not understood", n)
	}
	check("reliability.md", read(t, "reliability.md"))
	rows := 0
	for line := range strings.Lines(text) {
		cells := strings.Count(line, " | ") + 1
		if !strings.HasPrefix(line, "| ") || cells != 4 || strings.HasPrefix(line, "| Who |") || strings.HasPrefix(line, "| Server |") {
			continue
		}
		rows++
		if !named.MatchString(line) {
			t.Errorf("no test proves: %s", line)
		}
	}
	if rows < 25 {
		t.Errorf("%d defences were found", rows)
	}
}
