package xvp

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"text/template"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

const (
	// FileName is the one file of a console request.
	FileName = "xvp.conf"
	// TemplateName is where Render finds its template in the file system it is given.
	TemplateName = "console/xvp/xvp.conf.tmpl"
	// Marker is the first line of every file of ours, whatever the template. A file without it is somebody else's and is not written over.
	Marker = "# Written by slipway, as a whole with every change: what is edited here is lost."
)

// Config is what a console group's file needs beside its rows.
type Config struct {
	Pools []PoolConfig
}

// PoolConfig is one XenAPI pool as xvp reaches it.
type PoolConfig struct {
	ID string // the pool's id in the rows
	// Name is the POOL's name in the file, 1 to 79 printable ASCII characters without : " and #. It must differ from the names of the site's
	// own pools on the same xvp host; a prefix such as "slipway-" sees to it.
	Name   string
	Domain string // appended to host names without an address; "" for none
	// Manager is a XenAPI account of xvp's own: its password has at most 16 bytes and lies, no better than readable, on the xvp host.
	Manager  string
	Password orchestrator.Secret
	Hosts    []HostConfig // the master and, for failover, the others; at least one
}

// HostConfig is one server of a pool.
type HostConfig struct {
	Name    string
	Address netip.Addr // IPv4 that xvp connects to; the zero Addr has it resolve Name
}

// LineMap tells which machine a line of the rendered file belongs to. Lines count from 1; a line that is no machine's is not in it.
type LineMap map[int]string

// EntryError is a row that cannot be rendered; without it the others can.
type EntryError struct {
	Machine string
	Err     error
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("console of machine %s: %v", e.Machine, e.Err)
}
func (e *EntryError) Unwrap() error { return e.Err }

// Machine is the machine that a line belongs to, false for a line that is nobody's.
func (m LineMap) Machine(line int) (string, bool) {
	machine, ok := m[line]
	return machine, ok
}

// Render writes the whole file of a console group from its rows. The same rows give the same bytes, in whatever order they come. A pool
// without a VM is left out, since xvp ends on one; without any row the file has comments only, and the agent then keeps xvp stopped unless
// the site has pools of its own.
//
// The result has passed Parse. An error is Permanent: with an *EntryError in it when a row is at fault (the first by port), and otherwise
// one of the configuration or the template.
func Render(templates fs.FS, cfg Config, entries []orchestrator.ConsoleEntry) ([]apply.File, LineMap, error) {
	files, lines, err := render(templates, cfg, entries)
	return files, lines, orchestrator.E("xvp.Render", orchestrator.Permanent, err)
}

func render(templates fs.FS, cfg Config, entries []orchestrator.ConsoleEntry) ([]apply.File, LineMap, error) {
	pools, err := cfg.pools()
	if err != nil {
		return nil, nil, err
	}
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b orchestrator.ConsoleEntry) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), strings.Compare(a.Machine, b.Machine))
	})
	if err := place(pools, sorted); err != nil {
		return nil, nil, err
	}
	text, err := execute(templates, pools)
	if err != nil {
		return nil, nil, err
	}
	lines, err := mapLines(text, sorted)
	if err != nil {
		return nil, nil, err
	}
	return []apply.File{{Name: FileName, Content: string(text)}}, lines, nil
}

// poolView and vmView are what the template sees.
type poolView struct {
	id string

	Name, Domain, Manager, Password string
	Hosts                           []hostView
	VMs                             []vmView
}

type hostView struct{ Address, Name string }

type vmView struct {
	Port           uint16
	UUID, Password string
}

// pools checks the configuration and encrypts its passwords.
func (c Config) pools() ([]*poolView, error) {
	ids, names := map[string]bool{}, map[string]bool{}
	var views []*poolView
	for _, pool := range c.Pools {
		view, err := pool.view()
		if err != nil {
			return nil, fmt.Errorf("console pool %q: %w", pool.ID, err)
		}
		if ids[pool.ID] || names[pool.Name] {
			return nil, fmt.Errorf("console pool %q: its id or its name %q is used twice, give each pool its own", pool.ID, pool.Name)
		}
		ids[pool.ID], names[pool.Name] = true, true
		views = append(views, view)
	}
	return views, nil
}

