package gateway

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits bound what is open at once; zero values take the defaults.
type Limits struct {
	Total      int // connections of all kinds; default 4,096
	PerAddress int // from one address; default 64
	PerMachine int // screens of one machine; default 8
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		value *int
		or    int
	}{{&l.Total, 4096}, {&l.PerAddress, 64}, {&l.PerMachine, 8}} {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	return l
}

// limiter counts what is open.
type limiter struct {
	Limits
	mu        sync.Mutex
	total     int
	addresses map[netip.Addr]int
	machines  map[string]int
}

func newLimiter(l Limits) *limiter {
	return &limiter{Limits: l.withDefaults(), addresses: map[netip.Addr]int{}, machines: map[string]int{}}
}

// connection takes a place for a connection from an address. The zero address, a trusted proxy's, is counted in the total only.
func (l *limiter) connection(from netip.Addr) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.Total || from.IsValid() && l.addresses[from] >= l.PerAddress {
		return nil, false
	}
	l.total++
	if from.IsValid() {
		l.addresses[from]++
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.total--
		if from.IsValid() {
			less(l.addresses, from)
		}
	}), true
}

// machine takes a place for a screen.
func (l *limiter) machine(id string) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.machines[id] >= l.PerMachine {
		return nil, false
	}
	l.machines[id]++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		less(l.machines, id)
	}), true
}

func less[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

// Lockout: VNC passwords have 8 characters, so that guesses must cost.
const (
	guessesPerAddress = 5                // wrong answers before an address has to wait
	guessesPerMachine = 30               // of all addresses together before a machine's password opens nothing
	guessWindow       = 10 * time.Minute // in which they count, and how long the wait is
	maxGuessers       = 10_000           // what is remembered at once
)

// lockout remembers wrong passwords. A machine's lock keeps its owner out too: it is the price of a password that short, and the browser's
// way in stays open.
type lockout struct {
	mu      sync.Mutex
	guesses map[string]*guesses
}

type guesses struct {
	n     int
	until time.Time
}

func newLockout() *lockout { return &lockout{guesses: map[string]*guesses{}} }

func guessKeys(from netip.Addr, machine string) map[string]int {
	return map[string]int{"a" + from.String(): guessesPerAddress, "m" + machine: guessesPerMachine}
}

// locked reports whether the address or the machine has to wait.
func (l *lockout) locked(from netip.Addr, machine string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for key, most := range guessKeys(from, machine) {
		if g := l.guesses[key]; g != nil && g.n >= most && now.Before(g.until) {
			return true
		}
	}
	return false
}

// wrong counts a wrong password, and reports whether that was one too many.
func (l *lockout) wrong(from netip.Addr, machine string) (locked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if len(l.guesses) >= maxGuessers {
		for key, g := range l.guesses {
			if now.After(g.until) {
				delete(l.guesses, key)
			}
		}
	}
	for key, most := range guessKeys(from, machine) {
		g := l.guesses[key]
		if g == nil {
			if len(l.guesses) >= maxGuessers && key[0] == 'a' {
				continue // whoever has that many addresses is counted by the machine, and there are not more of those than there are
			}
			g = &guesses{}
			l.guesses[key] = g
		}
		if now.After(g.until) {
			g.n = 0
		}
		g.n++
		g.until = now.Add(guessWindow)
		locked = locked || g.n >= most
	}
	return locked
}

// right forgets the address's wrong ones.
func (l *lockout) right(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.guesses, "a"+from.String())
}

// remote is the address at the other end of a connection.
func remote(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

// listener drops connections that the limits do not allow, before a byte of them is read.
type listener struct {
	net.Listener
	gateway *Gateway
}

func (l listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := remote(conn.RemoteAddr())
		if l.gateway.isProxy(from) {
			from = netip.Addr{}
		}
		release, ok := l.gateway.limits.connection(from)
		if !ok {
			l.gateway.metrics.refused.WithLabelValues("too_many").Inc()
			_ = conn.Close()
			continue
		}
		return &counted{Conn: conn, release: release}, nil
	}
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	release func()
}

func (c *counted) Close() error {
	c.release()
	return c.Conn.Close()
}
