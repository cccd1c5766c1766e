package agent

import (
	"os"
	"testing"
)

// FuzzConfig: whatever an appliance's file holds, it is refused or makes an agent.
func FuzzConfig(f *testing.F) {
	text, err := os.ReadFile("../../../deploy/agent.example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("units: {dhcp: {main: 1}}\ntimeout: -1s\n---\nx"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		var cfg Config
		if strict(text, &cfg) == nil {
			_, _ = New(cfg, Registry{}, nil)
		}
	})
}
