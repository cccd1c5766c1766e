package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/testenv"
)

// Namespace is one network namespace of a Lab.
type Namespace struct {
	tb     testing.TB
	name   string
	ipTool string
	file   *os.File      // keeps the namespace alive
	jobs   chan func()   // run by the thread that lives in the namespace
	ended  chan struct{} // closed when that thread has gone
}

// newNamespace starts the thread that makes the namespace and lives in it. It is never given back to the runtime: its goroutine ends
// locked, so that no other goroutine finds itself in the wrong network.
func newNamespace(name string) (*Namespace, error) {
	ns := &Namespace{name: name, jobs: make(chan func()), ended: make(chan struct{})}
	made := make(chan error, 1)
	go func() {
		defer close(ns.ended)
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		made <- err
		if err != nil {
			return
		}
		for job := range ns.jobs {
			job()
		}
	}()
	if err := <-made; err != nil {
		return nil, err
	}
	return ns, nil
}

func (n *Namespace) close() {
	close(n.jobs)
	<-n.ended
	_ = n.file.Close() // read-only
}

// Path names the namespace for `nsenter --net=` and `ip link set … netns`, for as long as the test runs.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Enter is argv put behind an nsenter into this namespace, for a program that takes a command line.
func (n *Namespace) Enter(argv ...string) []string {
	n.tb.Helper()
	return append([]string{testenv.Need(n.tb, "nsenter"), "--net=" + n.Path()}, argv...)
}

// Do runs f on a thread of its own inside the namespace and returns when f has. What f opens stays in the namespace; goroutines that f
// starts do not, nor does a net.Dialer that races addresses: give it a literal address.
func (n *Namespace) Do(f func()) {
	n.tb.Helper()
	entered := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
		entered <- err
		if err == nil {
			f()
		}
	}()
	if err := <-entered; err != nil {
		n.tb.Fatalf("enter namespace %s: %v", n.name, err)
	}
	<-done
}

// Run runs a program inside and returns what it printed on both outputs. The program is looked up as testenv.Need does. The context's
// end kills it; a non-zero exit is an *exec.ExitError wrapped with the command line and the output.
func (n *Namespace) Run(ctx context.Context, argv ...string) (string, error) {
	n.tb.Helper()
	return n.RunInput(ctx, "", argv...)
}

// RunInput is Run with text on the program's standard input.
func (n *Namespace) RunInput(ctx context.Context, stdin string, argv ...string) (string, error) {
	n.tb.Helper()
	cmd := exec.CommandContext(ctx, n.program(argv[0]), argv[1:]...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	cmd.WaitDelay = time.Second // a background child that holds the output does not hold us
	err := n.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s in %s: %w: %s", strings.Join(argv, " "), n.name, err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// MustRun is Run that fails the test, for building the scene.
func (n *Namespace) MustRun(argv ...string) string {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	out, err := n.Run(ctx, argv...)
	if err != nil {
		n.tb.Fatal(err)
	}
	return out
}

// Bridge makes a bridge, puts the namespace's given interfaces into it and brings all of them up.
func (n *Namespace) Bridge(name string, ports ...string) {
	n.tb.Helper()
	n.MustRun("ip", "link", "add", name, "type", "bridge", "stp_state", "0", "forward_delay", "0")
	n.MustRun("ip", "link", "set", name, "up")
	for _, port := range ports {
		n.MustRun("ip", "link", "set", port, "master", name, "up")
	}
}

// program finds argv[0]; the programs that every Lab needs are known already.
func (n *Namespace) program(name string) string {
	n.tb.Helper()
	if name == "ip" {
		return n.ipTool
	}
	return testenv.Need(n.tb, name)
}

// start starts cmd from the namespace's own thread: a child gets the network of the thread that forks it, and lives no longer than it.
func (n *Namespace) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error, 1)
	n.jobs <- func() { started <- cmd.Start() }
	return <-started
}
