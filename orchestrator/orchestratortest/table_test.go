package orchestratortest_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"slipway/orchestrator/orchestratortest"
)

const (
	reliability = "../../docs/reliability.md"
	tableBegins = "<!-- Written by: go test ./orchestrator/orchestratortest -update -->\n"
	tableEnds   = "<!-- end of what is written -->\n"
)

// TestMain prints what the harness has done once all of it was done, and holds docs/reliability.md against it; -update writes it there.
func TestMain(m *testing.M) {
	code := m.Run()
	if whole(tally) {
		table := tally.Table()
		fmt.Print(table)
		if err := judge(table); err != nil {
			fmt.Println("FAIL:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// whole tells that nothing was left out by a flag.
func whole(y *orchestratortest.Tally) bool {
	for name, left := range map[string]string{"test.run": "", "test.skip": "", "test.count": "1", "test.list": ""} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != left && !strings.HasPrefix(f.Value.String(), harnessOnly) {
			return false
		}
	}
	return len(y.Subjects()) > 0
}

// harnessOnly is how `make harness` names the tests that count.
const harnessOnly = "^Test(Install|Uninstall|Reconfigure|Suspend|Unsuspend|Import)"

// judge finds a process that nothing exercises, a row that nothing reaches, and a page that says something else.
func judge(table string) error {
	for _, p := range build(orchestratortest.NewWorld(1), nil) {
		reached := tally.Rows(p.Name)
		for _, row := range p.Rows {
			if !slices.Contains(reached, row.Step) {
				return fmt.Errorf("row %s of %s was reached by no Subject", row.Step, p.Name)
			}
		}
	}
	page, err := os.ReadFile(reliability)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(page), tableBegins)
	written, after, ends := strings.Cut(rest, tableEnds)
	switch {
	case !begins || !ends:
		return fmt.Errorf("docs/reliability.md has no place for the table between %q and %q", tableBegins, tableEnds)
	case written == table:
		return nil
	case *update:
		return os.WriteFile(reliability, []byte(before+tableBegins+table+tableEnds+after), 0o644)
	}
	return fmt.Errorf("docs/reliability.md has another table; write it anew: go test ./orchestrator/orchestratortest -update\n%s", written)
}