func (p PoolConfig) view() (*poolView, error) {
	password, err := EncryptXen(p.Password)
	if err != nil {
		return nil, fmt.Errorf("manager %q: %w", p.Manager, err)
	}
	view := &poolView{id: p.ID, Name: p.Name, Domain: p.Domain, Manager: p.Manager, Password: password}
	switch {
	case p.Name == "" || len(p.Name) > maxPool || strings.Contains(p.Name, ":"):
		return nil, fmt.Errorf("name %q: has %d bytes, xvp takes 1 to %d and no colon", p.Name, len(p.Name), maxPool)
	case p.Manager == "" || len(p.Manager) > maxManager:
		return nil, fmt.Errorf("manager %q: has %d bytes, xvp takes 1 to %d", p.Manager, len(p.Manager), maxManager)
	case len(p.Hosts) == 0:
		return nil, errors.New("hosts: there is none, name at least the pool's master")
	}
	for _, host := range p.Hosts {
		h := hostView{Name: host.Name}
		if host.Address.IsValid() {
			if !host.Address.Is4() {
				return nil, fmt.Errorf("host %q: %s is not IPv4, xvp connects to nothing else", host.Name, host.Address)
			}
			h.Address = host.Address.String()
		}
		view.Hosts = append(view.Hosts, h)
	}
	for _, text := range append([]string{p.Name, p.Domain, p.Manager}, hostNames(p.Hosts)...) {
		if _, err := quote(text); err != nil {
			return nil, err
		}
	}
	return view, nil
}

func hostNames(hosts []HostConfig) []string {
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name)
	}
	return names
}

// place puts each entry into its pool. Entries come sorted by port.
func place(pools []*poolView, entries []orchestrator.ConsoleEntry) error {
	byID := map[string]*poolView{}
	for _, pool := range pools {
		byID[pool.id] = pool
	}
	ports, vms := map[uint16]string{}, map[string]string{}
	for _, e := range entries {
		if err := check(e); err != nil {
			return &EntryError{e.Machine, err}
		}
		pool, known := byID[e.Pool]
		if !known {
			return &EntryError{e.Machine, fmt.Errorf("pool %q is not in this console group's configuration, add it there", e.Pool)}
		}
		if other, taken := ports[e.Port]; taken {
			return &EntryError{e.Machine, fmt.Errorf("port %d is that of machine %s", e.Port, other)}
		}
		if other, taken := vms[e.VM]; taken {
			return &EntryError{e.Machine, fmt.Errorf("vm %s is that of machine %s", e.VM, other)}
		}
		ports[e.Port], vms[e.VM] = e.Machine, e.Machine
		if len(ports) > DefaultMaxPorts {
			return &EntryError{e.Machine, fmt.Errorf("is console number %d, one xvp process watches %d: open a second console group", len(ports), DefaultMaxPorts)}
		}
		pool.VMs = append(pool.VMs, vmView{Port: e.Port, UUID: e.VM, Password: e.Password})
	}
	return nil
}

func check(e orchestrator.ConsoleEntry) error {
	switch {
	case !isUUID(e.VM):
		return fmt.Errorf("vm %q: is no XenAPI uuid in lower case", e.VM)
	case e.Port < minPort:
		return fmt.Errorf("port %d: xvp takes 1024 to 65535", e.Port)
	}
	if _, err := DecryptVNC(e.Password); err != nil {
		return err
	}
	return nil
}

func execute(templates fs.FS, pools []*poolView) ([]byte, error) {
	text, err := fs.ReadFile(templates, TemplateName)
	if err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	t, err := template.New(TemplateName).Option("missingkey=error").Funcs(template.FuncMap{"quote": quote}).Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	used := slices.DeleteFunc(slices.Clone(pools), func(p *poolView) bool { return len(p.VMs) == 0 })
	out := bytes.NewBufferString(Marker + "\n")
	if err := t.Execute(out, struct{ Pools []*poolView }{used}); err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	return out.Bytes(), nil
}

// mapLines reads the rendered text back, so that a template of the site's own can neither lose a console nor add one.
func mapLines(text []byte, entries []orchestrator.ConsoleEntry) (LineMap, error) {
	file, err := Parse(FileName, text, Rules{})
	if err != nil {
		return nil, fmt.Errorf("the rendered file is not one that xvp takes: %w", err)
	}
	want := map[string]orchestrator.ConsoleEntry{}
	for _, e := range entries {
		want[e.VM] = e
	}
	lines := LineMap{}
	for _, pool := range file.Pools {
		for _, vm := range pool.VMs {
			e, ok := want[vm.Name]
			if !ok || e.Port != vm.Port || !strings.EqualFold(e.Password, vm.Password) {
				return nil, fmt.Errorf("template: %s is a console that no machine asked for", vm.Position)
			}
			lines[vm.Line] = e.Machine
		}
	}
	if len(lines) != len(entries) {
		return nil, fmt.Errorf("template: %d consoles were asked for, the file has %d", len(entries), len(lines))
	}
	return lines, nil
}

// quote writes a word in quotes. xvp knows no escape: a name with a quote or a # cannot be written at all, and we write ASCII only.
func quote(text string) (string, error) {
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' || c == '"' || c == '#' {
			return "", fmt.Errorf("%q: holds the byte %#02x, xvp's file takes printable ASCII without \" and #", text, c)
		}
	}
	return `"` + text + `"`, nil
}
