package service

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"testing"

	"slipway/orchestrator"
	"slipway/templates"
	"slipway/workers/postinstall"
	"slipway/workers/postinstall/ssh"
	"slipway/workers/postinstall/winrm"
)

// What a guest can never take is refused when it is ordered: on Windows, and where a site keeps no way in.
func TestChangeable(t *testing.T) {
	entries, err := fs.Sub(templates.Open(""), "postinstall")
	if err != nil {
		t.Fatal(err)
	}
	catalogue, err := postinstall.Load(entries)
	if err != nil {
		t.Fatal(err)
	}
	i := installers{catalogue: catalogue, by: map[postinstall.Transport]orchestrator.Installer{
		postinstall.TransportSSH: &ssh.Installer{}, postinstall.TransportWinRM: &winrm.Installer{},
	}}
	if why := i.Maintainable("windows-server-2022"); !strings.Contains(why, "keeps no way into") {
		t.Errorf("Windows: %q", why)
	}
	check := changeable(fixed(""))
	refuse := changeable(fixed("slipway keeps no way in"))
	all := orchestrator.Order{Type: orchestrator.OrderReconfigure, SSHKeys: []string{"k"}, Hostname: "shop", Firewall: []orchestrator.FirewallRule{}, NewConsolePassword: true}
	rules := orchestrator.Order{Type: orchestrator.OrderReconfigure, Firewall: []orchestrator.FirewallRule{}, NewConsolePassword: true}
	for _, c := range []struct {
		name   string
		check  func(orchestrator.Machine, orchestrator.Order) error
		order  orchestrator.Order
		fields []string
	}{
		{"everything", check, all, nil},
		{"no way in", refuse, all, []string{"ssh_keys", "hostname"}},
		{"no way in is wanted", refuse, rules, nil},
		{"a name that Linux does not take", check, orchestrator.Order{Type: orchestrator.OrderReconfigure, Hostname: strings.Repeat("a.", 33) + "a"}, []string{"hostname"}},
		{"a suspension", refuse, orchestrator.Order{Type: orchestrator.OrderSuspend}, nil},
	} {
		err := c.check(orchestrator.Machine{Image: "debian-12"}, c.order)
		var fields orchestrator.FieldErrors
		if errors.As(err, &fields); len(fields) != len(c.fields) || err != nil && len(c.fields) == 0 {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for n, f := range fields {
			if f.Field != c.fields[n] || f.Problem == "" || f.Fix == "" {
				t.Errorf("%s: %v", c.name, f)
			}
		}
	}
}

// fixed is a maintainer of one word.
type fixed string

func (f fixed) Maintainable(string) string { return string(f) }
func (fixed) ChangeGuest(context.Context, orchestrator.Guest, orchestrator.GuestChange) error {
	return nil
}

func TestNoConsole(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(listener.Addr().String()).Port()
	m := orchestrator.Machine{Placement: orchestrator.Placement{Console: "xvp", ConsolePort: port}}
	p := Prober{Consoles: func(context.Context, orchestrator.Placement) (ConsolePlace, error) {
		return ConsolePlace{Host: "127.0.0.1"}, nil
	}}
	if err := p.NoConsole(t.Context(), m); orchestrator.KindOf(err) != orchestrator.Transient {
		t.Errorf("a console that listens: %v", err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.NoConsole(t.Context(), m); err != nil {
		t.Errorf("a port that refuses: %v", err)
	}
	if err := (Prober{}).NoConsole(t.Context(), m); err != nil {
		t.Errorf("a site where nobody can look: %v", err)
	}
}
