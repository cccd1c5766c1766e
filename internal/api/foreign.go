package api

import "slipway/orchestrator"

// Scan asks to look at a pool or at appliances. Without Yes nothing is written.
type Scan struct {
	Yes    bool   `json:"yes"`
	Reason string `json:"reason"`
}

// Scanned answers a Scan.
type Scanned struct {
	Done    bool            `json:"done"` // what is new was reserved
	Sources []ScannedSource `json:"sources"`
}

// Conflicts counts what is a stranger's and a machine's at once.
func (s Scanned) Conflicts() int {
	n := 0
	for _, source := range s.Sources {
		for _, f := range source.Found {
			if f.State == orchestrator.SightingConflict {
				n++
			}
		}
	}
	return n
}

// ScannedSource is one pool or one appliance.
type ScannedSource struct {
	Source    string    `json:"source"`
	Problem   string    `json:"problem,omitempty"` // why it could not be read; nothing is known of it then
	Found     []Sighted `json:"found"`
	Gone      []Sighted `json:"gone,omitempty"`      // seen here before and not now; still reserved
	Elsewhere int       `json:"elsewhere,omitempty"` // addresses outside of every pool's networks
	Notes     []string  `json:"notes,omitempty"`
}

// Sighted is an address, a MAC or a console port of somebody else's.
type Sighted struct {
	Kind    string `json:"kind"`
	Scope   string `json:"scope"` // pool, or console group
	Value   string `json:"value"`
	Role    string `json:"role,omitempty"`
	Source  string `json:"source,omitempty"`
	Object  string `json:"object"`
	Name    string `json:"name,omitempty"`
	Place   string `json:"place,omitempty"`
	Peer    string `json:"peer,omitempty"` // the address that a rule translates it to
	State   string `json:"state"`          // new, known, own or conflict
	Machine string `json:"machine,omitempty"`
	// Holder is that machine's tenant/name, and Next the command that helps, of a conflict.
	Holder string `json:"holder,omitempty"`
	Next   string `json:"next,omitempty"`
}

// Foreign is what is reserved as somebody else's.
type Foreign struct {
	Kind  string    `json:"kind"`
	Scope string    `json:"scope"`
	Value string    `json:"value"`
	Note  string    `json:"note,omitempty"`
	Seen  []Sighted `json:"seen,omitempty"` // by scans; none for an operator's word, or a MAC that an inventory shows
}

// FreeForeign asks to take such a reservation away.
type FreeForeign struct {
	Kind   string `json:"kind"`
	Scope  string `json:"scope"` // a port's group
	Value  string `json:"value"`
	Reason string `json:"reason"`
}
