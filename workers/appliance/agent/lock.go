package agent

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// errBusy says that somebody else held the lock all the while.
var errBusy = errors.New("another apply of this unit is running")

// lockPoll is how often a held lock is tried again: flock has no deadline of its own.
const lockPoll = 20 * time.Millisecond

// acquire takes the lock file within wait. The kernel lets go of it when the process dies; children do not inherit it.
func acquire(ctx context.Context, path string, wait time.Duration) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	return flock(ctx, f, syscall.LOCK_EX, wait)
}

// flock locks an open file, and closes it when it cannot.
func flock(ctx context.Context, f *os.File, how int, wait time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errBusy)
	defer cancel()
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing lets go
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		}
	}
}
