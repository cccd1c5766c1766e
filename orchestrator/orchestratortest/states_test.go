package orchestratortest_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator/orchestratortest"
)

var update = flag.Bool("update", false, "write docs/states.md and the harness's table in docs/reliability.md")

func TestStatesPage(t *testing.T) {
	const path = "../../docs/states.md"
	processes := build(orchestratortest.NewWorld(1), nil)
	want := orchestratortest.States(processes...)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/states.md is stale; write it anew: go test ./orchestrator/orchestratortest -run TestStatesPage -update\n%s", diff)
	}
	for _, p := range processes {
		for _, row := range p.Rows {
			if !strings.Contains(want, "| "+string(row.From)+" | "+row.Step) || !strings.Contains(want, string(row.From)+" --> "+string(row.To)+": "+row.Step) {
				t.Errorf("row %s of %s is not on the page", row.Step, p.Name)
			}
		}
	}
}
