package isc

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/testenv"
	"slipway/workers/appliance/apply"
)

// siteMain is a main file as sites have them; dhcpd takes it. %s is the folder.
const siteMain = `# The site's own.
option domain-name "example.org"; # a { brace
omapi-key defomapi;
key defomapi { algorithm hmac-md5; secret "c2VjcmV0"; };
shared-network office {
  subnet 10.30.0.0 netmask 255.255.255.0 {
    option routers 10.30.0.1;
    pool {
      range 10.30.0.100 10.30.0.120;
      range dynamic-bootp 10.30.0.130;
      deny unknown-clients;
    }
    host inside { hardware ethernet 2:0:0:A:0:1; fixed-address 10.30.0.7, 10.30.0.8; }
  }
  SUBNET 10.31.0.0 NETMASK 255.255.0.0 { }
}
class "phones" { match if substring (option vendor-class-identifier, 0, 5) = "phone"; }
if exists user-class { option domain-name "} host fake { hardware ethernet 02:00:00:00:00:99; }"; }
group {
  use-host-decl-names on;
  host printer {
    option host-name "pr\"inter";
    hardware
      ethernet 02:00:00:00:00:02;
    fixed-address 10.30.0.9;
    on commit { log(info, "fixed-address 10.30.0.66;"); }
  }
}
host nowhere { host-identifier option agent.remote-id "x"; fixed-address 10.30.0.10; }
include "%[1]s/more.conf";
include "%[1]s/ours.conf";
`

const siteMore = `
host tape { hardware ethernet 02:00:00:00:00:03; fixed-address 10.30.0.11; }
`

const oursText = `host 11111111-0000-4000-8000-000000000001 { hardware ethernet 02:00:00:00:00:01; fixed-address 10.30.0.20; }
`

func siteFiles(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string]string{"dhcpd.conf": fmt.Sprintf(siteMain, dir), "more.conf": siteMore, "ours.conf": oursText} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// told is a survey in lines.
func told(s apply.Survey, dir string) []string {
	var lines []string
	for _, x := range s.Subnets {
		lines = append(lines, fmt.Sprintf("%s: subnet %s", x.Place, x.Prefix))
	}
	for _, x := range s.Ranges {
		lines = append(lines, fmt.Sprintf("%s: range %s-%s", x.Place, x.First, x.Last))
	}
	for _, x := range s.Hosts {
		lines = append(lines, fmt.Sprintf("%s: host %s %s %v", x.Place, x.Name, x.MAC, x.Addresses))
	}
	for i, l := range lines {
		lines[i] = strings.ReplaceAll(l, dir+"/", "")
	}
	return append(lines, s.Notes...)
}

// TestSurvey reads a file that the real dhcpd takes, and what dhcpd takes ours for is left out.
func TestSurvey(t *testing.T) {
	dhcpd := testenv.Need(t, "dhcpd")
	dir := siteFiles(t)
	u, err := New(Config{Main: filepath.Join(dir, "dhcpd.conf"), Include: filepath.Join(dir, "ours.conf"), Dhcpd: dhcpd})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run(t.Context(), []string{dhcpd, "-t", "-cf", filepath.Join(dir, "dhcpd.conf")}); err != nil {
		t.Fatalf("dhcpd refuses the example: %v: %s", err, out)
	}
	s, err := u.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{
		"dhcpd.conf line 6: subnet 10.30.0.0/24", "dhcpd.conf line 15: subnet 10.31.0.0/16",
		"dhcpd.conf line 9: range 10.30.0.100-10.30.0.120", "dhcpd.conf line 10: range 10.30.0.130-10.30.0.130",
		"dhcpd.conf line 13: host inside 02:00:00:0a:00:01 [10.30.0.7 10.30.0.8]", "dhcpd.conf line 21: host printer 02:00:00:00:00:02 [10.30.0.9]",
		"dhcpd.conf line 29: host nowhere  [10.30.0.10]", "more.conf line 2: host tape 02:00:00:00:00:03 [10.30.0.11]",
	}, told(s, dir)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(s.Files) != 2 {
		t.Errorf("files %v", s.Files)
	}
}

func TestSurveyRefuses(t *testing.T) {
	dir := t.TempDir()
	main := filepath.Join(dir, "dhcpd.conf")
	u, err := New(Config{Main: main, Include: filepath.Join(dir, "ours.conf")})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, err, note string }{
		"a file that is not there": {"\ninclude \"/nonexistent/x\";", main + " line 2: include: open /nonexistent/x", ""},
		"itself":                   {"\n\ninclude \"" + main + "\";", "include is nested more than 16", ""},
		"a device":                 {"include \"/dev/zero\";", "line 1: include: /dev/zero is no regular file", ""},
		"braces":                   {strings.Repeat("group {\n", 200), "line 101: more than 100 blocks", ""},
		"a relative path":          {"include \"x.conf\";", "", "write it from the root"},
		"a name for an address":    {"host a { hardware ethernet 02:00:00:00:00:02; fixed-address a.example.org; }", "", "line 1: host a has the name a.example.org"},
		"no MAC":                   {"host a { hardware ethernet 02:00:zz; }", "", "hardware address of host a is none"},
		"a mask with holes":        {"subnet 10.0.0.0 netmask 255.0.255.0 { }", "", "line 1: the subnet"},
		"a range backwards":        {"subnet 10.0.0.0 netmask 255.0.0.0 { range 10.0.0.9 10.0.0.1; }", "", "line 1: the range is none"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			if err := os.WriteFile(main, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			s, err := u.Survey(t.Context())
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("err = %v", err)
			}
			if c.note != "" && (len(s.Notes) != 1 || !strings.Contains(s.Notes[0], c.note)) {
				t.Errorf("notes %q", s.Notes)
			}
		})
	}
}

func FuzzSurvey(f *testing.F) {
	f.Add(fmt.Sprintf(siteMain, "/etc/dhcp"))
	f.Add(`host a{hardware ethernet 1:2:3:4:5:6;fixed-address 10.0.0.1}`)
	f.Add("include \"/etc/dhcp/more.conf\"; } } host \"\\")
	f.Add("subnet 0.0.0.0 netmask 0.0.0.0 { range 0.0.0.0 255.255.255.255; }")
	f.Fuzz(func(t *testing.T, text string) {
		s := surveyor{ctx: t.Context(), ours: "/ours", open: func(path string) ([]byte, error) {
			if path == "/gone" {
				return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("not there")}
			}
			return []byte(text), nil
		}}
		if err := s.file("/main", 1); err != nil && !strings.Contains(err.Error(), " line ") && !strings.Contains(err.Error(), "/main") {
			t.Errorf("an error that names no place: %v", err)
		}
		for _, h := range s.Hosts {
			if h.Line < 1 || h.File == "" || len(h.Name) > 2*apply.MaxText {
				t.Errorf("%+v", h)
			}
		}
		for _, r := range s.Ranges {
			if r.Last.Less(r.First) || r.First == (netip.Addr{}) {
				t.Errorf("%+v", r)
			}
		}
		if len(s.blocks) != 0 || len(s.Notes) > apply.MaxNotes {
			t.Errorf("%d blocks, %d notes", len(s.blocks), len(s.Notes))
		}
	})
}
