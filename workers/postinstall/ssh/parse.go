package ssh

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"slipway/orchestrator"
)

// maxWords bounds a stage or a check's line: they go into rows and onto terminals.
const maxWords = 300

var statusLine = regexp.MustCompile(`^state=(running|exited|lost|unknown) exit=([0-9]{1,3}) stage=(.*)$`)

// parseStatus reads what `observe` says: a line of state, then the log from offset on.
func parseStatus(out []byte, offset int64) (orchestrator.JobStatus, error) {
	first, log, found := bytes.Cut(out, []byte("\n"))
	m := statusLine.FindSubmatch(first)
	if !found || m == nil {
		return orchestrator.JobStatus{}, fmt.Errorf("the guest's answer is no job state: %.100q", first)
	}
	code, err := strconv.Atoi(string(m[2]))
	if err != nil || code > 255 {
		return orchestrator.JobStatus{}, fmt.Errorf("the guest's answer has no exit code: %.100q", first)
	}
	status := orchestrator.JobStatus{
		State: orchestrator.JobState(m[1]), Exit: code, Stage: said(m[3]), Log: log, Offset: offset + int64(len(log)),
	}
	if status.Stage == "-" {
		status.Stage = ""
	}
	return status, nil
}

var checkLine = regexp.MustCompile(`^([a-z0-9_]{1,64})=(ok|failed: .+)$`)
var identityLine = regexp.MustCompile(`^identity=([0-9a-f]{32})?$`)

// parseInspection reads what `inspect` says: the machine id, then a line for each check. A guest without one check line has not been
// inspected, whatever it says.
func parseInspection(out []byte) (orchestrator.Inspection, error) {
	inspection := orchestrator.Inspection{Checks: map[string]string{}}
	seen := false
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSuffix(line, "\n")
		if m := identityLine.FindStringSubmatch(line); m != nil && !seen {
			inspection.Identity, seen = m[1], true
		} else if m := checkLine.FindStringSubmatch(line); m != nil {
			inspection.Checks[m[1]] = orchestrator.OneLine(strings.TrimPrefix(m[2], "failed: "), maxWords)
		}
	}
	if !seen || len(inspection.Checks) == 0 {
		return orchestrator.Inspection{}, fmt.Errorf("the guest's answer has no machine id or no checks: %.200q", out)
	}
	return inspection, nil
}

// said is a guest's words as one bounded line.
func said(b []byte) string { return orchestrator.OneLine(string(b), maxWords) }
