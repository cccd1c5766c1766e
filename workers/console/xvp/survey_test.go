package xvp

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sitePools = `OTP DENY
MULTIPLEX 5950
POOL office
  DOMAIN ""
  MANAGER root 00112233445566778899aabbccddeeff
  HOST 192.0.2.9 xen9
  VM 20003 "mail" 0011223344556677
  VM - hidden 0011223344556677
  VM :5 db 0011223344556677
INCLUDE "%[1]s/more.conf"
INCLUDE "%[1]s/slipway.conf"
`

const morePools = `POOL lab
  DOMAIN ""
  MANAGER root 00112233445566778899aabbccddeeff
  HOST xen1
  VM 20007 22222222-0000-4000-8000-000000000002 0011223344556677
`

func TestSurvey(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("xvp.conf", fmt.Sprintf(sitePools, dir))
	write("more.conf", morePools)
	write("slipway.conf", strings.ReplaceAll(strings.ReplaceAll(morePools, "lab", "ours"), "20007", "20001"))
	u, err := NewUnit(UnitConfig{Target: filepath.Join(dir, "slipway.conf"), Main: filepath.Join(dir, "xvp.conf"), Service: ServiceNone})
	if err != nil {
		t.Fatal(err)
	}
	s, err := u.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range s.Consoles {
		got = append(got, fmt.Sprintf("%s: %d %q of %q", strings.ReplaceAll(c.Place.String(), dir+"/", ""), c.Port, c.VM, c.Pool))
	}
	if diff := cmp.Diff([]string{
		`xvp.conf: 5950 "" of ""`, `xvp.conf line 7: 20003 "mail" of "office"`, `xvp.conf line 9: 5905 "db" of "office"`,
		`more.conf line 5: 20007 "22222222-0000-4000-8000-000000000002" of "lab"`,
	}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if text := fmt.Sprintf("%+v", s); strings.Contains(text, "0011223344556677") || len(s.Files) != 2 {
		t.Errorf("a password, or another file: %s", text)
	}

	write("more.conf", "VM 1 x y\n")
	if _, err := u.Survey(t.Context()); err == nil || !strings.Contains(err.Error(), "more.conf line 1") {
		t.Errorf("err = %v", err)
	}
	alone, err := NewUnit(UnitConfig{Target: filepath.Join(dir, "slipway.conf"), Service: ServiceNone})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := alone.Survey(t.Context()); err != nil || len(s.Consoles) != 0 {
		t.Errorf("a host without a site's own file: %+v, %v", s, err)
	}
}
