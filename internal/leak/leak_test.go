package leak_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/leak"
)

// TestEveryFormIsFound: a scan that finds nothing proves nothing by itself.
func TestEveryFormIsFound(t *testing.T) {
	const secret = `p"ss/w&rd+<7Qz ü9`
	quoted, err := json.Marshal(map[string]string{"password": secret})
	if err != nil {
		t.Fatal(err)
	}
	twice, err := json.Marshal(string(quoted))
	if err != nil {
		t.Fatal(err)
	}
	var s leak.Secrets
	if err := s.Add("the password", secret+"\n"); err != nil {
		t.Fatal(err)
	}
	for form, text := range map[string]string{
		"plain":                    "login " + secret + " failed",
		"JSON":                     string(quoted),
		"JSON in JSON":             string(twice),
		"query":                    "GET /?p=" + url.QueryEscape(secret),
		"path":                     "GET /" + url.PathEscape(secret) + "/x",
		"URL's user":               url.UserPassword("u", secret).String(),
		"Go's %q":                  fmt.Sprintf("%q", secret),
		"Go's %x":                  fmt.Sprintf("%x", secret),
		"Go's %X":                  fmt.Sprintf("%X", secret),
		"hex":                      hex.EncodeToString([]byte(secret)),
		"base64":                   base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 without padding":   base64.RawStdEncoding.EncodeToString([]byte(secret)),
		"base64url":                base64.URLEncoding.EncodeToString([]byte(secret)),
		"basic authorization":      "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+secret)),
		"base64 with one before":   base64.StdEncoding.EncodeToString([]byte("1" + secret + "22")),
		"base64 with two before":   base64.StdEncoding.EncodeToString([]byte("12" + secret + "1")),
		"base64 with three before": base64.StdEncoding.EncodeToString([]byte("123" + secret)),
		"in a cut line":            strings.Repeat("x", 100000) + secret,
	} {
		if len(s.Find([]byte(text))) == 0 {
			t.Errorf("%s is not found in %.80s", form, text)
		}
	}
	for _, text := range []string{"", "p\"ss", "[redacted]", string(twice[:8]), base64.StdEncoding.EncodeToString([]byte("something else"))} {
		if found := s.Find([]byte(text)); len(found) != 0 {
			t.Errorf("found %q in %q", found, text)
		}
	}
}

func TestLinesOfAKey(t *testing.T) {
	var s leak.Secrets
	if err := s.Add("key", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nQyNTUxOQAAACDsomethingelse\n-----END OPENSSH PRIVATE KEY-----\n"); err != nil {
		t.Fatal(err)
	}
	if found := s.Find([]byte(`said QyNTUxOQAAACDsomethingelse\n`)); s.Len() != 2 || len(found) == 0 || !strings.Contains(found[0], "key, line 3") {
		t.Errorf("%d lines, found %q", s.Len(), found)
	}
	if err := s.Add("short", "1234567"); err == nil {
		t.Error("a secret that stands everywhere is looked for")
	}
}

// Secrets that begin alike, overlap, or stand at a text's ends are told apart.
func TestManySecrets(t *testing.T) {
	var s leak.Secrets
	for name, secret := range map[string]string{"one": "aaaaaaaab", "two": "aaaaaaaac", "long": "aaaaaaaacdef", "end": "cdef-end", "gone": "aaaaaaaad"} {
		if err := s.Add(name, secret); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"end (plain)", "long (plain)", "one (plain)", "two (plain)"}
	if diff := cmp.Diff(want, s.Find([]byte("aaaaaaaaab aaaaaaaacdef-end"))); diff != "" {
		t.Error(diff)
	}
}
