// Package leak looks for known secrets where none may be: in logs, answers, dumps, files and command lines. A secret is found as it is and
// in the forms that programs give it on the way: base64, hex, percent-encoded, and escaped as JSON, Go and HTML do.
//
// What it cannot find is a secret that was changed otherwise: cut in two, compressed or encrypted.
package leak

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// minLength is the shortest secret that says something: a shorter one stands in other words by chance. It is the length of a key as well.
const minLength = 8

// Secrets are those that are looked for. Not safe for concurrent changes.
type Secrets struct {
	exact, folded map[key][]pattern // folded are those that are found in either case
	names         map[string]string // by value
}

// key is how a pattern begins. A site of a thousand machines has some ten thousand patterns: a text is walked once for all of them.
type key [minLength]byte

type pattern struct {
	name, form string
	text       []byte
}

// Add makes a secret known. Of one with several lines, such as a private key, each line but its borders is looked for.
func (s *Secrets) Add(name, secret string) error {
	secret = strings.TrimSpace(secret)
	if lines := strings.Split(secret, "\n"); len(lines) > 1 {
		for i, line := range lines {
			if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "-----") || len(line) < minLength {
				continue
			}
			if err := s.Add(fmt.Sprintf("%s, line %d", name, i+1), line); err != nil {
				return err
			}
		}
		return nil
	}
	if len(secret) < minLength {
		return fmt.Errorf("%s has %d characters: too few to be looked for", name, len(secret))
	}
	if s.names == nil {
		s.names, s.exact, s.folded = map[string]string{}, map[key][]pattern{}, map[key][]pattern{}
	}
	if _, ok := s.names[secret]; ok {
		return nil
	}
	s.names[secret] = name
	seen := map[string]bool{}
	for _, f := range forms(secret) {
		if seen[f.text] {
			continue
		}
		seen[f.text] = true
		in := s.exact
		if f.name == "hex" {
			in = s.folded
		}
		k := key([]byte(f.text)) // no form is shorter than its secret may be
		in[k] = append(in[k], pattern{name, f.name, []byte(f.text)})
	}
	return nil
}

// Len is how many secrets are known.
func (s *Secrets) Len() int { return len(s.names) }

type form struct{ name, text string }

// forms are the ways to write a secret, the plainest first.
func forms(secret string) []form {
	out := []form{
		{"plain", secret}, {"hex", hex.EncodeToString([]byte(secret))},
		{"percent-encoded", url.QueryEscape(secret)}, {"percent-encoded in a path", url.PathEscape(secret)},
		{"quoted", strings.Trim(strconv.Quote(secret), `"`)}, {"HTML-escaped", html.EscapeString(secret)},
	}
	inJSON := func(s string) string {
		escaped, _ := json.Marshal(s) // a string always is
		return strings.Trim(string(escaped), `"`)
	}
	out = append(out, form{"JSON-escaped", inJSON(secret)}, form{"JSON-escaped twice", inJSON(inJSON(secret))})
	// Within a longer text base64 falls on one of three borders: what it has of the secret alone is the same each time.
	for shift := range 3 {
		for _, e := range []struct {
			name     string
			encoding *base64.Encoding
		}{{"base64", base64.RawStdEncoding}, {"base64url", base64.RawURLEncoding}} {
			coded := e.encoding.EncodeToString(append(bytes.Repeat([]byte{'x'}, shift), secret...))
			first, last := (shift*8+5)/6, ((shift+len(secret))*8)/6 // digits that are made of the secret's bits alone
			if last-first >= minLength {
				out = append(out, form{fmt.Sprintf("%s, shifted by %d", e.name, shift), coded[first:last]})
			}
		}
	}
	return out
}

// Find tells which secrets stand in a text, each with its form.
func (s *Secrets) Find(text []byte) (found []string) {
	found = search(found, s.exact, text)
	found = search(found, s.folded, bytes.ToLower(text))
	slices.Sort(found)
	return slices.Compact(found)
}

func search(found []string, patterns map[key][]pattern, text []byte) []string {
	for ; len(text) >= minLength; text = text[1:] {
		for _, p := range patterns[key(text)] {
			if bytes.HasPrefix(text, p.text) {
				found = append(found, fmt.Sprintf("%s (%s)", p.name, p.form))
			}
		}
	}
	return found
}
