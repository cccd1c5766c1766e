package replay

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// RecordingsVar names a directory of full recordings to be replayed besides the project's own, condensed ones.
const RecordingsVar = "SLIPWAY_XAPI_RECORDINGS"

func TestCondensedRecordings(t *testing.T) {
	var out strings.Builder
	report, err := Run(t.Context(), "../testdata", &out)
	if err != nil {
		t.Fatal(err)
	}
	if agree, own := report.Own(); agree != own || own < 250 {
		t.Fatalf("%d of %d exchanges agree, want all of at least 250:\n%s", agree, own, out.String())
	}
	dir := os.Getenv(RecordingsVar)
	if dir == "" {
		return
	}
	report, err = Run(t.Context(), dir, os.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	if agree, own := report.Own(); 100*agree < 95*own {
		t.Fatalf("%d of %d exchanges agree, want 95 %%", agree, own)
	}
}

// A replay that cannot fail proves nothing: each of these changes of an answer has to be noticed.
func TestMatcherNotices(t *testing.T) {
	const a, b = "OpaqueRef:00000000-0000-4000-8000-000000000001", "OpaqueRef:00000000-0000-4000-8000-000000000002"
	for name, c := range map[string]struct {
		recorded, simulated any
		agree               bool
	}{
		"same":               {"x", "x", true},
		"other text":         {"x", "y", false},
		"first sight":        {a, b, true},
		"one for two":        {[]any{a, a}, []any{a, b}, false},
		"two for one":        {[]any{a, b}, []any{a, a}, false},
		"order of a set":     {[]any{"x", "y"}, []any{"y", "x"}, true},
		"missing member":     {[]any{"x", "y"}, []any{"x"}, false},
		"moments":            {"20261121T21:43:03Z", "20270101T00:00:00Z", true},
		"moment for never":   {"20261121T21:43:03Z", epoch, false},
		"missing field":      {map[string]any{"x": "1", "y": "2"}, map[string]any{"x": "1"}, false},
		"other field":        {map[string]any{"x": "1"}, map[string]any{"y": "1"}, false},
		"number for text":    {"1", 1, false},
		"text with identity": {"in " + a, "at " + a, false},
	} {
		if got := newMatcher().equal(c.recorded, c.simulated); got != c.agree {
			t.Errorf("%s: agree %v, want %v", name, got, c.agree)
		}
	}
}
