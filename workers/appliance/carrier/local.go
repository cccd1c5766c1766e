package carrier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"slipway/orchestrator"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
)

// Local is an agent in this process.
type Local struct{ Agent *agent.Agent }

// Apply asks the agent. It always answers.
func (l Local) Apply(ctx context.Context, req apply.Request) (apply.Answer, error) {
	return l.Agent.Apply(ctx, req), nil
}

// Exec runs an agent as a process of this machine, mostly `sudo -n slipway agent apply`, so that serve itself needs no privilege.
type Exec struct {
	Argv    []string      // program by absolute path, and arguments
	Timeout time.Duration // of one apply; 0 is 3 min
	// Grace is how long an agent that has been told to stop (SIGTERM) may take to put the old state back before it is killed; 0 is 90 s.
	Grace time.Duration
}

// Apply starts the agent and reads its answer. At the context's end the agent is told to stop, and still answers with what it restored.
func (e Exec) Apply(ctx context.Context, req apply.Request) (apply.Answer, error) {
	const op = "carrier.Exec"
	if len(e.Argv) == 0 {
		return apply.Answer{}, orchestrator.Errorf(op, orchestrator.Permanent, "no command line is configured")
	}
	body, err := json.Marshal(req)
	if err != nil {
		return apply.Answer{}, orchestrator.E(op, orchestrator.Permanent, err)
	}
	ctx, cancel := withTimeout(ctx, e.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.Argv[0], e.Argv[1:]...)
	out := limited{max: room(req)}
	var complaint stderr
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(body), &out, &complaint
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = or(e.Grace, 90*time.Second)
	if err := cmd.Start(); err != nil {
		return apply.Answer{}, orchestrator.Errorf(op, orchestrator.Permanent, "%s: %w", e.Argv[0], err)
	}
	runErr := cmd.Wait()
	answer, err := readAnswer(&out.Buffer, out.max)
	if err == nil {
		return answer, nil
	}
	return apply.Answer{}, noAnswer(op, e.Argv[0], runErr, exitCode(runErr), complaint.String(), err)
}

// noAnswer classifies the end of an agent that said nothing. Only a program that could not be run (the shell's 126 and 127) has surely
// done nothing; any other status may be that of an agent that fell over in the middle.
func noAnswer(op, what string, runErr error, code int, complaint string, err error) error {
	if code == 126 || code == 127 {
		return orchestrator.Errorf(op, orchestrator.Permanent, "%s: exit status %d: %s", what, code, complaint)
	}
	if runErr != nil {
		err = fmt.Errorf("%w: %w", runErr, err)
	}
	return orchestrator.Errorf(op, orchestrator.Unknown, "%s: %w: %s", what, err, complaint)
}

// exitCode is a program's own exit status, -1 when it was killed or never ended.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// limited keeps as much as an answer may have.
type limited struct {
	bytes.Buffer
	max int
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.max - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func withTimeout(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	timeout = or(timeout, 3*time.Minute)
	return context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer after %s: %w", timeout, context.DeadlineExceeded))
}

func or(d, standard time.Duration) time.Duration {
	if d <= 0 {
		return standard
	}
	return d
}
