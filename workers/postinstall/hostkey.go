package postinstall

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
)

// NewHostKey makes a machine's own ed25519 host key from 32 bytes of rand (crypto/rand.Reader outside of tests): the private half as
// OpenSSH PEM, the public half as an authorized_keys style line without a comment.
func NewHostKey(rand io.Reader) (private orchestrator.Secret, public string, err error) {
	// The seed is read here: ed25519.GenerateKey may ignore its reader.
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return private, "", fmt.Errorf("make a host key: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return private, "", fmt.Errorf("make a host key: %w", err)
	}
	private = orchestrator.NewSecret(string(pem.EncodeToMemory(block)))
	public, _, err = publicLine(private)
	return private, public, err
}

// publicLine derives the public half of a host key and its fingerprint ("SHA256:…").
func publicLine(private orchestrator.Secret) (line, fingerprint string, err error) {
	signer, err := ssh.ParsePrivateKey([]byte(private.Reveal()))
	if err != nil {
		// The parser's words may quote the text.
		return "", "", errors.New("is no OpenSSH private key without a passphrase")
	}
	key := signer.PublicKey()
	if key.Type() != ssh.KeyAlgoED25519 {
		return "", "", fmt.Errorf("is of type %s: use %s", key.Type(), ssh.KeyAlgoED25519)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), ssh.FingerprintSHA256(key), nil
}
