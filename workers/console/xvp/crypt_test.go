package xvp

import (
	"os"
	"strings"
	"testing"

	"slipway/orchestrator"
)

// The vectors were printed by xvp itself; see testdata/passwords.txt.
func TestPasswordVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/passwords.txt")
	if err != nil {
		t.Fatal(err)
	}
	vectors := 0
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "# ") {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 3 {
			t.Fatalf("bad vector %q", line)
		}
		encrypt, decrypt := EncryptVNC, DecryptVNC
		if f[0] == "-x" {
			encrypt, decrypt = EncryptXen, DecryptXen
		}
		got, err := encrypt(orchestrator.NewSecret(f[1]))
		if err != nil || got != f[2] {
			t.Errorf("%s %s: got %s, %v, xvp prints %s", f[0], f[1], got, err, f[2])
		}
		for _, text := range []string{f[2], strings.ToUpper(f[2])} {
			if back, err := decrypt(text); err != nil || back.Reveal() != f[1] {
				t.Errorf("%s: decrypting %s gave %q, %v", f[0], text, back.Reveal(), err)
			}
		}
		vectors++
	}
	if vectors < 8 {
		t.Errorf("only %d vectors read", vectors)
	}
}

func TestPasswordRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		act  func() error
		want string
	}{
		"empty console password": {func() error { _, err := EncryptVNC(orchestrator.Secret{}); return err }, "is empty"},
		"9 bytes":                {func() error { _, err := EncryptVNC(orchestrator.NewSecret("123456789")); return err }, "is 9 bytes, xvp keeps at most 8"},
		"empty pool password":    {func() error { _, err := EncryptXen(orchestrator.Secret{}); return err }, "is empty"},
		"17 bytes":               {func() error { _, err := EncryptXen(orchestrator.NewSecret("12345678901234567")); return err }, "is 17 bytes, xvp keeps at most 16"},
		"newline":                {func() error { _, err := EncryptVNC(orchestrator.NewSecret("a\nb")); return err }, "byte 2"},
		"zero byte":              {func() error { _, err := EncryptXen(orchestrator.NewSecret("a\x00b")); return err }, "byte 2"},
		"15 digits":              {func() error { _, err := DecryptVNC("daaaa96228e23a4"); return err }, "has 15 characters"},
		"no digits":              {func() error { _, err := DecryptXen(strings.Repeat("g", 32)); return err }, "hex digits"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.act()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "1234567") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}
