package winrm

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"slipway/orchestrator"
)

// reply is the runner's line: "slipway:" and base64 of JSON, so that no code page can touch it.
type reply struct {
	Code  int    `json:"code"`
	Error string `json:"error"`

	Setup  string `json:"setup"` // probe: Windows Setup's ImageState
	System string `json:"system"`
	Name   string `json:"name"`

	State string `json:"state"` // observe
	Exit  int    `json:"exit"`
	Stage string `json:"stage"`
	Log   []byte `json:"log"`

	Identity string `json:"identity"` // inspect
	Output   []byte `json:"output"`
}

const replyMark = "slipway:"

// parseReply finds the runner's line. What else a guest prints (a profile's greeting) is passed over.
func parseReply(out []byte) (reply, error) {
	for line := range bytes.Lines(out) {
		text, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte(replyMark))
		if !ok {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(string(text))
		if err != nil {
			return reply{}, errors.New("the guest's answer is cut off")
		}
		var r reply
		if err := json.Unmarshal(raw, &r); err != nil {
			return reply{}, fmt.Errorf("the guest's answer is not as its runner writes it: %w", err)
		}
		return r, nil
	}
	return reply{}, fmt.Errorf("the guest's answer has no line of the runner: %.100q", out)
}

// maxLog is how much of a log the runner sends at a time.
const maxLog = 64 << 10

// status turns what `observe` says into a job's state.
func (r reply) status(offset int64) (orchestrator.JobStatus, error) {
	state := orchestrator.JobState(r.State)
	switch state {
	case orchestrator.JobRunning, orchestrator.JobExited, orchestrator.JobLost, orchestrator.JobUnknown:
	default:
		return orchestrator.JobStatus{}, fmt.Errorf("the guest's answer is no job state: %.40q", r.State)
	}
	if len(r.Log) > maxLog {
		return orchestrator.JobStatus{}, fmt.Errorf("the guest's answer has %d bytes of log: more than %d", len(r.Log), maxLog)
	}
	stage := orchestrator.OneLine(r.Stage, maxWords)
	if stage == "restart" {
		stage = "restart: Windows goes down"
	}
	return orchestrator.JobStatus{State: state, Exit: r.Exit, Stage: stage, Log: r.Log, Offset: offset + int64(len(r.Log))}, nil
}

var (
	checkLine       = regexp.MustCompile(`^([a-z0-9_]{1,64})=(ok|failed: .+)$`)
	identityPattern = regexp.MustCompile(`^S-1-5-21(-[0-9]{1,10}){3}$`)
)

// inspection reads what `inspect` says: the machine's SID and a line for each check. A guest without one check line has not been
// inspected, whatever it says.
func (r reply) inspection() (orchestrator.Inspection, error) {
	i := orchestrator.Inspection{Checks: map[string]string{}}
	if identityPattern.MatchString(r.Identity) {
		i.Identity = r.Identity
	}
	for line := range strings.Lines(string(r.Output)) {
		if m := checkLine.FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil {
			i.Checks[m[1]] = orchestrator.OneLine(strings.TrimPrefix(m[2], "failed: "), maxWords)
		}
	}
	if len(i.Checks) == 0 {
		return orchestrator.Inspection{}, fmt.Errorf("the guest's answer has no checks: %.200q", r.Output)
	}
	return i, nil
}
