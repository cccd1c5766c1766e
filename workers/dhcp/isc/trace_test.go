package isc_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/workers/appliance/apply"
	"slipway/workers/dhcp/isc"
)

// As ISC dhcpd 4.4.3-P1 writes it; the names in parentheses are the guests' own.
const dhcpdLog = `Internet Systems Consortium DHCP Server 4.4.3-P1
DHCPDISCOVER from 02:16:3e:00:00:01 via lan
DHCPOFFER on 10.30.4.2 to 02:16:3e:00:00:01 via lan
DHCPDISCOVER from 02:16:3e:00:00:02 (web-2) via lan
DHCPREQUEST for 10.30.4.2 (10.30.0.2) from 02:16:3E:00:00:01 (web-1) via lan
DHCPACK on 10.30.4.2 to 02:16:3e:00:00:01 (web-1) via lan
`

func TestTrace(t *testing.T) {
	long := "DHCPDISCOVER from 02:16:3e:00:00:03 (" + strings.Repeat("x", 1<<20) + ") via lan"
	for name, c := range map[string]struct {
		log  string
		mac  string
		want apply.Trace
	}{
		"a guest that was served": {dhcpdLog, "02:16:3e:00:00:01", apply.Trace{Count: 4, Read: 6, Lines: []string{
			"DHCPDISCOVER from 02:16:3e:00:00:01 via lan", "DHCPOFFER on 10.30.4.2 to 02:16:3e:00:00:01 via lan",
			"DHCPREQUEST for 10.30.4.2 (10.30.0.2) from 02:16:3E:00:00:01 (web-1) via lan", "DHCPACK on 10.30.4.2 to 02:16:3e:00:00:01 (web-1) via lan",
		}}},
		"a guest that was not heard":   {dhcpdLog, "02:16:3e:00:00:ff", apply.Trace{Read: 6}},
		"the last ones of many":        {strings.Repeat("DHCPDISCOVER from 02:16:3e:00:00:01 via lan\n", 99) + dhcpdLog, "02:16:3e:00:00:02", apply.Trace{Count: 1, Read: 105, Lines: []string{"DHCPDISCOVER from 02:16:3e:00:00:02 (web-2) via lan"}}},
		"a line without an end":        {"DHCPDISCOVER from 02:16:3e:00:00:01 via lan", "02:16:3e:00:00:01", apply.Trace{Count: 1, Read: 1, Lines: []string{"DHCPDISCOVER from 02:16:3e:00:00:01 via lan"}}},
		"a line that is much too long": {long + "\n" + dhcpdLog, "02:16:3e:00:00:03", apply.Trace{Count: 1, Read: 7, Lines: []string{long[:4<<10]}}},
		"a long one without an end":    {dhcpdLog + long, "02:16:3e:00:00:03", apply.Trace{Count: 1, Read: 7, Lines: []string{long[:4<<10]}}},
		"an empty log":                 {"", "02:16:3e:00:00:01", apply.Trace{}},
		"more lines than are handed on": {strings.Repeat("a 02:16:3e:00:00:01\n", 9), "02:16:3e:00:00:01", apply.Trace{Count: 9, Read: 9, Lines: []string{
			"a 02:16:3e:00:00:01", "a 02:16:3e:00:00:01", "a 02:16:3e:00:00:01", "a 02:16:3e:00:00:01", "a 02:16:3e:00:00:01"}}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			write(t, path, c.log)
			got, err := logged(t, "tail", "-c", "10M", path).Trace(t.Context(), c.mac)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for name, c := range map[string]struct {
		argv []string
		want string
	}{
		"no command":               {nil, "log: is not configured"},
		"a program that is not":    {[]string{"/nonexistent"}, "no such file"},
		"a program that only errs": {[]string{"tail", "/nonexistent\x1b[2J"}, "cannot open"},
	} {
		if _, err := logged(t, c.argv...).Trace(t.Context(), "02:16:3e:00:00:01"); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// logged is a unit without a service manager and with a log.
func logged(t *testing.T, argv ...string) *isc.Unit {
	t.Helper()
	u, err := isc.New(isc.Config{Start: []string{"/bin/true"}, Log: argv})
	if err != nil {
		t.Fatal(err)
	}
	return u
}
