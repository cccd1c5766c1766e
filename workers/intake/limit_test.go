package intake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/workers/intake/message"
	"slipway/workers/queue"
)

// shelf is a Backlog in memory.
type shelf struct {
	mu       sync.Mutex
	underWay map[string]int
	kept     []orchestrator.KeptOrder
	events   []orchestrator.Event
	keeps    int // transactions
	asked    int
	gate     chan struct{} // when set, a transaction waits for it
	putOff   []time.Duration
	answer   error
}

func (s *shelf) Load(_ context.Context, tenant string) (orchestrator.TenantLoad, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	l := orchestrator.TenantLoad{Tenant: tenant, UnderWay: s.underWay[tenant]}
	for _, o := range s.kept {
		if o.Tenant == tenant {
			l.Kept = 1
		}
	}
	return l, s.answer
}

func (s *shelf) Keep(_ context.Context, orders []orchestrator.KeptOrder, limited func(orchestrator.KeptOrder) orchestrator.Event) error {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keeps++
	if s.answer != nil {
		return s.answer
	}
	for _, o := range orders {
		if !slices.ContainsFunc(s.kept, func(k orchestrator.KeptOrder) bool { return k.Tenant == o.Tenant }) {
			s.events = append(s.events, limited(o))
		}
		o.ID = int64(len(s.kept) + 1)
		s.kept = append(s.kept, o)
	}
	return nil
}

func (s *shelf) Kept(context.Context) ([]orchestrator.TenantLoad, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := map[string]int{}
	var out []orchestrator.TenantLoad
	for _, o := range s.kept {
		if n[o.Tenant]++; n[o.Tenant] == 1 {
			out = append(out, orchestrator.TenantLoad{Tenant: o.Tenant, UnderWay: s.underWay[o.Tenant]})
		}
	}
	return out, nil
}

func (s *shelf) NextKept(_ context.Context, tenant string, limit int) (out []orchestrator.KeptOrder, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.kept {
		if o.Tenant == tenant && len(out) < limit {
			out = append(out, o)
		}
	}
	return out, nil
}

func (s *shelf) DropKept(_ context.Context, id int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = slices.DeleteFunc(s.kept, func(o orchestrator.KeptOrder) bool { return o.ID == id })
	return nil
}

func (s *shelf) PutOff(_ context.Context, _ int64, pause time.Duration) error {
	s.putOff = append(s.putOff, pause)
	return nil
}

func limitedBy(t *testing.T, most int) (*bundle, *shelf) {
	t.Helper()
	b := setup(t)
	s := &shelf{underWay: map[string]int{}}
	c := b.Config
	c.Backlog, c.TenantRuns = s, most
	b.Intake = New(c)
	return b, s
}

