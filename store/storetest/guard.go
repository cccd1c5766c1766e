package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
)

// guardBundle is a database with uninstalls in hand of machines in pool-a.
type guardBundle struct {
	*bundle
	limit int
	told  int
}

func (b *guardBundle) uninstalling(holder string) orchestrator.Claim {
	b.Helper()
	machine := b.place(b.taken(holder)).Machine.ID
	must(b, b.db.Exec(b.Context(), `UPDATE runs SET status = 'done', holder = '' WHERE machine = '`+machine+`'`))
	return b.claim(b.accept(b.uninstall(machine)).Run, holder)
}

func (b *guardBundle) begin(s Store, c orchestrator.Claim) (orchestrator.Hold, bool, error) {
	return s.Begin(b.Context(), orchestrator.Beginning{
		Run: c.Run, Tenant: c.Machine.Tenant, Subject: orchestrator.PoolSubject("pool-a"), Limit: b.limit, Window: 10 * time.Minute,
	}, func(h orchestrator.Hold) orchestrator.Event {
		b.told++
		return orchestrator.NewEvent(orchestrator.EventHalted, h.Since, orchestrator.EventData{Process: "uninstall", Message: h.Reason, Source: "panel", OrderID: c.Run.Order.ID})
	})
}

func (b *guardBundle) may(s Store, c orchestrator.Claim, want bool) orchestrator.Hold {
	b.Helper()
	halt, halted, err := b.begin(s, c)
	must(b, err)
	if halted == want {
		b.Errorf("run %s halted: %t, %+v", c.Run.ID, halted, halt)
	}
	return halt
}

// waits puts a halted run down, as the engine does.
func (b *guardBundle) waits(c orchestrator.Claim) {
	b.Helper()
	c.Run.Status, c.Run.WakeAt, c.Run.WakeKey = orchestrator.StatusWaiting, time.Now().Add(time.Hour), orchestrator.WakeHalt("pool:pool-a", "uninstall")
	b.commit(orchestrator.Commit{Run: c.Run, Release: true})
}

func guards(t *testing.T, h Harness) {
	setup := func(t *testing.T) *guardBundle {
		b := &guardBundle{bundle: setup(t, h), limit: 2}
		b.estate.Pools = b.estate.Pools[:1]
		return b
	}

	t.Run("HaltsAndGoesOn", func(t *testing.T) {
		b := setup(t)
		var claims []orchestrator.Claim
		for range 5 {
			claims = append(claims, b.uninstalling("a"))
		}
		other := b.db.Open(t) // another worker's
		b.may(b.store, claims[0], true)
		b.may(other, claims[1], true)
		b.may(b.store, claims[1], true) // asks again, and counts once
		halt := b.may(b.store, claims[2], false)
		for _, want := range []string{"2 began within 10m0s, as many as may", "2 by panel for tenant acme", "the next one was ordered by panel"} {
			if !strings.Contains(halt.Reason, want) {
				t.Errorf("it lacks %q: %s", want, halt.Reason)
			}
		}
		if again := b.may(other, claims[3], false); again.Reason != halt.Reason || !again.Since.Equal(halt.Since) {
			t.Errorf("another worker has %+v, this one %+v", again, halt)
		}
		b.may(b.db.Open(t), claims[0], true) // what was let begin goes on, after a restart too
		if held, err := other.Holds(t.Context()); err != nil || len(held) != 1 || held[0].String() != halt.String() || held[0].Kind != orchestrator.HaltOf("uninstall") {
			t.Errorf("%+v, %v", held, err)
		}
		if n := b.value(`SELECT count(*) FROM outbox WHERE type = 'slipway.guard.halted'`); n != 1 || b.told != 1 {
			t.Errorf("%d events, made %d times", n, b.told)
		}
		l, err := b.store.Ledger(t.Context())
		must(t, err)
		if len(l.Held) != 0 {
			t.Errorf("the pool takes no machine: %+v", l.Held)
		}
		b.waits(claims[2])
		b.waits(claims[3])
		if _, err := b.store.EndHalt(t.Context(), "pool:pool-b", "uninstall", "0:root", "x"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("another pool's: %v", err)
		}
		if let, err := b.store.EndHalt(t.Context(), "pool:pool-a", "uninstall", "0:root", "a customer leaves"); let != 2 || err != nil {
			t.Errorf("%d go on, %v", let, err)
		}
		for _, c := range claims[2:4] { // they were woken, and nobody counts them
			again := b.claim(c.Run.ID, "b")
			if again.Run.Begun.IsZero() {
				t.Errorf("run %s was not let begin", c.Run.ID)
			}
			b.may(b.store, again, true)
		}
		b.may(b.store, claims[4], true)
		b.may(b.store, b.uninstalling("a"), true)
		b.may(b.store, b.uninstalling("a"), false) // two more began since
		if n := b.value(`SELECT count(*) FROM acts WHERE subject = 'pool:pool-a' AND (actor = 'guard' AND verb = 'halt of uninstall' OR actor = '0:root' AND verb = 'halt of uninstall ended')`); n != 3 {
			t.Errorf("%d acts", n)
		}
	})

	t.Run("OnlyWithinTheWindow", func(t *testing.T) {
		b := setup(t)
		for range 2 {
			b.may(b.store, b.uninstalling("a"), true)
		}
		must(t, b.db.Exec(t.Context(), `UPDATE runs SET begun_at = begun_at - 600000000 WHERE begun_at > 0`))
		for range 2 {
			b.may(b.store, b.uninstalling("a"), true)
		}
		b.may(b.store, b.uninstalling("a"), false)
	})

	t.Run("NotAnothers", func(t *testing.T) {
		b := setup(t)
		c := b.uninstalling("a")
		c.Run.Fence++
		if _, _, err := b.begin(b.store, c); !errors.Is(err, orchestrator.ErrFenced) {
			t.Errorf("a lost run: %v", err)
		}
	})

	// However many ask at once, through however many connections, no more begin than may.
	t.Run("AllAtOnce", func(t *testing.T) {
		b := setup(t)
		b.limit = 5
		stores := []Store{b.store, b.db.Open(t)}
		let := make(chan string, 10)
		var asking sync.WaitGroup
		for n := range 10 {
			c := b.uninstalling(fmt.Sprint(n))
			asking.Go(func() {
				_, halted, err := stores[n%2].Begin(t.Context(), orchestrator.Beginning{Run: c.Run, Subject: "pool:pool-a", Limit: b.limit, Window: 10 * time.Minute},
					func(h orchestrator.Hold) orchestrator.Event {
						return orchestrator.NewEvent(orchestrator.EventHalted, h.Since, orchestrator.EventData{})
					})
				if err != nil {
					t.Error(err)
				}
				if !halted {
					let <- c.Run.ID
				}
			})
		}
		asking.Wait()
		if len(let) != b.limit {
			t.Errorf("%d began", len(let))
		}
	})
}
