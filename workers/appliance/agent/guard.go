package agent

import (
	"bytes"
	"fmt"
	"slices"

	"slipway/orchestrator"
)

// shrinkFloor and shrinkPercent: an apply may remove max(5, 2 %) of the live rows unasked.
const (
	shrinkFloor   = 5
	shrinkPercent = 2
)

// shrinks says what is wrong with going from so many rows to so many, "" when nothing is. left of those that go were dropped by runs.
func shrinks(from, to, left int) string {
	allowed := max(shrinkFloor, from*shrinkPercent/100)
	if from-to-left <= allowed {
		return ""
	}
	besides := ""
	if left > 0 {
		besides = fmt.Sprintf(" besides %d that runs have dropped", left)
	}
	return fmt.Sprintf("%d of %d rows would go%s and %d may without an operator's word", from-to-left, from, besides, allowed)
}

// countLeft counts the machines that have a word in the live files: the lines about one that was never here, or has gone already, cannot go.
func countLeft(live map[string][]byte, left [][]string) (n int) {
	if len(left) == 0 {
		return 0
	}
	words := map[string]bool{}
	for _, content := range live {
		for word := range bytes.FieldsFuncSeq(content, func(r rune) bool { return !wordRune(r) }) {
			words[string(word)] = true
		}
	}
	for _, machine := range left {
		if slices.ContainsFunc(machine, func(word string) bool { return words[word] }) {
			n++
		}
	}
	return n
}

// wordRune is part of a machine's id, its chain's name or its VM's uuid; whatever else stands in a file parts words.
func wordRune(r rune) bool {
	return r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// messageLimit bounds a message in bytes.
const messageLimit = 2000

// clean makes one printable line of a tool's words.
func clean(s string) string { return orchestrator.OneLine(s, messageLimit) }
