package gateway_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

// restless is a boot sector: a machine of 1024 by 768 pixels that paints all of them anew sixty times a second.
var restless = []byte{
	0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, //       ax, ds, ss = 0, sp = 7c00
	0xb8, 0x02, 0x4f, 0xbb, 0x44, 0x01, 0xcd, 0x10, //             int 10: VESA mode 144, 1024x768 with 32 bits a pixel
	0x68, 0x00, 0xa0, 0x07, 0xfc, //                               es = a000, the window on a bank of 64 KB
	0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x8f, 0xe6, 0x40, 0xb0, 0x4d, 0xe6, 0x40, 0xfb, // timer: 1193182 / 4d8f = 60 Hz; sti
	0xf4,       // picture: hlt, until it ticks
	0x66, 0x45, // inc ebp, the colour
	0x31, 0xf6, // si = 0, the bank
	0xba, 0xce, 0x01, 0xb8, 0x05, 0x00, 0xef, 0x42, 0x89, 0xf0, 0xef, // bank: select it (Bochs's display ports 1ce and 1cf, index 5)
	0x31, 0xff, 0x66, 0x89, 0xe8, 0xb9, 0x00, 0x40, 0x66, 0xf3, 0xab, // rep stosd, 16,384 pixels
	0x46, 0x83, 0xfe, 0x30, 0x72, 0xe4, // 48 banks
	0xeb, 0xdd, // picture
}

// newQEMU is the display of a QEMU whose machine never rests, inside TLS, as xapi shows it.
func newQEMU(tb testing.TB) *source {
	tb.Helper()
	program := testenv.Need(tb, "qemu-system-x86_64")
	dir := tb.TempDir()
	disk, screen := filepath.Join(dir, "disk"), filepath.Join(dir, "vnc")
	sector := make([]byte, 32<<10)
	copy(sector, restless)
	copy(sector[510:], "\x55\xaa")
	if err := os.WriteFile(disk, sector, 0o600); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "-nodefaults", "-accel", "tcg", "-m", "32", "-vga", "std", "-display", "none",
		"-drive", "format=raw,file="+disk, "-vnc", "unix:"+screen)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
	})
	until(tb, "QEMU's machine paints", func() bool {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", screen)
		if err != nil {
			return false
		}
		defer conn.Close()
		init, err := rfb.Handshake(ctx, conn, orchestrator.Secret{})
		return err == nil && init.Width == 1024
	})
	return serveDisplay(tb, 0, func(conn net.Conn) error {
		qemu, err := (&net.Dialer{}).DialContext(ctx, "unix", screen)
		if err != nil {
			return err
		}
		var back sync.WaitGroup
		back.Go(func() {
			_, _ = io.Copy(conn, qemu)
			_ = conn.Close()
		})
		_, err = io.Copy(qemu, conn)
		_ = qemu.Close()
		back.Wait()
		return err
	})
}

// frame asks for what is new on a screen, uncompressed, and takes it; it returns the picture's bytes (RFC 6143, 7.5.3 and 7.6.1).
func frame(conn net.Conn) (int, error) {
	ask := []byte{2, 0, 0, 1, 0, 0, 0, 0 /* SetEncodings: raw */, 3, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff /* all that is new */}
	if _, err := conn.Write(ask); err != nil {
		return 0, err
	}
	head, size := make([]byte, 12), 0
	if _, err := io.ReadFull(conn, head[:4]); err != nil {
		return 0, err
	}
	if head[0] != 0 {
		return 0, fmt.Errorf("message %d", head[0])
	}
	for range binary.BigEndian.Uint16(head[2:]) {
		if _, err := io.ReadFull(conn, head); err != nil {
			return size, err
		}
		if encoding := binary.BigEndian.Uint32(head[8:]); encoding != 0 {
			return size, fmt.Errorf("encoding %d", encoding)
		}
		pixels := 4 * int(binary.BigEndian.Uint16(head[4:])) * int(binary.BigEndian.Uint16(head[6:]))
		if _, err := io.CopyN(io.Discard, conn, int64(pixels)); err != nil {
			return size, err
		}
		size += pixels
	}
	return size, nil
}

// BenchmarkQEMU is a real screen, all of which changes faster than QEMU shows it: the frames that a viewer gets of it.
func BenchmarkQEMU(b *testing.B) {
	const rounds, turn = 20, 200 * time.Millisecond
	to := ways(b, newQEMU(b))
	costs := inTurn(b, to, rounds, func(conn net.Conn) (all int, err error) {
		for begun := time.Now(); err == nil && time.Since(begun) < turn; {
			var size int
			size, err = frame(conn)
			all += size
		}
		return all, err
	})
	report(b, "screen", to, costs, func(b *testing.B, c cost) {
		b.ReportMetric(float64(c.bytes)/(1024*768*4)/c.clock.Seconds(), "frames/s")
	})
}
