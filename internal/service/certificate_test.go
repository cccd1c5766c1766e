package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"slipway/internal/config"
)

// A new certificate is served without a restart, and a broken one is not served at all.
func TestRenewedCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	r := &renewed{cert: cert, key: config.Secret{File: key}, log: slog.New(slog.DiscardHandler)}
	if r.read() == nil {
		t.Error("a certificate that is not there")
	}
	begun := time.Now()
	write := func(path string, body []byte, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, begun.Add(age), begun.Add(age)); err != nil {
			t.Fatal(err)
		}
	}
	serves := func(what, want string) {
		t.Helper()
		r.checked = time.Time{} // ten seconds later
		pair, err := r.get(nil)
		if err != nil || pair.Leaf.Subject.CommonName != want {
			t.Errorf("%s: %v, %v, want %s", what, pair.Leaf.Subject.CommonName, err, want)
		}
	}
	put := func(name string, age time.Duration) {
		chain, private := selfSigned(t, name)
		write(key, private, age)
		write(cert, chain, age)
	}
	put("first", 0)
	if err := r.read(); err != nil {
		t.Fatal(err)
	}
	serves("the first", "first")
	chain, private := selfSigned(t, "second")
	write(cert, chain, time.Hour)
	serves("with another's key", "first")
	write(key, private, time.Hour)
	serves("with its key", "second")
	write(cert, []byte("no PEM"), 2*time.Hour)
	serves("garbage", "second")
	put("third", 3*time.Hour)
	serves("the next", "third")
}

func selfSigned(t *testing.T, name string) (chain, private []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}
