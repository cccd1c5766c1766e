package rest

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"slipway/orchestrator"
)

// canned is a service that answers everything with one status and text.
type canned struct {
	status int
	text   []byte
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: c.status, Body: io.NopCloser(bytes.NewReader(c.text)), Request: r}, nil
}

// FuzzAnswer: whatever the service answers is a host or a refusal with a kind, bounded and without the token.
func FuzzAnswer(f *testing.F) {
	const token = "a token that the service repeats"
	f.Add(200, []byte(`{"id":"m1","tenant":"acme","name":"web-1","hostname":"web-1","pool":"a","image":"debian-12","address":"203.0.113.9"}`))
	f.Add(200, []byte(`{"address":"203.0.113.999","id":7}`))
	f.Add(401, []byte("no: Bearer "+token))
	f.Add(302, []byte{0xff, 0x1b})
	f.Fuzz(func(t *testing.T, status int, text []byte) {
		c, err := New(Config{URL: "http://192.0.2.1/api", Token: orchestrator.NewSecret(token)})
		if err != nil {
			t.Fatal(err)
		}
		c.http.Transport = canned{status, text}
		_, err = c.ObserveHost(t.Context(), "m1")
		for _, err := range []error{err, c.EnsureHost(t.Context(), orchestrator.MonitoredHost{Machine: "m1"}), c.RemoveHost(t.Context(), "m1")} {
			if err == nil {
				continue
			}
			if orchestrator.KindOf(err) == "" || len(err.Error()) > maxTold+500 || strings.Contains(err.Error(), token) {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}
