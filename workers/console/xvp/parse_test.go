package xvp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

const (
	manager = "MANAGER xvp de423b8ea2bc007494f43d47a87410fa\n"
	vm1     = "VM 21001 11111111-2222-3333-4444-555555555501 daaaa96228e23a45\n"
	vm2     = "VM 21002 11111111-2222-3333-4444-555555555502 ed1a6fce37775acd\n"
	head    = "POOL a\n DOMAIN \"\"\n " + manager + " HOST h\n"
	good    = head + " " + vm1
	poolB   = "POOL b\n DOMAIN \"\"\n " + manager + " HOST h\n"
)

// grammar is what a file may be. site is the rule by which a site's own line is refused, ours that for a line of ours where it differs;
// "" is accepted. Each verdict of site but those marked safer was compared with xvp 1.16.0 itself: see TestGrammarOnRealXVP.
var grammar = []struct {
	name, text string
	site       Rule
	ours       Rule // as site when empty; accepted is "-"
	line       int
	safer      bool // xvp takes it and reads or writes out of bounds, or we refuse it for clarity
}{
	{name: "smallest", text: good},
	{name: "everything", text: "DATABASE dsn user pw\nOTP ALLOW IPCHECK HTTP 90\nMULTIPLEX :99\n" + head + " HOST 10.0.0.2 h2\nGROUP one two\n" + vm1 + "GROUP x\n" + vm2},
	{name: "comments, blanks, tabs, CRLF, no last line feed", text: "# c\r\n\r\n\t \n" + strings.ReplaceAll(good, "\n", "\r\n") + "#"},
	{name: "two pools", text: good + poolB + vm2},
	{name: "pool name of words", text: strings.Replace(good, "POOL a", `POOL the "first pool" of 2`, 1)},
	{name: "pool name of 79", text: strings.Replace(good, "POOL a", "POOL "+strings.Repeat("x", 79), 1)},
	{name: "pool name of 80", text: strings.Replace(good, "POOL a", "POOL "+strings.Repeat("x", 80), 1), site: BadArgument, line: 1},
	{name: "pool name with colon", text: strings.Replace(good, "POOL a", "POOL a:b", 1), site: BadArgument, line: 1},
	{name: "pool without name", text: strings.Replace(good, "POOL a", "POOL", 1), site: BadArgument, line: 1},
	{name: "pool twice", text: good + strings.Replace(poolB, "POOL b", "POOL a", 1) + vm2, site: DuplicatePool, line: 6},
	{name: "lower case keyword", text: "pool a\n", site: Order, line: 1},
	{name: "unknown keyword", text: good + "WINDOW 3\n", site: Order, line: 6},
	{name: "OTP before DATABASE", text: "OTP DENY\nDATABASE d\n" + good, site: Order, line: 2},
	{name: "MULTIPLEX after POOL", text: good + "MULTIPLEX 21009\n", site: Order, line: 6},
	{name: "no DOMAIN", text: "POOL a\n" + manager, site: Order, line: 2},
	{name: "DOMAIN twice", text: "POOL a\nDOMAIN d\nDOMAIN d\n", site: Order, line: 3},
	{name: "DOMAIN without a word", text: strings.Replace(good, `DOMAIN ""`, `DOMAIN "`, 1), site: BadArgument, line: 2},
	{name: "DOMAIN of 79", text: strings.Replace(strings.Replace(good, `""`, strings.Repeat("d", 79), 1), "HOST h", "HOST 10.0.0.1 h", 1)},
	{name: "DOMAIN of 81 overflows", text: strings.Replace(good, `""`, strings.Repeat("d", 81), 1), site: BadArgument, line: 2, safer: true},
	{name: "host and domain over 80 overflow", text: strings.Replace(good, `""`, strings.Repeat("d", 79), 1), site: BadArgument, line: 4, safer: true},
	{name: "no MANAGER", text: "POOL a\nDOMAIN d\nHOST h\n", site: Order, line: 3},
	{name: "manager of 33", text: strings.Replace(good, "xvp", strings.Repeat("m", 33), 1), site: BadArgument, line: 3},
	{name: "manager password of 31", text: strings.Replace(good, "87410fa", "87410f", 1), site: BadPassword, line: 3},
	{name: "manager password no hex", text: strings.Replace(good, "de423", "ge423", 1), site: BadPassword, line: 3},
	{name: "upper case password", text: strings.Replace(good, "daaaa96228e23a45", "DAAAA96228E23A45", 1)},
	{name: "no HOST", text: "POOL a\nDOMAIN d\n" + manager + vm1, site: Order, line: 4},
	{name: "host of 80", text: strings.Replace(good, "HOST h", "HOST "+strings.Repeat("h", 80), 1)},
	{name: "host of 81", text: strings.Replace(good, "HOST h", "HOST "+strings.Repeat("h", 81), 1), site: BadArgument, line: 4},
	{name: "host twice", text: head + "HOST 10.0.0.1 h\n" + vm1, site: DuplicateHost, line: 5},
	{name: "same host in two pools", text: good + poolB + vm2},
	{name: "host address is none", text: strings.Replace(good, "HOST h", "HOST 10.0.0.256 h", 1), site: BadArgument, line: 4},
	{name: "host address v6", text: strings.Replace(good, "HOST h", "HOST fe80::1 h", 1), site: BadArgument, line: 4},
	{name: "host after VM", text: good + "HOST h2\n", ours: Order, line: 6},
	{name: "host after GROUP", text: head + "GROUP g\nHOST h2\n", site: Order, line: 6},
	{name: "GROUP without name", text: head + "GROUP\n" + vm1, site: BadArgument, line: 5},
	{name: "no VM at the end", text: head, site: Unfinished, line: 1},
	{name: "no VM before the next pool", text: head + poolB + vm2, site: Order, line: 5},
	{name: "GROUP but no VM", text: head + "GROUP g\n", site: Unfinished, line: 1},
	{name: "VM without password", text: head + "VM 21001 x\n", site: BadArgument, line: 5},
	{name: "VM by name", text: head + `VM 21001 "my vm" daaaa96228e23a45`, ours: BadArgument, line: 5},
	{name: "VM with upper case uuid", text: head + "VM 21001 AAAAAAAA-2222-3333-4444-555555555501 daaaa96228e23a45\n", ours: BadArgument, line: 5},
	{name: "hash inside quotes", text: head + `VM 21001 "a#b" daaaa96228e23a45`, site: BadArgument, ours: BadArgument, line: 5},
	{name: "quote not closed", text: strings.Replace(good, "POOL a", `POOL "a`, 1), ours: BadArgument, line: 1},
	{name: "VM password of 15", text: head + "VM 21001 x daaaa96228e23a4\n", site: BadPassword, ours: BadArgument, line: 5},
	{name: "port 1023", text: strings.Replace(good, "21001", "1023", 1), site: BadPort, line: 5},
	{name: "port 65535", text: strings.Replace(good, "21001", "65535", 1)},
	{name: "port 65536", text: strings.Replace(good, "21001", "65536", 1), site: BadPort, line: 5},
	{name: "port hex", text: strings.Replace(good, "21001", "0x5209", 1), site: BadPort, line: 5},
	{name: "display 0", text: strings.Replace(good, "21001", ":0", 1)},
	{name: "display 100", text: strings.Replace(good, "21001", ":100", 1), site: BadPort, line: 5},
	{name: "port with a tail", text: strings.Replace(good, "21001", "30001abc", 1), ours: BadPort, line: 5},
	{name: "display of letters", text: strings.Replace(good, "21001", ":abc", 1), ours: BadPort, line: 5},
	{name: "port signed", text: strings.Replace(good, "21001", "+21001", 1), ours: BadPort, line: 5},
	{name: "port negative", text: strings.Replace(good, "21001", "-21001", 1), site: BadPort, line: 5},
	{name: "port beyond an int", text: strings.Replace(good, "21001", "4294988297", 1), site: BadPort, line: 5, safer: true},
	{name: "dash without MULTIPLEX", text: strings.Replace(good, "21001", "-", 1), site: BadPort, line: 5},
	{name: "dashes with MULTIPLEX", text: "MULTIPLEX 21009\n" + strings.Replace(good+vm2, "21001", "-", 1)},
	{name: "port twice in a pool", text: good + strings.Replace(vm2, "21002", "21001", 1), site: DuplicatePort, line: 6},
	{name: "port twice across pools", text: good + poolB + strings.Replace(vm2, "21002", "21001", 1), site: DuplicatePort, line: 10},
	{name: "port of MULTIPLEX", text: "MULTIPLEX 21001\n" + good, site: DuplicatePort, line: 6},
	{name: "display and number of one port", text: strings.Replace(good, "21001", ":1", 1) + strings.Replace(vm2, "21002", "5901", 1), site: DuplicatePort, line: 6},
	{name: "VM name twice in a pool", text: head + "VM 21001 x daaaa96228e23a45\nVM 21002 x daaaa96228e23a45\n", site: DuplicateVM, ours: BadArgument, line: 6},
	{name: "VM name in two pools", text: head + "VM 21001 x daaaa96228e23a45\n" + poolB + "VM 21002 x daaaa96228e23a45\n", ours: BadArgument, line: 5},
	{name: "uuid twice in a pool", text: good + strings.Replace(vm1, "21001", "21002", 1), ours: DuplicateVM, line: 6},
	{name: "uuid in two pools", text: good + poolB + strings.Replace(vm1, "21001", "21002", 1), ours: DuplicateVM, line: 10},
	{name: "line of 4094 bytes", text: good + "#" + strings.Repeat("x", 4093) + "\n"},
	{name: "line of 5000 bytes", text: good + "#" + strings.Repeat("x", 5000) + "\n", site: LongLine, line: 6, safer: true},
	{name: "10 words", text: strings.Replace(good, "POOL a", "POOL 2 3 4 5 6 7 8 9 10", 1)},
	{name: "10 words and a blank", text: strings.Replace(good, "POOL a", "POOL 2 3 4 5 6 7 8 9 10 ", 1), site: ManyWords, line: 1},
	{name: "11 words", text: strings.Replace(good, "POOL a", "POOL 2 3 4 5 6 7 8 9 10 11", 1), site: ManyWords, line: 1},
	{name: "OTP without a mode", text: "OTP\n" + good, site: BadArgument, line: 1},
	{name: "OTP of a wrong mode", text: "OTP MAYBE\n" + good, site: BadArgument, line: 1},
	{name: "OTP window", text: "OTP REQUIRE 3600\n" + good},
	{name: "OTP window too long", text: "OTP REQUIRE 3601\n" + good, site: BadArgument, line: 1},
	{name: "OTP IPCHECK reads past the line", text: "OTP ALLOW IPCHECK\n" + good, site: BadArgument, line: 1, safer: true},
	{name: "control character", text: strings.Replace(good, "POOL a", "POOL a\x01", 1), site: BadByte, line: 1, safer: true},
	{name: "zero byte", text: strings.Replace(good, "POOL a", "POOL a\x00b", 1), site: BadByte, line: 1, safer: true},
	{name: "INCLUDE not allowed", text: "INCLUDE /x\n", site: BadInclude, line: 1, safer: true},
}

