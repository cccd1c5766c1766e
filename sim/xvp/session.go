package xvp

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"slipway/workers/console/rfb"
	"slipway/workers/console/xvp"
)

const (
	typeXVP        = 22 // xvp's own security type, for the multiplex port
	handshakeLimit = 30 * time.Second
)

// source opens a machine's display. What comes from it begins after the RFB handshake with the hypervisor; init is its ServerInit of 24
// bytes with the name left out.
type source func(ctx context.Context, c console) (display io.ReadWriteCloser, init [24]byte, err error)

// session serves one client: authentication first, and only then is the display opened.
func (s *server) session(ctx context.Context, conn net.Conn, c console) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := conn.SetDeadline(time.Now().Add(handshakeLimit)); err != nil {
		return err
	}
	if err := authenticate(conn, c); err != nil {
		return err
	}
	var shared [1]byte
	if _, err := io.ReadFull(conn, shared[:]); err != nil {
		return fmt.Errorf("client init: %w", err)
	}
	display, init, err := s.source(ctx, c)
	if err != nil {
		return fmt.Errorf("display: %w", err)
	}
	defer func() { _ = display.Close() }()
	name := "VM Console - " + c.vm.Name
	binary.BigEndian.PutUint32(init[20:], uint32(len(name)))
	if _, err := conn.Write(append(init[:], name...)); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil { // a session lasts as long as its client likes
		return err
	}
	return join(conn, display)
}

// join copies both ways until one side ends, and then ends the other.
func join(client io.ReadWriteCloser, display io.ReadWriteCloser) error {
	back := make(chan error, 1)
	go func() {
		_, err := io.Copy(client, display)
		_ = client.Close()
		back <- err
	}()
	_, err := io.Copy(display, client)
	_ = display.Close()
	return errors.Join(err, <-back)
}

// authenticate is the server's half of RFC 6143 section 7.1, as xvp speaks it.
func authenticate(conn io.ReadWriter, c console) error {
	if _, err := io.WriteString(conn, "RFB 003.008\n"); err != nil {
		return err
	}
	version := make([]byte, 12)
	if _, err := io.ReadFull(conn, version); err != nil {
		return err
	}
	minor := version[10] - '0'
	if string(version[:10]) != "RFB 003.00" || minor != 3 && minor != 7 && minor != 8 {
		return fmt.Errorf("unknown version %q", version)
	}
	if minor == 3 {
		if err := binary.Write(conn, binary.BigEndian, uint32(rfb.VNC)); err != nil {
			return err
		}
	} else {
		if _, err := conn.Write([]byte{2, rfb.VNC, typeXVP}); err != nil {
			return err
		}
		var choice [1]byte
		if _, err := io.ReadFull(conn, choice[:]); err != nil {
			return err
		}
		if choice[0] != rfb.VNC {
			return fmt.Errorf("security type %d is not served by the stand-in", choice[0])
		}
	}
	var challenge, response [16]byte
	if _, err := rand.Read(challenge[:]); err != nil {
		return err
	}
	if _, err := conn.Write(challenge[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, response[:]); err != nil {
		return err
	}
	if !accepted(c, challenge, response) {
		answer := []byte{0, 0, 0, 1}
		if minor == 8 {
			const reason = "Access denied"
			answer = append(binary.BigEndian.AppendUint32(answer, uint32(len(reason))), reason...)
		}
		_, err := conn.Write(answer)
		return errors.Join(errors.New("client authentication failed"), err)
	}
	_, err := conn.Write([]byte{0, 0, 0, 0})
	return err
}

func accepted(c console, challenge, response [16]byte) bool {
	if c.vm.Name == "" || c.otp != nil && c.otp.Mode == "REQUIRE" {
		return false
	}
	password, err := xvp.DecryptVNC(c.vm.Password)
	if err != nil {
		return false
	}
	want := rfb.Response(challenge, password)
	return subtle.ConstantTimeCompare(want[:], response[:]) == 1
}
