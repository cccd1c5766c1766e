package xapi

import (
	"net/netip"
	"net/url"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const machineID = "aaaaaaaa-0000-4000-8000-000000000001"

func TestCloneNames(t *testing.T) {
	name := cloneName(machineID, "run-with-dashes", 12)
	if got, ok := nameTag(name, machineID); !ok || got != (tag{machineID, "run-with-dashes", 12}) {
		t.Errorf("nameTag(%q) = %+v, %v", name, got, ok)
	}
	if !(vmRecord{Name: name}).isClone() {
		t.Errorf("%q is not known as a clone", name)
	}
	for _, other := range []string{
		"", "slipway-", "slipway-" + machineID, "slipway-" + machineID + "-", "slipway-" + machineID + "-run", "slipway-" + machineID + "-run-x",
		"slipway-" + machineID + "-run-0", "slipway-" + machineID + "--1", "copy of " + name, "slipway-bbbbbbbb-0000-4000-8000-000000000001-run-1",
	} {
		if got, ok := nameTag(other, machineID); ok {
			t.Errorf("nameTag(%q) = %+v", other, got)
		}
	}
}

func TestTagCountsOnlyBesideItsOwnUUID(t *testing.T) {
	other := map[string]string{keyMachine: machineID, keyRun: "r", keyAttempt: "3", keySelf: "uuid-1"}
	tests := []struct {
		name string
		rec  vmRecord
		want bool
	}{
		{"the machine", vmRecord{UUID: "uuid-1", OtherConfig: other}, true},
		{"a copy of it", vmRecord{UUID: "uuid-2", OtherConfig: other}, false},
		{"a snapshot of it", vmRecord{UUID: "uuid-1", OtherConfig: other, Snapshot: true}, false},
		{"an untagged clone", vmRecord{UUID: "uuid-3", Name: cloneName(machineID, "r", 1)}, true},
		{"a clone of a template that was once a machine", vmRecord{UUID: "uuid-4", OtherConfig: other, Name: cloneName(machineID, "r", 1)}, true},
		{"another machine", vmRecord{UUID: "uuid-5", OtherConfig: map[string]string{keyMachine: "x", keySelf: "uuid-5"}, Name: cloneName(machineID, "r", 1)}, false},
	}
	for _, tt := range tests {
		if _, _, got := tt.rec.belongsTo(machineID); got != tt.want {
			t.Errorf("%s: belongs %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestGuestAddresses(t *testing.T) {
	got := guestAddresses(map[string]string{
		"0/ip": "10.0.0.5", "0/ipv4/0": "10.0.0.5", "0/ipv4/1": " 10.0.0.4 ", "0/ipv6/0": "2001:db8::5", "0/ipv6/1": "fe80::1%eth0", "1/ip": "192.0.2.1",
		"2/ip": "127.0.0.1", "3/ip": "not an address", "4/ip": "::ffff:10.0.0.9", "0/mac": "10.0.0.77", "": "10.0.0.1", "5/ip": "224.0.0.1", "6/ip": "0.0.0.0",
	})
	want := map[string][]netip.Addr{
		"0": {netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("2001:db8::5")},
		"1": {netip.MustParseAddr("192.0.2.1")}, "4": {netip.MustParseAddr("10.0.0.9")},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestWithHost(t *testing.T) {
	for _, tt := range []struct{ from, host, want string }{
		{"https://slave/jsonrpc", "192.0.2.1", "https://192.0.2.1/jsonrpc"},
		{"https://slave:8443/jsonrpc", "192.0.2.1", "https://192.0.2.1:8443/jsonrpc"},
		{"http://slave:8080/jsonrpc", "2001:db8::1", "http://[2001:db8::1]:8080/jsonrpc"},
		{"https://slave/jsonrpc", "2001:db8::1", "https://[2001:db8::1]/jsonrpc"},
	} {
		u, err := url.Parse(tt.from)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := withHost(u, tt.host); err != nil || got.String() != tt.want {
			t.Errorf("withHost(%s, %s) = %v, %v; want %s", tt.from, tt.host, got, err, tt.want)
		}
	}
}

func FuzzTaskResult(f *testing.F) {
	for _, s := range []string{"", "<value></value>", "<value>OpaqueRef:x</value>", "<value><array><data/></array></value>", "<!DOCTYPE x [<!ENTITY a \"b\">]><value>&a;</value>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if ref, err := taskResult(s); err == nil && ref != "" && !ref.valid() {
			t.Errorf("taskResult(%q) = %q", s, ref)
		}
	})
}

func FuzzPrintable(f *testing.F) {
	f.Add("plain")
	f.Add("a\n\x1b[2J\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if len(got) > 5*maxShown || !utf8.ValidString(got) {
			t.Errorf("printable(%q) = %q", s, got)
		}
		for _, r := range got {
			if r < ' ' || r == 0x7f {
				t.Errorf("printable(%q) shows a control character: %q", s, got)
			}
		}
	})
}

func FuzzGuestAddresses(f *testing.F) {
	f.Add("0/ip", "10.0.0.1")
	f.Fuzz(func(t *testing.T, key, value string) {
		for _, list := range guestAddresses(map[string]string{key: value}) {
			for _, a := range list {
				if !a.IsGlobalUnicast() || a.Is4In6() || a.Zone() != "" {
					t.Errorf("%q=%q gives %s", key, value, a)
				}
			}
		}
	})
}
