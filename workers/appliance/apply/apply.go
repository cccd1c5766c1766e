// Package apply is what a controller and the agent on an appliance say to each other: one Request on the agent's standard input, one
// Answer on its standard output, both JSON. The carrier (a local process, an SSH forced command, a queue) adds nothing to it.
package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"sort"
)

// Request asks for one unit's whole desired state to become live.
type Request struct {
	Unit string `json:"unit"` // "dhcp", "firewall" or "console": a section of the agent's own configuration
	// Fence is the token of the controller's lease on the group. An agent refuses one lower than the highest it has seen.
	Fence int64 `json:"fence"`
	// Generation of the desired state. An agent refuses one lower than the live one; the same one again is a no-op when the hash agrees
	// and the read-back shows it live, and is applied again when it does not.
	Generation int64  `json:"generation"`
	SHA256     string `json:"sha256"` // Sum(Files), checked before anything is touched
	Files      []File `json:"files"`
	Rows       int    `json:"rows"` // machines in this state, for the shrink guard
	// ShrinkApproved lets an apply through that removes more rows than max(5, 2 %).
	ShrinkApproved bool `json:"shrink_approved,omitempty"`
	// Left are machines that a run has dropped from the state, each by the words of which one stands in its lines. Rows of theirs that are live
	// may go without a word and do not count as shrunk.
	Left [][]string `json:"left,omitempty"`
	// CheckOnly tests the candidate and touches nothing: the controller bisects with it.
	CheckOnly bool `json:"check_only,omitempty"`
	// Cut lists addresses whose connections end once the new state is live, for a unit that cannot tell them by its files (agent.Cutter). No
	// unit of ours is one: a firewall knows by its own what it has missed, and workers before it said so sent this list.
	Cut []netip.Addr `json:"cut,omitempty"`
	// ReadOnly asks what is live and touches nothing: Unit and Rows are all it carries besides. The answer is Observed with Live.
	ReadOnly bool `json:"read_only,omitempty"`
	// Survey, with ReadOnly, asks instead what is there that is not ours: Unit is all it carries besides. The answer is Surveyed.
	Survey bool `json:"survey,omitempty"`
	// Trace, with ReadOnly, asks instead what the unit's server has said of late about a hardware address (six bytes, lower case, colons): Unit is
	// all it carries besides. The answer is Traced.
	Trace string `json:"trace,omitempty"`
	// Known are sums of states that the asker has asked for before: the live one must be among them, or be the one that is asked for. An
	// appliance that carries another one is answered for as Newer and left as it is: whoever asks has forgotten it. Empty says nothing.
	Known []string `json:"known,omitempty"`
	// Expect is the SumLive of what must lie in the unit's places when the apply begins; anything else is answered Moved and left as it
	// is. "" expects nothing.
	Expect string `json:"expect,omitempty"`
}

// File is one file of the state. Name is a plain name that the unit knows ("hosts.conf"); the agent's configuration says where it goes.
type File struct {
	Name    string `json:"name"`
	Content string `json:"content"`
}

// Sum is the hex SHA-256 over names and contents, in the order of names, each preceded by its length.
func Sum(files []File) string {
	sorted := append([]File(nil), files...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Name < sorted[j].Name })
	h := sha256.New()
	for _, f := range sorted {
		for _, s := range []string{f.Name, f.Content} {
			_, _ = fmt.Fprintf(h, "%d:", len(s)) // a hash never fails to write
			_, _ = io.WriteString(h, s)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Code says how an apply ended; the controller decides by it alone.
type Code string

const (
	Applied     Code = "applied"     // live and read back
	Unchanged   Code = "unchanged"   // was live already, read back, nothing restarted
	Checked     Code = "checked"     // CheckOnly: the candidate passes
	Observed    Code = "observed"    // ReadOnly: Live says what is there
	Surveyed    Code = "surveyed"    // Survey: what is there that is not ours
	Traced      Code = "traced"      // Trace: what was said of an address
	Moved       Code = "moved"       // something else lies there than Request.Expect says; nothing was touched
	Stale       Code = "stale"       // a lower fence or generation than the agent has seen: the asker is not in charge any more
	Newer       Code = "newer"       // the appliance holds a newer generation than the store: halted until an operator's word
	Shrink      Code = "shrink"      // would remove too many rows: halted until an operator's word
	Culprit     Code = "culprit"     // the real tool refused the candidate; the old state is still live
	Restored    Code = "restored"    // the reload or the read-back failed and the old state is live again
	Broken      Code = "broken"      // neither the new nor the old state works: the appliance's own fault
	Refused     Code = "refused"     // a malformed request, a wrong hash, an unknown unit
	Busy        Code = "busy"        // another apply holds the lock longer than we would wait
	Unsupported Code = "unsupported" // the appliance cannot be driven (legacy and nft rules mixed, a missing tool)
)

// Answer says what is live now.
type Answer struct {
	Code       Code   `json:"code"`
	Generation int64  `json:"generation"` // live now
	SHA256     string `json:"sha256"`     // live now
	Rows       int    `json:"rows"`       // live now
	Reloaded   bool   `json:"reloaded"`   // a service was restarted or signalled for this answer
	Message    string `json:"message,omitempty"`
	// Line is where the tool found the fault, for Culprit: File is a Request file's name, Line counts from 1, 0 when the tool gave none.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Live *Live  `json:"live,omitempty"` // for Observed
	// Survey is for Surveyed.
	Survey *Survey `json:"survey,omitempty"`
	// Trace is for Traced.
	Trace *Trace `json:"trace,omitempty"`
}
