package orchestrator

import (
	"context"
	"time"
)

// EventLimited tells that a tenant has as much under way as it may: its further orders are kept and taken one after the other, as what is
// under way ends. It comes once, until none of its orders waits any more.
const EventLimited = "slipway.tenant.limited"

// KeptOrder is an order that waits for its tenant's turn, as it came.
type KeptOrder struct {
	ID     int64
	Tenant string
	Order  OrderKey
	SHA256 string // of Body: the same order that is delivered again is kept once
	Body   []byte
	Tries  int // how often it could not be taken though it was its turn
}

// TenantLoad is what a tenant has.
type TenantLoad struct {
	Tenant   string
	UnderWay int       // runs that are neither over nor parked
	Kept     int       // orders that wait; by Load 1 for any
	Oldest   time.Time // when the first of them came; not by Load
}

// Backlog keeps the orders of tenants that have as much under way as they may. Nothing in it is ever dropped: an order leaves it when its run
// is committed, or its refusal.
type Backlog interface {
	// Load is one tenant's.
	Load(ctx context.Context, tenant string) (TenantLoad, error)
	// Keep commits orders, in this order; those that are kept already stay where they are. limited, when none of a tenant's orders was kept
	// before, makes the event that is committed with its first one.
	Keep(ctx context.Context, orders []KeptOrder, limited func(KeptOrder) Event) error
	// Kept lists the tenants whose orders wait, by name.
	Kept(ctx context.Context) ([]TenantLoad, error)
	// NextKept are the oldest orders of a tenant that may be tried now.
	NextKept(ctx context.Context, tenant string, limit int) ([]KeptOrder, error)
	// DropKept forgets one whose run or refusal is committed; PutOff leaves one for later.
	DropKept(ctx context.Context, id int64) error
	PutOff(ctx context.Context, id int64, pause time.Duration) error
}
