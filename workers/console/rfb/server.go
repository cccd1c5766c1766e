package rfb

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"slipway/orchestrator"
)

// XVP is the security type that names the machine before VNC authentication (22, registered by xvp and spoken by noVNC among others):
// after it was chosen the viewer sends the lengths of a user's and a target's name, one byte each, then both.
const XVP = 22

// Viewer is the other end of a connection that Greet accepted.
type Viewer struct {
	Version string // "3.8"
	// User and Target are what a viewer said under XVP; hostile text, at most 255 bytes each.
	User, Target string

	conn     net.Conn
	minor    int
	security uint8
}

// Greet speaks the server's part of the protocol up to the viewer's choice of a security type (RFC 6143, 7.1.1 and 7.1.2). Viewers of 3.3
// do not choose: they get the first offer that they know, and XVP is not among those.
//
// Greet, Verify, Refuse and Admit each put the context's deadline, or DefaultTimeout, on the connection; Admit takes it off in the end.
// Errors have the kinds of Handshake: Permanent when the viewer speaks something else.
func Greet(ctx context.Context, conn net.Conn, offer ...uint8) (*Viewer, error) {
	v := &Viewer{conn: conn}
	_, err := run(ctx, conn, "rfb.Greet", func(c *client) error { return v.greet(c, offer) })
	return v, err
}

func (v *Viewer) greet(c *client, offer []uint8) error {
	if err := c.write([]byte("RFB 003.008\n")); err != nil {
		return fmt.Errorf("protocol version: %w", err)
	}
	b, err := c.read(versionLength)
	if err != nil {
		return fmt.Errorf("protocol version: %w", err)
	}
	switch string(b) {
	case "RFB 003.003\n", "RFB 003.005\n": // 3.5 was never published, and is to be read as 3.3
		v.minor = 3
	case "RFB 003.007\n":
		v.minor = 7
	case "RFB 003.008\n":
		v.minor = 8
	default:
		return permanent("the viewer speaks %q; RFB 3.3, 3.7 and 3.8 are known", b)
	}
	v.Version = fmt.Sprintf("3.%d", v.minor)
	if v.minor == 3 {
		for _, kind := range offer {
			if kind == None || kind == VNC {
				v.security = kind
				return c.write(binary.BigEndian.AppendUint32(nil, uint32(kind)))
			}
		}
		const why = "this console wants a viewer of RFB 3.7 or later"
		_ = c.write(append(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0}, uint32(len(why))), why...))
		return permanent("a viewer of RFB 3.3 knows none of %v", offer)
	}
	if err := c.write(append([]byte{byte(len(offer))}, offer...)); err != nil {
		return fmt.Errorf("security types: %w", err)
	}
	choice, err := c.read(1)
	if err != nil {
		return fmt.Errorf("security type: %w", err)
	}
	for _, kind := range offer {
		if kind == choice[0] {
			v.security = kind
		}
	}
	switch v.security {
	case 0:
		return permanent("the viewer chose security type %d, offered were %v", choice[0], offer)
	case XVP:
		return v.names(c)
	}
	return nil
}

func (v *Viewer) names(c *client) error {
	lengths, err := c.read(2)
	if err != nil {
		return fmt.Errorf("lengths of user and target: %w", err)
	}
	names, err := c.read(int(lengths[0]) + int(lengths[1]))
	if err != nil {
		return fmt.Errorf("user and target: %w", err)
	}
	v.User, v.Target = string(names[:lengths[0]]), string(names[lengths[0]:])
	return nil
}

// Verify does VNC authentication: a random challenge, and whether the answer is the password's. Without a password (the zero Secret, for
// a target that does not exist) it asks all the same and the answer is always wrong. It must be called unless security is None, and sends
// no verdict: that is Refuse's or Admit's.
func (v *Viewer) Verify(ctx context.Context, password orchestrator.Secret) (bool, error) {
	if v.security == None {
		return true, nil
	}
	var right bool
	_, err := run(ctx, v.conn, "rfb.Verify", func(c *client) error {
		var challenge [16]byte
		if _, err := rand.Read(challenge[:]); err != nil {
			return err
		}
		if err := c.write(challenge[:]); err != nil {
			return fmt.Errorf("challenge: %w", err)
		}
		answer, err := c.read(16)
		if err != nil {
			return fmt.Errorf("response: %w", err)
		}
		want := Response(challenge, password)
		right = subtle.ConstantTimeCompare(answer, want[:]) == 1 && !password.IsZero()
		return nil
	})
	return right, err
}

// Refuse ends the handshake with words for the user; viewers before 3.8 get none. The caller closes the connection.
func (v *Viewer) Refuse(ctx context.Context, why string) error {
	if v.security == None && v.minor < 8 {
		return nil // there is no verdict to give
	}
	_, err := run(ctx, v.conn, "rfb.Refuse", func(c *client) error {
		verdict := []byte{0, 0, 0, 1}
		if v.minor == 8 {
			why = why[:min(len(why), maxReason)]
			verdict = append(binary.BigEndian.AppendUint32(verdict, uint32(len(why))), why...)
		}
		return c.write(verdict)
	})
	return err
}

// Admit lets the viewer in and shows it the display; what follows on the connection is the display's own.
func (v *Viewer) Admit(ctx context.Context, init ServerInit) error {
	_, err := run(ctx, v.conn, "rfb.Admit", func(c *client) error {
		if v.security != None || v.minor == 8 {
			if err := c.write([]byte{0, 0, 0, 0}); err != nil {
				return fmt.Errorf("verdict: %w", err)
			}
		}
		if _, err := c.read(1); err != nil { // shared or not: the display is always shared
			return fmt.Errorf("client init: %w", err)
		}
		name := strings.ToValidUTF8(strings.Map(visible, init.Name), "?")
		b := binary.BigEndian.AppendUint16(nil, init.Width)
		b = binary.BigEndian.AppendUint16(b, init.Height)
		b = append(b, init.Format[:]...)
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(name))), name...)
		if err := c.write(b); err != nil {
			return fmt.Errorf("server init: %w", err)
		}
		return nil
	})
	if err == nil {
		err = v.conn.SetDeadline(time.Time{})
	}
	return err
}

// Left reports whether an error only says that the other end has gone.
func Left(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}
