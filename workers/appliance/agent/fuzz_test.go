package agent

import (
	"os"
	"strings"
	"testing"

	"slipway/workers/appliance/apply"
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

// FuzzPacked: whatever comes over a broker with a good signature is unpacked and read as far as an agent reads, and no further.
func FuzzPacked(f *testing.F) {
	for _, req := range []apply.Request{request(1, "a1\n", "b1\n"), request(2, strings.Repeat("x", 1<<16), "")} {
		packed, err := apply.Pack(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
		f.Add(append(packed[:len(packed)/2:len(packed)/2], 0))
	}
	f.Fuzz(func(_ *testing.T, body []byte) {
		text, err := apply.Unpack(body)
		if err != nil {
			return
		}
		if req, err := Decode(text); err == nil {
			_ = validate(req, []place{{name: "a.conf"}})
		}
	})
}
