package orchestrator_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
)

// ledgerOfActs is a trail in memory, written as a store writes it.
type ledgerOfActs struct {
	acts []orchestrator.Act
	head orchestrator.ActHead
	why  string
}

func (l *ledgerOfActs) add(n int) {
	for range n {
		a := orchestrator.Act{ID: l.head.ID + 1, At: time.UnixMicro(1_780_000_000_000_001), Actor: "0:root", Verb: "try", Subject: fmt.Sprint(len(l.acts)), Reason: l.why}
		a.Hash = a.HashAfter(l.head.Hash)
		l.acts, l.head = append(l.acts, a), orchestrator.ActHead{ID: a.ID, Hash: a.Hash}
	}
}

// read is Acts.
func (l *ledgerOfActs) read(_ context.Context, after int64, limit int) ([]orchestrator.Act, orchestrator.ActHead, error) {
	at := slices.IndexFunc(l.acts, func(a orchestrator.Act) bool { return a.ID > after })
	if at < 0 {
		return nil, l.head, nil
	}
	return l.acts[at:min(at+limit, len(l.acts))], l.head, nil
}

// TestChain changes a trail of 2,500 lines, three pages, in every way that there is.
func TestChain(t *testing.T) {
	const lines = 2500
	for name, c := range map[string]struct {
		do   func(l *ledgerOfActs)
		says string // "" for what holds; what begins with "kept: " is found only with a head that was kept
	}{
		"untouched":       {func(*ledgerOfActs) {}, ""},
		"added to":        {func(l *ledgerOfActs) { l.add(700) }, ""},
		"changed":         {func(l *ledgerOfActs) { l.acts[2003].Reason = "nothing" }, "line 2004 is not what was written"},
		"actor changed":   {func(l *ledgerOfActs) { l.acts[7].Actor = "1:daemon" }, "line 8 is not what was written"},
		"moved in time":   {func(l *ledgerOfActs) { l.acts[7].At = l.acts[7].At.Add(time.Microsecond) }, "line 8 is not what was written"},
		"word moved":      {func(l *ledgerOfActs) { a := &l.acts[7]; a.Actor, a.Verb = "0:roott", "ry" }, "line 8 is not what was written"},
		"first changed":   {func(l *ledgerOfActs) { l.acts[0].Verb = "look" }, "line 1 is not what was written"},
		"removed":         {func(l *ledgerOfActs) { l.acts = slices.Delete(l.acts, 1000, 1001) }, "line 1001 is missing"},
		"first removed":   {func(l *ledgerOfActs) { l.acts = l.acts[1:] }, "line 1 is missing"},
		"last removed":    {func(l *ledgerOfActs) { l.acts = l.acts[:lines-2] }, "line 2499 is missing"},
		"all removed":     {func(l *ledgerOfActs) { l.acts = nil }, "line 1 is missing"},
		"slipped in":      {func(l *ledgerOfActs) { l.acts = slices.Insert(l.acts, 4, orchestrator.Act{ID: 5, Hash: "h"}) }, "line 5 is not what was written"},
		"put at the end":  {func(l *ledgerOfActs) { l.acts = append(l.acts, orchestrator.Act{ID: lines + 1, Hash: "h"}) }, "line 2501 is not what was written"},
		"hash taken away": {func(l *ledgerOfActs) { l.acts[4].Hash = "" }, "line 5 carries no hash"},
		"head set back":   {func(l *ledgerOfActs) { l.head = orchestrator.ActHead{ID: 9, Hash: l.acts[8].Hash} }, "line 10 was not written by slipway"},
		"swapped":         {func(l *ledgerOfActs) { l.acts[4], l.acts[5] = l.acts[5], l.acts[4] }, "line 5 is missing"},
		"cut off": {func(l *ledgerOfActs) {
			l.acts, l.head = l.acts[:9], orchestrator.ActHead{ID: 9, Hash: l.acts[8].Hash}
		}, "kept: line 2500 is missing"},
		"cut off and written on": {func(l *ledgerOfActs) {
			l.acts, l.head = l.acts[:9], orchestrator.ActHead{ID: 9, Hash: l.acts[8].Hash}
			l.why = "as if nothing had been"
			l.add(lines)
		}, "kept: line 2500 is not the one that was kept"},
		"written anew": {func(l *ledgerOfActs) {
			changed := l.acts[3:]
			l.acts, l.head = slices.Clone(l.acts[:3]), orchestrator.ActHead{ID: 3, Hash: l.acts[2].Hash}
			for _, a := range changed {
				a.Reason = "y"
				a.Hash = a.HashAfter(l.head.Hash)
				l.acts, l.head = append(l.acts, a), orchestrator.ActHead{ID: a.ID, Hash: a.Hash}
			}
		}, "kept: line 2500 is not the one that was kept"},
	} {
		t.Run(name, func(t *testing.T) {
			l := &ledgerOfActs{}
			l.add(lines)
			kept := l.head
			c.do(l)
			_, err := orchestrator.VerifyTrail(t.Context(), l.read)
			says, only := strings.CutPrefix(c.says, "kept: ")
			if want := c.says != "" && !only; (err != nil) != want || want && !strings.Contains(err.Error(), says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			_, err = orchestrator.VerifyTrail(t.Context(), l.read, kept)
			if want := c.says != ""; (err != nil) != want || want && !strings.Contains(err.Error(), says) {
				t.Errorf("with the head that was kept: %v, want %q", err, c.says)
			}
		})
	}
}

// TestLinesFromBeforeTheChain: they have no hash and gaps, and are covered by the first line after them.
func TestLinesFromBeforeTheChain(t *testing.T) {
	l := &ledgerOfActs{}
	l.add(12)
	l.acts = slices.Delete(l.acts, 4, 7)
	var before orchestrator.Chain
	for i := range l.acts {
		l.acts[i].Hash = ""
		if err := before.Follow(l.acts[i]); err != nil {
			t.Fatal(err)
		}
	}
	l.head = orchestrator.ActHead{ID: 12}
	if _, err := orchestrator.VerifyTrail(t.Context(), l.read); err != nil {
		t.Errorf("before the first line with a hash: %v", err)
	}
	l.head = before.Head
	l.add(3)
	if _, err := orchestrator.VerifyTrail(t.Context(), l.read, before.Head); err != nil {
		t.Errorf("after it: %v", err)
	}
	l.acts[2].Reason = "y"
	if _, err := orchestrator.VerifyTrail(t.Context(), l.read); err == nil || !strings.Contains(err.Error(), "line 13 does not fit") {
		t.Errorf("an old line was changed: %v", err)
	}
	l.acts = l.acts[9:]
	if _, err := orchestrator.VerifyTrail(t.Context(), l.read); err == nil || !strings.Contains(err.Error(), "line 1 is missing") {
		t.Errorf("the old lines were removed: %v", err)
	}
}

// TestHashOfALine pins what is hashed: a chain that was written must be read by every later version.
func TestHashOfALine(t *testing.T) {
	a := orchestrator.Act{ID: 412, At: time.UnixMicro(1_780_000_000_000_001), Actor: "0:root", Verb: "resume", Subject: "dhcp/dhcp1", Reason: "ü"}
	// printf '2:ab,3:412,16:1780000000000001,6:0:root,6:resume,10:dhcp/dhcp1,2:ü,' | sha256sum
	const want = "1c08c8b2f04dc911a471b84bd5346093ed13dca2c32fe4340d286aa6dfdeb97e"
	if got := a.HashAfter("ab"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
