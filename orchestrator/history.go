package orchestrator

import (
	"context"
	"time"
)

// History is what boards and statistics read: it changes nothing, and its answers are bounded.
type History interface {
	// Watched returns the runs that a board shows, the oldest first, each once.
	Watched(ctx context.Context, f WatchFilter) ([]WatchedRun, error)
	// Durations returns how long runs that came to their end took, the newest first.
	Durations(ctx context.Context, f DurationFilter) ([]RunDurations, error)
}

// WatchFilter selects runs for a board: all that one of its parts selects.
type WatchFilter struct {
	Active   bool     // every run that is not over
	Pool     string   // of those, only this pool's and those that were ordered for it and are not placed yet
	Machines []string // the run of each that is not over, else the one created last
	Runs     []string // these, over or not
	Steps    []string // journal lines of these steps come along
	Limit    int      // of the active ones, the newest; 0 is 1000
}

// WatchedRun is a run with what a board says beside it. Pool stays known after the machine's placement was given back.
type WatchedRun struct {
	RunView
	Image string
	Lines []Attempt // of WatchFilter.Steps, in the journal's order
}

// DurationFilter selects runs that came to their end. Zero values select all.
type DurationFilter struct {
	Since   time.Time
	Process string
	Pool    string
	Image   string
	Limit   int // the newest so many; 0 is 1000
}

// RunDurations is how long a run took, from its order's commit to its end, and each of its steps, from its first attempt's start to its last
// one's end: waits, pauses and repetitions included.
type RunDurations struct {
	Run     string
	Process string
	Image   string
	Pool    string // "" when it was given back by a version that did not keep it
	Total   time.Duration
	// Repaired: an operator had a hand in it, so that its times are not those of the work alone.
	Repaired bool
	Steps    []StepDuration
}

// StepDuration is one step's part.
type StepDuration struct {
	Step    string
	Took    time.Duration
	Skipped bool // its row did not apply
}
