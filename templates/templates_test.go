package templates_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/templates"
)

func TestDirectoryOverridesFileByFile(t *testing.T) {
	const hosts, example = "dhcp/isc/hosts.conf.tmpl", "dhcp/isc/dhcpd.conf.example"
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "dhcp/isc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{hosts: "ours", "dhcp/isc/more.tmpl": "more"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	over := templates.Open(dir)
	if text, err := fs.ReadFile(over, hosts); err != nil || string(text) != "ours" {
		t.Errorf("overridden: %q, %v", text, err)
	}
	built, err := fs.ReadFile(templates.Open(""), example)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := fs.ReadFile(over, example); err != nil || string(text) != string(built) {
		t.Errorf("not overridden: %q, %v", text, err)
	}
	entries, err := fs.ReadDir(over, "dhcp/isc")
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); err != nil || got != "dhcpd.conf.example hosts.conf.tmpl more.tmpl" {
		t.Errorf("lists %q, %v", got, err)
	}
	for _, name := range []string{"../secret", "dhcp/none"} {
		if _, err := over.Open(name); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	missing := templates.Open(filepath.Join(dir, "mistyped"))
	if _, err := fs.ReadFile(missing, hosts); err == nil || !strings.Contains(err.Error(), "mistyped") {
		t.Errorf("a missing directory: %v", err)
	}
}

func TestEveryKindIsThere(t *testing.T) {
	for _, dir := range []string{"dhcp", "firewall", "console", "postinstall"} {
		if entries, err := fs.ReadDir(templates.FS, dir); err != nil || len(entries) == 0 {
			t.Errorf("%s: %v, %v", dir, entries, err)
		}
	}
}