func TestGrammar(t *testing.T) {
	for _, tc := range grammar {
		t.Run(tc.name, func(t *testing.T) {
			ours := tc.ours
			if ours == "" {
				ours = tc.site
			}
			for who, want := range map[string]Rule{"site": tc.site, "ours": ours} {
				rules := Rules{Ours: func(string) bool { return who == "ours" }}
				_, err := Parse("f", []byte(tc.text), rules)
				var bad *SyntaxError
				switch {
				case want == "" && err != nil:
					t.Errorf("%s: refused: %v", who, err)
				case want == "":
				case !errors.As(err, &bad):
					t.Errorf("%s: got %v, want %s", who, err, want)
				case bad.Rule != want || bad.Line != tc.line && who == "site" || bad.Line < 1:
					t.Errorf("%s: got %s (%v), want %s at line %d", who, bad.Rule, err, want, tc.line)
				}
			}
		})
	}
}

// realVar names a real xvp program, which no Debian package has. When it is set, the verdicts above are compared with its own.
const realVar = "SLIPWAY_TEST_XVP"

// TestGrammarOnRealXVP asks xvp itself for each row and golden file. Without the program there is nothing to ask and nothing is claimed.
func TestGrammarOnRealXVP(t *testing.T) {
	program := os.Getenv(realVar)
	if program == "" {
		t.Logf("%s is not set: the verdicts of the table stand as they were recorded", realVar)
		return
	}
	for _, tc := range grammar {
		if tc.safer {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			conf := filepath.Join(t.TempDir(), "xvp.conf")
			if err := os.WriteFile(conf, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if accepted, log := ask(t, program, conf); accepted != (tc.site == "") {
				t.Errorf("xvp accepts: %v, we say %q\n%s", accepted, tc.site, log)
			}
		})
	}
	for name, want := range map[string]bool{"two-pools": true, "one-pool": true, "none": false} {
		if accepted, log := ask(t, program, "testdata/"+name+".conf"); accepted != want {
			t.Errorf("%s: xvp accepts: %v\n%s", name, accepted, log)
		}
	}
}

