package rfb

import (
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"io"
	"net"
	"time"

	"slipway/orchestrator"
)

const (
	maxPixels     = 4096 * 4096
	maxRectangles = 4096
	maxMessages   = 1000 // of a server between a request and its update
)

// Screen is a display behind a connection after its handshake. It is for one goroutine.
type Screen struct {
	conn          net.Conn
	Width, Height int
}

// OpenScreen shakes hands as Handshake does, and asks for pixels that Look understands.
func OpenScreen(ctx context.Context, conn net.Conn, password orchestrator.Secret) (*Screen, error) {
	init, err := Handshake(ctx, conn, password)
	if err != nil {
		return nil, err
	}
	s := &Screen{conn: conn, Width: int(init.Width), Height: int(init.Height)}
	if s.Width*s.Height > maxPixels {
		return nil, permanent("a display of %d by %d pixels", s.Width, s.Height)
	}
	// SetPixelFormat: 32 bits, blue first, as image.RGBA wants them but for the order. SetEncodings: raw alone.
	hello := []byte{0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0, 0}
	return s, s.with(ctx, func() error {
		_, err := conn.Write(hello)
		return err
	})
}

// with holds an exchange to the context.
func (s *Screen) with(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_ = s.conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
	err := do()
	stop()
	_ = s.conn.SetDeadline(time.Time{})
	if err != nil {
		return orchestrator.E("rfb.Screen", orchestrator.Transient, err)
	}
	return nil
}

// Look is the whole picture at this moment. A display that changes its size does not tell this viewer: then only what fits is seen.
func (s *Screen) Look(ctx context.Context) (*image.RGBA, error) {
	picture := image.NewRGBA(image.Rect(0, 0, s.Width, s.Height))
	err := s.with(ctx, func() error {
		ask := []byte{3, 0, 0, 0, 0, 0}
		ask = binary.BigEndian.AppendUint16(ask, uint16(s.Width))
		ask = binary.BigEndian.AppendUint16(ask, uint16(s.Height))
		if _, err := s.conn.Write(ask); err != nil {
			return err
		}
		for range maxMessages {
			updated, err := s.message(picture)
			if updated || err != nil {
				return err
			}
		}
		return fmt.Errorf("%d messages and no picture", maxMessages)
	})
	return picture, err
}

// message reads one message of the server (RFC 6143, 7.6).
func (s *Screen) message(picture *image.RGBA) (updated bool, err error) {
	kind, err := s.read(1)
	if err != nil {
		return false, err
	}
	switch kind[0] {
	case 0: // FramebufferUpdate
		head, err := s.read(3)
		if err != nil {
			return false, err
		}
		n := int(binary.BigEndian.Uint16(head[1:]))
		if n > maxRectangles {
			return false, fmt.Errorf("%d rectangles", n)
		}
		for range n {
			if err := s.rectangle(picture); err != nil {
				return false, err
			}
		}
		return true, nil
	case 1: // SetColourMapEntries
		head, err := s.read(5)
		if err == nil {
			_, err = io.CopyN(io.Discard, s.conn, 6*int64(binary.BigEndian.Uint16(head[3:])))
		}
		return false, err
	case 2: // Bell
		return false, nil
	case 3: // ServerCutText
		head, err := s.read(7)
		if err == nil {
			_, err = io.CopyN(io.Discard, s.conn, int64(min(binary.BigEndian.Uint32(head[3:]), 1<<20)))
		}
		return false, err
	default:
		return false, fmt.Errorf("message type %d", kind[0])
	}
}

func (s *Screen) rectangle(picture *image.RGBA) error {
	head, err := s.read(12)
	if err != nil {
		return err
	}
	x, y := int(binary.BigEndian.Uint16(head)), int(binary.BigEndian.Uint16(head[2:]))
	w, h := int(binary.BigEndian.Uint16(head[4:])), int(binary.BigEndian.Uint16(head[6:]))
	if encoding := binary.BigEndian.Uint32(head[8:]); encoding != 0 {
		return fmt.Errorf("encoding %d, raw was asked for", int32(encoding))
	}
	if !image.Rect(x, y, x+w, y+h).In(picture.Rect) {
		return fmt.Errorf("a rectangle of %d by %d at %d,%d is not on the screen", w, h, x, y)
	}
	for row := range h {
		line := picture.Pix[picture.PixOffset(x, y+row):][:4*w]
		if _, err := io.ReadFull(s.conn, line); err != nil {
			return err
		}
		for i := 0; i < len(line); i += 4 {
			line[i], line[i+2], line[i+3] = line[i+2], line[i], 255
		}
	}
	return nil
}

func (s *Screen) read(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(s.conn, b)
	return b, err
}

// Lit is the part of a picture that is not black, in thousandths.
func Lit(p *image.RGBA) int {
	return thousandths(p, func(i int) bool { return p.Pix[i]|p.Pix[i+1]|p.Pix[i+2] > 16 })
}

// Changed is the part of a picture that is not as in another one of the same size, in thousandths.
func Changed(a, b *image.RGBA) int {
	return thousandths(a, func(i int) bool { return a.Pix[i] != b.Pix[i] || a.Pix[i+1] != b.Pix[i+1] || a.Pix[i+2] != b.Pix[i+2] })
}

func thousandths(p *image.RGBA, is func(i int) bool) int {
	n := 0
	for i := 0; i < len(p.Pix); i += 4 {
		if is(i) {
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return max(1, n*4*1000/len(p.Pix))
}
