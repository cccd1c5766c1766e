package testnet

import (
	"bytes"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Process is a program that runs inside a namespace until it is stopped or the test ends.
type Process struct {
	cmd    *exec.Cmd
	output *output
	done   chan struct{}
	err    error // of Wait, once done is closed
}

// Start starts a program inside. The end of the test kills and waits for it.
func (n *Namespace) Start(argv ...string) *Process {
	n.tb.Helper()
	p := &Process{cmd: exec.Command(n.program(argv[0]), argv[1:]...), output: &output{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.WaitDelay = time.Second
	if err := n.start(p.cmd); err != nil {
		n.tb.Fatalf("start %v in %s: %v", argv, n.name, err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	n.tb.Cleanup(func() { p.Kill() })
	return p
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what it has printed so far, both outputs.
func (p *Process) Output() string { return p.output.String() }

// Done is closed when it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal; a process that has ended already takes none.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Kill ends the process and waits for it. Its exit is returned: killing is an error to os/exec, which callers mostly ignore.
func (p *Process) Kill() error {
	p.Signal(syscall.SIGKILL)
	return p.Wait()
}

// Wait waits for its end.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
