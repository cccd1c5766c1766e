package winrm

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"
	"unicode/utf16"

	masterzen "github.com/masterzen/winrm"

	"slipway/orchestrator"
)

// Bounds of one command.
const (
	maxStdout = 1 << 20
	maxStderr = 16 << 10
	// maxLine is the longest command line that is ever sent; cmd.exe takes 8,191 characters.
	maxLine = 4000
	// chunk is how much of standard input one message carries: base64 and encryption leave it well below an envelope of 150 KiB.
	chunk = 64 << 10
	// goodbye is how long the end of a shell may take after a call, which may have ended with its context.
	goodbye = 5 * time.Second
)

// bootstrap is the whole of what a command line holds: it reads three lines (the runner, its words, what is uploaded or "-") and runs
// the runner. PowerShell itself reads standard input into $input when it is not a console.
const bootstrap = `# slipway runner 1
$ErrorActionPreference='Stop'
$ProgressPreference='SilentlyContinue'
$l=@($input)
if($l.Count -lt 3){[Console]::Error.WriteLine('the call is cut off');exit 64}
$r=[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($l[0]))
$w=$l[1].Trim().Split(' ')
$v=@($w+@('','',''))
& ([ScriptBlock]::Create($r)) $v[0] $v[1] $v[2] $l[2].Trim() $r
exit $LASTEXITCODE
`

// commandLine starts the bootstrap. It is a constant.
func commandLine() string {
	units := utf16.Encode([]rune(bootstrap))
	raw := make([]byte, 0, 2*len(units))
	for _, u := range units {
		raw = append(raw, byte(u), byte(u>>8))
	}
	return "powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -OutputFormat Text -EncodedCommand " + base64.StdEncoding.EncodeToString(raw)
}

// result is a command's end: it ran, whatever its exit code.
type result struct {
	code   int
	stdout []byte
	stderr string
}

// notStarted is a command that certainly did not run.
type notStarted struct{ err error }

func (e *notStarted) Error() string { return e.err.Error() }
func (e *notStarted) Unwrap() error { return e.err }

// run executes a command line with the whole of stdin in a shell of its own. An error means that nobody knows how it ended, or
// (notStarted) that it did not begin.
func (s *session) run(ctx context.Context, line string, stdin []byte) (result, error) {
	if len(line) > maxLine {
		return result{}, &notStarted{fmt.Errorf("a command line of %d characters is not sent: cmd.exe cuts them off", len(line))}
	}
	p := masterzen.NewParameters(fmt.Sprintf("PT%dS", int(s.config.PollTimeout.Seconds())), "en-US", 153600)
	opened, err := s.post(ctx, message(masterzen.NewOpenShellRequest(s.url, p)))
	if err != nil {
		return result{}, &notStarted{fmt.Errorf("open a shell: %w", err)}
	}
	shell, err := opened.shellID()
	if err != nil {
		return result{}, &notStarted{fmt.Errorf("open a shell: %w", err)}
	}
	defer s.deleteShell(ctx, shell, p)
	started, err := s.post(ctx, message(masterzen.NewExecuteCommandRequest(s.url, shell, line, nil, p)))
	if err != nil {
		// The bootstrap does nothing before its input has ended, so even a command whose start got lost has done nothing.
		return result{}, &notStarted{fmt.Errorf("start the command: %w", err)}
	}
	command, err := started.commandID()
	if err != nil {
		return result{}, &notStarted{fmt.Errorf("start the command: %w", err)}
	}
	for first := true; first || len(stdin) > 0; first = false {
		n := min(len(stdin), chunk)
		last := n == len(stdin)
		if _, err := s.post(ctx, message(masterzen.NewSendInputRequest(s.url, shell, command, stdin[:n], last, p))); err != nil {
			err = fmt.Errorf("send the command's input: %w", err)
			if last {
				return result{}, err
			}
			return result{}, &notStarted{err}
		}
		stdin = stdin[n:]
	}
	return s.receive(ctx, shell, command, p)
}

// deleteShell ends what is left in a shell. A call that was given up has lost its connection, and needs another one to say so: shells that
// stay would use up the user's quota until their idle time of hours is over.
func (s *session) deleteShell(ctx context.Context, shell string, p *masterzen.Parameters) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	_, err := s.post(ctx, message(masterzen.NewDeleteShellRequest(s.url, shell, p)))
	if !errors.Is(err, errLost) {
		return
	}
	if other, err := s.again(ctx); err == nil {
		defer other.close()
		// Best effort: a guest that restarts has no shells left.
		_, _ = other.post(ctx, message(masterzen.NewDeleteShellRequest(s.url, shell, p)))
	}
}

// receive reads the command's output to its end. It ends with the context, or when the guest says nothing that makes progress possible.
func (s *session) receive(ctx context.Context, shell, command string, p *masterzen.Parameters) (result, error) {
	var r result
	var stderr []byte
	for {
		got, err := s.post(ctx, message(masterzen.NewGetOutputRequest(s.url, shell, command, "stdout stderr", p)))
		var no *fault
		if errors.As(err, &no) && no.code == codeTimedOut {
			if !rest(ctx) {
				return r, context.Cause(ctx)
			}
			continue
		}
		if err != nil {
			return r, fmt.Errorf("the connection was lost before the command's exit code came: %w", err)
		}
		part, err := got.received(command)
		if err != nil {
			return r, err
		}
		r.stdout = append(r.stdout, part.stdout...)
		stderr = append(stderr, part.stderr[:min(len(part.stderr), maxStderr-len(stderr))]...)
		switch {
		case len(r.stdout) > maxStdout:
			return r, fmt.Errorf("the command said more than %d bytes", maxStdout)
		case part.done:
			r.code, r.stderr = part.code, said(stderr)
			return r, nil
		case len(part.stdout) == 0 && len(part.stderr) == 0 && !rest(ctx), ctx.Err() != nil:
			return r, context.Cause(ctx)
		}
	}
}

// idle is the pause after an answer that brought nothing. Windows holds such a question for as long as it may; a guest that answers it at
// once would be asked thousands of times a second.
const idle = 50 * time.Millisecond

func rest(ctx context.Context) bool {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// message renders an envelope. The library frees nothing that Go would not.
func message(m interface{ String() string }) string { return m.String() }

// maxWords bounds a stage or a check's line: they go into rows and onto terminals.
const maxWords = 300

// said is a guest's words as one bounded line.
func said(b []byte) string { return orchestrator.OneLine(string(b), maxWords) }
