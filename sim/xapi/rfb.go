package xapi

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// framebuffer is a display of one VM over RFB 3.3, 3.7 or 3.8 (RFC 6143) without authentication: a picture whose colours come from the
// VM's name, so that a test or a person sees which VM it is.
type framebuffer struct {
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
	name string
	key  func(keysym uint32) // told each key that is pressed

	tick    byte   // counts what changes the picture
	shown   int    // the tick that the viewer has seen, -1 before the first update
	waiting []byte // an incremental request, until there is something new
}

const (
	rfbWidth, rfbHeight = 320, 200
	rfbIdle             = 30 * time.Minute // without a message from the viewer
	rfbWrite            = 30 * time.Second
)

func (f *framebuffer) serve() error {
	format, err := f.handshake()
	if err != nil {
		return err
	}
	for {
		if err := f.message(&format); err != nil {
			if errors.Is(err, io.EOF) { // the viewer left
				return nil
			}
			return err
		}
	}
}

// pixelFormat is how a viewer wants its pixels: 8, 16 or 32 bits.
type pixelFormat struct {
	bits                         uint8
	big                          bool
	redMax, greenMax, blueMax    uint16
	redShift, greenShift, blueSh uint8
}

var rgb888 = pixelFormat{bits: 32, redMax: 255, greenMax: 255, blueMax: 255, redShift: 16, greenShift: 8}

func (p pixelFormat) encode() []byte {
	b := []byte{p.bits, 24, 0, 1, 0, 0, 0, 0, 0, 0, p.redShift, p.greenShift, p.blueSh, 0, 0, 0}
	binary.BigEndian.PutUint16(b[4:], p.redMax)
	binary.BigEndian.PutUint16(b[6:], p.greenMax)
	binary.BigEndian.PutUint16(b[8:], p.blueMax)
	return b
}

func (f *framebuffer) send(b ...byte) error {
	if err := f.conn.SetWriteDeadline(time.Now().Add(rfbWrite)); err != nil {
		return err
	}
	if _, err := f.w.Write(b); err != nil {
		return err
	}
	return f.w.Flush()
}

func (f *framebuffer) read(n int) ([]byte, error) {
	if err := f.conn.SetReadDeadline(time.Now().Add(rfbIdle)); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err := io.ReadFull(f.r, b)
	return b, err
}

func (f *framebuffer) handshake() (pixelFormat, error) {
	format := rgb888
	if err := f.send([]byte("RFB 003.008\n")...); err != nil {
		return format, err
	}
	version, err := f.read(12)
	if err != nil {
		return format, err
	}
	switch string(version) {
	case "RFB 003.003\n":
		err = f.send(0, 0, 0, 1) // the server says: none
	case "RFB 003.007\n", "RFB 003.008\n":
		if err = f.send(1, 1); err != nil {
			break
		}
		var choice []byte
		if choice, err = f.read(1); err == nil && choice[0] != 1 {
			err = fmt.Errorf("security type %d is not offered", choice[0])
		}
		if err == nil && version[10] == '8' {
			err = f.send(0, 0, 0, 0)
		}
	default:
		err = fmt.Errorf("protocol version %q", version)
	}
	if err != nil {
		return format, err
	}
	if _, err := f.read(1); err != nil { // ClientInit: the shared flag
		return format, err
	}
	out := make([]byte, 4, 24+len(f.name))
	binary.BigEndian.PutUint16(out, rfbWidth)
	binary.BigEndian.PutUint16(out[2:], rfbHeight)
	out = append(out, format.encode()...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(f.name)))
	return format, f.send(append(out, f.name...)...)
}

