package orchestrator_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/orchestrator"
)

func reconfiguration() orchestrator.Order {
	return orchestrator.Order{Source: "panel", ID: "8", Type: orchestrator.OrderReconfigure, Tenant: "acme", Name: "web-1", Hostname: "shop.example"}
}

func TestOrdersAboutFinishedMachines(t *testing.T) {
	everybody := netip.MustParsePrefix("0.0.0.0/0")
	rule := func(ranges ...orchestrator.PortRange) orchestrator.FirewallRule {
		return orchestrator.FirewallRule{Protocol: "tcp", Source: everybody, Ports: ranges}
	}
	var fifteen []orchestrator.PortRange
	for p := range uint16(15) {
		fifteen = append(fifteen, orchestrator.PortRange{First: 2*p + 1, Last: 2*p + 1})
	}
	for name, c := range map[string]struct {
		change func(*orchestrator.Order)
		fields []string
	}{
		"as it should be":    {func(*orchestrator.Order) {}, nil},
		"suspend":            {func(o *orchestrator.Order) { o.Type, o.Hostname = orchestrator.OrderSuspend, "" }, nil},
		"suspend and keep":   {func(o *orchestrator.Order) { o.Type, o.Power = orchestrator.OrderSuspend, orchestrator.PowerKeep }, nil},
		"unsuspend":          {func(o *orchestrator.Order) { o.Type = orchestrator.OrderUnsuspend }, nil},
		"another power":      {func(o *orchestrator.Order) { o.Type, o.Power = orchestrator.OrderSuspend, "pause" }, []string{"power"}},
		"no machine":         {func(o *orchestrator.Order) { o.Name = "" }, []string{"machine"}},
		"nothing to change":  {func(o *orchestrator.Order) { o.Hostname = "" }, []string{"data"}},
		"closes the machine": {func(o *orchestrator.Order) { o.Hostname, o.Firewall = "", []orchestrator.FirewallRule{} }, nil},
		"no keys":            {func(o *orchestrator.Order) { o.SSHKeys = []string{} }, []string{"ssh_keys"}},
		"hostname":           {func(o *orchestrator.Order) { o.Hostname = "a b" }, []string{"hostname"}},
		"port 0": {func(o *orchestrator.Order) {
			o.Firewall = []orchestrator.FirewallRule{rule(orchestrator.PortRange{Last: 1})}
		}, []string{"firewall[0].ports[0]"}},
		"10,000 rules": {func(o *orchestrator.Order) {
			o.Firewall = slices.Repeat([]orchestrator.FirewallRule{rule(orchestrator.PortRange{First: 1, Last: 2})}, 10000)
		}, []string{"firewall"}},
		"too many ranges in all": {func(o *orchestrator.Order) {
			o.Firewall = slices.Repeat([]orchestrator.FirewallRule{rule(fifteen...)}, 64)
		}, []string{"firewall"}},
		"rules that overlap": {func(o *orchestrator.Order) {
			o.Firewall = []orchestrator.FirewallRule{rule(orchestrator.PortRange{First: 1, Last: 90}), rule(orchestrator.PortRange{First: 80, Last: 99})}
		}, nil},
		"everything is a mistake": {func(o *orchestrator.Order) { o.Tenant, o.Name, o.Hostname, o.SSHKeys = "", "-", "-", []string{" "} }, []string{"tenant", "name", "hostname", "ssh_keys[0]"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := reconfiguration()
			c.change(&o)
			refused(t, o.Validate(), c.fields...)
		})
	}
}

func TestAlterationKeepsWhatIsNotOrdered(t *testing.T) {
	m := orchestrator.Machine{
		State: orchestrator.StateReady, Hostname: "web-1", SSHKeys: []string{"k1"}, ConsolePassword: orchestrator.Sealed{1},
		Firewall: []orchestrator.FirewallRule{{Protocol: "icmp", Source: netip.MustParsePrefix("0.0.0.0/0")}},
	}
	made := 0
	password := func(orchestrator.Machine) (orchestrator.Sealed, error) {
		made++
		return orchestrator.Sealed{2}, nil
	}
	o := reconfiguration()
	a, err := o.Alteration(m, password)
	if err != nil || made != 0 {
		t.Fatalf("%v, %d passwords were made", err, made)
	}
	if a.ChangesRules() || a.ChangesKeys() || a.ChangesConsole() || !a.ChangesHostname() || a.Wanted.Hostname != "shop.example" || a.State != orchestrator.StateReady {
		t.Errorf("%+v", a)
	}
	if diff := cmp.Diff(m.Settings(), a.Former, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
	o = orchestrator.Order{Type: orchestrator.OrderReconfigure, Firewall: []orchestrator.FirewallRule{}, SSHKeys: []string{"k2"}, NewConsolePassword: true}
	if a, err = o.Alteration(m, password); err != nil || !a.ChangesRules() || !a.ChangesKeys() || !a.ChangesConsole() || a.ChangesHostname() {
		t.Errorf("%+v, %v", a, err)
	}
	why := errors.New("no dice")
	if _, err := o.Alteration(m, func(orchestrator.Machine) (orchestrator.Sealed, error) { return nil, why }); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if a, err := (orchestrator.Order{Type: orchestrator.OrderSuspend}).Alteration(m, nil); err != nil || a.Power != orchestrator.PowerStop {
		t.Errorf("%+v, %v", a, err)
	}
}
