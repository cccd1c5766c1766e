package carrier

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// Bounds, in bytes, of what we take from an appliance.
const (
	maxAnswer  = 1 << 20
	maxLive    = 2*apply.MaxLive + maxAnswer // of an answer with the live files, whose bytes JSON may write as two
	maxMessage = 2000
	maxStderr  = 16 << 10
)

// codes are the answers that there are.
var codes = []apply.Code{
	apply.Applied, apply.Unchanged, apply.Checked, apply.Stale, apply.Newer, apply.Shrink, apply.Culprit, apply.Restored, apply.Broken,
	apply.Refused, apply.Busy, apply.Unsupported, apply.Observed, apply.Surveyed, apply.Moved, apply.Traced,
}

// room is how long the answer to a request may be.
func room(req apply.Request) int {
	if req.ReadOnly && req.Trace == "" {
		return maxLive
	}
	return maxAnswer
}

// errNoAnswer says that the output ended before an answer did.
var errNoAnswer = errors.New("no answer")

// readAnswer reads one answer, and no further: what holds the output open afterwards does not matter.
func readAnswer(r io.Reader, room int) (apply.Answer, error) {
	bounded := &io.LimitedReader{R: r, N: int64(room)}
	decoder := json.NewDecoder(bounded)
	decoder.DisallowUnknownFields()
	var a apply.Answer
	if err := decoder.Decode(&a); err != nil && bounded.N <= 0 {
		return apply.Answer{}, fmt.Errorf("%w: what came is longer than %d bytes", errNoAnswer, room) // it talks on: not the end of its output
	} else if err != nil {
		return apply.Answer{}, fmt.Errorf("%w: %w", errNoAnswer, orchestrator.Told(err))
	}
	if !slices.Contains(codes, a.Code) {
		return apply.Answer{}, fmt.Errorf("%w: code %q is not known", errNoAnswer, printable(string(a.Code)))
	}
	if sum, err := hex.DecodeString(a.SHA256); err != nil || len(sum) != 0 && len(sum) != 32 {
		return apply.Answer{}, fmt.Errorf("%w: sha256 %q is none", errNoAnswer, printable(a.SHA256))
	}
	if a.Generation < 0 || a.Rows < 0 || a.Line < 0 {
		return apply.Answer{}, fmt.Errorf("%w: negative numbers", errNoAnswer)
	}
	a.Message, a.File = printable(a.Message), printable(a.File)
	if (a.Code == apply.Observed) != (a.Live != nil) {
		return apply.Answer{}, fmt.Errorf("%w: code %q, and live files: %t", errNoAnswer, a.Code, a.Live != nil)
	}
	if (a.Code == apply.Surveyed) != (a.Survey != nil) {
		return apply.Answer{}, fmt.Errorf("%w: code %q, and a survey: %t", errNoAnswer, a.Code, a.Survey != nil)
	}
	if (a.Code == apply.Traced) != (a.Trace != nil) {
		return apply.Answer{}, fmt.Errorf("%w: code %q, and a trace: %t", errNoAnswer, a.Code, a.Trace != nil)
	}
	if a.Trace != nil {
		if err := checkTrace(a.Trace); err != nil {
			return apply.Answer{}, fmt.Errorf("%w: %w", errNoAnswer, err)
		}
	}
	if a.Survey != nil {
		if err := checkSurvey(a.Survey); err != nil {
			return apply.Answer{}, fmt.Errorf("%w: %w", errNoAnswer, err)
		}
	}
	if a.Live != nil {
		if err := checkLive(a.Live); err != nil {
			return apply.Answer{}, fmt.Errorf("%w: %w", errNoAnswer, err)
		}
	}
	return a, nil
}

// maxFiles bounds the files of a unit; ours have one each.
const maxFiles = 64

// checkLive bounds what an appliance says to have. Contents stay as they are: whoever shows them cleans them.
func checkLive(l *apply.Live) error {
	if len(l.Files) > maxFiles || l.Rows < 0 || l.Interrupted < 0 {
		return errors.New("live: too many files, or negative numbers")
	}
	total := 0
	for i, f := range l.Files {
		total += len(f.Content)
		sum, err := hex.DecodeString(f.SHA256)
		if err != nil || len(sum) != 32 && (f.Exists || len(sum) != 0) {
			return fmt.Errorf("live: sha256 %q is none", printable(f.SHA256))
		}
		l.Files[i].Name = printable(f.Name)
	}
	if total > 2*apply.MaxLive {
		return fmt.Errorf("live: more than %d bytes", 2*apply.MaxLive)
	}
	l.Fault, l.Shrinks = printable(l.Fault), printable(l.Shrinks)
	return nil
}

// printable makes one line of bounded length out of an appliance's words, which end up on operators' terminals.
func printable(s string) string { return orchestrator.OneLine(s, maxMessage) }

// stderr keeps the beginning of what a far side complains, and takes the rest. It may be read while it is written.
type stderr struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *stderr) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if room := maxStderr - s.buf.Len(); room > 0 {
		s.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (s *stderr) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return printable(s.buf.String())
}
