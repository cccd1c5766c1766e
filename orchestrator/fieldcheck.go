package orchestrator

import (
	"fmt"
	"strings"
	"unicode"
)

// fieldCheck gathers FieldErrors.
type fieldCheck struct{ errs FieldErrors }

func (c *fieldCheck) add(field, problem, fix string) {
	c.errs = append(c.errs, FieldError{Field: field, Problem: problem, Fix: fix})
}

// id accepts what CloudEvents allows for source and id, short and printable.
func (c *fieldCheck) id(field, value string) {
	switch {
	case value == "":
		c.add(field, "is missing", "give one")
	case len(value) > maxIDLength:
		c.add(field, fmt.Sprintf("has %d characters", len(value)), fmt.Sprintf("use at most %d", maxIDLength))
	case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }):
		c.add(field, "has a character that is not printable ASCII", "use letters, digits and punctuation without spaces")
	}
}

// label accepts one DNS label (RFC 1123): names go into file grammars, XenAPI and the guest, and this alphabet is safe in all of them.
func (c *fieldCheck) label(field, value string) {
	if problem := labelProblem(value); problem != "" {
		c.add(field, problem, "use 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")
	}
}

func (c *fieldCheck) hostname(field, value string) {
	if len(value) > maxHostname {
		c.add(field, "has more than 253 characters", "shorten it")
	} else if problem := hostnameProblem(value); problem != "" {
		c.add(field, problem, "use 1 to 63 of a-z, 0-9 and - for each label")
	}
}

// zone accepts a zone's name without its final dot. RFC 2317 has a / in the first label.
func (c *fieldCheck) zone(field, value string) {
	first, rest, _ := strings.Cut(value, ".")
	if problem := hostnameProblem(strings.ReplaceAll(first, "/", "-") + "." + rest); problem != "" {
		c.add(field, problem, "write it in lower case without the final dot, such as vm.example.net")
	}
}

const maxHostname = 253

func hostnameProblem(value string) string {
	if len(value) > maxHostname {
		return "it has more than 253 characters"
	}
	for label := range strings.SplitSeq(value, ".") {
		if problem := labelProblem(label); problem != "" {
			return fmt.Sprintf("its label %q %s", clip(label), problem)
		}
	}
	return ""
}

func (c *fieldCheck) between(field string, value, low, high int64, unit string) {
	if value < low || value > high {
		c.add(field, fmt.Sprintf("%d%s is out of range", value, unit), fmt.Sprintf("use %d to %d%s", low, high, unit))
	}
}

func labelProblem(value string) string {
	switch {
	case value == "":
		return "is empty"
	case len(value) > 63:
		return fmt.Sprintf("has %d bytes", len(value))
	case value[0] == '-' || value[len(value)-1] == '-':
		return "begins or ends with -"
	}
	for _, r := range value {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return fmt.Sprintf("has the character %+q", r)
		}
	}
	return ""
}

// isUUID accepts the canonical lower-case form only.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, r := range s {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if r != '-' {
				return false
			}
		case (r < '0' || r > '9') && (r < 'a' || r > 'f'):
			return false
		}
	}
	return true
}

// isControl tells what has no place in a word of an order: control characters, separators of lines, and what turns the direction of text.
func isControl(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r)
}

// clip shortens foreign text for an error message.
func clip(s string) string {
	if len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "…"
	}
	return s
}