// ask has xvp read a file and ends it.
func ask(t *testing.T, program, conf string) (accepted bool, log string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-n", "-v", "-c", conf, "-l", "-", "-p", filepath.Join(t.TempDir(), "pid"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	for scan := bufio.NewScanner(out); !accepted && scan.Scan(); {
		fmt.Fprintln(&seen, scan.Text())
		accepted = strings.Contains(scan.Text(), "> OTP") // the first line after a whole file was taken
	}
	cancel()
	_ = cmd.Wait() // killed, or ended by the file
	return accepted, seen.String()
}

func TestOurPortsStayOutOfTheEphemeralRange(t *testing.T) {
	rules := Rules{
		Ephemeral: orchestrator.PortRange{First: 21000, Last: 22000},
		Reserved:  []orchestrator.PortRange{{First: 21002, Last: 21002}},
	}
	_, err := Parse("f", []byte(good), rules)
	var bad *SyntaxError
	if !errors.As(err, &bad) || bad.Rule != BadPort || bad.Line != 5 {
		t.Errorf("port 21001: got %v", err)
	}
	if _, err := Parse("f", []byte(head+vm2), rules); err != nil {
		t.Errorf("a reserved port: %v", err)
	}
	rules.Ours = func(string) bool { return false }
	if _, err := Parse("f", []byte(good), rules); err != nil {
		t.Errorf("a site's own port: %v", err)
	}
}

