package storetest

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/google/uuid"

	"slipway/orchestrator"
)

// adoption: a machine that the store has forgotten becomes its own again with all that it had, or, when something of it is another's by now,
// nothing of it does.
func adoption(t *testing.T, h Harness) {
	setup := func(t *testing.T) (*bundle, orchestrator.Claim, orchestrator.Adoption) {
		b := setup(t, h)
		known := b.place(b.taken("a"))
		p := known.Machine.Placement
		next := func(a netip.Addr) netip.Addr { return a.Next().Next() }
		m := orchestrator.Machine{
			ID: uuid.NewString(), Tenant: "acme", Name: "lost", Hostname: "lost", Image: "debian-12", Plan: known.Machine.Plan, Firewall: known.Machine.Firewall,
			SSHKeys: known.Machine.SSHKeys, Presence: orchestrator.Present, State: orchestrator.StateReady, VM: "vm-lost", Disks: []string{"d"}, Placement: p,
		}
		m.Placement.Private, m.Placement.Public, m.Placement.MAC, m.Placement.ConsolePort = next(p.Private), next(p.Public), "02:16:3e:77:77:77", p.ConsolePort+2
		return b, known, orchestrator.Adoption{
			Machine: m, Order: orchestrator.Order{Source: "panel", ID: "lost-1", Type: orchestrator.OrderInstall, Tenant: "acme", Name: "lost"}, Run: uuid.NewString(),
			Entries: []orchestrator.PutEntry{{Group: p.DHCP, Unit: orchestrator.DHCP, Body: json.RawMessage(`{"a":1}`)}}, Actor: "0:root", Reason: "restored",
		}
	}
	for name, spoil := range map[string]func(b *bundle, known orchestrator.Claim, a *orchestrator.Adoption){
		"": func(*bundle, orchestrator.Claim, *orchestrator.Adoption) {},
		"Foreign": func(b *bundle, _ orchestrator.Claim, a *orchestrator.Adoption) {
			foreignAddress(b, a.Machine.Placement)
		},
		"MachineThatExists": func(_ *bundle, known orchestrator.Claim, a *orchestrator.Adoption) { a.Machine.ID = known.Machine.ID },
		"NameThatIsTaken": func(_ *bundle, known orchestrator.Claim, a *orchestrator.Adoption) {
			a.Machine.Name = known.Machine.Name
		},
		"OrderThatIsKnown": func(_ *bundle, known orchestrator.Claim, a *orchestrator.Adoption) { a.Order.ID = known.Run.Order.ID },
		"AddressOfAnother": func(_ *bundle, known orchestrator.Claim, a *orchestrator.Adoption) {
			a.Machine.Placement.Private = known.Machine.Placement.Private
		},
		"PublicAddressOfAnother": func(_ *bundle, known orchestrator.Claim, a *orchestrator.Adoption) {
			a.Machine.Placement.Public = known.Machine.Placement.Public
		},
		"MACOfAnother": func(_ *bundle, known orchestrator.Claim, a *orchestrator.Adoption) {
			a.Machine.Placement.MAC = known.Machine.Placement.MAC
		},
		"PortOfAnother": func(_ *bundle, known orchestrator.Claim, a *orchestrator.Adoption) {
			a.Machine.Placement.ConsolePort = known.Machine.Placement.ConsolePort
		},
	} {
		t.Run("Adopt"+name, func(t *testing.T) {
			b, known, a := setup(t)
			spoil(b, known, &a)
			rows := func() (n int64) {
				for _, table := range []string{"machines", "orders", "reservations", "addresses", "macs", "console_ports", "entries", "acts"} {
					n += b.value(`SELECT count(*) FROM ` + table)
				}
				return n + b.value(`SELECT sum(generation) FROM appliance_groups`)
			}
			before := rows()
			err := b.store.Adopt(t.Context(), a)
			if name == "" || name == "Foreign" {
				must(t, err)
				got, err := b.store.Machine(t.Context(), a.Machine.ID)
				must(t, err)
				if got.Placement != a.Machine.Placement || got.State != orchestrator.StateReady || !state(b, a.Machine.Placement.DHCP, a.Machine.ID).Found {
					t.Errorf("%+v", got)
				}
				return
			}
			if orchestrator.KindOf(err) != orchestrator.Conflict {
				t.Errorf("adopted: %v", err)
			}
			if now := rows(); now != before {
				t.Errorf("something was changed: %d, was %d", now, before)
			}
		})
	}
}

func foreignAddress(b *bundle, p orchestrator.Placement) {
	b.Helper()
	must(b, b.store.PutAddress(b.Context(), orchestrator.AddressRecord{Pool: p.Pool, Address: p.Private, Role: "private", Owner: orchestrator.OwnerForeign, State: orchestrator.AddressForeign}, "0:root", "scanned"))
}
