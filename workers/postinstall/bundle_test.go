package postinstall_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
	"slipway/workers/postinstall"
)

func entry(t *testing.T) postinstall.Entry {
	t.Helper()
	c, err := postinstall.Load(os.DirFS(templates))
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.Entry("debian-12")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func params(t *testing.T) postinstall.Params {
	t.Helper()
	private, _, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, customer, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return postinstall.Params{
		Machine: "6f1c1f0e-4f5e-4b7e-9d63-0a1b2c3d4e5f", Hostname: "web1.example.net", AuthorizedKeys: []string{customer}, HostKey: private,
	}
}

func TestBundleHidesItsSecret(t *testing.T) {
	t.Parallel()
	p := params(t)
	b, err := entry(t).Bundle("run-1-1", p)
	if err != nil {
		t.Fatal(err)
	}
	key := p.HostKey.Reveal()
	if b.Secrets["ssh_host_ed25519_key"].Reveal() != key {
		t.Error("the machine's key is not in the bundle")
	}
	line := strings.Split(key, "\n")[2]
	if text := fmt.Sprintf("%v %+v %#v", b, b, b); strings.Contains(text, line) {
		t.Error("printing a bundle shows the private key")
	}
	for name, content := range b.Files {
		if bytes.Contains(content, []byte(line)) {
			t.Errorf("the private key is in file %s", name)
		}
	}
	if got := b.Env["GUEST_MACHINE_ID"]; got != "6f1c1f0e4f5e4b7e9d630a1b2c3d4e5f" {
		t.Errorf("machine id %q", got)
	}
}

func TestBundleRefusesBadParameters(t *testing.T) {
	t.Parallel()
	e := entry(t)
	for _, row := range []struct {
		name   string
		change func(*postinstall.Params)
		want   string
	}{
		{"machine", func(p *postinstall.Params) { p.Machine = "../x" }, "machine:"},
		{"hostname with a command", func(p *postinstall.Params) { p.Hostname = "$(reboot)" }, "hostname:"},
		{"hostname with a newline", func(p *postinstall.Params) { p.Hostname = "a\nb" }, "hostname:"},
		{"long label", func(p *postinstall.Params) { p.Hostname = strings.Repeat("a", 64) }, "hostname:"},
		{"look-alike", func(p *postinstall.Params) { p.Hostname = "wеb1" }, "hostname:"},
		{"no keys", func(p *postinstall.Params) { p.AuthorizedKeys = nil }, "keys: the customer has none"},
		{"two keys on one", func(p *postinstall.Params) { p.AuthorizedKeys[0] += "\nssh-ed25519 AAAA" }, "keys: number 1"},
		{"no key", func(p *postinstall.Params) { p.AuthorizedKeys = []string{"hello"} }, "keys: number 1"},
		{"lock wait", func(p *postinstall.Params) { p.LockWait = 2 * time.Hour }, "lock wait:"},
		{"host key", func(p *postinstall.Params) { p.HostKey = orchestrator.NewSecret("top secret") }, "host key:"},
	} {
		p := params(t)
		row.change(&p)
		_, err := e.Bundle("run-1-1", p)
		if orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(fmt.Sprint(err), row.want) {
			t.Errorf("%s: %v", row.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "top secret") {
			t.Errorf("%s: the error shows the secret: %v", row.name, err)
		}
	}
}

func TestNewHostKey(t *testing.T) {
	t.Parallel()
	seed := bytes.Repeat([]byte{7}, 32)
	private, public, err := postinstall.NewHostKey(bytes.NewReader(seed))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey([]byte(private.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))); got != public || signer.PublicKey().Type() != ssh.KeyAlgoED25519 {
		t.Errorf("public half %q, want %q", public, got)
	}
	if _, again, err := postinstall.NewHostKey(bytes.NewReader(seed)); err != nil || again != public {
		t.Errorf("the same randomness gave %q, %v", again, err)
	}
	if _, _, err := postinstall.NewHostKey(bytes.NewReader(seed[:31])); err == nil {
		t.Error("a key was made of too little randomness")
	}
}
