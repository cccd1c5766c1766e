package carrier

import (
	"errors"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// checkTrace bounds what an appliance hands on of a log, in which guests have their words, and makes each a printable line.
func checkTrace(t *apply.Trace) error {
	if len(t.Lines) > apply.MaxTrace || t.Count < len(t.Lines) || t.Read < t.Count || t.Count > 0 && len(t.Lines) == 0 {
		return errors.New("trace: too many lines, or numbers that cannot be")
	}
	for i, line := range t.Lines {
		t.Lines[i] = orchestrator.OneLine(line, apply.MaxText)
	}
	return nil
}
