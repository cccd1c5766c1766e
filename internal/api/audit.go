package api

import "time"

// Audit is the store held against the world.
type Audit struct {
	At       time.Time `json:"at"`
	Findings []Finding `json:"findings"` // by kind, place and object
	// Unread are the places that could not be looked at: nothing is known of them.
	Unread []Unread  `json:"unread,omitempty"`
	Ledger []Account `json:"ledger"`
	// Newer says that there are things of ours which the database has forgotten: it may have been put back from a backup. Nothing is removed
	// then, neither by a repair nor by a sweep.
	Newer bool `json:"newer,omitempty"`
}

// Clean reports that everything was read and nothing was found.
func (a Audit) Clean() bool { return len(a.Findings) == 0 && len(a.Unread) == 0 }

// Kinds of a Finding.
const (
	FindingLeak     = "leak"     // ours by its tag or marker, and nobody's
	FindingStranger = "stranger" // not ours, on what is ours or might be given out
	FindingDrift    = "drift"    // there, and not as it should be
	FindingMissing  = "missing"  // should be there and is not
	FindingLedger   = "ledger"   // the store contradicts itself
	FindingNewer    = "newer"    // ours, and unknown to the store
)

// FindingKinds lists every kind.
func FindingKinds() []string {
	return []string{FindingLeak, FindingStranger, FindingDrift, FindingMissing, FindingLedger, FindingNewer}
}

// Finding is one thing that is not as it should be.
type Finding struct {
	Kind    string `json:"kind"`
	Place   string `json:"place"`  // "pool pool-a", "dhcp-a/one" (group and member), "ledger"
	Object  string `json:"object"` // "VM UUID", "disk UUID", a file, an address
	Problem string `json:"problem"`
	// Whose it is, as far as that is known.
	Machine string `json:"machine,omitempty"`
	Name    string `json:"name,omitempty"` // the machine's
	Tenant  string `json:"tenant,omitempty"`
	Order   string `json:"order,omitempty"` // SOURCE ID that the machine came from
	// Repair is the command that puts it right. Safe says that `slipway audit --repair` does.
	Repair string `json:"repair"`
	Safe   bool   `json:"safe,omitempty"`
}

// Owner is "machine ID", or "appliance GROUP/MEMBER" or "pool POOL" for what is no machine's.
func (f Finding) Owner() string {
	switch {
	case f.Name != "":
		return "machine " + f.Tenant + "/" + f.Name
	case f.Machine != "":
		return "machine " + f.Machine
	case len(f.Place) > 5 && f.Place[:5] == "pool ", f.Place == "ledger":
		return f.Place
	default:
		return "appliance " + f.Place
	}
}

// Unread is a place that could not be looked at.
type Unread struct {
	Place   string `json:"place"`
	Problem string `json:"problem"`
}

// Account is one resource of one place: total = free + promised + held + quarantined + foreign, or it is a finding.
type Account struct {
	Resource    string `json:"resource"`
	Place       string `json:"place,omitempty"`
	Role        string `json:"role,omitempty"`
	Total       int64  `json:"total"`
	Free        int64  `json:"free"`
	Promised    int64  `json:"promised"`
	Held        int64  `json:"held"`
	Quarantined int64  `json:"quarantined"`
	Foreign     int64  `json:"foreign"`
	Outside     int64  `json:"outside,omitempty"` // beside the total: outside of what is given out, or promised beyond what is there
	Balances    bool   `json:"balances"`
}

// Repair asks for what is safe to be put right. Without Yes nothing is done and what would be is told.
type Repair struct {
	Yes    bool   `json:"yes"`
	Reason string `json:"reason"`
}

// Repaired answers a Repair.
type Repaired struct {
	Plan   []string `json:"plan"` // a line each
	Done   bool     `json:"done"`
	Did    []string `json:"did,omitempty"`
	Failed []string `json:"failed,omitempty"`
	Audit  Audit    `json:"audit"` // before the repair
}
