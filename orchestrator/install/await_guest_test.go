package install

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"slipway/orchestrator"
)

// bootingVM is a hypervisor that has the machine's VM, with what an agent in it reports.
type bootingVM struct {
	orchestrator.Hypervisor
	addresses []netip.Addr
}

func (b bootingVM) FindMachine(context.Context, orchestrator.MachineRef) (orchestrator.VM, error) {
	return orchestrator.VM{UUID: "vm", Power: "running", VIFs: []orchestrator.VIF{{MAC: "02:00:00:00:00:2a", Addresses: b.addresses}}}, nil
}

// door is an installer whose guest answers with an error.
type door struct {
	orchestrator.Installer
	err error
}

func (door) Ports(string) ([]uint16, error) { return []uint16{22}, nil }

func (d door) Probe(context.Context, orchestrator.Guest) (string, error) {
	return "", orchestrator.Errorf("door", orchestrator.Transient, "dial: %w", orchestrator.Told(d.err))
}

// Where a guest is before it answers is told from what is seen of it, with the moment in which that was seen first.
func TestGuestIsSeenToHaveItsAddress(t *testing.T) {
	t.Parallel()
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	private := netip.MustParseAddr("10.30.4.1")
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		addresses []netip.Addr
		err       error
		before    string
		want      time.Time // zero is not yet
	}{
		"nobody has the address":        {err: dial(syscall.EHOSTUNREACH)},
		"nobody says anything":          {err: context.DeadlineExceeded},
		"something else is the matter":  {err: errors.New("connection refused")},
		"its login port refuses":        {err: dial(syscall.ECONNREFUSED), want: noon},
		"its agent reports it":          {addresses: []netip.Addr{private}, err: dial(syscall.EHOSTUNREACH), want: noon},
		"its agent reports another one": {addresses: []netip.Addr{private.Next()}, err: dial(syscall.EHOSTUNREACH)},
		"it was seen before":            {err: dial(syscall.ECONNREFUSED), before: "2026-05-01T11:59:00Z", want: noon.Add(-time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &orchestrator.Step{Now: noon, Run: orchestrator.Run{Step: StepAwait, Handles: map[string]string{}}, Machine: &orchestrator.Machine{
				ID: "m", VM: "vm", Placement: orchestrator.Placement{MAC: "02:00:00:00:00:2a", Private: private, Public: netip.MustParseAddr("198.18.4.1")},
			}}
			if c.before != "" {
				s.Run.Handles[handleAddressed] = c.before
			}
			out, err := awaitGuest(bootingVM{addresses: c.addresses}, door{err: c.err})(t.Context(), s)
			if err != nil || out.Wait == nil {
				t.Fatalf("%+v, %v; want a wait", out, err)
			}
			at, ok := Addressed(s.Run.Handles, nil)
			if ok != !c.want.IsZero() || !at.Equal(c.want) {
				t.Errorf("addressed %s, %t; want %s", at, ok, c.want)
			}
			var kept map[string]string
			if detail := addressedDetail(s); ok && (json.Unmarshal(detail, &kept) != nil || kept[handleAddressed] == "") {
				t.Errorf("the journal gets %s", detail)
			}
		})
	}
}
