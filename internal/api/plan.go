package api

import "net/netip"

// Plan is what would change on the appliances, against what is live, and what the pools have that the store does not expect.
type Plan struct {
	Hash   string      `json:"hash"`  // stands for all groups together; each has one of its own
	Empty  bool        `json:"empty"` // every member was read and nothing would change; pools say nothing either
	Groups []GroupPlan `json:"groups"`
	// Pools is for reading only: an apply touches no VM. It is left out when a group was asked for.
	Pools []PoolFinding `json:"pools,omitempty"`
}

// GroupPlan is one group's part.
type GroupPlan struct {
	Group      string            `json:"group"`
	Unit       string            `json:"unit"`
	Hash       string            `json:"hash"`
	Generation int64             `json:"generation"`
	Applied    int64             `json:"applied"`
	Machines   int               `json:"machines"`
	SHA256     string            `json:"sha256,omitempty"` // of the files that would be live
	Empty      bool              `json:"empty"`
	Problem    string            `json:"problem,omitempty"`
	LeftOut    map[string]string `json:"left_out,omitempty"` // machine to why its entry cannot be rendered
	Cut        []netip.Addr      `json:"cut,omitempty"`      // whose connections would be cut
	Members    []MemberPlan      `json:"members"`
}

// MemberPlan is one appliance's part.
type MemberPlan struct {
	Name       string       `json:"name"`
	Generation int64        `json:"generation"` // live
	Problem    string       `json:"problem,omitempty"`
	Blocked    string       `json:"blocked,omitempty"`
	Fault      string       `json:"fault,omitempty"`
	Notes      []string     `json:"notes,omitempty"`
	Added      int          `json:"added"` // machines
	Removed    int          `json:"removed"`
	Changed    int          `json:"changed"`
	Changes    []PlanChange `json:"changes,omitempty"`
	Omitted    int          `json:"omitted,omitempty"` // lines that are too many to show
}

// PlanChange is one machine's lines in one file.
type PlanChange struct {
	File    string   `json:"file"`
	Machine string   `json:"machine,omitempty"` // "" when they are no machine's
	Name    string   `json:"name,omitempty"`    // tenant/name, of a machine that the store knows
	Kind    string   `json:"kind"`              // added, removed or changed
	Lines   []string `json:"lines"`             // "- " goes, "+ " comes; secrets are left out
}

// PoolFinding is something in a pool that carries our tag, or should, and is not as the store has it.
type PoolFinding struct {
	Pool    string `json:"pool"`
	Machine string `json:"machine,omitempty"`
	Object  string `json:"object,omitempty"` // "VM UUID" or "disk UUID"
	Problem string `json:"problem"`
	Kind    string `json:"kind,omitempty"`   // of a Finding; "" when the pool could not be read
	Repair  string `json:"repair,omitempty"` // the command that puts it right
	Safe    bool   `json:"-"`
}

// Unread says that the pool could not be read: the problem is why.
func (f PoolFinding) Unread() bool { return f.Kind == "" }

// ApplyPlan asks for what a plan showed. Without Yes nothing is done.
type ApplyPlan struct {
	Hash   string `json:"hash"`
	Reason string `json:"reason"`
	Yes    bool   `json:"yes"`
}

// AppliedPlan answers an ApplyPlan.
type AppliedPlan struct {
	Plan   []string       `json:"plan"` // what is done, a line each
	Done   bool           `json:"done"`
	Groups []AppliedGroup `json:"groups,omitempty"`
}

// AppliedGroup is a group that was applied to.
type AppliedGroup struct {
	Group      string   `json:"group"`
	Generation int64    `json:"generation"`
	Members    []Member `json:"members"`
}
