package api

import "time"

// Watch asks for a board: all that one of its parts selects.
type Watch struct {
	What     []string `json:"what,omitempty"`     // machines, as everywhere: their run that is not over, else the last one
	Machines []string `json:"machines,omitempty"` // the same, by their whole ids
	Active   bool     `json:"active,omitempty"`
	Pool     string   `json:"pool,omitempty"` // Active: only this pool's
	Runs     []string `json:"runs,omitempty"` // these, over or not: so that a board keeps what it has shown
}

// MaxWatched bounds What, Machines and Runs each, and the runs of one board.
const MaxWatched = 10_000

// Board is how runs stand at one moment.
type Board struct {
	Now  time.Time `json:"now"` // serve's clock, which all times here are by
	Runs []Watched `json:"runs"`
	// Omitted says that more runs are active than a board shows.
	Omitted bool `json:"omitted,omitempty"`
}

// Watched is a run on a board.
type Watched struct {
	Run
	Image string    `json:"image"`
	Since time.Time `json:"since,omitzero"` // when the step at hand was begun
	Done  int       `json:"done"`           // steps behind it, of Steps in its table
	Steps int       `json:"steps"`
	// Left is what is left by the median of earlier runs of this image on this pool, in seconds; nil when there are too few, or when the
	// run goes nowhere. Of says how many.
	Left *float64 `json:"left_seconds,omitempty"`
	Of   int      `json:"of,omitempty"`
	// Slow: the step at hand takes longer than 95 % of those runs did.
	Slow  bool    `json:"slow,omitempty"`
	Guest []Stage `json:"guest,omitempty"` // how far its guest has come, the last one being where it is
}

// Stages of a guest.
const (
	StageBooting    = "booting"    // its VM was started
	StageAddressed  = "addressed"  // it was seen to have its address: by the hypervisor's guest agent, or by its login port, which refused
	StageReachable  = "reachable"  // it answered on its login port with the host key that is expected
	StageInstalling = "installing" // the post-install was begun
	StageInstalled  = "installed"  // the post-install's checks passed
)

// Stage is one that a guest has reached, and when.
type Stage struct {
	Stage string    `json:"stage"`
	At    time.Time `json:"at"`
}

// Stats says how long runs and their steps took.
type Stats struct {
	Since time.Time `json:"since"`
	// Runs came to their end since then and are counted; Repaired did as well and are not, because an operator had a hand in them.
	Runs     int `json:"runs"`
	Repaired int `json:"repaired"`
	// Omitted: there are more, and only the newest were looked at.
	Omitted bool       `json:"omitted,omitempty"`
	Method  string     `json:"method"` // of the percentiles
	Rows    []StatsRow `json:"rows"`
}

// StatsRow is one step, or the whole run where Step is "", of one process, image and pool. Times are seconds.
type StatsRow struct {
	Process string  `json:"process"`
	Image   string  `json:"image"`
	Pool    string  `json:"pool"` // "" is not known any more
	Step    string  `json:"step,omitempty"`
	Count   int     `json:"count"`
	P50     float64 `json:"p50"`
	P95     float64 `json:"p95"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
}
