package xapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
)

// When says whether a fault comes before or after the effect of its call.
type When string

const (
	Before When = "before" // the call has no effect; the default
	After  When = "after"  // the call has its effect, its answer is wrong or lost
)

// Fault is a failure to inject. It needs one of Error, Hang and Close. A fault of an asynchronous call ("VM.clone" also matches
// Async.VM.clone) that is an Error fails the task; Hang and Close are about the HTTP answer.
type Fault struct {
	Method      string   `json:"method"`                // "VM.start"; "*" is every method with a session
	Nth         int      `json:"nth,omitempty"`         // only the nth matching call, from 1
	Every       int      `json:"every,omitempty"`       // every so many calls
	Probability float64  `json:"probability,omitempty"` // of each call, by Config.Seed; with none of the three, every call
	Times       int      `json:"times,omitempty"`       // at most so often; 0 is no limit
	When        When     `json:"when,omitempty"`
	Error       []string `json:"error,omitempty"` // code and parameters
	Hang        bool     `json:"hang,omitempty"`  // no answer until the client goes away
	Close       bool     `json:"close,omitempty"` // the connection is closed without an answer
}

// LoadFaults reads a JSON list of faults from a file.
func LoadFaults(path string) ([]Fault, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	var out []Fault
	if err := dec.Decode(&out); err != nil {
		return nil, fmt.Errorf("%s: want a JSON list of faults: %w", path, err)
	}
	for i, f := range out {
		if err := f.validate(); err != nil {
			return nil, fmt.Errorf("%s: fault %d: %w", path, i+1, err)
		}
	}
	return out, nil
}

func (f Fault) validate() error {
	effects := 0
	for _, on := range []bool{len(f.Error) > 0, f.Hang, f.Close} {
		if on {
			effects++
		}
	}
	switch {
	case f.Method != "*" && !strings.Contains(f.Method, "."):
		return fmt.Errorf("method: %q: want a name such as VM.start, or *", f.Method)
	case effects != 1:
		return fmt.Errorf("method %s: want exactly one of error, hang and close", f.Method)
	case f.When != "" && f.When != Before && f.When != After:
		return fmt.Errorf("when: %q: want before or after", f.When)
	case f.Probability < 0 || f.Probability > 1:
		return fmt.Errorf("probability: %v: want 0 to 1", f.Probability)
	case f.Nth < 0 || f.Every < 0 || f.Times < 0:
		return errors.New("nth, every and times: want no negative number")
	}
	return nil
}

// AddFault arms a fault. Those added first are looked at first; one call has at most one fault.
func (s *Server) AddFault(f Fault) error {
	if err := f.validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Method = strings.TrimPrefix(f.Method, "Async.")
	s.faults = append(s.faults, &armedFault{Fault: f, rng: rand.New(rand.NewPCG(s.cfg.Seed, uint64(len(s.faults))))})
	return nil
}

// ClearFaults disarms all faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

type armedFault struct {
	Fault
	rng         *rand.Rand
	seen, fired int
}

// fault gives the fault of a call, if it has one. The lock is held.
func (s *Server) fault(method string) *armedFault {
	for _, f := range s.faults {
		if f.Method != "*" && f.Method != method || f.Times > 0 && f.fired >= f.Times {
			continue
		}
		f.seen++
		hit := f.Nth == 0 && f.Every == 0 && f.Probability == 0 ||
			f.Nth > 0 && f.seen == f.Nth || f.Every > 0 && f.seen%f.Every == 0 || f.Probability > 0 && f.rng.Float64() < f.Probability
		if hit {
			f.fired++
			return f
		}
	}
	return nil
}

// lost faults are about the answer, not about the work.
func (f *armedFault) lost() bool { return f.Hang || f.Close }

var (
	errHang  = errors.New("fault: no answer")
	errClose = errors.New("fault: connection closed")
)

func (f *armedFault) lose() error {
	if f.Hang {
		return errHang
	}
	return errClose
}
