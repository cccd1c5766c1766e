package service_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/orchestrator"
	"slipway/sim/guest"
)

// Three of six guests are hostile: one pours gigabytes into every look at its job, one says that its job has failed in words that would take a
// terminal over, one says nothing at all. The other three are finished meanwhile, the runs of the first two say which machine it is and what it
// does, memory stays as it is, and nothing that is kept or logged drives a terminal.
func TestHostileGuestsHoldNobodyUp(t *testing.T) {
	const escapes = "\x1b]0;owned\a\x1b[2J\u202e\u009b31m"
	pour := func(stdout, _ io.Writer) int {
		block := bytes.Repeat([]byte(escapes), 1<<10)
		for _, err := stdout.Write(block); err == nil; _, err = stdout.Write(block) {
		}
		return 0
	}
	shout := func(stdout, stderr io.Writer) int {
		_, _ = io.WriteString(stdout, "state=exited exit=70 stage="+escapes+"packages\n"+escapes+"no licence\n")
		_, _ = io.WriteString(stderr, escapes)
		return 0
	}
	s := site(t)
	var mu sync.Mutex
	booted := 0
	s.Booting(func(g *guest.Guest) {
		mu.Lock()
		defer mu.Unlock()
		faults := guest.Faults{}
		switch booted++; booted {
		case 1:
			faults.Answer = observed(pour)
		case 3:
			faults.Answer = observed(shout)
		case 5:
			faults.Mute = true
		}
		g.SetFaults(faults)
	})
	log := new(lockedBuffer)
	w, stop := work(t, s, log)
	grown := testenv.Heap(t, func() {
		for n := range 6 {
			o := order()
			o.ID, o.Name = fmt.Sprint(n), fmt.Sprintf("web-%d", n)
			put(t, w, o)
		}
		testnet.Until(t, 2*time.Minute, "three machines to be finished, and two runs to say what their guests do", func() bool {
			done, told := 0, 0
			for _, r := range runs(t, w.Store) {
				switch {
				case r.Status == orchestrator.StatusDone:
					done++
				case strings.Contains(r.Reason, "said more than 1048576 bytes"), strings.Contains(r.Reason, "packages"):
					told++
				}
			}
			return done == 3 && told == 2
		})
	})
	if grown > 200*testenv.Mebibyte { // six guests, a pool and the appliances are in this process as well
		t.Errorf("it took %d MiB", grown/testenv.Mebibyte)
	}
	for _, r := range runs(t, w.Store) {
		clean(t, "reason", r.Reason)
		attempts, err := w.Store.Attempts(t.Context(), r.Machine)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range attempts {
			clean(t, "journal", a.Message)
			clean(t, "journal", string(a.Detail))
			if strings.Contains(a.Message, "1048576") && !strings.Contains(a.Message, r.Machine) || strings.Contains(a.Message, "packages") && !strings.Contains(a.Message, r.Run.ID) {
				t.Errorf("it does not say who: %s", a.Message)
			}
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(log.String()) {
		clean(t, "log", strings.TrimSuffix(line, "\n"))
	}
}

// observed takes looks at a job out of the guest's hands.
func observed(answer func(stdout, stderr io.Writer) int) func(string) func(stdout, stderr io.Writer) int {
	return func(words string) func(stdout, stderr io.Writer) int {
		if strings.HasPrefix(words, "slipway observe ") {
			return answer
		}
		return nil
	}
}

func runs(t *testing.T, s orchestrator.Store) []orchestrator.RunView {
	t.Helper()
	all, err := s.Runs(t.Context(), orchestrator.RunFilter{})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func clean(t *testing.T, where, text string) {
	t.Helper()
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%s: %.300q would drive a terminal", where, text)
	}
}
