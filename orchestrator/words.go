package orchestrator

import (
	"strings"
	"unicode"
)

// OneLine makes what somebody else said (a guest, an appliance, a pool, a service) fit for a journal, a log and a terminal: valid UTF-8, one
// line of at most most bytes and a dot sign, white space as single blanks, and nothing that cannot be seen. So no escape or other control
// character is left, of C0 or C1, and none of the format characters that reorder or hide text.
func OneLine(s string, most int) string {
	cut := len(s) > 4*most // what follows would go in any case: a megabyte is not looked through for a line
	if cut {
		s = s[:4*most]
	}
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))), " ")
	if cut = cut || len(s) > most; !cut {
		return s
	}
	return strings.ToValidUTF8(s[:min(len(s), most)], "") + "…"
}

// Told is an error that has somebody else's words in it. It reads as one bounded line; its cause stays reachable.
func Told(err error) error {
	if err == nil {
		return nil
	}
	return told{err}
}

type told struct{ error }

func (t told) Error() string { return OneLine(t.error.Error(), maxTold) }
func (t told) Unwrap() error { return t.error }

// maxTold bounds an error with somebody else's words, in bytes.
const maxTold = 1000
