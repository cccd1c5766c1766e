package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"slipway/orchestrator"
)

func placement(t *testing.T, h Harness) {
	t.Run("PromisesEverything", func(t *testing.T) {
		b := setup(t, h)
		c := b.place(b.taken("a"))
		p := c.Machine.Placement
		m, err := b.store.Machine(t.Context(), c.Machine.ID)
		must(t, err)
		if diff := cmp.Diff(p, m.Placement, sameValues...); diff != "" || p.IsZero() {
			t.Errorf("placement:\n%s", diff)
		}
		if p.MAC == "02:16:3e:00:00:01" || p.MAC == "" {
			t.Errorf("MAC %q is in a VIF of the pool", p.MAC)
		}
		ledger, err := b.store.Ledger(t.Context())
		must(t, err)
		pool := ledger.Pools[p.Pool]
		if pool.Machines != 1 || pool.SRs[0].ReservedBytes != 10<<30 || pool.Hosts[0].ReservedMiB+pool.Hosts[1].ReservedMiB != 1024 {
			t.Errorf("pool %+v", pool)
		}
		if !ledger.Addresses[p.Private] || !ledger.Addresses[p.Public] || !ledger.MACs[p.MAC] || !ledger.Ports["xvp"][p.ConsolePort] || ledger.Groups[p.DHCP].Entries != 1 {
			t.Errorf("ledger %+v", ledger)
		}
		records, err := b.store.Addresses(t.Context())
		must(t, err)
		if len(records) != 2 || records[0].State != orchestrator.AddressReserved || records[0].Machine != m.ID || records[0].Owner != orchestrator.OwnerSlipway {
			t.Errorf("addresses %+v", records)
		}
		b.commit(orchestrator.Commit{Run: c.Run, Changes: []orchestrator.Change{orchestrator.BindAddresses{}}})
		records, err = b.store.Addresses(t.Context())
		must(t, err)
		if records[0].State != orchestrator.AddressBound || records[1].State != orchestrator.AddressBound {
			t.Errorf("addresses %+v", records)
		}
	})

	t.Run("DecisionsAreInTheJournal", func(t *testing.T) {
		b := setup(t, h)
		c := b.taken("a")
		k := b.placing(c)
		k.Ended = &orchestrator.Attempt{Step: "place", Number: 1, Outcome: orchestrator.OutcomeDone}
		b.commit(k)
		lines, err := b.store.Attempts(t.Context(), c.Machine.ID)
		must(t, err)
		var considered []orchestrator.Considered
		if err := json.Unmarshal(lines[0].Detail, &considered); err != nil || len(considered) != 4 {
			t.Errorf("%v: %s", err, lines[0].Detail)
		}
	})

	t.Run("OneTransactionForAGroup", func(t *testing.T) {
		b := setup(t, h)
		group := make([]orchestrator.Commit, 8)
		for n := range group {
			group[n] = b.placing(b.taken("a"))
		}
		refused := errors.New("no")
		group[3].Decide = func(*orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
			return orchestrator.Placement{}, nil, refused
		}
		group[5].Run.Fence-- // after its decision
		group[6].Decide = nil
		group[6].Run.State = "other"
		before, _ := b.store.Counters()
		results := b.store.Commit(t.Context(), group)
		after, _ := b.store.Counters()
		if after-before != 1 {
			t.Errorf("%d commits", after-before)
		}
		taken := map[string]bool{}
		for n, result := range results {
			switch n {
			case 3:
				if !errors.Is(result.Err, refused) {
					t.Errorf("%d: %v", n, result.Err)
				}
			case 5:
				if !errors.Is(result.Err, orchestrator.ErrFenced) {
					t.Errorf("%d: %v", n, result.Err)
				}
			case 6:
				must(t, result.Err)
			default:
				must(t, result.Err)
				if taken[result.Placement.Private.String()] || result.Placement.IsZero() {
					t.Errorf("%d: %+v", n, result.Placement)
				}
				taken[result.Placement.Private.String()] = true
			}
		}
		if n := b.value(`SELECT count(*) FROM reservations`); n != 5 {
			t.Errorf("%d reservations", n)
		}
	})

	t.Run("ReleaseAndQuarantine", func(t *testing.T) {
		b := setup(t, h)
		c := b.place(b.taken("a"))
		release := orchestrator.Commit{Run: c.Run, Machine: &c.Machine, Changes: []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: time.Hour}}}
		if err := b.store.Commit(t.Context(), []orchestrator.Commit{release})[0].Err; orchestrator.KindOf(err) != orchestrator.Conflict || errors.Is(err, orchestrator.ErrFenced) {
			t.Fatalf("released before it was absent: %v", err)
		}
		c.Machine.Presence = orchestrator.Absent // in the same commit
		b.commit(release)
		b.commit(release) // again
		ledger, err := b.store.Ledger(t.Context())
		must(t, err)
		p := c.Machine.Placement
		if pool := ledger.Pools[p.Pool]; pool.Machines != 0 || pool.SRs[0].ReservedBytes != 0 || pool.Hosts[0].ReservedMiB != 0 || pool.Hosts[1].ReservedMiB != 0 {
			t.Errorf("room is not back: %+v", pool)
		}
		if !ledger.Addresses[p.Private] || !ledger.MACs[p.MAC] || !ledger.Ports["xvp"][p.ConsolePort] {
			t.Error("given out again at once")
		}
		m, err := b.store.Machine(t.Context(), c.Machine.ID)
		must(t, err)
		if !m.Placement.IsZero() {
			t.Errorf("placement %+v", m.Placement)
		}
		if n, err := b.store.EndQuarantine(t.Context()); n != 0 || err != nil {
			t.Errorf("%d ended before their time: %v", n, err)
		}
		for _, table := range []string{"addresses", "macs", "console_ports"} {
			must(t, b.db.Exec(t.Context(), `UPDATE `+table+` SET until = 1 WHERE state = 'quarantine'`))
		}
		if n, err := b.store.EndQuarantine(t.Context()); n != 4 || err != nil {
			t.Errorf("%d ended: %v", n, err)
		}
		ledger, err = b.store.Ledger(t.Context())
		must(t, err)
		if ledger.Addresses[p.Private] || ledger.MACs[p.MAC] || ledger.Ports["xvp"][p.ConsolePort] {
			t.Error("never given out again")
		}
	})

	t.Run("ReleaseAtOnce", func(t *testing.T) {
		b := setup(t, h)
		waiting := b.taken("w")
		waiting.Run.Status, waiting.Run.WakeAt, waiting.Run.WakeKey = orchestrator.StatusWaiting, time.Now().Add(time.Hour), orchestrator.WakeCapacity
		b.commit(orchestrator.Commit{Run: waiting.Run, Release: true})
		c := b.place(b.taken("a"))
		c.Machine.Presence = orchestrator.Absent
		b.commit(orchestrator.Commit{Run: c.Run, Machine: &c.Machine, Changes: []orchestrator.Change{orchestrator.ReleasePlacement{}}})
		if n := b.value(`SELECT (SELECT count(*) FROM addresses) + (SELECT count(*) FROM macs WHERE owner = 'slipway') + (SELECT count(*) FROM console_ports)`); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		b.claim(waiting.Run.ID, "w") // there is room
	})

	t.Run("SecondDecisionMovesTheHostOnly", func(t *testing.T) {
		b := setup(t, h)
		c := b.place(b.taken("a"))
		p := c.Machine.Placement
		move := func(change func(*orchestrator.Placement)) error {
			to := p
			change(&to)
			return b.store.Commit(t.Context(), []orchestrator.Commit{{Run: c.Run, Decide: func(*orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
				return to, nil, nil
			}}})[0].Err
		}
		other := p.Pool + "-host-1"
		must(t, move(func(to *orchestrator.Placement) { to.Host = other }))
		if n := b.value(`SELECT reserved_mib FROM hosts WHERE uuid = '` + other + `'`); n != 1024 {
			t.Errorf("%d MiB at the new host", n)
		}
		if n := b.value(`SELECT reserved_mib FROM hosts WHERE uuid = '` + p.Host + `'`); n != 0 {
			t.Errorf("%d MiB at the old one", n)
		}
		if err := move(func(to *orchestrator.Placement) { to.Private = to.Private.Next() }); orchestrator.KindOf(err) != orchestrator.Permanent {
			t.Errorf("another address: %v", err)
		}
	})

	t.Run("MemoryFollowsAMigration", func(t *testing.T) {
		b := setup(t, h)
		const left, right = "pool-a-host-0", "pool-a-host-1"
		inv := inventory("pool-a")
		inv.Residents = map[string][]string{}
		others := map[string]string{left: right, right: left}
		claims := map[string][]orchestrator.Claim{}
		for n := range 12 { // both hosts are full
			c := b.taken("a")
			k := b.placing(c)
			at := []string{left, right}[n%2]
			k.Decide = func(l *orchestrator.Ledger) (orchestrator.Placement, json.RawMessage, error) {
				for i := range l.Pools["pool-a"].Hosts {
					l.Pools["pool-a"].Hosts[i].Enabled = l.Pools["pool-a"].Hosts[i].UUID == at
				}
				return l.Place(b.estate, orchestrator.PlaceRequest{Machine: c.Machine.ID, Image: c.Machine.Image, Plan: c.Machine.Plan, Pool: "pool-a"})
			}
			c.Machine.Placement = b.commit(k).Placement
			c.Machine.VM, c.Machine.Presence = fmt.Sprintf("vm-%d", n), orchestrator.Present
			claims[at] = append(claims[at], c)
			if n < 10 { // the last of each host is still at work
				c.Run.Status = orchestrator.StatusDone
			}
			b.commit(orchestrator.Commit{Run: c.Run, Machine: &c.Machine})
			inv.Residents[others[at]] = append(inv.Residents[others[at]], c.Machine.VM)
		}
		inv.Residents["nowhere"] = []string{"vm-0"}
		reserved := func() [2]int64 {
			return [2]int64{b.value(`SELECT reserved_mib FROM hosts WHERE uuid = '` + left + `'`), b.value(`SELECT reserved_mib FROM hosts WHERE uuid = '` + right + `'`)}
		}
		for range 2 {
			must(t, b.store.SyncPool(t.Context(), inv)) // all change places at once
			for at, cs := range claims {
				for i, c := range cs {
					m, err := b.store.Machine(t.Context(), c.Machine.ID)
					must(t, err)
					want := others[at]
					if i == len(cs)-1 {
						want = at
					}
					if m.Placement.Host != want {
						t.Errorf("%s is counted on %s, want %s", m.VM, m.Placement.Host, want)
					}
				}
			}
			if got := reserved(); got != [2]int64{6 * 1024, 6 * 1024} {
				t.Errorf("reserved %v", got)
			}
		}
		inv.Residents = map[string][]string{right: {"vm-0", "vm-1", "vm-2", "vm-3", "vm-4", "vm-5", "vm-6", "vm-7", "vm-8", "vm-9"}}
		must(t, b.store.SyncPool(t.Context(), inv)) // more than the host has
		if got := reserved(); got != [2]int64{1024, 11 * 1024} {
			t.Errorf("reserved %v", got)
		}
		ledger, err := b.store.Ledger(t.Context())
		must(t, err)
		for _, h := range ledger.Pools["pool-a"].Hosts {
			if h.MemoryMiB != 6*1024 {
				t.Errorf("host %s has %d MiB", h.UUID, h.MemoryMiB)
			}
		}
		if n := b.value(`SELECT count(*) FROM reservations v JOIN machines m ON m.id = v.machine WHERE m.host <> v.host`); n != 0 {
			t.Errorf("%d reservations are not where their machines are", n)
		}
	})

	t.Run("ForeignMACsFollowTheInventory", func(t *testing.T) {
		b := setup(t, h)
		inv := inventory("pool-a")
		inv.MACs = []string{"02:16:3e:00:00:00", "02:16:3e:00:00:05"}
		must(t, b.store.SyncPool(t.Context(), inv))
		must(t, b.store.SyncPool(t.Context(), inventory("pool-b")))
		ledger, err := b.store.Ledger(t.Context())
		must(t, err)
		want := map[string]bool{"02:16:3e:00:00:00": true, "02:16:3e:00:00:05": true, "02:16:3e:00:00:01": true} // the last is in pool-b
		if diff := cmp.Diff(want, ledger.MACs); diff != "" {
			t.Error(diff)
		}
		inv.MACs = nil
		must(t, b.store.SyncPool(t.Context(), inv))
		ledger, err = b.store.Ledger(t.Context())
		must(t, err)
		if diff := cmp.Diff(map[string]bool{"02:16:3e:00:00:01": true}, ledger.MACs); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("PoolShrinks", func(t *testing.T) {
		b := setup(t, h)
		c := b.place(b.taken("a"))
		inv := inventory(c.Machine.Placement.Pool)
		for n := range inv.Hosts {
			inv.Hosts[n].MemoryMiB = 100
		}
		inv.SRs, inv.Hosts = nil, inv.Hosts[:1]
		must(t, b.store.SyncPool(t.Context(), inv))
		ledger, err := b.store.Ledger(t.Context())
		must(t, err)
		if pool := ledger.Pools[inv.Pool]; len(pool.SRs) != 0 || len(pool.Hosts) != 1 {
			t.Errorf("pool %+v", pool)
		}
		if n := b.value(`SELECT count(*) FROM reservations`); n != 1 {
			t.Errorf("%d reservations", n)
		}
		c.Machine.Presence = orchestrator.Absent
		b.commit(orchestrator.Commit{Run: c.Run, Machine: &c.Machine, Changes: []orchestrator.Change{orchestrator.ReleasePlacement{}}})
	})
}

// pressure orders a thousand machines at once, over two pools that have room for some of them, through several processes.
func pressure(t *testing.T, h Harness) {
	const orders, workers, batch = 1000, 4, 32
	b := setup(t, h)
	room := int64(0)
	for n, pool := range b.estate.Pools {
		inv := inventory(pool.ID)
		inv.Hosts[0].MemoryMiB = int64(150+100*n)*1024 + 512
		inv.Hosts[1].MemoryMiB = 100 * 1024
		inv.SRs[0].Bytes = 5000 << 30
		must(t, b.store.SyncPool(t.Context(), inv))
		room += inv.Hosts[0].MemoryMiB/1024 + 100
	}
	for range orders {
		b.accept(b.install())
	}
	var mu sync.Mutex
	placed, refused := int64(0), int64(0)
	var wg sync.WaitGroup
	for n := range workers {
		store := b.db.Open(t)
		wg.Go(func() {
			for {
				got, err := store.Claim(t.Context(), orchestrator.Ask{Holder: fmt.Sprintf("worker-%d", n), Limit: batch, Lease: time.Hour})
				if err != nil || len(got) == 0 {
					if err != nil {
						t.Error(err)
					}
					return
				}
				var group []orchestrator.Commit
				for _, c := range got {
					group = append(group, b.placing(c))
				}
				for _, result := range store.Commit(t.Context(), group) {
					mu.Lock()
					switch {
					case result.Err == nil:
						placed++
					case orchestrator.KindOf(result.Err) == orchestrator.Exhausted:
						refused++
					default:
						t.Error(result.Err)
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if placed != room || placed+refused != orders {
		t.Errorf("%d placed, %d refused; there is room for %d of %d", placed, refused, room, orders)
	}
	for what, sql := range map[string]string{
		"hosts with more than they have":   `SELECT count(*) FROM hosts WHERE reserved_mib > memory_mib`,
		"storage with more than it has":    `SELECT count(*) FROM srs WHERE reserved_bytes > bytes`,
		"hosts that miscount":              `SELECT count(*) FROM hosts h WHERE reserved_mib <> (SELECT COALESCE(SUM(memory_mib), 0) FROM reservations v WHERE v.host = h.uuid)`,
		"addresses of two machines":        `SELECT count(*) FROM (SELECT private FROM machines WHERE private <> '' GROUP BY private HAVING count(*) > 1) x`,
		"MACs of two machines":             `SELECT count(*) FROM (SELECT mac FROM machines WHERE mac <> '' GROUP BY mac HAVING count(*) > 1) x`,
		"ports of two machines":            `SELECT count(*) FROM (SELECT console_port FROM machines WHERE pool <> '' GROUP BY console_group, console_port HAVING count(*) > 1) x`,
		"machines whose address is not it": `SELECT count(*) FROM machines m WHERE pool <> '' AND NOT EXISTS (SELECT 1 FROM addresses a WHERE a.address = m.private AND a.machine = m.id)`,
	} {
		if n := b.value(sql); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

// ledgerProperties drives random histories and compares the ledger with a model after each step.
func ledgerProperties(t *testing.T, h Harness) {
	b := setup(t, h)
	rapid.Check(t, func(r *rapid.T) {
		for _, sql := range []string{
			`UPDATE machines SET presence = 'absent'`, `UPDATE runs SET status = 'done'`, `DELETE FROM reservations`, `DELETE FROM addresses`,
			`DELETE FROM macs WHERE owner = 'slipway'`, `DELETE FROM console_ports`,
		} {
			must(t, b.db.Exec(t.Context(), sql))
		}
		live := map[string]orchestrator.Claim{}
		resting := map[string]bool{}
		r.Repeat(map[string]func(*rapid.T){
			"place": func(r *rapid.T) {
				if len(live) > 9 {
					r.Skip()
				}
				c := b.place(b.taken("a"))
				for id, other := range live {
					p, q := other.Machine.Placement, c.Machine.Placement
					if p.Private == q.Private || p.Public == q.Public || p.MAC == q.MAC || p.Console == q.Console && p.ConsolePort == q.ConsolePort {
						r.Fatalf("%s and %s share: %+v, %+v", id, c.Machine.ID, p, q)
					}
				}
				if resting[c.Machine.Placement.Private.String()] {
					r.Fatalf("%s is in quarantine", c.Machine.Placement.Private)
				}
				live[c.Machine.ID] = c
			},
			"release": func(r *rapid.T) {
				if len(live) == 0 {
					r.Skip()
				}
				id := rapid.SampledFrom(keys(live)).Draw(r, "machine")
				quarantine := rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(r, "quarantine")
				c := live[id]
				held := orchestrator.Commit{Run: c.Run, Changes: []orchestrator.Change{orchestrator.ReleasePlacement{Quarantine: quarantine}}}
				if err := b.store.Commit(t.Context(), []orchestrator.Commit{held})[0].Err; orchestrator.KindOf(err) != orchestrator.Conflict {
					r.Fatalf("a machine that is not absent lost its address: %v", err)
				}
				machine := c.Machine
				machine.Presence = orchestrator.Absent
				held.Machine, held.Run.Status = &machine, orchestrator.StatusDone
				b.commit(held)
				delete(live, id)
				if quarantine > 0 {
					resting[c.Machine.Placement.Private.String()] = true
				}
			},
			"foreign": func(r *rapid.T) {
				a := b.estate.Pools[0].Private.Ranges[0].First
				for range rapid.IntRange(0, 8).Draw(r, "address") {
					a = a.Next()
				}
				err := b.store.PutAddress(t.Context(), orchestrator.AddressRecord{Pool: "pool-a", Address: a, Role: "private"}, "0:root", "x")
				ours := resting[a.String()]
				for _, c := range live {
					ours = ours || c.Machine.Placement.Private == a
				}
				if ours != (err != nil) {
					r.Fatalf("mark %s, ours is %v: %v", a, ours, err)
				}
				if err := b.store.DropAddress(t.Context(), "pool-a", a, "0:root", "x"); ours != errors.Is(err, orchestrator.ErrNotFound) {
					r.Fatalf("unmark %s, ours is %v: %v", a, ours, err)
				}
			},
			"": func(r *rapid.T) {
				ledger, err := b.store.Ledger(t.Context())
				if err != nil {
					r.Fatal(err)
				}
				memory, bytes, machines := int64(0), int64(0), 0
				for _, pool := range ledger.Pools {
					machines += pool.Machines
					for _, host := range pool.Hosts {
						memory += host.ReservedMiB
					}
					for _, sr := range pool.SRs {
						bytes += sr.ReservedBytes
					}
				}
				if machines != len(live) || memory != int64(len(live))*1024 || bytes != int64(len(live))*10<<30 {
					r.Fatalf("%d machines live, the ledger counts %d with %d MiB and %d bytes", len(live), machines, memory, bytes)
				}
				if want := len(live)*2 + len(resting)*2; len(ledger.Addresses) != want {
					r.Fatalf("%d addresses are taken, the model has %d", len(ledger.Addresses), want)
				}
			},
		})
	})
}

func keys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
