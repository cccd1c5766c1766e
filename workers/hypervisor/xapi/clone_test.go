package xapi

import (
	"encoding/json"
	"sync/atomic"
	"testing"

	"slipway/orchestrator"
)

// TestOwnTaskCountsBeforeTheTemplateShowsIt: between the answer with the task and the operation on the template lies a moment in which the
// template looks idle.
func TestOwnTaskCountsBeforeTheTemplateShowsIt(t *testing.T) {
	var status atomic.Value
	status.Store("pending")
	m := newMember(t, func(method string, _ []json.RawMessage) reply {
		if method == "task.get_record" {
			return ok(taskRecord{Status: status.Load().(string)})
		}
		return ok(vmRecord{UUID: "template"})
	})
	p := testPool(newClient(t, testConfig(m.URL)))
	template := stored{ref: "OpaqueRef:template", rec: vmRecord{UUID: "template"}}
	starts := 0
	start := func() (Ref, error) { starts++; return "OpaqueRef:task", nil }
	if _, err := p.inTurn(t.Context(), template, start); err != nil {
		t.Fatal(err)
	}
	if _, err := p.inTurn(t.Context(), template, start); orchestrator.KindOf(err) != orchestrator.Exhausted || starts != 1 {
		t.Errorf("while our task is pending: %v, %d starts", err, starts)
	}
	status.Store("failure")
	if _, err := p.inTurn(t.Context(), template, start); err != nil || starts != 2 {
		t.Errorf("after it: %v, %d starts", err, starts)
	}
}