func orderOf(t *testing.T, tenant string, n int) queue.Delivery {
	t.Helper()
	m, err := message.EncodeOrder(orchestrator.Order{
		Source: "panel", ID: fmt.Sprint(tenant, n), Type: orchestrator.OrderInstall, Tenant: tenant, Name: fmt.Sprint("web-", n), Image: "debian-12",
		Plan: orchestrator.Plan{VCPUs: 1, MemoryMiB: 1024, DiskGiB: 20}, Firewall: []orchestrator.FirewallRule{},
		SSHKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKX0jJSTlTwXlXx0oMzxXxYoHTzkSOBcGzTBzjk2bEN7 customer"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return queue.Delivery{Body: m.Body}
}

// A tenant gets as much under way as it may; what goes beyond is acknowledged and kept in its order, with one event that names tenant and
// limit; others are not touched by it. Kept orders are taken as room comes, and while some wait no later one overtakes them.
func TestTenantIsHeldToItsLimit(t *testing.T) {
	b, s := limitedBy(t, 3)
	for n := range 10 {
		if v := b.Handle(t.Context(), orderOf(t, "flood", n)); v != queue.Ack() {
			t.Fatalf("order %d: %v", n, v)
		}
	}
	b.Handle(t.Context(), orderOf(t, "other", 0))
	if len(b.taken) != 4 || len(s.kept) != 7 || s.asked != 2 {
		t.Fatalf("%d taken, %d kept, the store was asked %d times for two tenants", len(b.taken), len(s.kept), s.asked)
	}
	if len(s.events) != 1 || !strings.Contains(string(s.events[0].Data), "tenant flood has 3 orders under way") || s.events[0].Order.ID != "flood3" {
		t.Errorf("%+v", s.events)
	}
	s.underWay["flood"] = 3
	if n, err := b.Admit(t.Context()); n != 0 || err != nil {
		t.Errorf("%d taken without room, %v", n, err)
	}
	s.underWay["flood"] = 1
	if n, err := b.Admit(t.Context()); n != 2 || err != nil || len(s.kept) != 5 {
		t.Errorf("%d taken, %v, %d kept", n, err, len(s.kept))
	}
	if last := b.taken[len(b.taken)-1].Order.ID; last != "flood4" {
		t.Errorf("taken last: %s", last)
	}
	s.underWay["flood"] = 0
	b.limits.now = func() time.Time { return time.Now().Add(time.Hour) } // the load is read again
	if b.Handle(t.Context(), orderOf(t, "flood", 10)); len(s.kept) != 6 {
		t.Error("a later order overtook those that wait")
	}
}

// A kept order that is refused at its turn is told and gone; one that fails otherwise is put off; with the database away nothing is touched.
func TestKeptOrderIsNeverDropped(t *testing.T) {
	b, s := limitedBy(t, 1)
	s.underWay["flood"] = 1
	b.Handle(t.Context(), orderOf(t, "flood", 0))
	s.underWay["flood"] = 0
	b.answer = orchestrator.E("store", orchestrator.Transient, orchestrator.ErrStoreAway)
	if _, err := b.Admit(t.Context()); !errors.Is(err, orchestrator.ErrStoreAway) || len(s.kept) != 1 || len(s.putOff) != 0 {
		t.Errorf("database away: %v, %d kept", err, len(s.kept))
	}
	b.answer = errors.New("a constraint nobody knows")
	if n, err := b.Admit(t.Context()); n != 0 || err != nil || len(s.kept) != 1 || len(s.putOff) != 1 {
		t.Errorf("a failure: %d, %v, %d kept, put off %v", n, err, len(s.kept), s.putOff)
	}
	b.answer = orchestrator.FieldErrors{{Field: "name", Problem: "is taken", Fix: "use another"}}
	if n, err := b.Admit(t.Context()); n != 1 || err != nil || len(s.kept) != 0 || len(b.refused) != 1 {
		t.Errorf("a refusal: %d, %v, %d kept, %d refused", n, err, len(s.kept), len(b.refused))
	}
	s.underWay["flood"] = 1
	b.limits.now = func() time.Time { return time.Now().Add(time.Hour) }
	s.answer = orchestrator.E("store", orchestrator.Transient, orchestrator.ErrStoreAway)
	if v := b.Handle(t.Context(), orderOf(t, "flood", 1)); v == queue.Ack() {
		t.Error("an order that could not be kept was acknowledged")
	}
}

// Orders that come while a transaction is under way share the next one, and each hears of its own.
func TestKeepingIsShared(t *testing.T) {
	const orders = 300
	b, s := limitedBy(t, 1)
	s.underWay["flood"] = 1
	s.gate = make(chan struct{})
	var handlers sync.WaitGroup
	send := func(n int) {
		d := orderOf(t, "flood", n)
		handlers.Go(func() {
			if v := b.Handle(t.Context(), d); v != queue.Ack() {
				t.Errorf("%v", v)
			}
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	waiting := func(n int) {
		t.Helper()
		for range 30_000 {
			b.limits.keeping.Lock()
			all := len(b.limits.waiting) == n && b.limits.busy
			b.limits.keeping.Unlock()
			if all {
				return
			}
			<-tick.C
		}
		t.Fatalf("there never were %d orders waiting", n)
	}
	send(0)
	waiting(0) // the first is at its transaction
	for n := range orders - 1 {
		send(n + 1)
	}
	waiting(orders - 1)
	close(s.gate)
	handlers.Wait()
	if len(s.kept) != orders || len(s.events) != 1 || s.keeps != 3 {
		t.Errorf("%d kept in %d transactions, %d events", len(s.kept), s.keeps, len(s.events))
	}
}
