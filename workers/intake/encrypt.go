package intake

import (
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"

	"slipway/orchestrator"
)

// encryptTo makes an armored age file that the private half of each of these SSH keys opens (`age --decrypt --identity ~/.ssh/id_ed25519`).
// Ed25519 and RSA keys can be encrypted to; of others (ECDSA, security keys) nothing can be made, and without any usable one there is no
// file: "".
func encryptTo(keys []string, secret orchestrator.Secret) (string, error) {
	var to []age.Recipient
	for _, line := range keys {
		if recipient, err := agessh.ParseRecipient(line); err == nil {
			to = append(to, recipient)
		}
	}
	if len(to) == 0 {
		return "", nil
	}
	var text strings.Builder
	armored := armor.NewWriter(&text)
	w, err := age.Encrypt(armored, to...)
	if err == nil {
		_, err = io.WriteString(w, secret.Reveal())
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = armored.Close()
	}
	if err != nil {
		return "", fmt.Errorf("encrypt to the order's SSH keys: %w", err)
	}
	return text.String(), nil
}
