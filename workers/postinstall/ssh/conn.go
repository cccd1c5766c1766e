package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
)

// conn is one authenticated connection to a guest, with a keepalive that closes it when the guest falls silent.
type conn struct {
	*ssh.Client
	wire    net.Conn
	seen    pin
	stop    context.CancelFunc
	stopped sync.WaitGroup
}

// connect dials and shakes hands. A guest that is not up yet, refuses us or hangs is Transient: accounts and sshd come up in any order
// at a boot, and sshd drops connections in bursts (MaxStartups). Another host key than the accepted ones is Permanent.
func (i *Installer) connect(ctx context.Context, op string, g orchestrator.Guest, user string) (*conn, error) {
	pins, err := i.pins(g)
	if err != nil {
		return nil, orchestrator.E(op, orchestrator.Permanent, err)
	}
	// One type of key at a time, the machine's first: a guest may have several, and it is the client's order that chooses.
	var last error
	for _, keyType := range keyTypes(pins) {
		c, err := i.handshake(ctx, g, user, pins, algorithms(keyType))
		if err == nil {
			return c, nil
		}
		last = err
		if other := new(mismatch); !errors.As(err, &other) {
			break
		}
	}
	kind := orchestrator.Transient
	if other := new(mismatch); errors.As(last, &other) {
		kind = orchestrator.Permanent
	} else if errors.Is(ctx.Err(), context.Canceled) {
		kind = orchestrator.Canceled
	}
	return nil, orchestrator.Errorf(op, kind, "machine %s at %s: %w", g.Machine, g.Address, orchestrator.Told(last))
}

// handshake is bounded as a whole: ssh.ClientConfig.Timeout covers the dial alone, and a peer that says nothing would hold it for ever.
// The connection is closed at the limit, for not every kind of connection knows deadlines.
func (i *Installer) handshake(ctx context.Context, g orchestrator.Guest, user string, pins []pin, algorithms []string) (*conn, error) {
	limit, cancel := context.WithTimeoutCause(ctx, i.config.HandshakeTimeout, fmt.Errorf("no SSH handshake within %s", i.config.HandshakeTimeout))
	defer cancel()
	wire, err := i.config.Dial(limit, "tcp", g.Address.String())
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	unwatch := context.AfterFunc(limit, func() { _ = wire.Close() })
	v := &verifier{machine: g.Machine, pins: pins}
	sshConn, channels, requests, err := ssh.NewClientConn(wire, g.Address.String(), &ssh.ClientConfig{
		User:              user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(i.config.Key)},
		HostKeyCallback:   v.check,
		HostKeyAlgorithms: algorithms,
		ClientVersion:     "SSH-2.0-slipway",
	})
	if !unwatch() && err == nil {
		_ = sshConn.Close()
		err = context.Cause(limit)
	}
	if err != nil {
		_ = wire.Close()
		return nil, explain(limit, err, g, user, pins)
	}
	c := &conn{Client: ssh.NewClient(sshConn, channels, requests), wire: wire, seen: *v.seen}
	var alive context.Context
	alive, c.stop = context.WithCancel(context.Background())
	c.stopped.Go(func() { c.keepalive(alive, i.config.KeepaliveInterval, i.config.KeepaliveTimeout) })
	return c, nil
}

// errRefused: the guest showed a host key that is accepted, and refused the login.
var errRefused = errors.New("the guest does not let")

// explain puts a failed handshake into words. Its kind is decided by the mismatch alone.
func explain(ctx context.Context, err error, g orchestrator.Guest, user string, pins []pin) error {
	var negotiation *ssh.AlgorithmNegotiationError
	var wrong *mismatch
	switch {
	case errors.As(err, &wrong):
		return wrong
	case errors.As(err, &negotiation) && negotiation.What == "host key":
		return &mismatch{machine: g.Machine, want: pins, got: "keys of other types only: " + strings.Join(negotiation.RequestedAlgorithms, ", ")}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("%w user %s in with the installer's key (yet): %w", errRefused, user, err)
	default:
		return err
	}
}

