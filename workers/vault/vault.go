// Package vault seals what must not be read in the store: AES-256-GCM under a key that the operator keeps in a file, bound to the machine
// and the name of the secret, so that a value moved to another row does not open.
//
// The file may hold several keys, a line each, the newest last. Any of them opens; one of them seals. A key's id is made of the key, so that
// a sealed value can say which it wants without anybody having named them.
package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"slipway/orchestrator"
)

// KeySize is the key's length in bytes.
const KeySize = 32

// maxKeys bounds what a file may hold.
const maxKeys = 16

// The first byte of a sealed value is its form.
const (
	formOld   = 1 // nonce and ciphertext; any key may be the one
	formKeyed = 2 // the key's id, nonce and ciphertext
)

const (
	idSize    = 4
	nonceSize = 12
)

// Vault is an orchestrator.Vault. Safe for concurrent use.
type Vault struct {
	keys []key // as the file has them: the newest is the last
	// seals is the key that Seal uses; nil is the first key in the old form, which workers of every version open.
	seals atomic.Pointer[key]
}

type key struct {
	id   string // 8 hex digits
	aead cipher.AEAD
}

// New takes keys as the file holds them: 64 hex digits a line, surrounding white space ignored.
func New(keys orchestrator.Secret) (*Vault, error) {
	v := &Vault{}
	for line := range strings.Lines(keys.Reveal()) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		raw, err := hex.DecodeString(line)
		if err != nil || len(raw) != KeySize { // the value itself stays out of the error
			return nil, fmt.Errorf("line %d is not 64 hex digits: make a key with `openssl rand -hex 32`", len(v.keys)+1)
		}
		k, err := newKey(raw)
		if err != nil {
			return nil, err
		}
		if v.holds(k.id) != nil {
			return nil, fmt.Errorf("line %d is a key that stands there already: remove it", len(v.keys)+1)
		}
		v.keys = append(v.keys, k)
	}
	switch {
	case len(v.keys) == 0:
		return nil, errors.New("holds no key: make one with `openssl rand -hex 32`")
	case len(v.keys) > maxKeys:
		return nil, fmt.Errorf("holds %d keys: remove those that `slipway secrets status` counts no value under, down to %d", len(v.keys), maxKeys)
	}
	return v, nil
}

func newKey(raw []byte) (key, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return key{}, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return key{}, err
	}
	sum := sha256.Sum256(append([]byte("slipway vault key\x00"), raw...))
	return key{id: hex.EncodeToString(sum[:idSize]), aead: aead}, nil
}

// NewKey makes a key.
func NewKey() orchestrator.Secret {
	raw := make([]byte, KeySize)
	_, _ = rand.Read(raw) // crypto/rand never fails: it ends the program
	return orchestrator.NewSecret(hex.EncodeToString(raw))
}

// Keys are the ids of the keys that are held, the newest last.
func (v *Vault) Keys() (ids []string) {
	for _, k := range v.keys {
		ids = append(ids, k.id)
	}
	return ids
}

// Use chooses the key that seals from now on; "" is the first one in the old form.
func (v *Vault) Use(id string) error {
	if id == "" {
		v.seals.Store(nil)
		return nil
	}
	k := v.holds(id)
	if k == nil {
		return fmt.Errorf("key %s is not held", id)
	}
	v.seals.Store(k)
	return nil
}

func (v *Vault) holds(id string) *key {
	at := slices.IndexFunc(v.keys, func(k key) bool { return k.id == id })
	if at < 0 {
		return nil
	}
	return &v.keys[at]
}

// Seal encrypts under a fresh nonce.
func (v *Vault) Seal(machine, name string, s orchestrator.Secret) (orchestrator.Sealed, error) {
	head, k := []byte{formOld}, v.seals.Load()
	if k == nil {
		k = &v.keys[0]
	} else {
		id, err := hex.DecodeString(k.id)
		if err != nil {
			return nil, err
		}
		head = append([]byte{formKeyed}, id...)
	}
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce)
	return k.aead.Seal(append(head, nonce...), nonce, []byte(s.Reveal()), bound(machine, name)), nil
}

// Open decrypts. A key that is not held, another machine's value or a damaged one is kind Permanent.
func (v *Vault) Open(machine, name string, s orchestrator.Sealed) (orchestrator.Secret, error) {
	const op = "vault.Open"
	id, body, ok := split(s)
	if !ok {
		return orchestrator.Secret{}, orchestrator.Errorf(op, orchestrator.Permanent, "%s of machine %s is not a sealed value", name, machine)
	}
	if id != "" && v.holds(id) == nil {
		return orchestrator.Secret{}, orchestrator.Errorf(op, orchestrator.Permanent, "%s of machine %s was sealed under key %s, which vault_key of this worker does not hold", name, machine, id)
	}
	for _, k := range v.keys {
		if id != "" && k.id != id {
			continue
		}
		if plain, err := k.aead.Open(nil, body[:nonceSize], body[nonceSize:], bound(machine, name)); err == nil {
			return orchestrator.NewSecret(string(plain)), nil
		}
	}
	return orchestrator.Secret{}, orchestrator.Errorf(op, orchestrator.Permanent, "%s of machine %s does not open: it was sealed under another key, or damaged", name, machine)
}

// KeyOf is the id of the key that a value was sealed under. For a value of the old form every key is tried; "" when none opens it. ok is
// false when the value is none.
func (v *Vault) KeyOf(machine, name string, s orchestrator.Sealed) (id string, ok bool) {
	id, body, ok := split(s)
	if !ok || id != "" {
		return id, ok
	}
	for _, k := range v.keys {
		if _, err := k.aead.Open(nil, body[:nonceSize], body[nonceSize:], bound(machine, name)); err == nil {
			return k.id, true
		}
	}
	return "", true
}

// Reseal returns the value under the key that seals now, or the value itself when that is its key already.
func (v *Vault) Reseal(machine, name string, s orchestrator.Sealed) (orchestrator.Sealed, error) {
	k := v.seals.Load()
	if id, _, ok := split(s); ok && k != nil && id == k.id {
		return s, nil
	}
	plain, err := v.Open(machine, name, s)
	if err != nil {
		return nil, err
	}
	return v.Seal(machine, name, plain)
}

// split takes a value apart: its key's id ("" in the old form), and nonce with ciphertext.
func split(s orchestrator.Sealed) (id string, body []byte, ok bool) {
	if len(s) == 0 {
		return "", nil, false
	}
	body = s[1:]
	switch s[0] {
	case formOld:
	case formKeyed:
		if len(body) < idSize {
			return "", nil, false
		}
		id, body = hex.EncodeToString(body[:idSize]), body[idSize:]
	default:
		return "", nil, false
	}
	return id, body, len(body) >= nonceSize
}

func bound(machine, name string) []byte {
	return fmt.Appendf(nil, "%d:%s:%s", len(machine), machine, name)
}

// OldForm says whether a value does not name its key.
func OldForm(s orchestrator.Sealed) bool { return len(s) > 0 && s[0] == formOld }
