// Package consoletest is the suite that every console backend passes: what a console group's entries say is what customers find at their
// ports. A backend brings a Harness; the suite brings the meaning.
//
// The contract, for a backend whose members have confirmed a generation of the group: each of its entries' ports lets in who has that
// machine's password, and nobody else; a port whose entry is gone refuses connections; a change of one machine's console ends nobody
// else's session; a port that somebody else holds on the host keeps nobody else's console from being shown, is told, and is shown once it
// is free; what is another backend's is left alone; and consoles keep port and password when they move from one backend to another.
package consoletest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
	"slipway/store"
	"slipway/workers/appliance"
	"slipway/workers/console/rfb"
)

const (
	// Group is the console group, Pool the pool whose consoles it has.
	Group = "consoles"
	Pool  = "pool-a"

	patience = 30 * time.Second
	lease    = time.Hour
)

// Harness brings backends up.
type Harness struct {
	Backend orchestrator.ConsoleBackend // whose the pool's consoles are
	// Open returns the group as a Controller has it, its members serving at the site's address until the test ends.
	Open func(t *testing.T, s *Site) appliance.Group
}

// Site is one test's store, with a pool whose consoles are at an address that no other test has.
type Site struct {
	*testing.T
	Store   orchestrator.Store
	Vault   orchestrator.Vault
	Address string // on loopback
	group   appliance.Group
	estate  *orchestrator.Estate
	made    int
}

// Console is one machine's, and the run that this test has in hand for it.
type Console struct {
	Machine, VM string
	Port        uint16
	claim       orchestrator.Claim
}

// NewSite makes a site whose consoles are a backend's, with a group of one member.
func NewSite(t *testing.T, backend orchestrator.ConsoleBackend) *Site {
	t.Helper()
	s := &Site{T: t, Vault: orchestratortest.Vault{}, Address: fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 2+rand.IntN(250))}
	path := "sqlite:" + filepath.Join(t.TempDir(), "consoles.db")
	s.must(store.Migrate(t.Context(), path))
	opened, err := store.Open(t.Context(), path)
	s.must(err)
	t.Cleanup(func() { s.must(opened.Close()) })
	s.Store = opened
	private := netip.MustParsePrefix("10.0.0.0/20")
	s.estate = &orchestrator.Estate{Images: []string{"debian-12"}, Pools: []orchestrator.Pool{{
		ID: Pool, Strategy: orchestrator.Routed, Network: "net", Images: []string{"debian-12"}, MACPrefix: "02:16:3e", Firewall: []string{"fw"}, Console: []string{Group},
		Private:      orchestrator.Subnet{Prefix: private, Gateway: netip.MustParseAddr("10.0.0.1"), Ranges: []orchestrator.AddressRange{{First: netip.MustParseAddr("10.0.0.10"), Last: netip.MustParseAddr("10.0.15.250")}}},
		ConsolePorts: orchestrator.PortRange{First: 8700, Last: 9700}, // below what other tests listen on
		Installer:    []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")},
	}}}
	host := orchestrator.HostInventory{UUID: "h", Name: "h", MemoryMiB: 1 << 30, CPUs: 8, Enabled: true}
	s.must(s.Store.SyncPool(t.Context(), orchestrator.Inventory{
		Pool: Pool, Templates: map[string]string{"debian-12": "t"}, Hosts: []orchestrator.HostInventory{host},
		SRs: []orchestrator.SRInventory{{UUID: "sr", Name: "sr", Bytes: 1 << 60, Shared: true, Hosts: []string{"h"}}},
	}))
	s.must(s.Store.SyncConsoleBackends(t.Context(), map[string]orchestrator.ConsoleBackend{Pool: backend}))
	s.Members("console-1")
	return s
}