// keepalive asks for an answer again and again, and closes the connection when one does not come: a frozen peer or a firewall that
// forgot the connection would hold a read for ever. The request itself can block, so it has a goroutine of its own.
func (c *conn) keepalive(ctx context.Context, every, patience time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		answer := make(chan error, 1)
		go func() {
			_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
			answer <- err
		}()
		timer := time.NewTimer(patience)
		select {
		case err := <-answer:
			timer.Stop()
			if err != nil {
				return
			}
		case <-timer.C:
			_ = c.wire.Close()
			<-answer
			return
		case <-ctx.Done():
			timer.Stop()
			_ = c.wire.Close()
			<-answer
			return
		}
	}
}

// close ends the connection and waits for its goroutine. What runs in the guest in a session of its own goes on.
func (c *conn) close() {
	c.stop()
	_ = c.Client.Close()
	c.stopped.Wait()
}

// Bounds of what one command may say, in bytes. Of its complaints the beginning is kept.
const (
	maxStdout = 1 << 20
	maxStderr = 16 << 10
)

// result is a command's end: it ran, whatever its exit code.
type result struct {
	code   int
	stdout []byte
	stderr string
}

// run executes a command, with the whole of stdin. An error means that nobody knows how it ended (or, before it began, that it did not).
func (c *conn) run(ctx context.Context, command string, stdin io.Reader) (result, error) {
	// Opening a session blocks on a frozen peer as well.
	unwatch := context.AfterFunc(ctx, func() { _ = c.wire.Close() })
	defer unwatch()
	session, err := c.NewSession()
	if err != nil {
		return result{}, &notStarted{fmt.Errorf("open a session: %w", orchestrator.Told(err))}
	}
	defer func() { _ = session.Close() }()
	hangUp := func() { _ = c.wire.Close() }
	stdout, stderr := &bounded{keep: maxStdout, most: maxStdout, over: hangUp}, &bounded{keep: maxStderr, most: maxStdout, over: hangUp}
	session.Stdout, session.Stderr = stdout, stderr
	// Not session.Stdin: a command that ends without reading all of it would count as failed, and its exit code be lost.
	pipe, err := session.StdinPipe()
	if err != nil {
		return result{}, &notStarted{err}
	}
	if err := session.Start(command); err != nil {
		return result{}, fmt.Errorf("start the command: %w", orchestrator.Told(err))
	}
	var feeding sync.WaitGroup
	feeding.Go(func() {
		defer pipe.Close()
		if stdin != nil {
			_, _ = io.Copy(pipe, stdin)
		}
	})
	err = session.Wait()
	_ = session.Close()
	feeding.Wait()
	r := result{stdout: stdout.data, stderr: orchestrator.OneLine(string(stderr.data), maxStderr)}
	var exit *ssh.ExitError
	switch {
	case stdout.said > stdout.most, stderr.said > stderr.most:
		return r, fmt.Errorf("the command said more than %d bytes", maxStdout)
	case errors.As(err, &exit):
		r.code = exit.ExitStatus()
		return r, nil
	case err != nil && ctx.Err() != nil:
		return r, context.Cause(ctx)
	case err != nil:
		return r, fmt.Errorf("the connection was lost before the command's exit code came: %w", orchestrator.Told(err))
	}
	return r, nil
}

// notStarted is a command that certainly did not run.
type notStarted struct{ err error }

func (e *notStarted) Error() string { return e.err.Error() }
func (e *notStarted) Unwrap() error { return e.err }

// bounded keeps the first bytes and counts the others. More than it takes ends the connection: a guest that never stops talking would have
// it carry gigabytes until the call's time is over. It returns no error, for a writer that fails would block the channel.
type bounded struct {
	data       []byte
	keep, most int // so many bytes are kept, and so many taken
	said       int
	over       func() // called when more is said
}

func (b *bounded) Write(p []byte) (int, error) {
	b.data = append(b.data, p[:min(len(p), b.keep-len(b.data))]...)
	if b.said += len(p); b.said > b.most {
		b.over()
	}
	return len(p), nil
}
