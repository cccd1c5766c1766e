package main

import (
	"testing"
	"time"
)

func TestMoment(t *testing.T) {
	now := time.Date(2026, 3, 1, 20, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                 {},
		"2h":               now.Add(2 * time.Hour),
		"23:30":            time.Date(2026, 3, 1, 23, 30, 0, 0, time.UTC),
		"06:00":            time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC),
		"2026-04-01T06:00": time.Date(2026, 4, 1, 6, 0, 0, 0, time.UTC),
	} {
		if at, err := moment(text, now); err != nil || !at.Equal(want) {
			t.Errorf("%q is %s, %v, not %s", text, at, err, want)
		}
	}
	for _, text := range []string{"-2h", "tomorrow", "25:00", "2"} {
		if at, err := moment(text, now); err == nil {
			t.Errorf("%q is %s", text, at)
		}
	}
}
