package amqp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"slipway/orchestrator"
)

// link keeps one connection to the broker: it connects when somebody asks for a channel, and again when the last connection was lost.
type link struct {
	name    string // "slipway consume", as the broker's list of connections shows it
	config  Config
	tls     *tls.Config
	declare func(*amqp091.Channel) error // every channel begins with it; nil declares nothing

	dialing chan struct{} // holds one token: whoever has it may connect

	mu      sync.Mutex
	conn    *amqp091.Connection
	wire    net.Conn // under conn
	closed  bool
	failed  error     // the last failure since the last success
	since   time.Time // of failed
	blocked *blockage // nil while the broker takes what is published on conn

	hearing sync.WaitGroup
}

// blockage is a time during which the broker reads nothing from a connection, because it is short of memory or disk. RabbitMQ says so to a
// connection that publishes (connection.blocked), and to no other.
type blockage struct {
	reason string
	since  time.Time
	over   chan struct{} // closed when it has passed, with its connection at the latest
}

func (b *blockage) Error() string {
	return fmt.Sprintf("the broker takes no messages since %s: %s", b.since.UTC().Format(time.RFC3339), b.reason)
}

var errClosed = errors.New("the queue is closed")

func newLink(name string, config Config, tlsConfig *tls.Config, declare func(*amqp091.Channel) error) *link {
	l := &link{name: name, config: config, tls: tlsConfig, declare: declare, dialing: make(chan struct{}, 1)}
	l.dialing <- struct{}{}
	return l
}

// channel opens a channel, connecting first for as long as ctx allows.
func (l *link) channel(ctx context.Context) (*amqp091.Channel, error) {
	select {
	case <-l.dialing:
		defer func() { l.dialing <- struct{}{} }()
	case <-ctx.Done():
		return nil, l.away(context.Cause(ctx))
	}
	pause := l.config.BackoffMin
	for {
		ch, err := l.tryChannel(ctx)
		if err == nil || errors.Is(err, errClosed) {
			return ch, err
		}
		l.note(err)
		timer := time.NewTimer(pause - rand.N(pause/2+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, l.away(context.Cause(ctx))
		case <-timer.C:
		}
		pause = min(2*pause, l.config.BackoffMax)
	}
}

// away joins why we stopped waiting with what we were waiting for.
func (l *link) away(cause error) error {
	if err := l.healthy(); err != nil {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return cause
}

func (l *link) tryChannel(ctx context.Context) (*amqp091.Channel, error) {
	l.mu.Lock()
	conn, closed := l.conn, l.closed
	l.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	if conn == nil || conn.IsClosed() {
		var err error
		if conn, err = l.connect(ctx); err != nil {
			return nil, err
		}
	}
	ch, err := conn.Channel()
	if err != nil {
		_ = conn.Close() // it is of no use; the next attempt makes another
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	if l.declare != nil {
		if err := l.declare(ch); err != nil {
			_ = ch.Close()
			return nil, err
		}
	}
	l.ok()
	return ch, nil
}

func (l *link) connect(ctx context.Context) (*amqp091.Connection, error) {
	properties := amqp091.NewConnectionProperties()
	properties.SetClientConnectionName(l.name)
	ctx, cancel := context.WithTimeout(ctx, l.config.ConnectTimeout)
	defer cancel()
	stop := func() bool { return true }
	var wire net.Conn
	conn, err := amqp091.DialConfig(l.config.URL.Reveal(), amqp091.Config{
		Heartbeat:       l.config.Heartbeat,
		TLSClientConfig: l.tls.Clone(), // the library writes into it
		Properties:      properties,
		Dial: func(network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				wire = c
				stop = context.AfterFunc(ctx, func() { _ = c.Close() }) // ends a handshake that hangs
			}
			return c, err
		},
	})
	if !stop() {
		if conn != nil {
			_ = conn.Close()
		}
		return nil, fmt.Errorf("connect to %s: %w", Redact(l.config.URL), context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", Redact(l.config.URL), err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = conn.Close()
		return nil, errClosed
	}
	l.conn, l.wire = conn, wire
	said := conn.NotifyBlocked(make(chan amqp091.Blocking, 2))
	l.hearing.Go(func() { l.hear(said) })
	l.config.Log.Info("broker connected", slog.String("connection", l.name), slog.String("broker", Redact(l.config.URL)))
	return conn, nil
}

// hear notes when the broker stops and begins to take what a connection publishes. It ends with the connection.
func (l *link) hear(said <-chan amqp091.Blocking) {
	var now *blockage
	end := func() {
		if now == nil {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.blocked == now { // and not the next connection's
			l.blocked = nil
		}
		close(now.over)
		now = nil
	}
	defer end()
	for b := range said {
		end()
		if !b.Active {
			l.config.Log.Info("the broker takes messages again", slog.String("connection", l.name))
			continue
		}
		now = &blockage{reason: b.Reason, since: time.Now(), over: make(chan struct{})}
		l.config.Log.Warn("the broker takes no messages", slog.String("connection", l.name), slog.String("reason", b.Reason))
		l.mu.Lock()
		l.blocked = now
		l.mu.Unlock()
	}
}

// blockade is what keeps the broker from taking messages now, or nil.
func (l *link) blockade() *blockage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.blocked
}

func (l *link) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.failed == nil
	if first {
		l.since = time.Now()
	}
	if l.closed {
		return
	}
	if first || l.failed.Error() != err.Error() { // not a line for each of many attempts
		l.config.Log.Warn("broker away", slog.String("connection", l.name), slog.Any("error", err))
	}
	l.failed = err
}

func (l *link) ok() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = nil
}

// healthy is what the last attempt to have a channel said, and what the broker says of the connection. A connection that was lost while nobody used it is no fault: the next use makes
// another.
func (l *link) healthy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return errClosed
	case l.failed != nil:
		return fmt.Errorf("broker away since %s: %w", l.since.UTC().Format(time.RFC3339), l.failed)
	case l.blocked != nil:
		return l.blocked
	default:
		return nil
	}
}

// sever cuts the connection without a farewell, for which a broker that does not read would let us wait.
func (l *link) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire != nil {
		_ = l.wire.Close()
	}
}

func (l *link) close() error {
	defer l.hearing.Wait() // without the lock, which hear takes
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.conn == nil || l.conn.IsClosed() {
		return nil
	}
	if l.blocked != nil {
		return l.wire.Close() // a farewell would not be read
	}
	err := l.conn.CloseDeadline(time.Now().Add(5 * time.Second))
	if errors.Is(err, amqp091.ErrClosed) {
		return nil
	}
	return err
}

// transient gives an error of the broker its kind.
func transient(op string, err error) error {
	if errors.Is(err, context.Canceled) {
		return orchestrator.E(op, orchestrator.Canceled, err)
	}
	return orchestrator.E(op, orchestrator.Transient, err)
}

func (l *link) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}
