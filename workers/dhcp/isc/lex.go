package isc

import "strings"

// lexeme is one word, string or sign of a dhcpd.conf.
type lexeme struct {
	text   string
	quoted bool
	line   int // from 1
}

// lexer splits a dhcpd.conf as dhcpd's own does (common/conflex.c): '#' starts a comment anywhere but in a string, a backslash in a string
// takes the next byte, and what is no word is a sign of one byte.
type lexer struct {
	text string
	at   int
	line int
}

func (l *lexer) next() (lexeme, bool) {
	for l.at < len(l.text) {
		start, line := l.at, l.line
		switch c := l.text[l.at]; {
		case c == '\n':
			l.line++
			l.at++
		case c == ' ' || c == '\t' || c == '\r':
			l.at++
		case c == '#':
			l.at = after(l.text, l.at, "\n")
			l.line += countLines(l.text[start:l.at])
		case c == '"':
			end, value := quoted(l.text, l.at+1)
			l.at = min(end+1, len(l.text))
			l.line += countLines(l.text[start:l.at])
			return lexeme{value, true, line}, true
		case wordByte(c):
			for l.at < len(l.text) && wordByte(l.text[l.at]) {
				l.at++
			}
			return lexeme{l.text[start:l.at], false, line}, true
		default:
			l.at++
			return lexeme{l.text[start:l.at], false, line}, true
		}
	}
	return lexeme{}, false
}

func countLines(s string) int { return strings.Count(s, "\n") }
