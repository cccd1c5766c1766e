package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("state_dir: /srv/agent\nlock_wait: 3s\nunits:\n  dhcp:\n    driver: fake\n    service: none\n    main: /etc/main\n  console: {driver: fake, service: xvp}\n")
	cfg, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	var own struct {
		Main    string `yaml:"main"`
		Service string `yaml:"service"`
	}
	dhcp := cfg.Units["dhcp"]
	if err := dhcp.Decode(&own); err != nil || own.Main != "/etc/main" || own.Service != "" || dhcp.Service != "none" || dhcp.Driver != "fake" {
		t.Errorf("dhcp: %+v %+v %v", dhcp, own, err)
	}
	if err := cfg.Units["console"].Decode(&own); err != nil || own.Service != "xvp" {
		t.Errorf("a driver's own service: %+v %v", own, err)
	}
	if cfg.StateDir != "/srv/agent" || cfg.LockWait != 3*time.Second {
		t.Errorf("%+v", cfg)
	}
	var narrow struct {
		Mian string `yaml:"mian"`
	}
	if err := dhcp.Decode(&narrow); err == nil || !strings.Contains(err.Error(), "main") {
		t.Errorf("a key that the driver lacks: %v", err)
	}
	for name, text := range map[string]string{
		"unknown key": "stat_dir: /x\n", "list as unit": "units:\n  dhcp: [1]\n", "two documents": "state_dir: /x\n---\nstate_dir: /y\n", "no YAML": "\t{",
	} {
		write(text)
		if _, err := LoadConfig(path); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	write(`{"state_dir": "/srv/agent", "units": {"dhcp": {"driver": "fake"}}}`)
	if _, err := LoadConfig(path); err != nil {
		t.Errorf("JSON: %v", err)
	}
}

func TestNewRefusesUnits(t *testing.T) {
	s := &server{dir: "/etc/x"}
	registry := Registry{"fake": func(Settings) (Unit, error) { return s, nil }}
	for name, cfg := range map[string]Config{
		"none":           {},
		"relative state": {StateDir: "state", Units: map[string]Settings{"dhcp": {Driver: "fake"}}},
		"unknown driver": {Units: map[string]Settings{"dhcp": {Driver: "kea"}}},
		"odd name":       {Units: map[string]Settings{"../dhcp": {Driver: "fake"}}},
		"shared file":    {Units: map[string]Settings{"dhcp": {Driver: "fake"}, "dhcp2": {Driver: "fake"}}},
		"negative wait":  {LockWait: -1, Units: map[string]Settings{"dhcp": {Driver: "fake"}}},
	} {
		if _, err := New(cfg, registry, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