func (s *Site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// Members makes the group's members known; all of them must confirm.
func (s *Site) Members(names ...string) {
	s.Helper()
	var members []orchestrator.Member
	for _, name := range names {
		members = append(members, orchestrator.Member{Group: Group, Name: name})
	}
	s.must(s.Store.SyncGroups(s.Context(), []orchestrator.Group{
		{ID: Group, Unit: orchestrator.Console, MinApplied: len(names)}, {ID: "fw", Unit: orchestrator.Firewall, MinApplied: 1},
	}, members))
}

// Use has a group's members carry what the store says.
func (s *Site) Use(g appliance.Group) { s.group = g }

// Add makes a machine with a console; Apply shows it.
func (s *Site) Add(password string) *Console {
	s.Helper()
	s.made++
	id, now := uuid.NewString(), time.Now()
	o := orchestrator.Order{Source: "panel", ID: strconv.Itoa(s.made), Type: orchestrator.OrderInstall, Tenant: "acme", Name: fmt.Sprintf("web-%d", s.made), Image: "debian-12",
		Plan: orchestrator.Plan{VCPUs: 1, MemoryMiB: 1024, DiskGiB: 10}}
	accepted, err := s.Store.Accept(s.Context(), orchestrator.Acceptance{
		Order: o, Actor: "test", Now: now,
		Machine: orchestrator.Machine{ID: id, Tenant: o.Tenant, Name: o.Name, Hostname: o.Name, Image: o.Image, Plan: o.Plan, Presence: orchestrator.Planned, State: "queued", CreatedAt: now, UpdatedAt: now},
		Run: orchestrator.Run{ID: uuid.NewString(), Machine: id, Process: "install", State: "queued", Status: orchestrator.StatusReady, Step: "place", RowHash: "h", Attempt: 1,
			StepSince: now, Order: orchestrator.OrderKey{Source: o.Source, ID: o.ID}, CreatedAt: now, UpdatedAt: now},
	})
	s.must(err)
	claim, err := s.Store.ClaimRun(s.Context(), accepted.Run, "test", lease)
	s.must(err)
	placed := s.commit(orchestrator.Commit{Run: claim.Run, Decide: func(l *orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
		return l.Place(s.estate, orchestrator.PlaceRequest{Machine: id, Image: o.Image, Plan: o.Plan})
	}}).Placement
	c := &Console{Machine: id, VM: fmt.Sprintf("11111111-2222-4333-8444-%012d", s.made), Port: placed.ConsolePort, claim: claim}
	s.Change(c, password)
	return c
}

// Change gives a console a password.
func (s *Site) Change(c *Console, password string) {
	s.Helper()
	sealed, err := s.Vault.Seal(c.Machine, orchestrator.SealedConsole, orchestrator.NewSecret(password))
	s.must(err)
	body, err := json.Marshal(orchestrator.ConsoleEntry{Machine: c.Machine, Pool: Pool, VM: c.VM, Port: c.Port, Password: base64.StdEncoding.EncodeToString(sealed)})
	s.must(err)
	s.commit(orchestrator.Commit{Run: c.claim.Run, Changes: []orchestrator.Change{orchestrator.PutEntry{Group: Group, Unit: orchestrator.Console, Body: body}}})
}

// Drop closes a console.
func (s *Site) Drop(c *Console) {
	s.Helper()
	s.commit(orchestrator.Commit{Run: c.claim.Run, Changes: []orchestrator.Change{orchestrator.DropEntry{Group: Group}}})
}

func (s *Site) commit(c orchestrator.Commit) orchestrator.CommitResult {
	s.Helper()
	result := s.Store.Commit(s.Context(), []orchestrator.Commit{c})[0]
	s.must(result.Err)
	return result
}

// round is one round of a worker's that has just started; it reports whether the newest generation is confirmed.
func (s *Site) round() (bool, error) {
	ctl := appliance.New(appliance.Config{Store: s.Store, Groups: []appliance.Group{s.group}, Holder: "test", Log: slog.New(slog.DiscardHandler), Interval: time.Millisecond})
	err := ctl.Once(s.Context(), Group)
	g, _, readErr := s.Store.Entries(s.Context(), Group)
	return g.Applied == g.Generation, errors.Join(err, readErr)
}

// Apply has the members carry the newest generation.
func (s *Site) Apply() {
	s.Helper()
	s.eventually("the newest generation is confirmed", func() error {
		done, err := s.round()
		if err == nil && !done {
			err = errors.New("the newest generation is not confirmed")
		}
		return err
	})
}

func (s *Site) eventually(what string, is func() error) {
	s.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := is()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("not in time: %s: %v", what, err)
		}
		<-tick.C
	}
}

