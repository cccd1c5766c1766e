package vault_test

import (
	"bytes"
	"strings"
	"testing"

	"slipway/orchestrator"
	"slipway/workers/vault"
)

func TestSealedValueOpensOnlyWhereItBelongs(t *testing.T) {
	v, err := vault.New(vault.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	const secret = "c0nsole-pw"
	sealed, err := v.Seal("m1", orchestrator.SealedConsole, orchestrator.NewSecret(secret))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte(secret)) {
		t.Fatal("the sealed value shows the secret")
	}
	opened, err := v.Open("m1", orchestrator.SealedConsole, sealed)
	if err != nil || opened.Reveal() != secret {
		t.Fatalf("opened %q, %v", opened.Reveal(), err)
	}

	other, err := vault.New(vault.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(sealed)
	damaged[len(damaged)-1] ^= 1
	for name, open := range map[string]func() (orchestrator.Secret, error){
		"another machine": func() (orchestrator.Secret, error) { return v.Open("m2", orchestrator.SealedConsole, sealed) },
		"another name":    func() (orchestrator.Secret, error) { return v.Open("m1", orchestrator.SealedHostKey, sealed) },
		"another key":     func() (orchestrator.Secret, error) { return other.Open("m1", orchestrator.SealedConsole, sealed) },
		"damaged":         func() (orchestrator.Secret, error) { return v.Open("m1", orchestrator.SealedConsole, damaged) },
		"cut short":       func() (orchestrator.Secret, error) { return v.Open("m1", orchestrator.SealedConsole, sealed[:5]) },
	} {
		if got, err := open(); orchestrator.KindOf(err) != orchestrator.Permanent || !got.IsZero() {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestKeyIsCheckedAndNotShown(t *testing.T) {
	for _, key := range []string{"", "abc", strings.Repeat("g", 64), strings.Repeat("a", 66)} {
		_, err := vault.New(orchestrator.NewSecret(key))
		if err == nil || key != "" && strings.Contains(err.Error(), key) {
			t.Errorf("key %q: %v", key, err)
		}
	}
	if _, err := vault.New(orchestrator.NewSecret(" " + vault.NewKey().Reveal() + "\n")); err != nil {
		t.Errorf("a key file's newline: %v", err)
	}
}
