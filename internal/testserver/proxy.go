package testserver

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy stands between a client and a server on loopback and breaks connections in the ways that a network does: it cuts them, it lets
// them go silent with both ends left in the belief that they are connected, and it loses an answer whose request has arrived. It is safe for
// concurrent use.
type Proxy struct {
	// Address is where clients connect, host:port.
	Address string

	target   string
	listener net.Listener
	work     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	silent  Direction // of connections that are made
	conns   map[*proxied]bool
	losing  func(answer []byte) bool
	lost    int
	arrived int
}

// Direction is which way bytes go through a [Proxy].
type Direction int

// The directions; they can be joined.
const (
	ToServer Direction = 1 << iota
	ToClient
	BothWays = ToServer | ToClient
)

// proxied is one connection.
type proxied struct {
	client, server *net.TCPConn
	silent         Direction
}

// NewProxy listens for connections to the server at target, host:port. It ends with the test, and resets what is connected then.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{Address: listener.Addr().String(), target: target, listener: listener, conns: map[*proxied]bool{}}
	p.work.Go(p.accept)
	tb.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		_ = listener.Close()
		p.Cut()
		p.work.Wait()
	})
	return p
}

// Connections is how many have been made to it so far.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.arrived
}

// Cut resets every connection (RST), as a firewall that was restarted does, or a server's kernel after a crash.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.reset()
	}
}

// Silence swallows from now on what goes in the given directions, of the connections that there are and of those to come. Nobody is told.
func (p *Proxy) Silence(way Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = way
	for c := range p.conns {
		c.silent |= way
	}
}

// Mend lets the connections through that are made from now on. One that has swallowed something stays silent: it is out of step.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = 0
}

// LoseAnswer loses the first answer of which match says so, and resets its connection: the server has done what it was asked, and the
// client cannot know. match sees what has come from the server at once.
func (p *Proxy) LoseAnswer(match func(answer []byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = match
}

// LostAnswers is how many answers LoseAnswer has lost.
func (p *Proxy) LostAnswers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.carry(client.(*net.TCPConn)) })
	}
}

func (p *Proxy) carry(client *net.TCPConn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	c := &proxied{client: client, server: server.(*net.TCPConn)}
	p.mu.Lock()
	p.arrived++
	c.silent = p.silent
	p.conns[c] = true
	if p.closed {
		c.reset()
	}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(c, c.client, c.server, ToServer) })
	both.Go(func() { p.copy(c, c.server, c.client, ToClient) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_, _ = c.client.Close(), c.server.Close()
}

// copy ends when from does, and tells to, unless the connection is silent in this direction.
func (p *Proxy) copy(c *proxied, from, to *net.TCPConn, way Direction) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			switch p.judge(c, way, buf[:n]) {
			case lose:
				c.reset()
				return
			case pass:
				if _, err := to.Write(buf[:n]); err != nil {
					c.reset()
					return
				}
			}
		}
		if err == nil {
			continue
		}
		if p.judge(c, way, nil) != swallow && (!errors.Is(err, io.EOF) || to.CloseWrite() != nil) {
			c.reset()
		}
		return
	}
}

type fate int

const (
	pass fate = iota
	swallow
	lose
)

func (p *Proxy) judge(c *proxied, way Direction, bytes []byte) fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case way == ToClient && len(bytes) > 0 && p.losing != nil && p.losing(bytes):
		p.losing = nil
		p.lost++
		return lose
	case c.silent&way != 0:
		return swallow
	}
	return pass
}

// reset makes both ends' next call fail.
func (c *proxied) reset() {
	for _, conn := range []*net.TCPConn{c.client, c.server} {
		_ = conn.SetLinger(0) // RST in place of FIN
		_ = conn.Close()
	}
}
