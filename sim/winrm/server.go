package winrm

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"slipway/orchestrator"
)

// Answer is what a guest that is not up yet, or up again, says to those who call.
type Answer string

const (
	Ready        Answer = "ready"
	Refused      Answer = "refused"      // nothing listens
	Unavailable  Answer = "unavailable"  // HTTP 503: http.sys is up and WinRM is not
	Unauthorized Answer = "unauthorized" // HTTP 401 whoever calls: the accounts are not there yet
	Setup        Answer = "setup"        // WinRM works while Windows Setup still runs
)

// Window is a part of a boot. After the last one the guest is Ready.
type Window struct {
	Answer Answer
	For    time.Duration // 0 is until Advance
}

// Config is what a guest starts as.
type Config struct {
	User     string // the installer's account in the template
	Password orchestrator.Secret
	Name     string // computer name, "" is WIN-TEMPLATE
	// Certificate of the template; nil without TLS.
	Certificate *tls.Certificate

	AllowBasic       bool
	AllowUnencrypted bool // bodies in the clear over HTTP
	MaxShells        int  // of one user; 0 is 30, as in Windows Server
	ChunkSize        int  // most bytes of a stream in one Receive; 0 is 32 KiB

	Boot    []Window      // at power on
	Restart []Window      // at each restart; empty is one moment of Refused
	Grace   time.Duration // between a job's wish to restart and the end of everything; 0 is 500 ms (shutdown /t 3)

	Slow time.Duration // how long PowerShell takes before the runner does anything

	// Step runs a step of a job in place of the guest's own picture of it, when it says that it has. It is called concurrently and ends
	// with its context.
	Step func(ctx context.Context, job, step string) (output string, code int, handled bool)
	// Listen opens the guest's port, at power on and after each restart; nil is an ordinary listener.
	Listen func(ctx context.Context, address string) (net.Listener, error)
	Logger *slog.Logger // nil is silence
}

// Stats counts what clients did.
type Stats struct {
	Requests, Encrypted, Unauthorized, Shells, Commands, TimedOut, Restarts int
	Bindings                                                                int // logins that were bound to the TLS channel
	LongestLine                                                             int // characters of a command line
	OpenShells                                                              int
	LargestBody                                                             int
}

// Server is one guest on one address. It may be used concurrently.
type Server struct {
	config Config
	guest  *guest
	ctx    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	address string
	windows []Window
	timer   *time.Timer
	http    *http.Server
	socket  net.Listener
	shells  map[string]*shell
	stats   Stats
	closed  bool
}

// New makes a guest that is switched off.
func New(config Config) (*Server, error) {
	if config.User == "" || config.Password.IsZero() {
		return nil, errors.New("the simulated guest needs a user and a password of its template")
	}
	if config.Name == "" {
		config.Name = "WIN-TEMPLATE"
	}
	if config.MaxShells == 0 {
		config.MaxShells = 30
	}
	if config.Grace == 0 {
		config.Grace = 500 * time.Millisecond
	}
	if config.ChunkSize == 0 {
		config.ChunkSize = 32 << 10
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Listen == nil {
		config.Listen = func(ctx context.Context, address string) (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		}
	}
	if len(config.Restart) == 0 {
		config.Restart = []Window{{Refused, 50 * time.Millisecond}}
	}
	s := &Server{config: config, shells: map[string]*shell{}}
	s.guest = newGuest(s)
	return s, nil
}

// Start switches the guest on at address (HOST:PORT, port 0 for any) and returns where it listens. Close it.
func (s *Server) Start(ctx context.Context, address string) (string, error) {
	l, err := s.config.Listen(ctx, address)
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address = l.Addr().String()
	s.serve(l)
	s.begin(s.config.Boot)
	return s.address, nil
}

// Close switches the guest off and waits for everything that runs in it.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.silence()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
	s.guest.killAll()
	s.wg.Wait()
	return nil
}

// Stats returns what was counted so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.OpenShells = len(s.shells)
	return st
}

func (s *Server) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

func (s *Server) answer() Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.windows) == 0 {
		return Ready
	}
	return s.windows[0].Answer
}

// Advance ends the window of the boot that is.
func (s *Server) Advance() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.windows) > 0 {
		s.begin(s.windows[1:])
	}
}

// Restart restarts the guest, as somebody else might: everything that runs there ends at once.
func (s *Server) Restart() {
	s.mu.Lock()
	s.silence()
	s.shells = map[string]*shell{}
	s.stats.Restarts++
	closed := s.closed
	s.mu.Unlock()
	s.guest.down()
	if closed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin(s.config.Restart)
}

