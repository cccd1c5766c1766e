package api

import (
	"time"

	"slipway/orchestrator"
)

// Trail is a page of the operators' audit trail, with the trail's head at the same moment.
type Trail struct {
	Acts []TrailLine `json:"acts"`
	Head TrailHead   `json:"head"`
}

// TrailLine is one act. Its time has the microseconds that its hash covers.
type TrailLine struct {
	ID      int64     `json:"id"`
	At      time.Time `json:"at"`
	Actor   string    `json:"actor"`
	Verb    string    `json:"verb"`
	Subject string    `json:"subject"`
	Reason  string    `json:"reason"`
	Hash    string    `json:"hash"`
}

// TrailHead is the newest line.
type TrailHead struct {
	ID   int64  `json:"id"`
	Hash string `json:"hash"`
}

// Act is the line as it is hashed.
func (l TrailLine) Act() orchestrator.Act { return orchestrator.Act(l) }
