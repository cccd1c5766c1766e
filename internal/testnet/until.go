package testnet

import (
	"testing"
	"time"
)

// Until waits for a fact: it asks again every few milliseconds, at most for the given time, and fails the test with what it waited for.
func Until(tb testing.TB, limit time.Duration, what string, fact func() bool) {
	tb.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.Now().Add(limit)
	for !fact() {
		if time.Now().After(deadline) {
			tb.Fatalf("waited %s for: %s", limit, what)
		}
		<-ticker.C
	}
}
