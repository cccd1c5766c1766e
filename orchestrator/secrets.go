package orchestrator

import (
	"context"
	"time"
)

// VaultState is what all workers agree on about the keys that secrets are sealed under.
type VaultState struct {
	// Sealing is the id of the key that seals; "" until keys were first exchanged in a database that had secrets before keys had ids.
	Sealing string
	// Keys are the ids that were held when it was last made sure that every value opens.
	Keys []string
}

// KeyHolder is a process that opens secrets.
type KeyHolder struct {
	Holder string
	Keys   []string
	SeenAt time.Time // by the database's clock
	Live   bool      // seen lately
}

// SealedValue is one sealed value of a machine, wherever it lies.
type SealedValue struct {
	Machine string
	Name    string // as the Vault knows it
	Sealed  Sealed
}

// Secrets is how the keys of a running installation are exchanged.
type Secrets interface {
	// JoinVault tells the others which keys a process holds; it is repeated every minute. next, when given, sees the state and returns the
	// new one, or refuses; one process at a time decides.
	JoinVault(ctx context.Context, holder string, keys []string, next func(VaultState) (VaultState, error)) (VaultState, error)
	// LeaveVault is for an orderly end.
	LeaveVault(ctx context.Context, holder string) error
	Vault(ctx context.Context) (VaultState, []KeyHolder, error)
	// SealWith makes a key the one that seals, and records the act. FieldErrors name the live holders that do not have it.
	SealWith(ctx context.Context, key, actor, reason string) error
	// SealedValues reads all values of up to limit machines whose ids come after one, and the id to go on after; "" at the end.
	SealedValues(ctx context.Context, after string, limit int) (values []SealedValue, next string, err error)
	// Reseal replaces every value of a machine by what f makes of it, in one transaction, and returns how many became others. Values that
	// were equal stay equal. On an error of f nothing is changed.
	Reseal(ctx context.Context, machine string, f func(SealedValue) (Sealed, error)) (int, error)
}
