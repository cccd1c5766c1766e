package api

import "testing"

func TestWords(t *testing.T) {
	for text, want := range map[string]string{
		"store.FindMachine: nobody: not found":                    "nobody: not found",
		"waiting for the guest: ssh.Probe: dial tcp: i/o timeout": "waiting for the guest: dial tcp: i/o timeout",
		"a.B: c2.Dd: e: f.G: h":                                   "e: h",
		"xen1.example.net: no route; see docs/ipam.md":            "xen1.example.net: no route; see docs/ipam.md",
		"Host.Name: x": "Host.Name: x",
		"":             "",
	} {
		if got := Words(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
