package winrm

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
)

// shell is a remote shell: the commands of one client.
type shell struct {
	owner    string
	mu       sync.Mutex
	commands map[string]*command
}

func (sh *shell) kill() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, c := range sh.commands {
		c.cancel()
	}
}

func (sh *shell) find(id string) (*command, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c, ok := sh.commands[id]
	if !ok {
		return nil, commandNotFound(id)
	}
	return c, nil
}

// command is a process in a shell.
type command struct {
	cancel context.CancelFunc

	mu             sync.Mutex
	stdout, stderr []byte
	stdin          []byte
	closed         bool // stdin
	done           bool
	code           int
	changed        chan struct{} // closed at each change
}

func (c *command) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *command) print(text string)  { c.change(func() { c.stdout = append(c.stdout, text...) }) }
func (c *command) errorf(text string) { c.change(func() { c.stderr = append(c.stderr, text...) }) }

// input waits for the end of stdin; false when the command was killed first.
func (c *command) input(ctx context.Context) ([]byte, bool) {
	for {
		c.mu.Lock()
		text, closed, changed := c.stdin, c.closed, c.changed
		c.mu.Unlock()
		if closed {
			return text, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// maxStdin bounds what a client may send to one command.
const maxStdin = 32 << 20

func (s *Server) dispatch(ctx context.Context, boot *http.Server, user string, body []byte) reply {
	r, err := parseRequest(body)
	if err != nil {
		return badMessage(err).reply(r.messageID)
	}
	answer, err := s.act(ctx, boot, user, r)
	if err != nil {
		f := badMessage(err)
		_ = errors.As(err, &f)
		return f.reply(r.messageID)
	}
	return answer
}

func (s *Server) act(ctx context.Context, boot *http.Server, user string, r request) (reply, error) {
	if r.resource != resourceCmd {
		return reply{}, errors.New("only the resource " + resourceCmd + " is served")
	}
	if r.action == actionCreate {
		return s.create(boot, user, r)
	}
	s.mu.Lock()
	sh, ok := s.shells[r.shell]
	s.mu.Unlock()
	if !ok || !strings.EqualFold(sh.owner, user) {
		return reply{}, shellNotFound(r.shell)
	}
	switch r.action {
	case actionCommand:
		return s.execute(sh, r)
	case actionSend:
		c, err := sh.find(r.commandID)
		if err != nil {
			return reply{}, err
		}
		c.change(func() {
			if len(c.stdin)+len(r.stdin) <= maxStdin && !c.closed {
				c.stdin = append(c.stdin, r.stdin...)
			}
			c.closed = c.closed || r.end
		})
		return plain(r, nsShell+"/SendResponse", `<rsp:SendResponse/>`), nil
	case actionReceive:
		c, err := sh.find(r.commandID)
		if err != nil {
			return reply{}, err
		}
		return s.receive(ctx, c, r)
	case actionSignal:
		c, err := sh.find(r.commandID)
		if err != nil {
			return reply{}, err
		}
		c.cancel()
		if strings.HasSuffix(r.signal, "/terminate") {
			sh.mu.Lock()
			delete(sh.commands, r.commandID)
			sh.mu.Unlock()
		}
		return plain(r, nsShell+"/SignalResponse", `<rsp:SignalResponse/>`), nil
	case actionDelete:
		sh.kill()
		s.mu.Lock()
		delete(s.shells, r.shell)
		s.mu.Unlock()
		return plain(r, nsTransfer+"/DeleteResponse", ""), nil
	}
	return reply{}, errors.New("the action " + r.action + " is not known")
}

// create opens a shell. A message that came before a restart and is looked at only now leaves none behind in the guest that comes up.
func (s *Server) create(boot *http.Server, user string, r request) (reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if boot != s.http {
		return reply{}, errors.New("the guest restarts")
	}
	n := 0
	for _, sh := range s.shells {
		if strings.EqualFold(sh.owner, user) {
			n++
		}
	}
	if n >= s.config.MaxShells {
		return reply{}, shellQuota(s.config.MaxShells)
	}
	id := newID()
	s.shells[id] = &shell{owner: user, commands: map[string]*command{}}
	s.stats.Shells++
	return created(r, id, user), nil
}

func (s *Server) execute(sh *shell, r request) (reply, error) {
	line := strings.Join(append([]string{r.command}, r.arguments...), " ")
	s.mu.Lock()
	s.stats.Commands++
	s.stats.LongestLine = max(s.stats.LongestLine, len(line))
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return reply{}, shellNotFound(r.shell)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	c := &command{cancel: cancel, changed: make(chan struct{})}
	id := newID()
	sh.mu.Lock()
	sh.commands[id] = c
	sh.mu.Unlock()
	s.wg.Go(func() {
		defer cancel()
		code := s.run(ctx, c, line)
		c.change(func() { c.done, c.code = true, code })
	})
	return commandStarted(r, id), nil
}

// receive answers as soon as there is something to say, and with a fault when there is nothing within the client's OperationTimeout.
func (s *Server) receive(ctx context.Context, c *command, r request) (reply, error) {
	timer := time.NewTimer(r.timeout)
	defer timer.Stop()
	for {
		c.mu.Lock()
		out, more := cut(&c.stdout, s.config.ChunkSize)
		diag, moreDiag := cut(&c.stderr, s.config.ChunkSize)
		done, code, changed := c.done && !more && !moreDiag, c.code, c.changed
		c.mu.Unlock()
		if done || len(out) > 0 || len(diag) > 0 {
			return received(r, r.commandID, out, diag, done, code), nil
		}
		select {
		case <-changed:
		case <-timer.C:
			s.count(func(st *Stats) { st.TimedOut++ })
			return reply{}, timedOut()
		case <-ctx.Done():
			return reply{}, timedOut()
		case <-s.ctx.Done():
			return reply{}, shellNotFound(r.shell)
		}
	}
}

func cut(b *[]byte, size int) (part []byte, more bool) {
	n := min(len(*b), size)
	part = (*b)[:n:n]
	*b = (*b)[n:]
	return part, len(*b) > 0
}
