package xvp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"

	"slipway/workers/console/xvp"
)

// console is what a listener leads to, as the configuration had it when the client came.
type console struct {
	pool xvp.Pool
	vm   xvp.VM
	otp  *xvp.OTP
}

type server struct {
	address string
	source  source
	log     *slog.Logger
	broken  chan error // a listener failed while it was wanted

	listeners []*listener // by the goroutine of load alone
	wg        sync.WaitGroup

	mu       sync.Mutex
	sessions map[net.Conn]struct{}
	closing  bool
}

type listener struct {
	net.Listener
	closed chan struct{}
}

func newServer(address string, source source, log *slog.Logger) *server {
	return &server{address: address, source: source, log: log, broken: make(chan error, 1), sessions: map[net.Conn]struct{}{}}
}

// load reads the configuration, closes every listener and binds those of the file. Sessions go on.
func (s *server) load(ctx context.Context, path string) error {
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := xvp.Parse(path, src, xvp.Rules{Ours: func(string) bool { return false }, Include: os.ReadFile})
	if err != nil {
		return err
	}
	if file.Empty() {
		return fmt.Errorf("%s: unexpected end of file", path)
	}
	s.closeListeners()
	if file.Multiplex != 0 { // nobody gets further than the first message there
		if err := s.listen(ctx, file.Multiplex, console{otp: file.OTP}); err != nil {
			return err
		}
	}
	for _, pool := range file.Pools {
		for _, vm := range pool.VMs {
			if vm.Port == 0 {
				continue
			}
			if err := s.listen(ctx, vm.Port, console{pool: pool, vm: vm, otp: file.OTP}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *server) listen(ctx context.Context, port uint16, c console) error {
	var config net.ListenConfig
	inner, err := config.Listen(ctx, "tcp4", net.JoinHostPort(s.address, strconv.Itoa(int(port))))
	if err != nil {
		return fmt.Errorf("unable to set up listening socket: %w", err)
	}
	l := &listener{Listener: inner, closed: make(chan struct{})}
	s.listeners = append(s.listeners, l)
	s.log.Info("listening", "port", port, "vm", c.vm.Name)
	s.wg.Go(func() { s.accept(ctx, l, c) })
	return nil
}

func (s *server) accept(ctx context.Context, l *listener, c console) {
	for {
		conn, err := l.Accept()
		if err != nil {
			select {
			case <-l.closed:
				return
			default:
			}
			select {
			case s.broken <- err:
			default: // one reason is enough
			}
			return
		}
		if !s.admit(conn) {
			_ = conn.Close()
			return
		}
		s.wg.Go(func() {
			log := s.log.With("client", conn.RemoteAddr().String(), "vm", c.vm.Name)
			log.Info("starting")
			err := s.session(ctx, conn, c)
			if errors.Is(err, net.ErrClosed) {
				err = nil
			}
			s.mu.Lock()
			delete(s.sessions, conn)
			s.mu.Unlock()
			_ = conn.Close()
			log.Info("stopping", "err", err)
		})
	}
}

// admit notes a session, unless the server is about to end.
func (s *server) admit(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.sessions[conn] = struct{}{}
	return true
}

func (s *server) sessionCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

func (s *server) dropSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.sessions {
		_ = conn.Close()
	}
}

func (s *server) closeListeners() {
	for _, l := range s.listeners {
		close(l.closed)
		_ = l.Close()
	}
	s.listeners = nil
}

// close ends every listener and session and waits for them.
func (s *server) close() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.closeListeners()
	s.dropSessions()
	s.wg.Wait()
}
