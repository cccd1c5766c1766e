package xapi

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // the protocol's own, RFC 6455 section 4.2.2
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
)

// The console in a WebSocket, as xapi has it where its wsproxy runs (xen-api v26.9.0: ocaml/xapi/console.ml, ws_proxy; ocaml/libs/http-lib/
// ws_helpers.ml; ocaml/wsproxy). It is less than RFC 6455 asks for, and that is kept: the subprotocol is always "binary", asked for or not;
// no version and no Upgrade is looked at; every frame's payload is the display's whatever its opcode, also a ping's, which has no answer;
// a close frame ends the connection without one; a frame of 64 KiB or more is misread. The draft of before RFC 6455 (hixie-76) is not there.

// wsChunk is how much wsproxy reads of the display at a time: each piece is a frame (lwt_support.ml).
const wsChunk = 1024

// upgrade is the answer to a WebSocket's request. Without a key there is none: 501, as where wsproxy does not run.
func upgrade(h http.Header) (head string, ok bool) {
	key := h.Get("Sec-WebSocket-Key")
	if key == "" {
		return "", false
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see above
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\nSec-WebSocket-Protocol: binary\r\n\r\n", true
}

// framed writes what it is given in binary frames.
type framed struct{ conn net.Conn }

func (f framed) Write(b []byte) (n int, err error) {
	frame := make([]byte, 0, 4+min(len(b), wsChunk))
	for err == nil && n < len(b) {
		piece := b[n:min(n+wsChunk, len(b))]
		frame = append(frame[:0], 0x82)
		if len(piece) < 126 {
			frame = append(frame, byte(len(piece)))
		} else {
			frame = binary.BigEndian.AppendUint16(append(frame, 126), uint16(len(piece)))
		}
		if _, err = f.conn.Write(append(frame, piece...)); err == nil {
			n += len(piece)
		}
	}
	return n, err
}

// unframed reads the payload of frames.
type unframed struct {
	r    *bufio.Reader
	left int // of the frame
	mask [4]byte
	at   int // in the mask
}

func (u *unframed) Read(b []byte) (int, error) {
	for u.left == 0 {
		if err := u.next(); err != nil {
			return 0, err
		}
	}
	n, err := u.r.Read(b[:min(len(b), u.left)])
	for i := range b[:n] {
		b[i] ^= u.mask[u.at]
		u.at = (u.at + 1) % len(u.mask)
	}
	u.left -= n
	return n, err
}

// next reads a frame's head.
func (u *unframed) next() error {
	var head [2]byte
	if _, err := io.ReadFull(u.r, head[:]); err != nil {
		return err
	}
	u.left, u.mask, u.at = int(head[1]&0x7f), [4]byte{}, 0
	switch u.left {
	case 126:
		var long [2]byte
		if _, err := io.ReadFull(u.r, long[:]); err != nil {
			return err
		}
		u.left = int(binary.BigEndian.Uint16(long[:]))
	case 127:
		return errors.New("a frame of 64 KiB or more, whose length wsproxy misreads")
	}
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(u.r, u.mask[:]); err != nil {
			return err
		}
	}
	if head[0]&0x0f == 8 { // close: its reason is of no interest
		return io.EOF
	}
	return nil
}
