package carrier

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// guard closes a connection whose time is up or whose far side is frozen, for nothing in an SSH session has a deadline of its own.
type guard struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
	ctx    context.Context
}

func watch(parent context.Context, client *ssh.Client, every time.Duration) *guard {
	ctx, cancel := context.WithCancelCause(parent)
	g := &guard{cancel: cancel, done: make(chan struct{}), ctx: ctx}
	// Never unregistered: the context always ends, by stop at the latest, and a goroutine that woke at the same end could be faster.
	context.AfterFunc(ctx, func() { _ = client.Close() })
	go func() {
		defer close(g.done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			// The request blocks as long as the peer is frozen; closing the connection ends it.
			late := time.AfterFunc(every, func() { cancel(fmt.Errorf("silent for %s", 2*every)) })
			_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
			late.Stop()
			if err != nil {
				return
			}
		}
	}()
	return g
}

// stop ends the guard and gives the reason for which it closed the connection, nil when it did not.
func (g *guard) stop() error {
	cause := context.Cause(g.ctx)
	g.cancel(context.Canceled)
	<-g.done
	return cause
}
