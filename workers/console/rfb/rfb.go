package rfb

import (
	"bytes"
	"context"
	"crypto/des" //nolint:gosec // the protocol's own cipher, RFC 6143 section 7.2.2
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"slices"
	"strings"
	"time"
	"unicode"

	"slipway/orchestrator"
)

// Security types (RFC 6143, 7.1.2).
const (
	None = 1
	VNC  = 2
)

const (
	// DefaultTimeout bounds a handshake whose context has no deadline.
	DefaultTimeout = 10 * time.Second
	versionLength  = 12 // "RFB 003.008\n"
	maxReason      = 1024
	maxName        = 4096
)

// ErrRefused is in the chain of an error when the server answered and did not let us in: the password is wrong, or has expired.
var ErrRefused = errors.New("the console refused the password")

// ServerInit is what the server says of its display.
type ServerInit struct {
	Version       string // "3.8", the version that was spoken
	Security      uint8  // None or VNC
	Width, Height uint16 // pixels

	Name   string
	Format [16]byte // PIXEL_FORMAT (RFC 6143, 7.4), as it came
}

// Authenticate speaks the protocol up to the server's verdict on the password and returns the version and security type in use.
// An xvp host opens no session on the hypervisor for that.
func Authenticate(ctx context.Context, conn net.Conn, password orchestrator.Secret) (ServerInit, error) {
	return run(ctx, conn, "rfb.Authenticate", func(c *client) error { return c.authenticate(password) })
}

// Handshake is Authenticate and the exchange of ClientInit, shared, and ServerInit: the machine's display is there.
func Handshake(ctx context.Context, conn net.Conn, password orchestrator.Secret) (ServerInit, error) {
	return run(ctx, conn, "rfb.Handshake", func(c *client) error {
		if err := c.authenticate(password); err != nil {
			return err
		}
		return c.initialize()
	})
}

// HandshakeXVP is Handshake with a server that wants to be told the machine (security type XVP): target is its name, user whoever looks;
// at most 255 bytes each.
func HandshakeXVP(ctx context.Context, conn net.Conn, user, target string, password orchestrator.Secret) (ServerInit, error) {
	if len(user) > 255 || len(target) > 255 {
		return ServerInit{}, permanent("user and target have %d and %d bytes, at most 255 can be said", len(user), len(target))
	}
	return run(ctx, conn, "rfb.HandshakeXVP", func(c *client) error {
		c.names = append([]byte{XVP, byte(len(user)), byte(len(target))}, user+target...)
		if err := c.authenticate(password); err != nil {
			return err
		}
		return c.initialize()
	})
}

// Response is a client's answer to a challenge of 16 bytes: each half enciphered with DES under the first 8 bytes of the password, the bits
// of every byte reversed (RFC 6143, 7.2.2).
func Response(challenge [16]byte, password orchestrator.Secret) [16]byte {
	var key [8]byte
	copy(key[:], password.Reveal())
	for i, b := range key {
		key[i] = bits.Reverse8(b)
	}
	cipher, err := des.NewCipher(key[:])
	if err != nil {
		panic("rfb: a DES key is 8 bytes: " + err.Error()) // it is, by its type
	}
	var out [16]byte
	cipher.Encrypt(out[:8], challenge[:8])
	cipher.Encrypt(out[8:], challenge[8:])
	return out
}

type client struct {
	conn  net.Conn
	minor int
	names []byte // what is said after the choice of XVP, which it begins with; nil when that is not wanted
	init  ServerInit
}

