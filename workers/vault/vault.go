// Package vault seals what must not be read in the store: AES-256-GCM under a key that the operator keeps in a file, bound to the machine
// and the name of the secret, so that a value moved to another row does not open.
package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"slipway/orchestrator"
)

// KeySize is the key's length in bytes.
const KeySize = 32

// version leads every sealed value, for a later change of the cipher.
const version = 1

// Vault is an orchestrator.Vault. Safe for concurrent use.
type Vault struct{ aead cipher.AEAD }

// New takes a key as the file holds it: 64 hex digits, surrounding white space ignored.
func New(key orchestrator.Secret) (*Vault, error) {
	raw, err := hex.DecodeString(strings.TrimSpace(key.Reveal()))
	if err != nil || len(raw) != KeySize {
		return nil, errors.New("the vault key is not 64 hex digits: make one with `openssl rand -hex 32`") // the value itself stays out of it
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Vault{aead: aead}, nil
}

// NewKey makes a key.
func NewKey() orchestrator.Secret {
	raw := make([]byte, KeySize)
	_, _ = rand.Read(raw) // crypto/rand never fails: it ends the program
	return orchestrator.NewSecret(hex.EncodeToString(raw))
}

// Seal encrypts under a fresh nonce.
func (v *Vault) Seal(machine, name string, s orchestrator.Secret) (orchestrator.Sealed, error) {
	nonce := make([]byte, v.aead.NonceSize())
	_, _ = rand.Read(nonce)
	sealed := append([]byte{version}, nonce...)
	return v.aead.Seal(sealed, nonce, []byte(s.Reveal()), bound(machine, name)), nil
}

// Open decrypts. A wrong key, another machine's value or a damaged one is kind Permanent.
func (v *Vault) Open(machine, name string, s orchestrator.Sealed) (orchestrator.Secret, error) {
	head := 1 + v.aead.NonceSize()
	if len(s) < head || s[0] != version {
		return orchestrator.Secret{}, orchestrator.Errorf("vault.Open", orchestrator.Permanent, "%s of machine %s is not a sealed value", name, machine)
	}
	plain, err := v.aead.Open(nil, s[1:head], s[head:], bound(machine, name))
	if err != nil {
		return orchestrator.Secret{}, orchestrator.Errorf("vault.Open", orchestrator.Permanent, "%s of machine %s does not open: it was sealed under another key, or damaged", name, machine)
	}
	return orchestrator.NewSecret(string(plain)), nil
}

func bound(machine, name string) []byte {
	return fmt.Appendf(nil, "%d:%s:%s", len(machine), machine, name)
}
