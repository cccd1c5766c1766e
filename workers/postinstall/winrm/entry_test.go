package winrm_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"slipway/workers/postinstall"
)

func TestEntry(t *testing.T) {
	t.Parallel()
	c := catalogue(t)
	for _, image := range []string{"windows-2019", "windows-2022", "windows-2025"} {
		e, err := c.Entry(image)
		if err != nil {
			t.Fatal(err)
		}
		var steps []string
		for _, s := range e.Steps {
			steps = append(steps, s.Name)
			// Without an exit of its own, a script's code would be that of whatever ran last in it.
			last := bytes.Split(bytes.TrimSpace(s.Script), []byte("\n"))
			if !bytes.HasPrefix(last[len(last)-1], []byte("exit ")) {
				t.Errorf("%s does not end with an exit code", s.Name)
			}
			if !bytes.Contains(s.Script, []byte("\n$ErrorActionPreference = 'Stop'\n")) {
				t.Errorf("%s goes on after an error", s.Name)
			}
			for i, r := range string(s.Script) {
				if r > 0x7e {
					t.Errorf("%s has %q at %d: not every code page reads it", s.Name, r, i)
				}
			}
		}
		want := []string{"administrator", "certificate", "disk", "rdp", "firewall", "hostname", "license", "checks"}
		if diff := cmp.Diff(want, steps); diff != "" || e.Transport != postinstall.TransportWinRM || e.User == e.Account {
			t.Errorf("%s: %s as %s, steps (-want +got):\n%s", image, e.Transport, e.User, diff)
		}
	}
}

const manifest = `family: demo
transport: winrm
images: [demo-1]
login: {user: slipway, become: none}
account: administrator
host_key: template-then-machine
ports: [5986]
steps: [{name: one, script: one.ps1, timeout: 1m}]
checks: {script: one.ps1, timeout: 1m}
`

func TestManifestOverWinRM(t *testing.T) {
	t.Parallel()
	load := func(text string) error {
		_, err := postinstall.Load(fstest.MapFS{
			"demo/manifest.yaml": {Data: []byte(text)}, "demo/one.ps1": {Data: []byte("#requires -Version 5.1\nexit 0\n")},
			"demo/two.ps1": {Data: []byte("exit 0\n")}, "demo/one.sh": {Data: []byte("#!/bin/bash\n")},
		})
		return err
	}
	if err := load(manifest); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ old, new, want string }{
		{"transport: winrm", "transport: telnet", `transport: "telnet" is unknown: use ssh or winrm`},
		{"transport: winrm", "transport: ssh", "the user is not root"},
		{"one.ps1", "one.sh", "ends in .ps1"},
		{"one.ps1", "two.ps1", "does not begin with #requires -Version 5.1"},
		{"ports: [5986]", "ports: [5986]\npackages: [vim]", "packages: are of no use over winrm"},
	} {
		if err := load(strings.Replace(manifest, row.old, row.new, 1)); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.new, err)
		}
	}
}
