package xvp

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"slipway/orchestrator"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func templates() fs.FS { return os.DirFS("../../../templates") }

func uuid(n int) string { return fmt.Sprintf("11111111-2222-3333-4444-%012d", n) }

func entry(n int, pool string) orchestrator.ConsoleEntry {
	return orchestrator.ConsoleEntry{
		Machine: fmt.Sprintf("machine-%d", n), Pool: pool, VM: uuid(n), Port: uint16(21000 + n), Password: "ed1a6fce37775acd",
	}
}

func config() Config {
	return Config{Pools: []PoolConfig{
		{
			ID: "p1", Name: "slipway p1", Domain: "example.org", Manager: "xvp", Password: orchestrator.NewSecret("password"),
			Hosts: []HostConfig{{Name: "xen1", Address: netip.MustParseAddr("10.0.0.1")}, {Name: "xen2"}},
		},
		{
			ID: "p2", Name: "slipway p2", Manager: "root", Password: orchestrator.NewSecret("SuperSecretPw16!"),
			Hosts: []HostConfig{{Name: "xcp", Address: netip.MustParseAddr("10.0.1.1")}},
		},
	}}
}

func TestRenderGolden(t *testing.T) {
	for name, entries := range map[string][]orchestrator.ConsoleEntry{
		"two-pools": {entry(3, "p2"), entry(2, "p1"), entry(1, "p1")},
		"one-pool":  {entry(3, "p2")}, // the last VM of p1 went, and its whole block with it
		"none":      nil,
	} {
		t.Run(name, func(t *testing.T) {
			files, lines, err := Render(templates(), config(), entries)
			if err != nil {
				t.Fatal(err)
			}
			if len(files) != 1 || files[0].Name != FileName {
				t.Fatalf("files: %v", files)
			}
			golden := "testdata/" + name + ".conf"
			if *update {
				if err := os.WriteFile(golden, []byte(files[0].Content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), files[0].Content); diff != "" {
				t.Errorf("-golden +got\n%s", diff)
			}
			if len(lines) != len(entries) {
				t.Errorf("%d lines mapped, want %d", len(lines), len(entries))
			}
			text := strings.Split(files[0].Content, "\n")
			for line, machine := range lines {
				i := slices.IndexFunc(entries, func(e orchestrator.ConsoleEntry) bool { return e.Machine == machine })
				if i < 0 || !strings.Contains(text[line-1], entries[i].VM) {
					t.Errorf("line %d %q is not of %s", line, text[line-1], machine)
				}
			}
		})
	}
}

func TestRenderNamesTheRowAtFault(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*orchestrator.ConsoleEntry)
		want   string
	}{
		"uuid":      {func(e *orchestrator.ConsoleEntry) { e.VM = "web-1" }, "no XenAPI uuid"},
		"injection": {func(e *orchestrator.ConsoleEntry) { e.VM = "x\nPOOL evil" }, "no XenAPI uuid"},
		"port":      {func(e *orchestrator.ConsoleEntry) { e.Port = 22 }, "1024 to 65535"},
		"password":  {func(e *orchestrator.ConsoleEntry) { e.Password = "secret" }, "16 hex digits"},
		"plain":     {func(e *orchestrator.ConsoleEntry) { e.Password = "0123456789abcdeg" }, "hex digits"},
		"pool":      {func(e *orchestrator.ConsoleEntry) { e.Pool = "p9" }, `pool "p9" is not`},
		"same port": {func(e *orchestrator.ConsoleEntry) { e.Port = 21001 }, "port 21001 is that of machine machine-1"},
		"same vm":   {func(e *orchestrator.ConsoleEntry) { e.VM = uuid(1) }, "is that of machine machine-1"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := entry(2, "p2")
			tc.change(&bad)
			_, _, err := Render(templates(), config(), []orchestrator.ConsoleEntry{bad, entry(1, "p1")})
			var row *EntryError
			if !errors.As(err, &row) || row.Machine != "machine-2" || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want machine-2 and %q", err, tc.want)
			}
		})
	}
	var many []orchestrator.ConsoleEntry
	for i := range 1001 {
		many = append(many, entry(i, "p1"))
	}
	var row *EntryError
	if _, _, err := Render(templates(), config(), many); !errors.As(err, &row) || row.Machine != "machine-1000" {
		t.Errorf("1001 consoles: %v", err)
	}
	if _, lines, err := Render(templates(), config(), many[:1000]); err != nil || len(lines) != 1000 {
		t.Errorf("1000 consoles: %v", err)
	}
}

func TestRenderRefusesAConfiguration(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*PoolConfig)
		want   string
	}{
		"quote":         {func(p *PoolConfig) { p.Name = `a"b` }, "0x22"},
		"hash":          {func(p *PoolConfig) { p.Manager = "a#b" }, "0x23"},
		"line feed":     {func(p *PoolConfig) { p.Domain = "a\nb" }, "0x0a"},
		"colon":         {func(p *PoolConfig) { p.Name = "a:b" }, "no colon"},
		"long name":     {func(p *PoolConfig) { p.Name = strings.Repeat("x", 80) }, "80 bytes"},
		"long manager":  {func(p *PoolConfig) { p.Manager = strings.Repeat("x", 33) }, "33 bytes"},
		"long password": {func(p *PoolConfig) { p.Password = orchestrator.NewSecret("12345678901234567") }, "is 17 bytes"},
		"no hosts":      {func(p *PoolConfig) { p.Hosts = nil }, "at least the pool's master"},
		"IPv6":          {func(p *PoolConfig) { p.Hosts[0].Address = netip.MustParseAddr("fe80::1") }, "not IPv4"},
		"twice":         {func(p *PoolConfig) { p.Name = "slipway p2" }, "used twice"},
		"long domain":   {func(p *PoolConfig) { p.Domain = strings.Repeat("x", 80) }, "DOMAIN"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			tc.change(&cfg.Pools[0])
			_, _, err := Render(templates(), cfg, []orchestrator.ConsoleEntry{entry(1, "p1")})
			var row *EntryError
			if err == nil || errors.As(err, &row) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q and nobody's row", err, tc.want)
			}
		})
	}
}

// A directory of the site may override the template; what it makes is held against the rows.
func TestRenderWithAnotherTemplate(t *testing.T) {
	own, err := fs.ReadFile(templates(), TemplateName)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ text, want string }{
		"a group":   {strings.Replace(string(own), "{{- range .VMs}}", "  GROUP ours\n{{- range .VMs}}", 1), ""},
		"loses":     {strings.Replace(string(own), "{{- range .VMs}}", "{{- range slice .VMs 1}}", 1), "asked for, the file has"},
		"adds":      {string(own) + "\n  VM 21900 " + uuid(900) + " ed1a6fce37775acd\n", "no machine asked for"},
		"moves":     {strings.Replace(string(own), "{{.Port}}", "2{{.Port}}", 1), "xvp takes"},
		"a pool":    {string(own) + "\nPOOL more\n", "xvp takes"},
		"no syntax": {"{{", "template"},
	} {
		t.Run(name, func(t *testing.T) {
			site := fstest.MapFS{TemplateName: {Data: []byte(tc.text)}}
			_, _, err := Render(site, config(), []orchestrator.ConsoleEntry{entry(1, "p1"), entry(2, "p1")})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
