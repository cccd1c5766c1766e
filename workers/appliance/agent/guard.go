package agent

import (
	"fmt"

	"slipway/orchestrator"
)

// shrinkFloor and shrinkPercent: an apply may remove max(5, 2 %) of the live rows unasked.
const (
	shrinkFloor   = 5
	shrinkPercent = 2
)

// shrinks says what is wrong with going from so many rows to so many, "" when nothing is.
func shrinks(from, to int) string {
	allowed := max(shrinkFloor, from*shrinkPercent/100)
	if from-to <= allowed {
		return ""
	}
	return fmt.Sprintf("%d of %d rows would go and %d may without an operator's word", from-to, from, allowed)
}

// messageLimit bounds a message in bytes.
const messageLimit = 2000

// clean makes one printable line of a tool's words.
func clean(s string) string { return orchestrator.OneLine(s, messageLimit) }