// View connects to a console as its customer's viewer does; the session is open when err is nil.
func (s *Site) View(c *Console, password string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(s.Address, strconv.Itoa(int(c.Port))))
	if err != nil {
		return nil, err
	}
	s.Cleanup(func() { _ = conn.Close() })
	if _, err := rfb.Handshake(ctx, conn, orchestrator.NewSecret(password)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

// Shows waits until a console lets its password in, and checks that it lets no other in.
func (s *Site) Shows(c *Console, password string) net.Conn {
	s.Helper()
	var conn net.Conn
	s.eventually(fmt.Sprintf("port %d shows its machine", c.Port), func() (err error) {
		conn, err = s.View(c, password)
		return err
	})
	if _, err := s.View(c, password+"?"); err == nil || !errors.Is(err, rfb.ErrRefused) {
		s.Errorf("port %d with another password: %v", c.Port, err)
	}
	return conn
}

// Closed waits until a console's port refuses connections.
func (s *Site) Closed(c *Console) {
	s.Helper()
	s.eventually(fmt.Sprintf("port %d is closed", c.Port), func() error {
		conn, err := s.View(c, "any")
		if err == nil {
			_ = conn.Close()
			return errors.New("it shows a screen")
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		return nil
	})
}

// Listening waits until the gateways say that they listen on so many ports.
func (s *Site) Listening(ports int) {
	s.Helper()
	s.eventually(fmt.Sprintf("the gateways listen on %d ports", ports), func() error {
		reports, err := s.Store.GatewayReports(s.Context(), Group)
		for _, r := range reports {
			if r.Ports != ports {
				err = fmt.Errorf("%+v", r)
			}
		}
		return err
	})
}

// Goes checks that a session that was open still is: the screen answers a request for its picture.
func (s *Site) Goes(conn net.Conn) {
	s.Helper()
	s.must(conn.SetDeadline(time.Now().Add(patience)))
	if _, err := conn.Write([]byte{3, 0, 0, 0, 0, 0, 0, 1, 0, 1}); err != nil { // FramebufferUpdateRequest (RFC 6143, 7.5.3), not incremental
		s.Errorf("a session that was open: %v", err)
		return
	}
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		s.Errorf("a session that was open: %v", err)
	}
}

// Exercise runs the suite on a backend.
func Exercise(t *testing.T, h Harness) {
	setup := func(t *testing.T) *Site {
		s := NewSite(t, h.Backend)
		s.Use(h.Open(t, s))
		return s
	}
	t.Run("EntriesAreShown", func(t *testing.T) {
		s := setup(t)
		one, two := s.Add("first"), s.Add("second")
		s.Apply()
		s.Shows(one, "first")
		s.Shows(two, "second")
		if _, err := s.View(one, "second"); !errors.Is(err, rfb.ErrRefused) {
			t.Errorf("another machine's password: %v", err)
		}
		s.Drop(one)
		s.Apply()
		s.Closed(one)
		s.Shows(two, "second")
		s.Drop(two)
		s.Apply()
		s.Closed(two)
		s.Change(one, "again")
		s.Apply()
		s.Shows(one, "again")
	})
	t.Run("AChangeEndsNobodyElsesSession", func(t *testing.T) {
		s := setup(t)
		kept, changed, dropped := s.Add("kept"), s.Add("old"), s.Add("dropped")
		s.Apply()
		session := s.Shows(kept, "kept")
		s.Shows(changed, "old")
		s.Change(changed, "new")
		s.Drop(dropped)
		s.Apply()
		s.Shows(changed, "new")
		if _, err := s.View(changed, "old"); !errors.Is(err, rfb.ErrRefused) {
			t.Errorf("the password of before: %v", err)
		}
		s.Closed(dropped)
		s.Goes(session)
	})
	t.Run("APortThatIsTaken", func(t *testing.T) {
		s := setup(t)
		one, two := s.Add("one"), s.Add("two")
		stranger, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(s.Address, strconv.Itoa(int(two.Port))))
		s.must(err)
		s.Drop(two)
		s.Apply()
		s.Shows(one, "one")
		s.Change(two, "two")
		s.eventually("the port is told", func() error {
			_, _ = s.round() // the backend may hold the group up for it
			members, err := s.Store.Members(t.Context(), Group)
			reports, reportErr := s.Store.GatewayReports(t.Context(), Group)
			for _, m := range members {
				if m.Problem != "" {
					return nil
				}
			}
			for _, r := range reports {
				if r.Problem != "" {
					return nil
				}
			}
			return errors.Join(err, reportErr, errors.New("nobody says that a port is taken"))
		})
		s.Shows(one, "one")
		s.must(stranger.Close())
		s.Apply()
		s.Shows(two, "two")
	})
	t.Run("WhatIsAnothersIsLeftAlone", func(t *testing.T) {
		s := setup(t)
		c := s.Add("mine")
		s.Apply()
		s.Shows(c, "mine")
		other := orchestrator.ConsoleGateway
		if h.Backend == other {
			other = orchestrator.ConsoleXVP
		}
		_, err := s.Store.MoveConsoles(t.Context(), Pool, other, "test", "")
		s.must(err)
		s.Apply()
		s.Closed(c)
		_, err = s.Store.MoveConsoles(t.Context(), Pool, h.Backend, "test", "")
		s.must(err)
		s.Apply()
		s.Shows(c, "mine")
	})
}
