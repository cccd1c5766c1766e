package message_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/orchestrator"
	"slipway/workers/intake/message"
)

const altered = "0b0e4f5c-6a5e-4b0f-9d6c-0f3f3f6f6a11"

func TestOrdersAboutFinishedMachinesAreReadAsTheyWereWritten(t *testing.T) {
	rules := []orchestrator.FirewallRule{{Protocol: "tcp", Source: netip.MustParsePrefix("10.0.0.0/8"), Ports: []orchestrator.PortRange{{First: 22, Last: 22}}}}
	base := orchestrator.Order{Source: "cli", ID: "1", Type: orchestrator.OrderReconfigure, Tenant: "acme", Machine: altered}
	with := func(change func(*orchestrator.Order)) orchestrator.Order { o := base; change(&o); return o }
	for name, want := range map[string]orchestrator.Order{
		"rules":     with(func(o *orchestrator.Order) { o.Firewall = rules }),
		"shut":      with(func(o *orchestrator.Order) { o.Firewall = []orchestrator.FirewallRule{} }),
		"keys":      with(func(o *orchestrator.Order) { o.SSHKeys = []string{goodKey} }),
		"hostname":  with(func(o *orchestrator.Order) { o.Hostname = "shop.example" }),
		"console":   with(func(o *orchestrator.Order) { o.NewConsolePassword = true }),
		"suspend":   with(func(o *orchestrator.Order) { o.Type = orchestrator.OrderSuspend }),
		"keep":      with(func(o *orchestrator.Order) { o.Type, o.Power = orchestrator.OrderSuspend, orchestrator.PowerKeep }),
		"unsuspend": with(func(o *orchestrator.Order) { o.Type, o.Machine, o.Name = orchestrator.OrderUnsuspend, "", "web" }),
	} {
		m, err := message.EncodeOrder(want)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := message.ParseOrder(m.Body)
		if err != nil {
			t.Fatalf("%s: %s\n%v", name, m.Body, err)
		}
		// Nothing is told from empty here: one keeps the rules, the other closes the machine.
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
			t.Errorf("%s: %s\n%s", name, m.Body, diff)
		}
	}
}

func TestOrdersAboutFinishedMachinesAreRefused(t *testing.T) {
	many := strings.Repeat(`{"protocol":"tcp","source":"0.0.0.0/0","ports":["22"]},`, 10000)
	for name, c := range map[string]struct{ typ, data, want string }{
		"port 0":           {"reconfigure", `"firewall":[{"protocol":"tcp","source":"0.0.0.0/0","ports":[0]}]`, `firewall[0].ports[0]: "0" is not a port`},
		"10,000 rules":     {"reconfigure", `"firewall":[` + strings.TrimSuffix(many, ",") + `]`, "firewall: has 10000 rules; use at most 64"},
		"no keys":          {"reconfigure", `"ssh_keys":[]`, "ssh_keys: is empty, and nobody could log in"},
		"a private key":    {"reconfigure", `"ssh_keys":["-----BEGIN OPENSSH PRIVATE KEY-----"]`, "ssh_keys[0]"},
		"nothing":          {"reconfigure", `"name":"web"`, "data: names nothing to change"},
		"another name":     {"reconfigure", `"hostnam":"x"`, "hostnam: is unknown; did you mean hostname?"},
		"a password":       {"reconfigure", `"console_password":"secret"`, "console_password: is unknown"},
		"not a boolean":    {"reconfigure", `"new_console_password":"yes"`, "new_console_password: is a string"},
		"null is no rules": {"reconfigure", `"firewall":null`, "firewall: is"},
		"power":            {"suspend", `"power":"pause"`, "power: is none of those"},
		"rules of suspend": {"suspend", `"firewall":[]`, "firewall: is unknown"},
		"more than enough": {"unsuspend", `"power":"keep"`, "power: is unknown"},
	} {
		body := fmt.Sprintf(`{"specversion":"1.0","id":"1","source":"p","type":"slipway.order.%s","data":{"tenant":"acme","machine":%q,%s}}`, c.typ, altered, c.data)
		if _, err := message.ParseOrder([]byte(body)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
