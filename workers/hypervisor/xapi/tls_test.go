package xapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/orchestrator"
)

func TestTLSProof(t *testing.T) {
	m := unstarted(always(ok("")))
	m.Server = httptest.NewUnstartedServer(m)
	m.Config.ErrorLog = log.New(io.Discard, "", 0)
	m.StartTLS()
	t.Cleanup(m.Close)
	cert := m.Certificate()
	sum := sha256.Sum256(cert.Raw)
	pin := hex.EncodeToString(sum[:])
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	colons := strings.ToUpper(strings.Join(pairs(pin), ":"))
	tests := []struct {
		name   string
		change func(*Config)
		works  bool
	}{
		{"pinned", func(c *Config) { c.PinSHA256 = []string{strings.Repeat("0", 64), pin} }, true},
		{"pinned as openssl prints it", func(c *Config) { c.PinSHA256 = []string{colons} }, true},
		{"another pin", func(c *Config) { c.PinSHA256 = []string{strings.Repeat("0", 64)} }, false},
		{"signed", func(c *Config) { c.CAFile = ca }, true},
		{"signed, other name", func(c *Config) {
			c.CAFile = ca
			c.Addresses = []string{strings.Replace(m.URL, "127.0.0.1", "localhost", 1)}
		}, false},
		{"insecure", func(c *Config) { c.Insecure = true }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := m.logins
			cfg := testConfig(m.URL)
			cfg.Insecure = false
			tt.change(&cfg)
			err := newClient(t, cfg).Call(t.Context(), "VM.start", nil)
			if (err == nil) != tt.works {
				t.Fatalf("Call = %v", err)
			}
			if !tt.works && (orchestrator.KindOf(err) != orchestrator.Transient || m.logins != before) {
				t.Errorf("kind %s, %d logins: the password went to a stranger", orchestrator.KindOf(err), m.logins-before)
			}
		})
	}
}

func pairs(s string) []string {
	var out []string
	for ; len(s) >= 2; s = s[2:] {
		out = append(out, s[:2])
	}
	return out
}
