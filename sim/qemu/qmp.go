package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxMessage   = 4 << 20
	qmpTimeout   = 30 * time.Second
	agentTimeout = 30 * time.Second
)

// monitor speaks QMP, the QEMU Machine Protocol (docs/interop/qmp-spec of QEMU): a JSON object a line; answers carry the id of their
// command, events come in between. The guest agent's protocol is the same without greeting and events.
type monitor struct {
	conn  *net.UnixConn
	event func(name string, data json.RawMessage) // called by the reader, in order

	sending sync.Mutex
	mu      sync.Mutex
	next    int
	waiting map[int]chan answer
	err     error         // once broken is closed
	broken  chan struct{} // closed when nothing can be read any more
}

type answer struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID    int             `json:"id"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// newMonitor reads from the connection until it is closed.
func newMonitor(conn *net.UnixConn, event func(string, json.RawMessage)) *monitor {
	m := &monitor{conn: conn, event: event, waiting: map[int]chan answer{}, broken: make(chan struct{})}
	go m.read()
	return m
}

func (m *monitor) read() {
	lines := bufio.NewScanner(m.conn)
	lines.Buffer(make([]byte, 0, 4<<10), maxMessage)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			continue // a guest's agent may say anything
		}
		if a.Event != "" {
			if m.event != nil {
				m.event(a.Event, a.Data)
			}
			continue
		}
		m.mu.Lock()
		c := m.waiting[a.ID]
		delete(m.waiting, a.ID)
		m.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
	m.mu.Lock()
	m.err = lines.Err()
	if m.err == nil {
		m.err = io.EOF
	}
	m.mu.Unlock()
	close(m.broken)
}

// run has a command carried out; arguments and result may be nil.
func (m *monitor) run(ctx context.Context, command string, arguments any) error {
	return m.ask(ctx, command, arguments, nil, nil)
}

// ask sends a command, with a descriptor if one is given, and reads its answer.
func (m *monitor) ask(ctx context.Context, command string, arguments, result any, fd *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	c := make(chan answer, 1)
	m.mu.Lock()
	m.next++
	id := m.next
	m.waiting[id] = c
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.waiting, id)
		m.mu.Unlock()
	}()
	text, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return err
	}
	if err := m.send(ctx, append(text, '\n'), fd); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case a := <-c:
		if a.Error != nil {
			return fmt.Errorf("%s: %s", command, a.Error.Desc)
		}
		if result != nil {
			return json.Unmarshal(a.Return, result)
		}
		return nil
	case <-m.broken:
		return fmt.Errorf("%s: %w", command, errors.Join(errNotRunning, m.err))
	case <-ctx.Done():
		return fmt.Errorf("%s: no answer: %w", command, ctx.Err())
	}
}

func (m *monitor) send(ctx context.Context, text []byte, fd *os.File) error {
	m.sending.Lock()
	defer m.sending.Unlock()
	deadline, _ := ctx.Deadline()
	_ = m.conn.SetWriteDeadline(deadline)
	var rights []byte
	if fd != nil {
		rights = unix.UnixRights(int(fd.Fd()))
	}
	_, _, err := m.conn.WriteMsgUnix(text, rights, nil)
	return err
}

func (m *monitor) close() {
	_ = m.conn.Close()
	<-m.broken
}
