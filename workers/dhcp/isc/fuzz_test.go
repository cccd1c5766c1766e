package isc

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"slipway/workers/appliance/agent"
)

// FuzzRefusal: whatever dhcpd says, only a line of the candidate is a machine's fault, and the words drive no terminal.
func FuzzRefusal(f *testing.F) {
	f.Add(banner + " 4.4.3-P1\n/tmp/c/hosts.conf line 4: semicolon expected.\n  }\n  ^\nConfiguration file errors encountered -- exiting\n")
	f.Add("/tmp/c/main.conf line 99999999999999999999: unknown option\x1b[2J\n")
	f.Add("Can't open /tmp/c/hosts.conf: Permission denied\n")
	f.Fuzz(func(t *testing.T, out string) {
		err := refusal(out, "/tmp/c/hosts.conf", "/tmp/c/main.conf", "/etc/dhcp/dhcpd.conf", errors.New("exit status 1"))
		if err == nil {
			t.Fatal("a refusal became none")
		}
		var fault *agent.Fault
		if !errors.As(err, &fault) {
			return
		}
		if fault.Line < 0 || !strings.Contains(out, "/tmp/c/hosts.conf line ") || strings.ContainsFunc(fault.Message, unicode.IsControl) {
			t.Errorf("%+v", fault)
		}
	})
}

// FuzzMainFile: the site's main file is checked with the candidate in the place of the one live include, and is otherwise its own.
func FuzzMainFile(f *testing.F) {
	f.Add("authoritative;\nsubnet 10.0.0.0 netmask 255.255.255.0 { deny unknown-clients; }\ninclude \"/etc/dhcp/slipway-hosts.conf\";\n")
	f.Add("include \"/etc/dhcp/slipway-hosts.conf\"; # include \"/etc/dhcp/slipway-hosts.conf\";")
	f.Add("include \"/etc/dhcp/\\slipway-hosts.conf\n\";")
	f.Fuzz(func(t *testing.T, main string) {
		const path, candidate = "/etc/dhcp/slipway-hosts.conf", "/tmp/candidate"
		copied, err := withCandidate(main, path, candidate)
		if err != nil {
			return
		}
		for _, inc := range includes(copied) {
			if inc.path == path {
				t.Errorf("the live file is still included: %q", copied)
			}
		}
		if n := len(copied) - len(candidate); n > len(main) || !strings.Contains(copied, candidate) {
			t.Errorf("%q became %q", main, copied)
		}
	})
}
