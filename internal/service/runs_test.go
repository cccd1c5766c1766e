package service

import (
	"errors"
	"net/http/httptest"
	"testing"

	"slipway/orchestrator"
)

// A limit that is none is refused, whoever asks: it used to be the default's.
func TestRunsRefusesLimits(t *testing.T) {
	for _, limit := range []string{"abc", "-5", "0", "1e3", "100002"} {
		_, err := (&Service{}).getRuns(httptest.NewRequest("GET", "/v1/runs?limit="+limit, nil))
		var fields orchestrator.FieldErrors
		if !errors.As(err, &fields) || len(fields) != 1 || fields[0].Field != "limit" {
			t.Errorf("limit %s: %v", limit, err)
		}
	}
}
