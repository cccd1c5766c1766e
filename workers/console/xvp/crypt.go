package xvp

import (
	"bytes"
	"crypto/des" //nolint:gosec // xvp's own format, see EncryptVNC
	"encoding/hex"
	"fmt"

	"slipway/orchestrator"
)

// What xvp 1.16.0 keeps of a password (server/xvp.h): one DES block for a console, two for a pool's account.
const (
	MaxVNCPassword = 8  // bytes
	MaxXenPassword = 16 // bytes
)

// The keys are constants of xvp's source (server/password.c), the same on every installation: whoever reads the file has the passwords.
// It is obfuscation; what protects the file is its mode 0600.
const (
	vncKey = "\xc1\x24\x08\x99\xc2\x26\x07\x05"
	xenKey = "\xcc\x10\x10\x58\xbe\x03\x07\x66"
)

// EncryptVNC is `xvp -e`: a console password of 1 to 8 bytes, padded with zeros, as one DES block in 16 lower-case hex digits.
// Longer ones are refused, as xvp does: VNC authentication would look at the first 8 bytes only.
func EncryptVNC(password orchestrator.Secret) (string, error) {
	plain, err := pad("console password", password, MaxVNCPassword)
	if err != nil {
		return "", err
	}
	block(vncKey).Encrypt(plain, plain)
	return hex.EncodeToString(plain), nil
}

// DecryptVNC is the inverse of EncryptVNC; digits may be upper case, as xvp accepts them.
func DecryptVNC(text string) (orchestrator.Secret, error) {
	cipher, err := decodeHex("console password", text, MaxVNCPassword)
	if err != nil {
		return orchestrator.Secret{}, err
	}
	block(vncKey).Decrypt(cipher, cipher)
	return unpad("console password", cipher)
}

// EncryptXen is `xvp -x`: the password of a pool's XenAPI account, 1 to 16 bytes, as two DES blocks chained back to front in 32 lower-case
// hex digits. An account with a longer password cannot be written: make one for xvp alone.
func EncryptXen(password orchestrator.Secret) (string, error) {
	plain, err := pad("XenAPI password", password, MaxXenPassword)
	if err != nil {
		return "", err
	}
	c := block(xenKey)
	c.Encrypt(plain[8:], plain[8:])
	xor(plain[:8], plain[8:])
	c.Encrypt(plain[:8], plain[:8])
	return hex.EncodeToString(plain), nil
}

// DecryptXen is the inverse of EncryptXen.
func DecryptXen(text string) (orchestrator.Secret, error) {
	cipher, err := decodeHex("XenAPI password", text, MaxXenPassword)
	if err != nil {
		return orchestrator.Secret{}, err
	}
	c := block(xenKey)
	c.Decrypt(cipher[:8], cipher[:8])
	xor(cipher[:8], cipher[8:])
	c.Decrypt(cipher[8:], cipher[8:])
	return unpad("XenAPI password", cipher)
}

// cipherBlock is the part of crypto/cipher.Block in use here.
type cipherBlock interface {
	Encrypt(dst, src []byte)
	Decrypt(dst, src []byte)
}

func block(key string) cipherBlock {
	c, err := des.NewCipher([]byte(key))
	if err != nil {
		panic("xvp: a DES key is 8 bytes: " + err.Error()) // the keys above are
	}
	return c
}

func xor(dst, src []byte) {
	for i := range dst {
		dst[i] ^= src[i]
	}
}

func pad(what string, password orchestrator.Secret, size int) ([]byte, error) {
	text := password.Reveal()
	switch {
	case text == "":
		return nil, fmt.Errorf("%s: is empty, xvp needs 1 to %d bytes", what, size)
	case len(text) > size:
		return nil, fmt.Errorf("%s: is %d bytes, xvp keeps at most %d: choose a shorter one", what, len(text), size)
	}
	plain := make([]byte, size)
	for i := range len(text) {
		if text[i] == 0 || text[i] == '\n' || text[i] == '\r' {
			return nil, fmt.Errorf("%s: byte %d is a control character that xvp cuts at, leave it out", what, i+1)
		}
		plain[i] = text[i]
	}
	return plain, nil
}

func unpad(what string, plain []byte) (orchestrator.Secret, error) {
	text := bytes.TrimRight(plain, "\x00")
	if len(text) == 0 || bytes.IndexByte(text, 0) >= 0 {
		return orchestrator.Secret{}, fmt.Errorf("%s: the digits are not the encryption of a password, write it anew", what)
	}
	return orchestrator.NewSecret(string(text)), nil
}

func decodeHex(what, text string, size int) ([]byte, error) {
	if len(text) != 2*size {
		return nil, fmt.Errorf("%s: has %d characters, encrypted it is %d hex digits", what, len(text), 2*size)
	}
	b, err := hex.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%s: not all %d characters are hex digits", what, 2*size)
	}
	return b, nil
}