// message answers one message of the viewer.
func (f *framebuffer) message(format *pixelFormat) error {
	kind, err := f.read(1)
	if err != nil {
		return err
	}
	switch kind[0] {
	case 0: // SetPixelFormat
		b, err := f.read(19)
		if err != nil {
			return err
		}
		p := b[3:]
		*format = pixelFormat{
			bits: p[0], big: p[2] != 0, redMax: binary.BigEndian.Uint16(p[4:]), greenMax: binary.BigEndian.Uint16(p[6:]),
			blueMax: binary.BigEndian.Uint16(p[8:]), redShift: p[10] & 31, greenShift: p[11] & 31, blueSh: p[12] & 31,
		}
		if format.bits != 8 && format.bits != 16 && format.bits != 32 {
			return fmt.Errorf("%d bits per pixel", format.bits)
		}
	case 2: // SetEncodings: raw is always allowed
		b, err := f.read(3)
		if err != nil {
			return err
		}
		_, err = f.read(4 * int(binary.BigEndian.Uint16(b[1:])))
		return err
	case 3: // FramebufferUpdateRequest
		b, err := f.read(9)
		if err != nil {
			return err
		}
		if b[0] != 0 && f.shown == int(f.tick) { // incremental, and nothing is new
			f.waiting = b
			return nil
		}
		return f.update(*format, b)
	case 4: // KeyEvent
		b, err := f.read(7)
		if err != nil {
			return err
		}
		f.tick++
		if b[0] != 0 {
			f.key(binary.BigEndian.Uint32(b[3:]))
		}
		if b := f.waiting; b != nil {
			f.waiting = nil
			return f.update(*format, b)
		}
	case 5: // PointerEvent
		_, err := f.read(5)
		return err
	case 6: // ClientCutText
		b, err := f.read(7)
		if err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(b[3:])
		if n > 1<<20 {
			return fmt.Errorf("%d bytes of clipboard", n)
		}
		_, err = f.read(int(n))
		return err
	default:
		return fmt.Errorf("message type %d", kind[0])
	}
	return nil
}

// update answers a request with one raw rectangle.
func (f *framebuffer) update(format pixelFormat, b []byte) error {
	f.shown = int(f.tick)
	x, y := int(binary.BigEndian.Uint16(b[1:])), int(binary.BigEndian.Uint16(b[3:]))
	w, h := int(binary.BigEndian.Uint16(b[5:])), int(binary.BigEndian.Uint16(b[7:]))
	x, y = min(x, rfbWidth), min(y, rfbHeight)
	w, h = min(w, rfbWidth-x), min(h, rfbHeight-y)
	out := []byte{0, 0, 0, 1}
	for _, n := range []int{x, y, w, h} {
		out = binary.BigEndian.AppendUint16(out, uint16(n))
	}
	out = append(out, 0, 0, 0, 0) // raw
	red, green, blue := f.colour()
	for row := y; row < y+h; row++ {
		for col := x; col < x+w; col++ {
			out = format.append(out, red^uint8(col)&0x40, green^uint8(row)&0x40, blue)
		}
	}
	return f.send(out...)
}

func (f *framebuffer) colour() (r, g, b uint8) {
	var sum uint32 = 2166136261
	for i := range len(f.name) {
		sum = (sum ^ uint32(f.name[i])) * 16777619
	}
	return uint8(sum), uint8(sum >> 8), uint8(sum>>16) + f.tick
}

func (p pixelFormat) append(out []byte, r, g, b uint8) []byte {
	v := uint32(r)*uint32(p.redMax)/255<<p.redShift | uint32(g)*uint32(p.greenMax)/255<<p.greenShift | uint32(b)*uint32(p.blueMax)/255<<p.blueSh
	switch {
	case p.bits == 8:
		return append(out, uint8(v))
	case p.bits == 16 && p.big:
		return binary.BigEndian.AppendUint16(out, uint16(v))
	case p.bits == 16:
		return binary.LittleEndian.AppendUint16(out, uint16(v))
	case p.big:
		return binary.BigEndian.AppendUint32(out, v)
	default:
		return binary.LittleEndian.AppendUint32(out, v)
	}
}