func TestPortCap(t *testing.T) {
	text := func(n int) []byte {
		var b strings.Builder
		b.WriteString("MULTIPLEX 9999\n" + head)
		for i := range n {
			fmt.Fprintf(&b, "VM %d 11111111-2222-3333-4444-%012d daaaa96228e23a45\n", 20000+i, i)
		}
		b.WriteString("VM - 22222222-2222-3333-4444-555555555501 daaaa96228e23a45\n") // needs no port of its own
		return []byte(b.String())
	}
	if f, err := Parse("f", text(1000), Rules{}); err != nil || len(f.Ports()) != 1001 {
		t.Errorf("1000 ports and MULTIPLEX: %v", err)
	}
	_, err := Parse("f", text(1001), Rules{})
	var bad *SyntaxError
	if !errors.As(err, &bad) || bad.Rule != ManyPorts || bad.Line != 5+1001 {
		t.Errorf("1001 ports: got %v", err)
	}
}

func TestParseGivesTheWholeFile(t *testing.T) {
	text := "# site\nDATABASE d u\nOTP ALLOW 30\nMULTIPLEX :9\n" +
		"POOL one # first\r\n DOMAIN example.org\n " + manager + " HOST 10.0.0.1 m\n\n" + vm1 +
		"# of two\nPOOL \"two\"\n DOMAIN \"\"\n " + manager + " HOST h\n VM - \"by name\" ed1a6fce37775acd"
	f, err := Parse("f", []byte(text), Rules{Ours: func(string) bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	at := func(line int) Position { return Position{"f", line} }
	first, second := strings.Index(text, "POOL one"), strings.Index(text, "POOL \"two\"")
	const pw = "de423b8ea2bc007494f43d47a87410fa"
	want := &File{
		Database: []string{"d", "u"}, OTP: &OTP{Mode: "ALLOW", Window: 30}, Multiplex: 5909,
		Pools: []Pool{
			{
				Position: at(5), Name: "one", Domain: "example.org", Manager: "xvp", ManagerPassword: pw,
				Hosts: []Host{{at(8), "10.0.0.1", "m"}},
				VMs:   []VM{{at(10), 21001, "11111111-2222-3333-4444-555555555501", "daaaa96228e23a45"}},
				Text:  []byte(text[first:second]),
			},
			{
				Position: at(12), Name: "two", Manager: "xvp", ManagerPassword: pw,
				Hosts: []Host{{at(15), "", "h"}},
				VMs:   []VM{{at(16), 0, "by name", "ed1a6fce37775acd"}},
				Text:  []byte(text[second:]),
			},
		},
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff([]uint16{5909, 21001}, f.Ports()); diff != "" {
		t.Error(diff)
	}
}

func TestInclude(t *testing.T) {
	files := map[string]string{
		"/ours": "POOL ours\nDOMAIN \"\"\n" + manager + "HOST h\n" + vm2,
		"/loop": "INCLUDE /loop\n",
		"/bad":  "\nPOOL a\nNONSENSE\n",
	}
	include := func(path string) ([]byte, error) {
		if text, ok := files[path]; ok {
			return []byte(text), nil
		}
		return nil, os.ErrNotExist
	}
	rules := Rules{Include: include, Ours: func(f string) bool { return f == "/ours" }}
	f, err := Parse("/main", []byte(good+"INCLUDE \"/ours\" # slipway\n"+poolB+"VM 21003 x daaaa96228e23a45\n"), rules)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Pools) != 3 || f.Pools[1].Position != (Position{"/ours", 1}) || string(f.Pools[1].Text) != files["/ours"] || string(f.Pools[0].Text) != good {
		t.Errorf("got %+v", f.Pools)
	}
	for name, tc := range map[string]struct {
		main string
		want Position
		rule Rule
	}{
		"missing":    {"INCLUDE /none\n", Position{"/main", 1}, BadInclude},
		"relative":   {"\nINCLUDE ours\n", Position{"/main", 2}, BadInclude},
		"loop":       {"INCLUDE /loop\n", Position{"/loop", 1}, BadInclude},
		"fault":      {"INCLUDE /bad\n", Position{"/bad", 3}, Order},
		"two words":  {"INCLUDE /ours /ours\n", Position{"/main", 1}, Order},
		"same twice": {"INCLUDE /ours\nINCLUDE /ours\n", Position{"/ours", 1}, DuplicatePool},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("/main", []byte(tc.main), rules)
			var bad *SyntaxError
			if !errors.As(err, &bad) || bad.Position != tc.want || bad.Rule != tc.rule {
				t.Errorf("got %v, want %s at %s", err, tc.rule, tc.want)
			}
		})
	}
	many := strings.Repeat("INCLUDE /many2\n", 500)
	files["/many"], files["/many2"] = many, strings.Repeat("INCLUDE /empty\n", 500)
	files["/empty"] = ""
	if _, err := Parse("/main", []byte(many), rules); err == nil || !strings.Contains(err.Error(), "more than 1000 files") {
		t.Errorf("a bush of includes: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, tc := range grammar {
		f.Add([]byte(tc.text), true)
		f.Add([]byte(tc.text), false)
	}
	f.Fuzz(func(t *testing.T, src []byte, ours bool) {
		file, err := Parse("f", src, Rules{Ours: func(string) bool { return ours }})
		if err != nil {
			var bad *SyntaxError
			if !errors.As(err, &bad) || bad.Message == "" || bad.Rule == "" || bad.File != "f" {
				t.Fatalf("a refusal without a place or a rule: %#v", err)
			}
			return
		}
		seen := map[uint16]bool{}
		for _, port := range file.Ports() {
			if seen[port] || port < 1024 {
				t.Fatalf("port %d passed", port)
			}
			seen[port] = true
		}
		var blocks []byte
		for _, pool := range file.Pools {
			if len(pool.VMs) == 0 || len(pool.Hosts) == 0 {
				t.Fatalf("an unfinished pool passed: %+v", pool)
			}
			blocks = append(blocks, pool.Text...)
		}
		if !bytes.HasSuffix(src, blocks) {
			t.Fatal("the blocks are not the text of the file")
		}
		if ours && !file.Empty() { // what passes as ours passes as a site's too
			if _, err := Parse("f", src, Rules{Ours: func(string) bool { return false }}); err != nil {
				t.Fatalf("ours only: %v", err)
			}
		}
	})
}
