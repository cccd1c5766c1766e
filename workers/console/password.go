// Package console holds what every console backend shares. The backends are beside it: xvp writes the configuration of an xvp host and drives
// the process, rfb is the client that proves that a console answers.
package console

import (
	"fmt"
	"io"

	"slipway/orchestrator"
)

// passwordLength is all that VNC authentication looks at: its DES key is the first 8 bytes of the password (RFC 6143, 7.2.2).
const passwordLength = 8

// alphabet leaves out what a customer misreads from a screen or a letter: 0 O o, 1 l I i, 5 S s, 2 Z z, 8 B.
const alphabet = "34679ACDEFGHJKLMNPQRTUVWXYabcdefghjkmnpqrtuvwxy"

// NewPassword makes a console password of 8 characters that are easy to read out, every one of them equally likely (44 bits in all).
// The randomness is crypto/rand.Reader in production. It fails only when the reader does, or when the reader is no random source at all.
func NewPassword(rand io.Reader) (orchestrator.Secret, error) {
	const limit = 256 - 256%len(alphabet) // bytes from here on would favour the first letters
	password := make([]byte, 0, passwordLength)
	var one [1]byte
	for range 1024 { // a fair source needs 11 draws on average
		if _, err := io.ReadFull(rand, one[:]); err != nil {
			return orchestrator.Secret{}, fmt.Errorf("read randomness for a console password: %w", err)
		}
		if int(one[0]) >= limit {
			continue
		}
		password = append(password, alphabet[int(one[0])%len(alphabet)])
		if len(password) == passwordLength {
			return orchestrator.NewSecret(string(password)), nil
		}
	}
	return orchestrator.Secret{}, fmt.Errorf("no console password after 1024 draws: the source of randomness repeats itself")
}
