package queue

import (
	"strings"
	"unicode"
)

// maxReason keeps a header far below the frame size of a broker (RabbitMQ's default is 128 KiB).
const maxReason = 4 << 10

// CleanReason makes text fit for a header and for a terminal: valid UTF-8, no control characters but the line feed, bounded.
func CleanReason(s string) string {
	s = strings.Map(func(r rune) rune {
		if r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf)) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason-len("…")], "") + "…"
	}
	return s
}
