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
	PerAddress int // from one address, or one /64 of IPv6; default 64
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
	mu       sync.Mutex
	total    int
	sources  map[netip.Prefix]int
	machines map[string]int
}

func newLimiter(l Limits) *limiter {
	return &limiter{Limits: l.withDefaults(), sources: map[netip.Prefix]int{}, machines: map[string]int{}}
}

// connection takes a place for a connection from an address. The zero address, a trusted proxy's, is counted in the total only.
func (l *limiter) connection(from netip.Addr) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	source := sourceOf(from)
	if l.total >= l.Total || source.IsValid() && l.sources[source] >= l.PerAddress {
		return nil, false
	}
	l.total++
	if source.IsValid() {
		l.sources[source]++
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.total--
		if source.IsValid() {
			less(l.sources, source)
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
	guessesPerSource  = 5                // wrong answers before a source has to wait
	guessesPerMachine = 30               // of all sources together before a machine's password opens nothing
	guessWindow       = 10 * time.Minute // from the first of them, and how long the wait is at most
	maxSources        = 10_000           // what is remembered at once
)

// lockout counts guesses at passwords. A machine's lock keeps its owner out too: it is the price of a password that short, and the browser's
// way in stays open.
type lockout struct {
	mu       sync.Mutex
	sources  map[netip.Prefix]*guesses
	machines map[string]*guesses
}

type guesses struct {
	n     int
	until time.Time
}

func newLockout() *lockout {
	return &lockout{sources: map[netip.Prefix]*guesses{}, machines: map[string]*guesses{}}
}

// guess takes one of the guesses that a source and a machine have left, before the answer is heard: many at once are as many. ok is false
// when there is none; such a try counts for nothing, so that a wait ends. right gives the guesses back. The zero source, which stands for
// many, is not counted.
func (l *lockout) guess(source netip.Prefix, machine string) (right func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	m := current(l.machines, machine, now)
	if m.n >= guessesPerMachine {
		return nil, false
	}
	s := &guesses{}
	if source.IsValid() {
		if len(l.sources) >= maxSources {
			for key, g := range l.sources {
				if now.After(g.until) {
					delete(l.sources, key)
				}
			}
		}
		if len(l.sources) < maxSources || l.sources[source] != nil { // whoever has that many is counted by the machine
			s = current(l.sources, source, now)
		}
		if s.n >= guessesPerSource {
			return nil, false
		}
	}
	m.n++
	s.n++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		m.n--
		s.n = 0
	}, true
}

// current is the count of the window that holds now.
func current[K comparable](counts map[K]*guesses, key K, now time.Time) *guesses {
	g := counts[key]
	if g == nil || now.After(g.until) {
		g = &guesses{until: now.Add(guessWindow)}
		counts[key] = g
	}
	return g
}

// sourceOf is whom an address stands for: itself, or with IPv6 the network of a customer, which has more addresses than can be counted.
func sourceOf(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
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
