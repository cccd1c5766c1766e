// Package monitoringtest is what every backend of orchestrator.Monitoring must do.
package monitoringtest

import (
	"errors"
	"net/netip"
	"testing"

	"slipway/orchestrator"
)

// Exercise runs the suite on a monitoring that knows no host.
func Exercise(t *testing.T, m orchestrator.Monitoring) {
	ctx := t.Context()
	one := orchestrator.MonitoredHost{
		Machine: "30000000-0000-4000-8000-000000000001", Tenant: "acme", Name: "web-1", Hostname: "web-1.vm.example.net",
		Pool: "pool-a", Image: "debian-12", Address: netip.MustParseAddr("198.51.100.10"),
	}
	two := one
	two.Machine, two.Name = "30000000-0000-4000-8000-000000000002", "web-2"
	shows := func(want orchestrator.MonitoredHost) {
		t.Helper()
		if got, err := m.ObserveHost(ctx, want.Machine); err != nil || got != want {
			t.Errorf("ObserveHost: %+v, %v; want %+v", got, err, want)
		}
	}
	shows404 := func(machine string) {
		t.Helper()
		if got, err := m.ObserveHost(ctx, machine); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("ObserveHost of none: %+v, %v", got, err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	shows404(one.Machine)
	must(m.RemoveHost(ctx, one.Machine))
	for range 2 {
		must(m.EnsureHost(ctx, one))
		shows(one)
	}
	must(m.EnsureHost(ctx, two))
	one.Address = netip.MustParseAddr("2001:db8::1")
	must(m.EnsureHost(ctx, one)) // takes the place of what was there
	shows(one)
	for range 2 {
		must(m.RemoveHost(ctx, one.Machine))
		shows404(one.Machine)
	}
	shows(two)
}
