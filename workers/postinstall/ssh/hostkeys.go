package ssh

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
)

// pin is one host key that is accepted.
type pin struct {
	key   ssh.PublicKey
	owner string // "machine" or "template", for what operators read
}

// pins lists the accepted host keys of a guest, its own first. None is a Permanent error: nobody is trusted blindly.
func (i *Installer) pins(g orchestrator.Guest) ([]pin, error) {
	var all []pin
	add := func(line, owner string) error {
		key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(bytes.TrimSpace(rest)) > 0 {
			return fmt.Errorf("the %s's host key for %s is not one public key on one line", owner, g.Machine)
		}
		all = append(all, pin{key: key, owner: owner})
		return nil
	}
	if g.HostKey != "" {
		if err := add(g.HostKey, "machine"); err != nil {
			return nil, err
		}
	}
	if !g.Own {
		for _, line := range i.config.TemplateKeys(g.Pool, g.Image) {
			if err := add(line, "template"); err != nil {
				return nil, err
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no host key is known for machine %s: give pool %q the host key of its template for %q", g.Machine, g.Pool, g.Image)
	}
	return all, nil
}

// keyTypes lists the types of the pins, each once, in their order.
func keyTypes(pins []pin) []string {
	var types []string
	for _, p := range pins {
		if t := p.key.Type(); !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	return types
}

// algorithms are the signature algorithms for a type of key. An RSA key signs with SHA-2 only; ssh-rsa means SHA-1.
func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// mismatch says that something else answers where the guest should be.
type mismatch struct {
	machine string
	want    []pin
	got     string // fingerprint, or what else was offered
}

func (m *mismatch) Error() string {
	var want []string
	for _, p := range m.want {
		want = append(want, fmt.Sprintf("%s (%s's)", ssh.FingerprintSHA256(p.key), p.owner))
	}
	return fmt.Sprintf("host key of machine %s: expected %s, got %s: another machine answers there, or its keys were changed behind our back",
		m.machine, strings.Join(want, " or "), m.got)
}

// verifier accepts exactly the pins and remembers which one was shown.
type verifier struct {
	machine string
	pins    []pin
	seen    *pin
}

func (v *verifier) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	for i, p := range v.pins {
		if bytes.Equal(p.key.Marshal(), key.Marshal()) {
			v.seen = &v.pins[i]
			return nil
		}
	}
	return &mismatch{machine: v.machine, want: v.pins, got: ssh.FingerprintSHA256(key)}
}