// run holds fn to the context: its deadline is put on the connection, and a cancel ends what is being read.
func run(ctx context.Context, conn net.Conn, op string, fn func(*client) error) (ServerInit, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout) // an earlier deadline stays
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return ServerInit{}, orchestrator.E(op, orchestrator.Transient, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c := &client{conn: conn}
	err := fn(c)
	switch {
	case err == nil:
		return c.init, nil
	case ctx.Err() != nil, isTimeout(err):
		return c.init, fmt.Errorf("%s: no answer in time: %w", op, cause(ctx))
	}
	var classified *orchestrator.Error
	if errors.As(err, &classified) {
		return c.init, err
	}
	return c.init, orchestrator.E(op, orchestrator.Transient, err)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func cause(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return context.DeadlineExceeded // the connection's clock was a moment ahead
}

func permanent(format string, args ...any) error {
	return orchestrator.Errorf("rfb", orchestrator.Permanent, format, args...)
}

func (c *client) read(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(c.conn, b); err != nil {
		return nil, err
	}
	return b, nil
}

func (c *client) uint32() (uint32, error) {
	b, err := c.read(4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

func (c *client) write(b []byte) error {
	_, err := c.conn.Write(b)
	return err
}

func (c *client) authenticate(password orchestrator.Secret) error {
	if err := c.version(); err != nil {
		return fmt.Errorf("protocol version: %w", err)
	}
	if err := c.security(); err != nil {
		return fmt.Errorf("security type: %w", err)
	}
	if c.init.Security == VNC {
		challenge, err := c.read(16)
		if err != nil {
			return fmt.Errorf("challenge: %w", err)
		}
		response := Response([16]byte(challenge), password)
		if err := c.write(response[:]); err != nil {
			return fmt.Errorf("response: %w", err)
		}
	} else if c.minor < 8 {
		return nil // before 3.8 there is no result when there was no authentication
	}
	return c.result()
}

// version agrees on the highest version both know; anything between is treated as 3.3 (RFC 6143, 7.1.1).
func (c *client) version() error {
	b, err := c.read(versionLength)
	if err != nil {
		return err
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(b), "RFB %03d.%03d\n", &major, &minor); err != nil || !bytes.HasPrefix(b, []byte("RFB 0")) {
		return permanent("what answers is no console, it says %q", b)
	}
	switch {
	case major < 3:
		return permanent("the console speaks RFB %d.%d, 3.3 is the oldest known", major, minor)
	case major > 3 || minor >= 8:
		c.minor = 8
	case minor == 7:
		c.minor = 7
	default:
		c.minor = 3
	}
	c.init.Version = fmt.Sprintf("3.%d", c.minor)
	return c.write(fmt.Appendf(nil, "RFB 003.%03d\n", c.minor))
}

func (c *client) security() error {
	if c.minor == 3 { // the server decides
		kind, err := c.uint32()
		if err != nil {
			return err
		}
		switch kind {
		case 0:
			return c.reason("the console is closed")
		case None, VNC:
			c.init.Security = uint8(kind)
			return nil
		}
		return permanent("the console wants security type %d, none and VNC authentication are known", kind)
	}
	count, err := c.read(1)
	if err != nil {
		return err
	}
	if count[0] == 0 {
		return c.reason("the console is closed")
	}
	kinds, err := c.read(int(count[0]))
	if err != nil {
		return err
	}
	if c.names != nil && slices.Contains(kinds, XVP) {
		c.init.Security = VNC // which follows it
		return c.write(c.names)
	}
	switch { // a password is shown to be right only by a server that asks for it
	case slices.Contains(kinds, VNC):
		c.init.Security = VNC
	case slices.Contains(kinds, None):
		c.init.Security = None
	default:
		return permanent("the console offers security types %v, none and VNC authentication are known", kinds)
	}
	return c.write([]byte{c.init.Security})
}

func (c *client) result() error {
	status, err := c.uint32()
	switch {
	case err != nil:
		return fmt.Errorf("security result: %w", err)
	case status == 0:
		return nil
	case c.minor < 8:
		return permanent("%w", ErrRefused)
	}
	return c.reason(ErrRefused)
}

// reason reads why the server ends the conversation. A refusal stands, also when its text is lost.
func (c *client) reason(what any) error {
	text := ""
	if n, err := c.uint32(); err == nil && n <= maxReason {
		if b, err := c.read(int(n)); err == nil {
			text = ": " + strings.ToValidUTF8(strings.Map(visible, string(b)), "?")
		}
	}
	if err, ok := what.(error); ok {
		return permanent("%w%s", err, text)
	}
	return permanent("%v%s", what, text)
}

func visible(r rune) rune {
	if !unicode.IsPrint(r) {
		return -1
	}
	return r
}

func (c *client) initialize() error {
	if err := c.write([]byte{1}); err != nil { // shared: nobody else is thrown out
		return fmt.Errorf("client init: %w", err)
	}
	b, err := c.read(24)
	if err != nil {
		return fmt.Errorf("server init: %w", err)
	}
	c.init.Width, c.init.Height = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	c.init.Format = [16]byte(b[4:20])
	n := binary.BigEndian.Uint32(b[20:])
	if n > maxName {
		return permanent("the console's name has %d bytes, at most %d are read", n, maxName)
	}
	name, err := c.read(int(n))
	if err != nil {
		return fmt.Errorf("name of the console: %w", err)
	}
	c.init.Name = strings.ToValidUTF8(strings.Map(visible, string(name)), "?")
	return nil
}
