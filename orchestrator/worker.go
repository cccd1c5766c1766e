package orchestrator

import (
	"context"
	"time"
)

// Worker is a process that drives runs, as the others see it.
type Worker struct {
	Holder  string // its name on leases: host:pid:random
	Version string
	Started time.Time
	Seen    time.Time // when it last said that it is there, by the database's clock
	Held    int       // runs in hand at that moment
	// Knows are the places at which it can take runs up, as in its Asks.
	Knows []string
	// Drained is when it was told to take nothing new, zero when it was not; DrainedBy and DrainReason say by whom and why. Idle says that
	// it has heeded that and has nothing in hand.
	Drained     time.Time
	DrainedBy   string
	DrainReason string
	Idle        bool
}

// Workers is where workers say that they are there.
type Workers interface {
	// Beat writes down that the worker is there (holder, version, started, held, idle, knows) and returns it as it is known, with what it was told
	// about draining. Workers that have not been seen for ten minutes are forgotten.
	Beat(ctx context.Context, w Worker) (Worker, error)
	// Workers lists them by holder.
	Workers(ctx context.Context) ([]Worker, error)
	// Drain tells a worker to take nothing new, or (on false) to work again; ErrNotFound when it is not known. Recorded. It holds for as long
	// as the process lives.
	Drain(ctx context.Context, holder string, on bool, actor, reason string) error
	// Leave forgets a worker that stops.
	Leave(ctx context.Context, holder string) error
}
