package api

import "time"

// Maintenance is a pool, group or member that somebody works on, or a pool in which the guard keeps a process' runs from beginning.
type Maintenance struct {
	Subject string    `json:"subject"`         // "pool:ID", "group:ID" or "member:GROUP/NAME"
	Halts   string    `json:"halts,omitempty"` // the process, of a halt
	End     string    `json:"end,omitempty"`   // the command that ends a halt
	Actor   string    `json:"actor"`
	Reason  string    `json:"reason"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until,omitzero"`
	Waiting int       `json:"waiting"` // runs that wait for its end
	InHand  int       `json:"in_hand"` // runs that are still at a step there
	Tasks   int       `json:"tasks"`   // runs whose task or job was begun there and is not known to have ended
}

// SetMaintenance asks to begin or end one. Subject may leave out the kind where the name is enough.
type SetMaintenance struct {
	Subject string    `json:"subject"`
	On      bool      `json:"on"`
	Until   time.Time `json:"until,omitzero"`
	Reason  string    `json:"reason"`
	Yes     bool      `json:"yes"`
}

// Release asks to end a halt. Process may be left out where only one is halted.
type Release struct {
	Subject string `json:"subject"`
	Process string `json:"process,omitempty"`
	Reason  string `json:"reason"`
	Yes     bool   `json:"yes"`
}

// Worker is a worker as the others see it.
type Worker struct {
	Worker      string    `json:"worker"`
	Version     string    `json:"version"`
	Started     time.Time `json:"started"`
	Seen        time.Time `json:"seen"`
	Here        bool      `json:"here,omitempty"` // the one that answers
	Gone        bool      `json:"gone,omitempty"` // it has said nothing for a while
	Held        int       `json:"held"`           // runs in hand
	Drained     time.Time `json:"drained,omitzero"`
	DrainedBy   string    `json:"drained_by,omitempty"`
	DrainReason string    `json:"drain_reason,omitempty"`
	Idle        bool      `json:"idle,omitempty"` // drained, and nothing is in hand any more
}

// Drain asks a worker to take nothing new, or to work again. Worker is a holder or the beginning of one; "" is the one that answers.
type Drain struct {
	Worker string `json:"worker,omitempty"`
	On     bool   `json:"on"`
	Reason string `json:"reason"`
	Yes    bool   `json:"yes"`
}

// Drained answers it.
type Drained struct {
	Worker string   `json:"worker"`
	Plan   []string `json:"plan"`
	Done   bool     `json:"done"`
}
