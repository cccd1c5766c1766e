package isc

import (
	"fmt"
	"strings"
)

// include is one include statement of a main file: the path, and where its text between the quotes lies.
type include struct {
	path       string
	start, end int
}

// includes finds the include statements of a dhcpd.conf as dhcpd's lexer (common/conflex.c) sees them: words are compared without case,
// '#' starts a comment anywhere but in a string, a backslash in a string takes the next byte.
func includes(text string) []include {
	var found []include
	word, previous := "", ""
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '#':
			i = after(text, i, "\n")
		case c == '"':
			end, value := quoted(text, i+1)
			if strings.EqualFold(previous, "include") {
				found = append(found, include{path: value, start: i + 1, end: end})
			}
			previous = ""
			i = min(end+1, len(text))
		case wordByte(c):
			start := i
			for i < len(text) && wordByte(text[i]) {
				i++
			}
			word = text[start:i]
			previous = word
		default:
			if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
				previous = ""
			}
			i++
		}
	}
	return found
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

func after(text string, i int, what string) int {
	if n := strings.Index(text[i:], what); n >= 0 {
		return i + n + len(what)
	}
	return len(text)
}

// quoted reads a string whose first byte is at i; end is where its closing quote is.
func quoted(text string, i int) (end int, value string) {
	var b strings.Builder
	for ; i < len(text) && text[i] != '"'; i++ {
		if text[i] == '\\' && i+1 < len(text) {
			i++
		}
		b.WriteByte(text[i])
	}
	return i, b.String()
}

// withCandidate is main with the include of path turned to the candidate. A main that does not include path exactly once is refused:
// without it no host of ours would be served, and twice dhcpd would see each name a second time.
func withCandidate(main, path, candidate string) (string, error) {
	var ours []include
	for _, inc := range includes(main) {
		if inc.path == path {
			ours = append(ours, inc)
		}
	}
	if len(ours) != 1 {
		return "", fmt.Errorf("the main file includes %s %d times and must do so once: put `include \"%s\";` into it", path, len(ours), path)
	}
	return main[:ours[0].start] + candidate + main[ours[0].end:], nil
}
