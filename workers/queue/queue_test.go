package queue_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"slipway/workers/queue"
)

func TestWavesKeepOrderAndNeverRepeatAKey(t *testing.T) {
	tests := map[string]struct {
		keys  string // one letter per message, '.' is no key
		limit int
		want  []string
	}{
		"nothing":            {"", 10, nil},
		"all different":      {"abc", 10, []string{"abc"}},
		"one machine":        {"aaa", 10, []string{"a", "a", "a"}},
		"two interleaved":    {"abab", 10, []string{"ab", "ab"}},
		"a new wave forgets": {"abbac", 10, []string{"ab", "bac"}},
		"limit":              {"abcde", 2, []string{"ab", "cd", "e"}},
		"no key, no order":   {"..a..a", 10, []string{"..a..", "a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var messages []queue.Message
			for _, r := range tt.keys {
				messages = append(messages, queue.Message{Key: strings.Trim(string(r), "."), ID: string(r)})
			}
			var got []string
			for _, wave := range queue.Waves(messages, tt.limit) {
				var ids strings.Builder
				for _, m := range wave {
					ids.WriteString(m.ID)
				}
				got = append(got, ids.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheZeroVerdictLosesNothing(t *testing.T) {
	var v queue.Verdict
	if delay, requeue := v.Delay(); !requeue || delay != 0 || v.Acked() {
		t.Errorf("zero verdict is %v", v)
	}
	if delay, _ := queue.Requeue(24 * time.Hour).Delay(); delay != queue.MaxDelay {
		t.Errorf("a day's delay became %v", delay)
	}
}

func TestReasonsFitAHeaderAndATerminal(t *testing.T) {
	reason, dead := queue.Dead("name: bad\n\x1b[31mred\x00 \u202e" + strings.Repeat("é", 10000) + "\xff").DeadReason()
	if !dead || len(reason) > 4096 || !utf8.ValidString(reason) || strings.ContainsAny(reason, "\x1b\x00\u202e") {
		t.Errorf("reason of %d bytes: %q", len(reason), reason[:40])
	}
}
