package winrm_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"slipway/workers/postinstall/winrm"
)

func TestNewPassword(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 2000 {
		p, err := winrm.NewPassword(rand.Reader)
		if err != nil || winrm.CheckPassword(p) != nil || seen[p.Reveal()] {
			t.Fatalf("%q, %v", p.Reveal(), err)
		}
		seen[p.Reveal()] = true
	}
	if _, err := winrm.NewPassword(bytes.NewReader(make([]byte, 5))); err == nil {
		t.Error("a password was made of five bytes")
	}
	if _, err := winrm.NewPassword(bytes.NewReader(make([]byte, 5000))); err == nil {
		t.Error("a password was made of zeros")
	}
}
