package testserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startLimit = 90 * time.Second // a cold broker on a busy machine; 5 to 8 s is usual
	stopLimit  = 30 * time.Second
	pollEvery  = 25 * time.Millisecond
)

// process is a program that runs in a process group of its own and whose output goes to a file. It has no goroutine.
type process struct {
	cmd *exec.Cmd
	log string
}

// start runs the command with its output appended to the file.
func start(cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{cmd: cmd, log: log}, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// exited looks, without reaping, whether the program has ended.
func (p *process) exited() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, p.pid(), &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	return errors.Is(err, unix.ECHILD) || (err == nil && info.Signo != 0)
}

// stop asks with the signal, waits, kills what is left after stopLimit and reaps.
func (p *process) stop(signal syscall.Signal) error {
	family := descendants(p.pid())
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	err := poll(ctx, func() error {
		if p.exited() {
			return nil
		}
		return fmt.Errorf("pid %d has not ended after %v", p.pid(), signal)
	})
	p.killAll(family)
	return err
}

// kill9 ends the program and everything that it started, at once.
func (p *process) kill9() { p.killAll(descendants(p.pid())) }

func (p *process) killAll(family []int) {
	for _, pid := range append([]int{p.pid()}, family...) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is what we want
	}
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	_ = p.cmd.Wait() // "signal: killed" is no news
}

// tail is the end of the program's output, for a failure's message.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 3000
	return strings.TrimSpace(string(text[max(0, len(text)-most):]))
}

// descendants lists the children of a process, their children and so on, as /proc shows them at this moment. PostgreSQL's backends and
// Erlang's port programs leave the process group, so that the group alone does not reach them.
func descendants(root int) []int {
	children := map[int][]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		// "pid (name) state ppid …"; the name may hold spaces and parentheses (proc(5)).
		_, rest, ok := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			continue
		}
		parent, err1 := strconv.Atoi(fields[1])
		pid, err2 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err1 == nil && err2 == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	var found []int
	for next := children[root]; len(next) > 0; {
		found = append(found, next...)
		var deeper []int
		for _, pid := range next {
			deeper = append(deeper, children[pid]...)
		}
		next = deeper
	}
	return found
}

// guard outlives the test process by a second: when its standard input ends without the word "done" it ends the process groups that it
// was told of last and removes the directory.
type guard struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

// The script is constant; the directory is an argument and the groups are numbers that we write. SIGQUIT is an orderly end at once for
// PostgreSQL, which then removes its shared memory.
const guardScript = `
groups=
while read -r line; do
  [ "$line" = done ] && exit 0
  groups=$line
done
for g in $groups; do kill -s QUIT -- "-$g" 2>/dev/null; done
sleep 1
for g in $groups; do kill -s KILL -- "-$g" 2>/dev/null; done
rm -rf -- "$1"
`

func startGuard(dir string) (*guard, error) {
	cmd := exec.Command("/bin/sh", "-c", guardScript, "testserver-guard", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a ^C is for the tests, not for their guard
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guard{cmd: cmd, in: in}, nil
}

// watch replaces what the guard would end.
func (g *guard) watch(processes ...*process) error {
	var line strings.Builder
	for _, p := range processes {
		fmt.Fprintf(&line, "%d ", p.pid())
	}
	_, err := fmt.Fprintln(g.in, line.String())
	return err
}

// dismiss ends the guard, which touches nothing.
func (g *guard) dismiss() error {
	_, err := io.WriteString(g.in, "done\n")
	return errors.Join(err, g.in.Close(), g.cmd.Wait())
}

// poll calls try until it is nil or the context ends, whose error then carries the last failure.
func poll(ctx context.Context, try func() error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := try()
		var final fatal
		if err == nil || errors.As(err, &final) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// fatal is a failure that no waiting mends.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// freePorts finds n loopback ports that nobody listens on. They lie below the range from which the kernel takes ports for outgoing
// connections (32768 by default), so that a server that is down for a moment finds its port free again.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer l.Close() // held until all are found: no port twice
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("no %d free loopback ports between 20000 and 32000", n)
}
