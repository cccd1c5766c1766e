package xvp

import (
	"bytes"
	"strings"
)

// word is one argument, with what xvp would find behind it in the line.
type word struct {
	text   string
	quoted bool
	open   bool // a quote that was never closed
	rest   int  // bytes of the line after the word and its closing quote or blank
}

// splitLines cuts a file at line feeds. The last line needs none.
func splitLines(src []byte) [][]byte {
	lines := bytes.SplitAfter(src, []byte{'\n'})
	if last := len(lines) - 1; last >= 0 && len(lines[last]) == 0 {
		lines = lines[:last]
	}
	return lines
}

// words reads one line the way xvp does (server/config.c): a comment begins at the first '#', also inside quotes; a word that begins with a
// quote ends at the next one, which nothing escapes; any other word ends at a blank or a tab, and a quote inside it is a character.
func words(line []byte) ([]word, Rule, string) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	line = bytes.TrimSuffix(line, []byte{'\r'})
	if len(line) > maxLine {
		return nil, LongLine, "the line is longer than 4095 bytes: xvp would cut it in two"
	}
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return nil, BadByte, "the line holds a control character"
		}
	}
	if i := bytes.IndexByte(line, '#'); i >= 0 {
		line = line[:i]
	}
	var out []word
	rest := string(line)
	for {
		rest = strings.TrimLeft(rest, " \t")
		if len(out) == maxWords {
			// xvp does not look further: even a blank after the tenth word is too much for it.
			if rest != "" || out[maxWords-1].rest >= 0 {
				return nil, ManyWords, "the line has more than 10 words"
			}
			return out, "", ""
		}
		if rest == "" {
			return out, "", ""
		}
		var w word
		if rest[0] == '"' {
			w.quoted = true
			if rest = rest[1:]; rest == "" { // a lone quote at the end is no word at all
				return out, "", ""
			}
			w.text, rest, w.rest, w.open = cut(rest, `"`)
		} else {
			w.text, rest, w.rest, _ = cut(rest, " \t")
		}
		out = append(out, w)
	}
}

// cut ends a word at one of the bytes in ends. left is -1 when the line ended first.
func cut(s, ends string) (text, rest string, left int, open bool) {
	i := strings.IndexAny(s, ends)
	if i < 0 {
		return s, "", -1, true
	}
	return s[:i], s[i+1:], len(s) - i - 1, false
}
