package carrier

import (
	"encoding/json"
	"strings"
	"testing"

	"slipway/workers/appliance/apply"
)

func TestTraceOfAHostileAppliance(t *testing.T) {
	ask := func(trace apply.Trace) (apply.Answer, error) {
		body, err := json.Marshal(apply.Answer{Code: apply.Traced, Trace: &trace})
		if err != nil {
			t.Fatal(err)
		}
		return readAnswer(strings.NewReader(string(body)), maxAnswer)
	}
	got, err := ask(apply.Trace{Lines: []string{"a\x1b[2J\nb" + strings.Repeat("ü", apply.MaxText)}, Count: 3, Read: 10})
	if err != nil {
		t.Fatal(err)
	}
	if line := got.Trace.Lines[0]; strings.ContainsAny(line, "\x1b\n") || len(line) > apply.MaxText+10 {
		t.Errorf("%d bytes: %q", len(line), line)
	}
	for name, trace := range map[string]apply.Trace{
		"too many lines":             {Lines: make([]string, apply.MaxTrace+1), Count: 99, Read: 99},
		"more lines than it counts":  {Lines: []string{"a", "b"}, Count: 1, Read: 9},
		"more than it has read":      {Lines: []string{"a"}, Count: 2, Read: 1},
		"a count without a line":     {Count: 2, Read: 9},
		"less than none":             {Count: -1, Read: -1},
		"nothing read, less counted": {Count: -1},
	} {
		if _, err := ask(trace); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for _, text := range []string{`{"code":"traced"}`, `{"code":"applied","trace":{"count":0,"read":0}}`} {
		if _, err := readAnswer(strings.NewReader(text), maxAnswer); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}
