package guest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	loginGrace   = 30 * time.Second
	maxConns     = 100
	maxSessions  = 10 // as OpenSSH's default
	serverBanner = "SSH-2.0-OpenSSH_9.2p1 slipway-sim"
)

func (g *Guest) serve(b *boot) {
	for {
		c, err := b.server.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || b.ctx.Err() != nil {
				return
			}
			// Out of descriptors, most likely: a real sshd goes on as well.
			select {
			case <-b.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if !g.adopt(b, c) {
			_ = c.Close()
			continue
		}
		b.wg.Go(func() {
			defer g.drop(b, c)
			g.handle(b, newGate(c))
		})
	}
}

func (g *Guest) adopt(b *boot, c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.boot != b || b.ctx.Err() != nil || len(b.conns) >= maxConns {
		return false
	}
	b.conns[c] = true
	return true
}

func (g *Guest) drop(b *boot, c net.Conn) {
	_ = c.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(b.conns, c)
}

func (g *Guest) handle(b *boot, c *gate) {
	if g.currentFaults().Mute {
		_, _ = io.Copy(io.Discard, c)
		return
	}
	g.mu.Lock()
	signer := g.signer
	g.mu.Unlock()
	config := &ssh.ServerConfig{
		ServerVersion: serverBanner,
		PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			forced, ok := g.authorized(meta.User(), key)
			if !ok {
				return nil, errors.New("not authorized")
			}
			return &ssh.Permissions{CriticalOptions: map[string]string{forceCommand: forced}}, nil
		},
	}
	config.AddHostKey(signer)
	_ = c.SetDeadline(time.Now().Add(loginGrace))
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		g.log.Debug("login failed", "error", err)
		return
	}
	_ = c.SetDeadline(time.Time{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	wg.Go(func() { ssh.DiscardRequests(requests) })
	sessions := make(chan struct{}, maxSessions)
	for channel := range channels {
		if channel.ChannelType() != "session" {
			_ = channel.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		select {
		case sessions <- struct{}{}:
		default:
			_ = channel.Reject(ssh.ResourceShortage, "open failed")
			continue
		}
		ch, requests, err := channel.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer func() { <-sessions }()
			g.session(b, c, conn.User(), conn.Permissions.CriticalOptions[forceCommand], ch, requests)
		})
	}
}

// forceCommand is the critical option's name in sshd.
const forceCommand = "force-command"

// authorized reads the user's file at every login, as sshd does: the first line that carries the key decides, and may name the one command
// that the key is good for.
func (g *Guest) authorized(user string, key ssh.PublicKey) (forced string, ok bool) {
	a, ok := g.account(user)
	if !ok {
		return "", false
	}
	text, err := g.root.ReadFile(rel(a.home + "/.ssh/authorized_keys"))
	if err != nil {
		return "", false
	}
	for line := range bytes.Lines(text) {
		known, _, options, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil || !bytes.Equal(known.Marshal(), key.Marshal()) {
			continue
		}
		for _, option := range options {
			if command, found := strings.CutPrefix(option, "command="); found {
				forced = strings.Trim(command, `"`)
			}
		}
		return forced, !g.refuseLogin()
	}
	return "", false
}

// session runs one command. As with sshd without a PTY, a command outlives a connection that breaks.
func (g *Guest) session(b *boot, wire *gate, user, forced string, ch ssh.Channel, requests <-chan *ssh.Request) {
	defer ch.Close()
	command, ok := execRequest(requests)
	if !ok {
		return
	}
	if forced != "" {
		command = forced
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { ssh.DiscardRequests(requests) })

	fault := NoFault
	faults := g.currentFaults()
	if faults.Command != nil {
		fault = faults.Command(lastWords(command))
	}
	if faults.Answer != nil {
		if answer := faults.Answer(lastWords(command)); answer != nil {
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(answer(ch, ch.Stderr()))}))
			_ = ch.Close()
			return
		}
	}
	switch fault {
	case DropBefore:
		_ = wire.Close()
		return
	case Hang:
		wire.freeze()
		return
	}
	code := g.login(b, user, command, ch, ch, ch.Stderr())
	if fault == DropAfter {
		_ = wire.Close()
		return
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(code)}))
	_ = ch.Close()
}

// execRequest waits for the one command of a session.
func execRequest(requests <-chan *ssh.Request) (string, bool) {
	for r := range requests {
		var payload struct{ Command string }
		ok := r.Type == "exec" && ssh.Unmarshal(r.Payload, &payload) == nil
		_ = r.Reply(ok, nil)
		if ok {
			return payload.Command, true
		}
	}
	return "", false
}

// lastWords is what follows the last quote of a command line: the verb and its arguments.
func lastWords(command string) string {
	return strings.TrimSpace(command[strings.LastIndexByte(command, '\'')+1:])
}

// gate is a connection that can be frozen: nothing more comes in or goes out until it is closed.
type gate struct {
	net.Conn
	frozen   chan struct{}
	freezing sync.Once
}

func newGate(c net.Conn) *gate {
	return &gate{Conn: c, frozen: make(chan struct{})}
}

func (w *gate) freeze() { w.freezing.Do(func() { close(w.frozen) }) }

func (w *gate) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	select {
	case <-w.frozen:
		// What the peer says is swallowed until it gives up.
		for err == nil {
			_, err = w.Conn.Read(p)
		}
		return 0, err
	default:
		return n, err
	}
}

func (w *gate) Write(p []byte) (int, error) {
	select {
	case <-w.frozen:
		return len(p), nil
	default:
		return w.Conn.Write(p)
	}
}