// begin goes through windows from the first one on. s.mu is held.
func (s *Server) begin(windows []Window) {
	s.windows = windows
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if s.closed {
		return
	}
	now := Ready
	if len(windows) > 0 {
		now = windows[0].Answer
		if d := windows[0].For; d > 0 {
			s.timer = time.AfterFunc(d, s.Advance)
		}
	}
	s.config.Logger.Info("guest answers", "how", string(now))
	switch {
	case now == Refused:
		s.silence()
	case s.http == nil:
		l, err := s.config.Listen(s.ctx, s.address)
		if err != nil {
			s.config.Logger.Error("cannot listen again", "address", s.address, "err", err)
			return
		}
		s.serve(l)
	}
	if now == Ready || now == Setup {
		s.guest.up()
	}
}

// silence closes the listener and every connection. s.mu is held.
func (s *Server) silence() {
	if s.http != nil {
		_ = s.socket.Close() // by itself, for the server may not have begun
		_ = s.http.Close()
		s.http = nil
	}
	for _, sh := range s.shells {
		sh.kill()
	}
}

type connectionKey struct{}

// serve answers on a listener until silence. s.mu is held.
func (s *Server) serve(l net.Listener) {
	server := &http.Server{
		Handler:           http.HandlerFunc(s.handle),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       2 * time.Minute,
		IdleTimeout:       2 * time.Minute, // http.sys' own
		ErrorLog:          slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
	}
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, &connection{boot: server, der: certificateOf(conn)})
	}
	s.http, s.socket = server, l
	if s.config.Certificate != nil {
		l = &tlsListener{Listener: l, guest: s.guest}
	}
	s.wg.Go(func() { _ = server.Serve(l) })
}

// tlsListener serves each connection with the certificate that the guest has at that moment.
type tlsListener struct {
	net.Listener
	guest *guest
}

type tlsConn struct {
	*tls.Conn
	der []byte
}

func certificateOf(conn net.Conn) []byte {
	if c, ok := conn.(*tlsConn); ok {
		return c.der
	}
	return nil
}

func (l *tlsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	certificate := l.guest.certificate()
	return &tlsConn{
		Conn: tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}),
		der:  certificate.Certificate[0],
	}, nil
}

// maxBody is Windows' MaxEnvelopeSizekb of 500.
const maxBody = 500 << 10

func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connectionKey{}).(*connection)
	if !ok {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.count(func(st *Stats) { st.Requests++ })
	switch {
	case s.answer() == Unavailable:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case r.URL.Path != "/wsman":
		w.WriteHeader(http.StatusNotFound)
		return
	case r.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return // the client is gone
	}
	if len(body) > maxBody {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	s.count(func(st *Stats) { st.LargestBody = max(st.LargestBody, len(body)) })
	if len(body) == 0 && r.Header.Get("Authorization") == "" {
		// masterzen/winrm asks so for a login before each message, also on a connection that has one; Windows must refuse it, or that
		// client would not work.
		s.unauthorized(w, c)
		return
	}
	user := s.authenticate(w, r, c)
	if user == "" {
		return
	}
	encrypted := isEncrypted(r.Header.Get("Content-Type"))
	switch {
	case encrypted:
		if body, err = s.decrypt(c, body); err != nil {
			s.config.Logger.Info("encrypted message refused", "err", err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	case len(bytes.TrimSpace(body)) == 0:
		w.WriteHeader(http.StatusOK) // clients log in with an empty body
		return
	case c.der == nil && !s.config.AllowUnencrypted:
		w.WriteHeader(http.StatusInternalServerError) // what Windows says to a message in the clear
		return
	}
	s.write(w, c, s.dispatch(r.Context(), c.boot, user, body), encrypted)
}

func (s *Server) decrypt(c *connection, body []byte) ([]byte, error) {
	if c.in == nil {
		return nil, errors.New("the connection has no session to decrypt with")
	}
	sealed, length, err := splitEncrypted(body)
	if err != nil {
		return nil, err
	}
	text, err := c.in.open(sealed)
	if err == nil && len(text) != length {
		err = fmt.Errorf("the message has %d bytes and says %d", len(text), length)
	}
	if err == nil {
		s.count(func(st *Stats) { st.Encrypted++ })
	}
	return text, err
}

func (s *Server) write(w http.ResponseWriter, c *connection, answer reply, encrypted bool) {
	w.Header().Set("Content-Type", "application/soap+xml;charset=UTF-8")
	body := answer.body
	if encrypted && c.out != nil {
		w.Header().Set("Content-Type", encryptedType)
		body = joinEncrypted(c.out.seal(body), len(body))
	}
	w.WriteHeader(answer.status)
	_, _ = w.Write(body) // the client may be gone
}
