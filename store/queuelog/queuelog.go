package queuelog

import (
	"slipway/orchestrator"
	"slipway/store/internal/sqlstore"
	"slipway/workers/queue/embedded"
)

// maxEvents is how many events are kept for listeners that are slow: the newest.
const maxEvents = 100_000

// log is embedded.Log over the tables queue_*.
type log struct {
	tables sqlstore.Tables
	keep   int64 // events
}

var _ embedded.Log = (*log)(nil)

// For returns the queue that lives in a store's database; ok is false for a store that is not one of ours. It is safe for concurrent
// use, also by several processes, and needs no closing: it is usable as long as the store is. Times are the database's. A database that
// is away is kind Transient and wraps orchestrator.ErrStoreAway: nobody knows then whether the change was made.
func For(store orchestrator.Store) (kept embedded.Log, ok bool) {
	lender, ok := store.(interface{ Tables() sqlstore.Tables })
	if !ok {
		return nil, false
	}
	return &log{tables: lender.Tables(), keep: maxEvents}, true
}
