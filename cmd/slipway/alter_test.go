package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestParseRule(t *testing.T) {
	for text, want := range map[string]string{
		"tcp/22": "tcp 0.0.0.0/0 [22]", "tcp/22,8000-8080@203.0.113.0/24": "tcp 203.0.113.0/24 [22 8000-8080]", "udp/53@192.0.2.1": "udp 192.0.2.1/32 [53]", "icmp": "icmp 0.0.0.0/0 []",
	} {
		rule, err := parseRule(text)
		got := rule.Protocol + " " + rule.Source.String() + " ["
		for i, p := range rule.Ports {
			if i > 0 {
				got += " "
			}
			got += p.String()
		}
		if got += "]"; err != nil || got != want {
			t.Errorf("%s is %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"tcp/0", "tcp/ssh", "tcp/9-8", "tcp/22@office", "tcp/22@", "tcp/22,"} {
		if rule, err := parseRule(text); err == nil {
			t.Errorf("%s is %+v", text, rule)
		}
	}
}

func TestReadKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("# mine\nssh-ed25519 A a\n\n ssh-ed25519 B b \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]string{"ssh-ed25519 C c": {"ssh-ed25519 C c"}, file: {"ssh-ed25519 A a", "ssh-ed25519 B b"}} {
		if got, err := readKeys(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"nowhere", os.DevNull} {
		if got, err := readKeys(text); err == nil {
			t.Errorf("%s: %q", text, got)
		}
	}
}
