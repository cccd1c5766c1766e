package winrm

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"time"
)

// SelfSigned makes a certificate as a template has one, and its pin: the SHA-256 of the certificate in hex.
func SelfSigned(name string) (tls.Certificate, string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pin(der), nil
}

func pin(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// bindings is the channel binding that a client of this certificate sends (RFC 5929 tls-server-end-point, hashed as MS-NLMP 3.1.5.1.2).
func bindings(der []byte) []byte {
	sum := sha256.Sum256(der)
	data := append([]byte("tls-server-end-point:"), sum[:]...)
	packed := binary.LittleEndian.AppendUint32(make([]byte, 16), uint32(len(data)))
	hash := md5.Sum(append(packed, data...))
	return hash[:]
}
