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

// TestKeysAreExchanged goes the whole way: one key in the old form, a second one beside it, everything under the second, the first away.
func TestKeysAreExchanged(t *testing.T) {
	one, two := vault.NewKey(), vault.NewKey()
	open := func(keys ...orchestrator.Secret) *vault.Vault {
		t.Helper()
		text := ""
		for _, k := range keys {
			text += k.Reveal() + "\n"
		}
		v, err := vault.New(orchestrator.NewSecret(text))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	shows := func(v *vault.Vault, s orchestrator.Sealed) bool {
		got, err := v.Open("m1", orchestrator.SealedAdmin, s)
		return err == nil && got.Reveal() == "the password"
	}
	before, between, after := open(one), open(one, two), open(two)
	ids := between.Keys()
	if len(ids) != 2 || ids[0] != before.Keys()[0] || ids[1] != after.Keys()[0] || len(ids[0]) != 8 {
		t.Fatalf("ids %q, %q and %q", before.Keys(), ids, after.Keys())
	}
	old, err := between.Seal("m1", orchestrator.SealedAdmin, orchestrator.NewSecret("the password"))
	if err != nil {
		t.Fatal(err)
	}
	if !vault.OldForm(old) || !shows(before, old) || !shows(between, old) || shows(after, old) {
		t.Error("before the exchange the first key seals, as it always did")
	}
	if id, ok := between.KeyOf("m1", orchestrator.SealedAdmin, old); id != ids[0] || !ok {
		t.Errorf("the old form is under key %q", id)
	}
	if id, ok := after.KeyOf("m1", orchestrator.SealedAdmin, old); id != "" || !ok {
		t.Errorf("without its key the old form is under %q", id)
	}

	if err := before.Use(ids[1]); err == nil {
		t.Error("a key that is not held seals")
	}
	if err := between.Use(ids[1]); err != nil {
		t.Fatal(err)
	}
	resealed, err := between.Reseal("m1", orchestrator.SealedAdmin, old)
	if err != nil {
		t.Fatal(err)
	}
	if vault.OldForm(resealed) || !shows(after, resealed) || !shows(between, resealed) || shows(before, resealed) {
		t.Error("after it the second one opens alone")
	}
	if id, ok := before.KeyOf("m1", orchestrator.SealedAdmin, resealed); id != ids[1] || !ok {
		t.Errorf("who does not hold it reads key %q", id)
	}
	if _, err := before.Open("m1", orchestrator.SealedAdmin, resealed); err == nil || !strings.Contains(err.Error(), "under key "+ids[1]) {
		t.Errorf("who does not hold it is told: %v", err)
	}
	if again, err := between.Reseal("m1", orchestrator.SealedAdmin, resealed); err != nil || !bytes.Equal(again, resealed) {
		t.Errorf("sealed anew a second time: %v", err)
	}
	if _, err := between.Reseal("m2", orchestrator.SealedAdmin, old); err == nil {
		t.Error("another machine's value was sealed anew")
	}
	if _, err := vault.New(orchestrator.NewSecret(one.Reveal() + "\n" + one.Reveal())); err == nil {
		t.Error("one key twice is taken")
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
