package isc

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIncludes(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"plain":             {`include "/a";`, []string{"/a"}},
		"spread out":        {"include # \"/no\"\n\t\"/a\" ;", []string{"/a"}},
		"any case":          {`INCLUDE "/a"; Include "/b";`, []string{"/a", "/b"}},
		"in a block":        {"subnet 10.0.0.0 netmask 255.0.0.0 {\n include \"/a\";\n}", []string{"/a"}},
		"in a comment":      {"# include \"/a\";\n", nil},
		"comment in string": {"option x \"a#b\"; include \"/a\";", []string{"/a"}},
		"in a string":       {`option x "include \"/a\";";`, nil},
		"part of a word":    {`my-include "/a"; include-it "/b"; xinclude "/c";`, nil},
		"not after a word":  {`include ; "/a";`, nil},
		"escapes":           {`include "/a\"b";`, []string{`/a"b`}},
		"cut off":           {`include "/a`, []string{"/a"}},
		"empty":             {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, inc := range includes(tc.text) {
				got = append(got, inc.path)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWithCandidate(t *testing.T) {
	main := "# include \"/ours\";\ninclude \"/theirs\";\ninclude \"/ours\"; # ours\n"
	got, err := withCandidate(main, "/ours", "/new")
	if want := "# include \"/ours\";\ninclude \"/theirs\";\ninclude \"/new\"; # ours\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	for _, main := range []string{"", "include \"/theirs\";", main + main} {
		if _, err := withCandidate(main, "/ours", "/new"); err == nil || !strings.Contains(err.Error(), "/ours") {
			t.Errorf("%q: %v", main, err)
		}
	}
}

func FuzzIncludes(f *testing.F) {
	f.Add(`include "/a"; # x`)
	f.Add("include \"\\")
	f.Fuzz(func(t *testing.T, text string) {
		for _, inc := range includes(text) {
			if inc.start > inc.end || inc.end > len(text) {
				t.Fatalf("%q: %+v", text, inc)
			}
		}
	})
}
