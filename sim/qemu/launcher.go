package qemu

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// launcher is a thread that starts processes and makes taps. A process is killed with the thread that started it (PR_SET_PDEATHSIG), so it has to
// be one that lives as long as the hypervisor does; and it may live in a network namespace of its own.
type launcher struct {
	jobs  chan func()
	ended chan struct{}
}

func newLauncher(namespace string) (*launcher, error) {
	l := &launcher{jobs: make(chan func()), ended: make(chan struct{})}
	ready := make(chan error)
	go func() {
		defer close(l.ended)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := enter(namespace)
		ready <- err
		if err != nil {
			return
		}
		for job := range l.jobs {
			job()
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return l, nil
}

func enter(namespace string) error {
	if namespace == "" {
		return nil
	}
	f, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read-only
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// do runs a job in the thread and waits for it.
func (l *launcher) do(job func() error) error {
	done := make(chan error, 1)
	l.jobs <- func() { done <- job() }
	return <-done
}

// close ends the thread, and with it every process that it started.
func (l *launcher) close() {
	close(l.jobs)
	<-l.ended
}
