package carrier

import (
	"strings"
	"testing"
	"unicode"

	"slipway/workers/appliance/apply"
)

// FuzzAnswer: what an appliance says is refused, or is bounded, has a known code and drives no terminal.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"code":"applied","generation":7,"sha256":"` + strings.Repeat("ab", 32) + `","rows":3,"reloaded":true}`))
	f.Add([]byte(`{"code":"culprit","generation":6,"sha256":"","rows":2,"reloaded":false,"message":"/etc/dhcp/slipway-hosts.conf line 4: semicolon expected.\u001b[2J","file":"hosts.conf","line":4}` + "\nx"))
	f.Add([]byte(`{"code":"observed","generation":1,"sha256":"","rows":1,"reloaded":false,"live":{"files":[{"name":"rules.v4","exists":true,"content":"*filter\n","sha256":"` + strings.Repeat("00", 32) + `"}],"rows":1}}`))
	f.Add([]byte(`{"code":"observed","live":{"files":[]}`))
	f.Add([]byte(`{"code":"applied","` + strings.Repeat("\xe4", 3000) + `":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := readAnswer(strings.NewReader(string(text)), maxLive)
		words := []string{a.Message, a.File}
		if err != nil {
			words = []string{err.Error()}
		}
		if a.Live != nil {
			words = append(words, a.Live.Fault, a.Live.Shrinks)
			for _, file := range a.Live.Files {
				words = append(words, file.Name)
			}
		}
		for _, w := range words {
			if strings.ContainsFunc(w, func(r rune) bool { return !unicode.IsPrint(r) }) || len(w) > maxMessage+200 {
				t.Errorf("shown to operators: %q", w)
			}
		}
		if err == nil && (a.Generation < 0 || a.Rows < 0 || a.Line < 0 || (a.Code == apply.Observed) != (a.Live != nil)) {
			t.Errorf("%+v", a)
		}
	})
}
