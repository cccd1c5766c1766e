// Package storetest is the suite that every store passes. A backend brings a Harness; the suite brings the meaning.
package storetest

import (
	"context"
	"flag"
	"testing"

	"slipway/orchestrator"
)

// Database is a migrated, empty database of one test's own.
type Database interface {
	// Open opens a store on it, as another process would. It is closed when the test ends.
	Open(t testing.TB) Store
	// Exec runs SQL past the store. The constraints must hold against that too.
	Exec(ctx context.Context, sql string) error
	// Value reads one number.
	Value(ctx context.Context, sql string) (int64, error)
}

// Store is what a backend's Open returns.
type Store interface {
	orchestrator.Store
	Counters() (commits, roundTrips int64)
}

// Harness makes databases.
type Harness struct {
	New func(t testing.TB) Database
	// TripsPerCommit is what a group commit without decisions costs.
	TripsPerCommit int64
}

// Exercise runs the suite.
func Exercise(t *testing.T, h Harness) {
	// Each check is a history of some thirty transactions; who wants more of them says -rapid.checks.
	if f := flag.Lookup("rapid.checks"); f != nil && f.Value.String() == f.DefValue {
		must(t, f.Value.Set("20"))
	}
	for name, test := range map[string]func(*testing.T, Harness){
		"Intake":      intake,
		"Uninstall":   uninstall,
		"Alter":       alter,
		"Claims":      claims,
		"Fencing":     fencing,
		"Commit":      commit,
		"Placement":   placement,
		"Constraints": constraints,
		"Appliances":  appliances,
		"Outbox":      outbox,
		"Prune":       prune,
		"Operators":   operators,
		"Pressure":    pressure,
		"Storm":       storm,
		"Ledger":      ledgerProperties,
		"Cancel":      cancel,
		"Repair":      repair,
		"Foreign":     foreign,
		"Books":       books,
		"Lineage":     lineage,
		"Import":      importing,
		"Passes":      passes,
		"Consoles":    consoles,
		"History":     history,
		"Holds":       holds,
		"Workers":     workers,
		"Trail":       trail,
		"Secrets":     secrets,
		"Turns":       turns,
		"Backlog":     backlog,
		"Versions":    versions,
		"Guards":      guards,
		"Adoption":    adoption,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, h)
		})
	}
}
