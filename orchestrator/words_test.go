package orchestrator

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestOneLine(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"plain":                 {"disk: 3 of 4, größer", "disk: 3 of 4, größer"},
		"an escape":             {"a\x1b[2J\x1b]0;owned\x07b", "a[2J]0;ownedb"},
		"C1, which is one too":  {"a\u009b2Jb\u0085c", "a2Jb c"},
		"lines":                 {"one\r\ntwo\n\n\tthree\u2028four\u2029five", "one two three four five"},
		"it turns the line":     {"exe.\u202egpj \u2066x\u2069 \u200e\u061c", "exe.gpj x"},
		"what nobody sees":      {"a\u200b\u200d\ufeff\u00adb", "ab"},
		"NUL":                   {"a\x00b", "ab"},
		"half a letter":         {"a\xc3", "a?"},
		"tags and private use":  {"a\U000e0041\ue000b", "ab"},
		"nothing but such":      {"\x1b\x00\u202e", ""},
		"as long as it may be":  {strings.Repeat("x", 100), strings.Repeat("x", 100)},
		"too long":              {strings.Repeat("x", 101), strings.Repeat("x", 100) + "…"},
		"cut within a letter":   {strings.Repeat("x", 99) + "ö", strings.Repeat("x", 99) + "…"},
		"blanks before the end": {strings.Repeat(" ", 500) + "x", "…"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := OneLine(tt.in, 100); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("a\x1b[2J\u202e\xff", 3)
	f.Fuzz(func(t *testing.T, in string, most int) {
		most = max(0, min(most, 1<<16))
		got := OneLine(in, most)
		if !utf8.ValidString(got) || len(got) > most+len("…") || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q", got)
		}
	})
}
