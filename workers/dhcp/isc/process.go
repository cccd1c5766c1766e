package isc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var errNoProcess = errors.New("dhcpd does not run")

// clockTick is the grain of /proc's start times (USER_HZ is 100 on every Linux), and of /proc/uptime, taken together.
const clockTick = 20 * time.Millisecond

// pollEvery is how often a process is looked at: neither its end nor a bound port can be waited for across processes.
const pollEvery = 5 * time.Millisecond

// process is one process for good: a pid comes again, a pid with its start time does not.
type process struct {
	pid   int
	start uint64 // clock ticks since boot
}

// findProcess reads a pid file. A pid that is dead, a zombie, or somebody else's by now is no process of ours.
func findProcess(pidFile, program string) (*process, error) {
	text, err := os.ReadFile(pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no %s", errNoProcess, pidFile)
	}
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return nil, fmt.Errorf("%w: %s holds %q", errNoProcess, pidFile, printable(string(text)))
	}
	name, state, start, err := stat(pid)
	if err != nil || state == 'Z' || state == 'X' {
		return nil, fmt.Errorf("%w: process %d of %s has ended", errNoProcess, pid, pidFile)
	}
	if name != program[:min(len(program), 15)] { // the kernel keeps 15 bytes
		return nil, fmt.Errorf("%w: process %d of %s is %q", errNoProcess, pid, pidFile, name)
	}
	return &process{pid: pid, start: start}, nil
}

// stat reads /proc/PID/stat (proc(5)): pid (comm) state …, start time as field 22. comm may hold spaces and parentheses.
func stat(pid int) (name string, state byte, start uint64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, 0, err
	}
	from, to := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if from < 0 || to < from {
		return "", 0, 0, fmt.Errorf("/proc/%d/stat: unknown form", pid)
	}
	fields := strings.Fields(string(text[to+1:]))
	if len(fields) < 20 {
		return "", 0, 0, fmt.Errorf("/proc/%d/stat: unknown form", pid)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return string(text[from+1 : to]), fields[0][0], start, err
}

// alive is false once the process is gone, a zombie included: nobody may be there to reap it.
func (p *process) alive() bool {
	_, state, start, err := stat(p.pid)
	return err == nil && start == p.start && state != 'Z' && state != 'X'
}

// startedAt is the start by the wall clock as it stands now.
func (p *process) startedAt() (time.Time, error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}, err
	}
	now := time.Now()
	first, _, _ := strings.Cut(string(text), " ")
	uptime, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("/proc/uptime: %w", err)
	}
	age := time.Duration(uptime*float64(time.Second)) - time.Duration(p.start)*10*time.Millisecond
	return now.Add(-age), nil
}

// stop ends the process by TERM, or by KILL when it does not heed that in time.
func (p *process) stop(ctx context.Context, patience time.Duration) error {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if !p.alive() {
			return nil
		}
		if err := syscall.Kill(p.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, patience)
		err := poll(wait, func() error {
			if p.alive() {
				return fmt.Errorf("process %d still runs after %s", p.pid, signal)
			}
			return nil
		})
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("process %d does not end", p.pid)
}

// bound is nil when the process itself holds a UDP socket on the port, in the network that it lives in.
func (p *process) bound(port uint16) error {
	table, err := os.Open(fmt.Sprintf("/proc/%d/net/udp", p.pid))
	if err != nil {
		return fmt.Errorf("%w: %w", errNoProcess, err)
	}
	defer table.Close() //nolint:errcheck // read-only
	sockets, err := listeners(table, port)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.pid))
	if err != nil {
		return err
	}
	for _, file := range files {
		if link, err := os.Readlink(file); err == nil && sockets[link] {
			return nil
		}
	}
	return fmt.Errorf("dhcpd (process %d) has not bound UDP port %d", p.pid, port)
}

// listeners are the sockets of the port, in the form of a link in /proc/PID/fd.
func listeners(table *os.File, port uint16) (map[string]bool, error) {
	found := map[string]bool{}
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // sl local_address rem_address … inode is the tenth
		if len(fields) < 10 {
			continue
		}
		if _, hex, ok := strings.Cut(fields[1], ":"); ok && strings.EqualFold(hex, fmt.Sprintf("%04X", port)) {
			found["socket:["+fields[9]+"]"] = true
		}
	}
	return found, lines.Err()
}

// poll asks until the answer is nil; at the context's end it gives the cause and the last answer.
func poll(ctx context.Context, ask func() error) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// exitError is a program that ran and said no.
type exitError struct{ err *exec.ExitError }

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// run runs a command line to its end and returns the beginning of what it said. A daemon that it leaves behind does not hold us up.
// Killed by the context it is no exitError.
func run(ctx context.Context, argv []string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", context.Cause(ctx)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	var out bounded
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrWaitDelay):
		err = nil
	case ctx.Err() != nil && err != nil:
		err = fmt.Errorf("%s: %w", argv[0], context.Cause(ctx))
	case errors.As(err, &exit):
		err = &exitError{exit}
	}
	return out.String(), err
}
