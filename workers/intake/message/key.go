package message

import (
	"crypto/rsa"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

const keyFix = "give one public key, such as ssh-ed25519 AAAA… name"

// keyProblem says what is wrong with an authorized_keys line. Options are refused: a key that an order brings is for a login and
// nothing else. The line itself is not repeated: it may be a private key.
func keyProblem(line string) (what, fix string) {
	if strings.Contains(line, "PRIVATE KEY") {
		return "is a private key", "give the public one (the .pub file), and make a new pair: this one has been sent around"
	}
	if strings.ContainsAny(line, "\r\n") {
		return "has more than one line", keyFix
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil || len(rest) > 0:
		return "is not an SSH public key", keyFix
	case len(options) > 0:
		return "has options before the key", "leave them out: " + keyFix
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
		return "", ""
	case ssh.KeyAlgoRSA:
		if bits := rsaBits(key); bits < 2048 {
			return fmt.Sprintf("is an RSA key of %d bits", bits), "use 2048 or more, or ssh-ed25519"
		}
		return "", ""
	default:
		return "is a key of type " + clip(key.Type()) + ", which servers do not take", "use ssh-ed25519, ecdsa or RSA of 2048 bits or more"
	}
}

func rsaBits(key ssh.PublicKey) int {
	crypto, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return 0
	}
	public, ok := crypto.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return 0
	}
	return public.N.BitLen()
}
