package xvp

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

const (
	width, height = 64, 48 // pixels
	maxCutText    = 1 << 20
)

// trueColour is 32 bits a pixel, little endian, 8 bits a colour (RFC 6143, 7.4).
func trueColour() [16]byte {
	return [16]byte{32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0}
}

// picture is the display of a machine without a hypervisor: a pattern, sent whole whenever it is asked for.
func picture(_ context.Context, _ console) (io.ReadWriteCloser, [24]byte, error) {
	var init [24]byte
	binary.BigEndian.PutUint16(init[0:], width)
	binary.BigEndian.PutUint16(init[2:], height)
	format := trueColour()
	copy(init[4:], format[:])
	near, far := net.Pipe()
	go func() { // ends with near, which the session closes
		defer func() { _ = far.Close() }()
		_ = paint(far)
	}()
	return near, init, nil
}

// paint answers a client's messages (RFC 6143, 7.5) until it goes.
func paint(conn io.ReadWriter) error {
	bytesPerPixel := 4
	var message [20]byte
	for {
		if _, err := io.ReadFull(conn, message[:1]); err != nil {
			return err
		}
		size, known := map[byte]int{0: 20, 2: 4, 3: 10, 4: 8, 5: 6, 6: 8}[message[0]]
		if !known {
			return fmt.Errorf("client message %d", message[0])
		}
		if _, err := io.ReadFull(conn, message[1:size]); err != nil {
			return err
		}
		var more int64
		switch message[0] {
		case 0: // SetPixelFormat
			switch bits := message[4]; bits {
			case 8, 16, 32:
				bytesPerPixel = int(bits) / 8
			default:
				return fmt.Errorf("%d bits a pixel", bits)
			}
		case 2: // SetEncodings; raw is always allowed
			more = 4 * int64(binary.BigEndian.Uint16(message[2:]))
		case 3: // FramebufferUpdateRequest
			if _, err := conn.Write(update(bytesPerPixel)); err != nil {
				return err
			}
		case 6: // ClientCutText
			if more = int64(binary.BigEndian.Uint32(message[4:])); more > maxCutText {
				return fmt.Errorf("%d bytes of text", more)
			}
		}
		if _, err := io.CopyN(io.Discard, conn, more); err != nil {
			return err
		}
	}
}

// update is one FramebufferUpdate with the whole picture in raw encoding.
func update(bytesPerPixel int) []byte {
	b := []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, width, 0, height, 0, 0, 0, 0}
	for y := range height {
		for x := range width {
			for range bytesPerPixel {
				b = append(b, byte(4*x^5*y))
			}
		}
	}
	return b
}
