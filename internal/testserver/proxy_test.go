package testserver

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// echoServer answers each line with itself.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // until it ends, in whatever way
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
	return l.Addr().String()
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func say(t *testing.T, conn net.Conn, text string, limit time.Duration) (string, error) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	answer := make([]byte, len(text))
	n, err := io.ReadFull(conn, answer)
	return string(answer[:n]), err
}

func TestProxy(t *testing.T) {
	const long, short = 30 * time.Second, 50 * time.Millisecond
	p := NewProxy(t, echoServer(t))
	a := dial(t, p.Address)
	if answer, err := say(t, a, "one", long); err != nil || answer != "one" {
		t.Fatalf("%q, %v", answer, err)
	}
	p.Silence(ToClient)
	if _, err := say(t, a, "two", short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("silent: %v", err)
	}
	p.Mend()
	if _, err := say(t, a, "three", short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("once silent: %v", err)
	}
	b := dial(t, p.Address)
	if answer, err := say(t, b, "four", long); err != nil || answer != "four" {
		t.Errorf("mended: %q, %v", answer, err)
	}
	p.LoseAnswer(func(answer []byte) bool { return bytes.HasSuffix(answer, []byte("six")) })
	if answer, err := say(t, b, "five", long); err != nil || answer != "five" {
		t.Errorf("not the one to be lost: %q, %v", answer, err)
	}
	if answer, err := say(t, b, "six", long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) || answer != "" || p.LostAnswers() != 1 {
		t.Errorf("the lost one: %q, %v, %d lost", answer, err, p.LostAnswers())
	}
	c := dial(t, p.Address)
	if answer, err := say(t, c, "six", long); err != nil || answer != "six" {
		t.Errorf("only the first is lost: %q, %v", answer, err)
	}
	p.Cut()
	if _, err := say(t, c, "seven", long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("cut: %v", err)
	}
	if n := p.Connections(); n != 3 {
		t.Errorf("%d connections", n)
	}
}
