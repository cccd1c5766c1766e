package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"

	"slipway/orchestrator"
)

// bundle is one test's database with an estate of two pools.
type bundle struct {
	testing.TB
	db     Database
	store  Store
	estate *orchestrator.Estate
	now    time.Time
	orders int
}

const lease = time.Minute

func setup(t testing.TB, h Harness) *bundle {
	t.Helper()
	b := &bundle{TB: t, db: h.New(t), now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	b.store = b.db.Open(t)
	b.estate = estate()
	must(t, b.store.SyncGroups(t.Context(), groups(), members()))
	for _, pool := range b.estate.Pools {
		must(t, b.store.SyncPool(t.Context(), inventory(pool.ID)))
	}
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func estate() *orchestrator.Estate {
	e := &orchestrator.Estate{Images: []string{"debian-12"}}
	for n, id := range []string{"pool-a", "pool-b"} {
		e.Pools = append(e.Pools, orchestrator.Pool{
			ID: id, Strategy: orchestrator.NAT, Network: "net-" + id, Images: e.Images,
			Private: subnet(fmt.Sprintf("10.%d.0", n)), Public: subnet(fmt.Sprintf("198.51.%d", n)),
			MACPrefix: "02:16:3e", DHCP: []string{"dhcp-" + id}, Firewall: []string{"fw-" + id}, Console: []string{"xvp"},
			ConsolePorts: orchestrator.PortRange{First: 20000, Last: 21999}, Installer: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")},
		})
	}
	return e
}

func subnet(net string) orchestrator.Subnet {
	prefix := netip.MustParsePrefix(net + ".0/20")
	return orchestrator.Subnet{
		Prefix: prefix, Gateway: netip.MustParseAddr(net + ".1"),
		Ranges: []orchestrator.AddressRange{{First: netip.MustParseAddr(net + ".10"), Last: lastOf(prefix)}},
	}
}

func groups() []orchestrator.Group {
	g := []orchestrator.Group{{ID: "xvp", Unit: orchestrator.Console, MinApplied: 1}}
	for _, pool := range []string{"pool-a", "pool-b"} {
		g = append(g, orchestrator.Group{ID: "dhcp-" + pool, Unit: orchestrator.DHCP, MinApplied: 1}, orchestrator.Group{ID: "fw-" + pool, Unit: orchestrator.Firewall, MinApplied: 1})
	}
	return g
}

func members() []orchestrator.Member {
	var m []orchestrator.Member
	for _, g := range groups() {
		m = append(m, orchestrator.Member{Group: g.ID, Name: g.ID + "-1"}, orchestrator.Member{Group: g.ID, Name: g.ID + "-2"})
	}
	return m
}

// inventory has two hosts and one shared storage: room for twelve machines of 1 GiB and 10 GiB.
func inventory(pool string) orchestrator.Inventory {
	inv := orchestrator.Inventory{Pool: pool, Templates: map[string]string{"debian-12": "template-" + pool}, MACs: []string{"02:16:3e:00:00:01"}}
	for n := range 2 {
		inv.Hosts = append(inv.Hosts, orchestrator.HostInventory{UUID: fmt.Sprintf("%s-host-%d", pool, n), Name: "h", MemoryMiB: 6 * 1024, CPUs: 8, Enabled: true})
	}
	inv.SRs = []orchestrator.SRInventory{{UUID: pool + "-sr", Name: "sr", Bytes: 1000 << 30, Shared: true, Hosts: []string{inv.Hosts[0].UUID, inv.Hosts[1].UUID}}}
	return inv
}

// install makes an acceptance of a new machine.
func (b *bundle) install() orchestrator.Acceptance {
	b.orders++
	return Install(b.orders, b.now)
}

// Install is the acceptance of an order for a new machine, number n.
func Install(n int, now time.Time) orchestrator.Acceptance {
	name := fmt.Sprintf("web-%d", n)
	id, run := uuid.NewString(), uuid.NewString()
	o := orchestrator.Order{
		Source: "panel", ID: fmt.Sprintf("order-%d", n), Type: orchestrator.OrderInstall, Tenant: "acme", Name: name, Image: "debian-12",
		Plan:     orchestrator.Plan{VCPUs: 1, MemoryMiB: 1024, DiskGiB: 10},
		Firewall: []orchestrator.FirewallRule{{Protocol: "tcp", Source: netip.MustParsePrefix("0.0.0.0/0"), Ports: []orchestrator.PortRange{{First: 443, Last: 443}}}},
		SSHKeys:  []string{"ssh-ed25519 AAAA someone"}, Deadline: now.Add(time.Hour),
	}
	return orchestrator.Acceptance{
		Order: o, Actor: "intake", Now: now,
		Machine: orchestrator.Machine{
			ID: id, Tenant: o.Tenant, Name: name, Hostname: name, Image: o.Image, Plan: o.Plan, Firewall: o.Firewall, SSHKeys: o.SSHKeys,
			Presence: orchestrator.Planned, State: "queued", PoolWanted: "pool-b", HostKey: "ssh-ed25519 KEY", HostKeySecret: orchestrator.Sealed{1, 0, 2}, ConsolePassword: orchestrator.Sealed{3},
			AdministratorPassword: orchestrator.Sealed{4, 0}, AdministratorAge: "-----BEGIN AGE", ConsoleAge: "-----BEGIN AGE",
		},
		Run: orchestrator.Run{
			ID: run, Machine: id, Process: "install", State: "queued", Status: orchestrator.StatusReady, Step: "place", RowHash: "hash", Attempt: 1, StepSince: now,
			Deadline: o.Deadline, Order: orchestrator.OrderKey{Source: o.Source, ID: o.ID},
		},
	}
}

func (b *bundle) uninstall(machine string) orchestrator.Acceptance {
	b.orders++
	id := fmt.Sprintf("order-%d", b.orders)
	return orchestrator.Acceptance{
		Order: orchestrator.Order{Source: "panel", ID: id, Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: machine}, Actor: "intake", Now: b.now,
		Run: orchestrator.Run{ID: uuid.NewString(), Process: "uninstall", State: "begun", Status: orchestrator.StatusReady, Step: "close_console", RowHash: "hash-u", Attempt: 1, StepSince: b.now},
	}
}

func (b *bundle) accept(a orchestrator.Acceptance) orchestrator.Accepted {
	b.Helper()
	answer, err := b.store.Accept(b.Context(), a)
	must(b, err)
	return answer
}

// taken is a new machine whose run this worker holds.
func (b *bundle) taken(holder string) orchestrator.Claim {
	b.Helper()
	answer := b.accept(b.install())
	return b.claim(answer.Run, holder)
}

func (b *bundle) claim(run, holder string) orchestrator.Claim {
	b.Helper()
	claim, err := b.store.ClaimRun(b.Context(), run, holder, lease)
	must(b, err)
	return claim
}

func (b *bundle) commit(c orchestrator.Commit) orchestrator.CommitResult {
	b.Helper()
	result := b.store.Commit(b.Context(), []orchestrator.Commit{c})[0]
	must(b, result.Err)
	return result
}

// place promises a machine its place and returns the claim with it.
func (b *bundle) place(claim orchestrator.Claim) orchestrator.Claim {
	b.Helper()
	result := b.commit(b.placing(claim))
	claim.Machine.Placement = result.Placement
	return claim
}

func (b *bundle) placing(claim orchestrator.Claim) orchestrator.Commit {
	return orchestrator.Commit{Run: claim.Run, Decide: func(l *orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
		return l.Place(b.estate, orchestrator.PlaceRequest{Machine: claim.Machine.ID, Image: claim.Machine.Image, Plan: claim.Machine.Plan})
	}}
}

func (b *bundle) event(claim orchestrator.Claim, typ string) orchestrator.Event {
	return orchestrator.NewEvent(typ, b.now, orchestrator.EventData{Run: claim.Run.ID, Machine: claim.Machine.ID, Source: claim.Run.Order.Source, OrderID: claim.Run.Order.ID})
}

func (b *bundle) value(sql string) int64 {
	b.Helper()
	n, err := b.db.Value(context.WithoutCancel(b.Context()), sql)
	must(b, err)
	return n
}

// until waits for a fact, bounded.
func (b *bundle) until(what string, fact func() bool) {
	b.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		if time.Now().After(deadline) {
			b.Fatalf("it never happened: %s", what)
		}
		<-tick.C
	}
}

// lastOf is the last address of a /20 that is not its broadcast address.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	b[2] |= 15
	b[3] = 254
	return netip.AddrFrom4(b)
}

func isFieldErrors(err error) bool {
	var fields orchestrator.FieldErrors
	return errors.As(err, &fields)
}
