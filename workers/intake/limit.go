package intake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"slipway/orchestrator"
)

const (
	// fresh is how long a tenant's load is believed; what this worker takes meanwhile is counted.
	fresh = time.Second
	// maxTenants bounds the memory; a tenant that is forgotten is looked up again.
	maxTenants = 10_000
	// maxKeep bounds one transaction.
	maxKeep = 256
)

// limits holds tenants to what they may have under way. What goes beyond is kept in the store, which costs a small part of what taking it
// would: so the orders of the others, which stand behind it in the queue, are soon reached. Safe for concurrent use.
type limits struct {
	backlog orchestrator.Backlog
	most    int // runs under way per tenant
	now     func() time.Time

	mu    sync.Mutex
	loads map[string]*load

	keeping sync.Mutex // guards what follows
	waiting []*keeper
	busy    bool
}

type load struct {
	orchestrator.TenantLoad
	read time.Time
}

// keeper is an order on its way into the backlog.
type keeper struct {
	order orchestrator.KeptOrder
	done  chan error
	lead  chan struct{} // closed when it is its turn to commit what waits
}

// full reports whether the tenant's next order has to wait, and counts one that has not.
func (l *limits) full(ctx context.Context, tenant string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known, ok := l.loads[tenant]
	if !ok || l.now().Sub(known.read) >= fresh {
		read := l.now()
		now, err := l.backlog.Load(ctx, tenant)
		if err != nil {
			return false, err
		}
		if !ok && len(l.loads) >= maxTenants {
			clear(l.loads)
		}
		known = &load{TenantLoad: now, read: read}
		l.loads[tenant] = known
	}
	if known.Kept > 0 || known.UnderWay >= l.most {
		known.Kept++ // from here on all wait, in their order
		return true, nil
	}
	known.UnderWay++
	return false, nil
}

// keep returns when the order is committed to the backlog. Those that come at one moment share a transaction: the first commits for all that
// wait when it begins, and then passes that on.
func (l *limits) keep(ctx context.Context, order orchestrator.Order, body []byte) error {
	sum := sha256.Sum256(body)
	k := &keeper{done: make(chan error, 1), lead: make(chan struct{}), order: orchestrator.KeptOrder{
		Tenant: order.Tenant, Order: orchestrator.OrderKey{Source: order.Source, ID: order.ID}, SHA256: hex.EncodeToString(sum[:]), Body: body,
	}}
	l.keeping.Lock()
	l.waiting = append(l.waiting, k)
	leads := !l.busy
	l.busy = true
	l.keeping.Unlock()
	if !leads {
		select {
		case err := <-k.done:
			return err
		case <-k.lead:
		}
	}
	l.keeping.Lock()
	n := min(len(l.waiting), maxKeep)
	batch := l.waiting[:n:n]
	l.waiting = append([]*keeper(nil), l.waiting[n:]...)
	l.keeping.Unlock()
	orders := make([]orchestrator.KeptOrder, n)
	for i, one := range batch {
		orders[i] = one.order
	}
	err := l.commit(ctx, orders)
	for _, one := range batch {
		one.done <- err
	}
	l.keeping.Lock()
	if l.busy = len(l.waiting) > 0; l.busy {
		close(l.waiting[0].lead)
	}
	l.keeping.Unlock()
	return <-k.done
}

// commit never panics, or those who wait would for ever.
func (l *limits) commit(ctx context.Context, orders []orchestrator.KeptOrder) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = orchestrator.Errorf("intake", orchestrator.Permanent, "keeping orders panicked with %s", orchestrator.Panic(value))
		}
	}()
	return l.backlog.Keep(ctx, orders, l.event)
}

// event names the tenant and its limit.
func (l *limits) event(o orchestrator.KeptOrder) orchestrator.Event {
	return orchestrator.NewEvent(orchestrator.EventLimited, l.now(), orchestrator.EventData{
		Tenant: o.Tenant, Source: o.Order.Source, OrderID: o.Order.ID,
		Message: fmt.Sprintf("tenant %s has %d orders under way, as many as it may (tenant_runs): this order and further ones are kept, and taken in their order as others end", o.Tenant, l.most),
	})
}

// receive takes an order of the queue, or keeps it when its tenant has as much under way as it may.
func (i *Intake) receive(ctx context.Context, body []byte) error {
	order, err := i.read(ctx, body)
	if err != nil {
		return err
	}
	if i.limits != nil && order.Type != orchestrator.OrderConsole { // somebody waits for a console, and it begins no run
		full, err := i.limits.full(ctx, order.Tenant)
		if err != nil {
			return err
		}
		if full {
			return i.limits.keep(ctx, order, body)
		}
	}
	_, err = i.accept(ctx, order, "queue")
	return err
}

// Admit takes kept orders whose tenant has room by now, the oldest first, and returns how many it took or refused. One worker at a time
// calls it. An error means that the store is away.
func (i *Intake) Admit(ctx context.Context) (n int, err error) {
	if i.limits == nil {
		return 0, nil
	}
	tenants, err := i.Backlog.Kept(ctx)
	if err != nil {
		return 0, err
	}
	for _, t := range tenants {
		room := min(i.TenantRuns-t.UnderWay, maxAdmit)
		if room <= 0 {
			continue
		}
		orders, err := i.Backlog.NextKept(ctx, t.Tenant, room)
		if err != nil {
			return n, err
		}
		for _, o := range orders {
			taken, err := i.admit(ctx, o)
			if err != nil {
				return n, err
			}
			if taken {
				n++
			}
		}
	}
	return n, nil
}

// maxAdmit bounds what is taken of one tenant at a time, so that the next one's turn comes.
const maxAdmit = 32

// admit takes one kept order. A refusal is its end, too: its panel was told. What fails in another way is put off, longer each time, and
// never dropped.
func (i *Intake) admit(ctx context.Context, o orchestrator.KeptOrder) (bool, error) {
	err := i.guarded(func() error {
		_, err := i.Take(ctx, o.Body, "queue")
		return err
	})
	var fields orchestrator.FieldErrors
	switch {
	case err == nil, errors.As(err, &fields):
		return true, i.Backlog.DropKept(ctx, o.ID)
	case errors.Is(err, orchestrator.ErrStoreAway) || ctx.Err() != nil:
		return false, err
	}
	i.Log.Error("a kept order is put off", "source", o.Order.Source, "order", o.Order.ID, "tenant", o.Tenant, "tries", o.Tries+1, "error", err)
	return false, i.Backlog.PutOff(ctx, o.ID, min(i.Pause<<min(o.Tries, 6), 5*time.Minute))
}
