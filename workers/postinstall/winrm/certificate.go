package winrm

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"software.sslmate.com/src/go-pkcs12"

	"slipway/orchestrator"
)

// A machine's own certificate is an ordinary self-signed one (RSA, for every Windows takes it), made when its job is sent. It says whose
// it is by a URI among its names: the signature of the machine's host key, Ed25519, over a label and the certificate's public key. The
// TLS handshake proves that the server has that public key's private half; the signature proves that the machine's host key stands for
// it. So the host key, whose public half is known before the machine exists, names a Windows machine as it names a Linux one. (libp2p's
// TLS handshake binds its keys in the same way.)
const (
	certificateLabel = "slipway winrm certificate 1\x00"
	certificateURI   = "urn:slipway:host-key-signature:"
	certificateBits  = 2048
	certificateYears = 10
)

// newCertificate makes a machine's own certificate: a PKCS #12 file with its private key, the random password of that file, and the
// certificate's SHA-256.
func newCertificate(hostKey orchestrator.Secret, name string, now time.Time) (pfx, password orchestrator.Secret, pin string, err error) {
	fail := func(err error) (orchestrator.Secret, orchestrator.Secret, string, error) {
		return orchestrator.Secret{}, orchestrator.Secret{}, "", fmt.Errorf("make the machine's certificate: %w", err)
	}
	raw, err := ssh.ParseRawPrivateKey([]byte(hostKey.Reveal()))
	if err != nil {
		// The parser's words may quote the text.
		return fail(errors.New("the host key is no OpenSSH private key without a passphrase"))
	}
	signer, ok := raw.(*ed25519.PrivateKey)
	if !ok {
		return fail(errors.New("the host key is not of type ed25519"))
	}
	key, err := rsa.GenerateKey(rand.Reader, certificateBits)
	if err != nil {
		return fail(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fail(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return fail(err)
	}
	uri, err := url.Parse(certificateURI + base64.RawURLEncoding.EncodeToString(ed25519.Sign(*signer, append([]byte(certificateLabel), public...))))
	if err != nil {
		return fail(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, URIs: []*url.URL{uri},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(certificateYears, 0, 0), // a guest's clock may be off by hours
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		SignatureAlgorithm: x509.SHA256WithRSA,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fail(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fail(err)
	}
	word := rand.Text()
	// Of the encodings, the one that every Windows Server reads; the file is as secret as its password, and both are removed together.
	file, err := pkcs12.LegacyDES.Encode(key, cert, nil, word)
	if err != nil {
		return fail(err)
	}
	return orchestrator.NewSecret(string(file)), orchestrator.NewSecret(word), fingerprint(der), nil
}

// signedBy says whether a certificate carries the signature of a host key.
func signedBy(cert *x509.Certificate, hostKey ed25519.PublicKey) bool {
	for _, uri := range cert.URIs {
		if text, ok := strings.CutPrefix(uri.String(), certificateURI); ok {
			signature, err := base64.RawURLEncoding.DecodeString(text)
			return err == nil && ed25519.Verify(hostKey, append([]byte(certificateLabel), cert.RawSubjectPublicKeyInfo...), signature)
		}
	}
	return false
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// endpointHash is RFC 5929's hash of a certificate: that of its signature, SHA-256 where that is weaker.
func endpointHash(cert *x509.Certificate) []byte {
	switch cert.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		sum := sha512.Sum384(cert.Raw)
		return sum[:]
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		sum := sha512.Sum512(cert.Raw)
		return sum[:]
	}
	sum := sha256.Sum256(cert.Raw)
	return sum[:]
}

// pin is one thing that a certificate is accepted for.
type pin struct {
	owner   string            // "machine" or "template", for what operators read
	hostKey ed25519.PublicKey // the machine's: its signature is in the certificate
	sha256  string            // the template's certificate
}

func (p pin) String() string {
	if p.hostKey != nil {
		return "one signed by the machine's host key"
	}
	return "SHA-256 " + p.sha256 + " (template's)"
}

var pinPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// pins lists what is accepted of a guest, its own first. None at all is an error: nobody is trusted blindly.
func pins(g orchestrator.Guest, template []string) ([]pin, error) {
	var all []pin
	if g.HostKey != "" {
		public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(g.HostKey))
		if err != nil {
			return nil, fmt.Errorf("the machine's host key for %s is not one public key on one line", g.Machine)
		}
		holder, ok := public.(ssh.CryptoPublicKey)
		if !ok {
			return nil, fmt.Errorf("the machine's host key for %s is not of type ed25519", g.Machine)
		}
		key, ok := holder.CryptoPublicKey().(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("the machine's host key for %s is not of type ed25519", g.Machine)
		}
		all = append(all, pin{owner: "machine", hostKey: key})
	}
	if !g.Own {
		for _, text := range template {
			hash := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(text, "sha256:"), ":", ""))
			if !pinPattern.MatchString(hash) {
				return nil, fmt.Errorf("pin %.80q of the template for %q in pool %q is no SHA-256 in hex", text, g.Image, g.Pool)
			}
			all = append(all, pin{owner: "template", sha256: hash})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no certificate is known for machine %s: give pool %q the SHA-256 of the WinRM certificate of its template for %q", g.Machine, g.Pool, g.Image)
	}
	return all, nil
}

// mismatch says that something else answers where the guest should be.
type mismatch struct {
	machine string
	want    []pin
	got     string
}

func (m *mismatch) Error() string {
	var want []string
	for _, p := range m.want {
		want = append(want, p.String())
	}
	return fmt.Sprintf("certificate of machine %s: expected %s, got SHA-256 %s: another machine answers there, or its certificate was changed behind our back",
		m.machine, strings.Join(want, " or "), m.got)
}

// verifier accepts exactly the pins and remembers which one was shown.
type verifier struct {
	machine string
	pins    []pin
	seen    *pin
	binding []byte // the channel's, for NTLM
}

// check is tls.Config.VerifyConnection: it is called once, in the handshake of the session's one connection.
func (v *verifier) check(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return &mismatch{machine: v.machine, want: v.pins, got: "of no certificate at all"}
	}
	cert := state.PeerCertificates[0]
	got := fingerprint(cert.Raw)
	for i, p := range v.pins {
		if p.hostKey != nil && signedBy(cert, p.hostKey) || p.sha256 != "" && p.sha256 == got {
			v.seen, v.binding = &v.pins[i], endpointHash(cert)
			return nil
		}
	}
	return &mismatch{machine: v.machine, want: v.pins, got: got}
}
