package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/workers/appliance/apply"
)

// cutting is a server that tells by its files whose connections end: those of the addresses in b.conf that go.
type cutting struct{ *server }

func (cutting) Cuts(from, to map[string][]byte) (cut []netip.Addr, err error) {
	for word := range strings.FieldsSeq(string(from["b.conf"])) {
		a, err := netip.ParseAddr(word)
		if err != nil {
			return nil, err
		}
		if !strings.Contains(string(to["b.conf"]), word) {
			cut = append(cut, a)
		}
	}
	return cut, nil
}

// An appliance that was away knows itself what to cut, whatever the request says, and still does after a death between reload and record.
func TestUnitDecidesWhatIsCut(t *testing.T) {
	dir := memoryDir(t)
	s := &server{dir: filepath.Join(dir, "etc")}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	agent := func(crash func(string)) *Agent {
		a, err := New(Config{StateDir: filepath.Join(dir, "state"), Units: map[string]Settings{"dhcp": {Driver: "fake"}}},
			Registry{"fake": func(Settings) (Unit, error) { return cutting{s}, nil }}, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.crash = crash
		return a
	}
	ask := func(generation int64, b string) apply.Code {
		t.Helper()
		req := request(generation, "a\n", b)
		req.Cut = addrs("192.0.2.9") // what a controller thinks
		return agent(nil).Apply(t.Context(), req).Code
	}
	last := func() string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(s.dir, "starts"))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		return lines[len(lines)-1]
	}
	if code := ask(1, "192.0.2.1\n192.0.2.2\n"); code != apply.Applied || last() != "false []" {
		t.Errorf("first: %s, reloaded with %s", code, last())
	}
	if code := ask(5, "192.0.2.2\n"); code != apply.Applied || last() != "false [192.0.2.1]" {
		t.Errorf("late: %s, reloaded with %s", code, last())
	}
	before := s.starts(t)
	if code := ask(6, "192.0.2.2\n"); code != apply.Unchanged || s.starts(t) != before {
		t.Errorf("the same files: %s", code)
	}
	func() {
		defer func() { _ = recover() }()
		agent(func(point string) {
			if point == "reloaded" { // perhaps before the last connection was cut: nobody knows
				panic(died{})
			}
		}).Apply(t.Context(), request(7, "a\n", ""))
		t.Error("it lives")
	}()
	before = s.starts(t)
	if code := ask(7, ""); code != apply.Unchanged || s.starts(t) != before+1 || last() != "false [192.0.2.2]" {
		t.Errorf("after the death: %s, %d reloads, the last with %s", code, s.starts(t)-before, last())
	}
}
