package console

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestNewPassword(t *testing.T) {
	seen := map[string]bool{}
	letters := map[rune]bool{}
	for range 2000 {
		secret, err := NewPassword(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		password := secret.Reveal()
		if len(password) != 8 {
			t.Fatalf("%d characters, want the 8 that VNC looks at", len(password))
		}
		if bad := strings.Trim(password, alphabet); bad != "" {
			t.Fatalf("characters outside the alphabet: %q", bad)
		}
		if seen[password] {
			t.Fatal("the same password twice in 2000")
		}
		seen[password] = true
		for _, c := range password {
			letters[c] = true
		}
	}
	if len(letters) != len(alphabet) {
		t.Errorf("16000 draws met %d of %d letters", len(letters), len(alphabet))
	}
	if strings.ContainsAny(alphabet, "0Oo1lIi5Ss2Zz8B") {
		t.Error("the alphabet holds characters that are misread for one another")
	}
}

// Bytes past the last whole multiple of the alphabet are drawn again: taking them modulo the alphabet would favour its first letters.
func TestNewPasswordHasNoBias(t *testing.T) {
	top := byte(256 - 256%len(alphabet))
	secret, err := NewPassword(bytes.NewReader([]byte{top, 255, 0, 1, 2, 3, 4, 5, 6, 7}))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := secret.Reveal(), alphabet[:8]; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNewPasswordWithoutRandomness(t *testing.T) {
	broken := errors.New("broken")
	if _, err := NewPassword(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's own error", err)
	}
	if _, err := NewPassword(endless(255)); err == nil {
		t.Error("a source that repeats one unusable byte gave a password")
	}
}

type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

var _ io.Reader = endless(0)
