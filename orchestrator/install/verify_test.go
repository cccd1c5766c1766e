package install

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"slipway/orchestrator"
)

type answers orchestrator.PortAnswer

func (a answers) TryPort(context.Context, string, netip.AddrPort) (orchestrator.PortAnswer, error) {
	return orchestrator.PortAnswer(a), nil
}

func (answers) Console(context.Context, orchestrator.Machine) error { return nil }

func (answers) NoConsole(context.Context, orchestrator.Machine) error { return nil }

// What a port's answer means depends on whom the rules let in and on whether the image serves it.
func TestProbe(t *testing.T) {
	t.Parallel()
	const everybody, office = "0.0.0.0/0", "203.0.113.0/24"
	for name, c := range map[string]struct {
		source string // whom the rules let in; "" is nobody
		served bool
		answer orchestrator.PortAnswer
		want   string // of the error; "" is as it should be
	}{
		"allowed and open":                     {everybody, true, orchestrator.PortOpen, ""},
		"allowed and refused":                  {everybody, true, orchestrator.PortRefused, "is allowed and refused"},
		"allowed and silent":                   {everybody, true, orchestrator.PortSilent, "is allowed and does not answer"},
		"allowed, of no concern to us, open":   {everybody, false, orchestrator.PortOpen, ""},
		"allowed, and the guest has nothing":   {everybody, false, orchestrator.PortRefused, ""},
		"allowed, the guest's firewall is mum": {everybody, false, orchestrator.PortSilent, ""},
		"shut and open":                        {"", true, orchestrator.PortOpen, "is not allowed and answers"},
		"shut and refused":                     {"", false, orchestrator.PortRefused, "is not allowed and refused: the firewall should have dropped it"},
		"shut and refused where it is served":  {"", true, orchestrator.PortRefused, "is not allowed and refused"},
		"shut and silent":                      {"", true, orchestrator.PortSilent, ""},
		"for some, and we are one":             {office, true, orchestrator.PortOpen, ""},
		"for some, and we are not":             {office, true, orchestrator.PortSilent, ""},
		"for some, and its service is down":    {office, true, orchestrator.PortRefused, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var m orchestrator.Machine
			if c.source != "" {
				m.Firewall = []orchestrator.FirewallRule{{Protocol: "tcp", Source: netip.MustParsePrefix(c.source), Ports: []orchestrator.PortRange{{First: 3000, Last: 4000}}}}
			}
			err := probe(t.Context(), answers(c.answer), m, netip.MustParseAddrPort("198.18.0.7:3389"), c.served)
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || orchestrator.KindOf(err) != orchestrator.Transient) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestProbePorts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ serves, want []uint16 }{
		{[]uint16{22}, []uint16{22, 5986}},
		{[]uint16{3389, 5986}, []uint16{22, 3389, 5986}},
		{nil, []uint16{22, 5986}},
	} {
		if got := probePorts(c.serves); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.serves, got, c.want)
		}
	}
}
