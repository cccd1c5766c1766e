package deploy_test

import (
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"slipway/internal/testenv"
)

// TestUnitsAreSandboxed keeps the exposure that docs/security.md tells of each unit, by systemd's own judgement where there is one.
func TestUnitsAreSandboxed(t *testing.T) {
	page := read(t, "../docs/security.md")
	analyze, found := testenv.Find("systemd-analyze")
	for _, unit := range units {
		name := unit[len("systemd/"):]
		row := regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(name) + "` \\| ([0-9.]+) \\|").FindStringSubmatch(page)
		if row == nil {
			t.Errorf("docs/security.md has no figure for %s", name)
			continue
		}
		if !found {
			continue
		}
		out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=yes", "--no-pager", unit).CombinedOutput()
		told := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+) `).FindSubmatch(out)
		if told == nil {
			t.Errorf("systemd-analyze security %s: %v\n%s", unit, err, out)
			continue
		}
		is, err := strconv.ParseFloat(string(told[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		if said, err := strconv.ParseFloat(row[1], 64); err != nil || is > said+0.05 {
			t.Errorf("%s is exposed by %.1f, docs/security.md says %s", name, is, row[1])
		}
	}
}
