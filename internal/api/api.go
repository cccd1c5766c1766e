// Package api is what the operators' verbs and serve say to each other: JSON over HTTP on a Unix socket. The types are the contract; Client
// is the caller's side, internal/service the other.
package api

import (
	"encoding/json"
	"net/netip"
	"time"

	"slipway/orchestrator"
)

// Error is the body of every answer that is not a success.
type Error struct {
	Code    string                   `json:"code"` // one of the codes below
	Message string                   `json:"message"`
	Fields  orchestrator.FieldErrors `json:"fields,omitempty"`
	Next    string                   `json:"next,omitempty"` // the command to type next
}

func (e *Error) Error() string { return e.Message }

// Codes of an Error.
const (
	CodeRefused  = "refused"   // bad input; nothing was touched
	CodeNotFound = "not_found" // no such machine, run, group, letter
	CodeConflict = "conflict"  // not in this state; the legal exits are in the message
	CodeAway     = "away"      // the database or the broker cannot be reached
	CodeInternal = "internal"
)

// MaxRuns is how many runs a list has at most. Who wants to know whether there are more asks for one more than he shows.
const MaxRuns = 100_000

// Run is a run in a list.
type Run struct {
	Machine string    `json:"machine"`
	Run     string    `json:"run"`
	Tenant  string    `json:"tenant"`
	Name    string    `json:"name"`
	Process string    `json:"process"`
	State   string    `json:"state"`
	Status  string    `json:"status"`
	Step    string    `json:"step,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Kind    string    `json:"kind,omitempty"`
	Pool    string    `json:"pool,omitempty"`
	Private string    `json:"private,omitempty"`
	Public  string    `json:"public,omitempty"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	Undoing bool      `json:"undoing,omitempty"`
	WakeAt  time.Time `json:"wake_at,omitzero"`
}

// Machine is everything about one machine, without its secrets.
type Machine struct {
	ID        string                      `json:"id"`
	Tenant    string                      `json:"tenant"`
	Name      string                      `json:"name"`
	Hostname  string                      `json:"hostname"`
	Image     string                      `json:"image"`
	Plan      orchestrator.Plan           `json:"plan"`
	Firewall  []orchestrator.FirewallRule `json:"firewall,omitempty"`
	SSHKeys   []string                    `json:"ssh_keys,omitempty"`
	State     string                      `json:"state"`
	Presence  string                      `json:"presence"`
	Placement Placement                   `json:"placement"`
	VM        string                      `json:"vm,omitempty"`
	Disks     []string                    `json:"disks,omitempty"`
	HostKey   string                      `json:"host_key,omitempty"`
	Identity  string                      `json:"identity,omitempty"`
	Created   time.Time                   `json:"created"`
	Updated   time.Time                   `json:"updated"`
	Runs      []Run                       `json:"runs"`
	Attempts  []Attempt                   `json:"attempts"`
	Entries   []Entry                     `json:"entries,omitempty"`
	Exits     []string                    `json:"exits,omitempty"` // verbs that the active run takes
	Hint      string                      `json:"hint,omitempty"`
}

// Placement is what the machine was promised.
type Placement struct {
	Pool        string     `json:"pool,omitempty"`
	Host        string     `json:"host,omitempty"`
	SR          string     `json:"sr,omitempty"`
	Private     netip.Addr `json:"private,omitzero"`
	Public      netip.Addr `json:"public,omitzero"`
	MAC         string     `json:"mac,omitempty"`
	ConsolePort uint16     `json:"console_port,omitempty"`
	DHCP        string     `json:"dhcp,omitempty"`
	Firewall    string     `json:"firewall,omitempty"`
	Console     string     `json:"console,omitempty"`
	// ConsoleAddress is where the console port is, ConsoleBackend what shows it; the former is missing where nobody configured it.
	ConsoleAddress string `json:"console_address,omitempty"`
	ConsoleBackend string `json:"console_backend,omitempty"`
}

// Attempt is a line of the journal.
type Attempt struct {
	Run     string            `json:"run"`
	Step    string            `json:"step"`
	Number  int               `json:"number"`
	Undo    bool              `json:"undo,omitempty"`
	Started time.Time         `json:"started"`
	Ended   time.Time         `json:"ended,omitzero"`
	Outcome string            `json:"outcome"`
	Kind    string            `json:"kind,omitempty"`
	Message string            `json:"message,omitempty"`
	Actor   string            `json:"actor,omitempty"`
	Handles map[string]string `json:"handles,omitempty"`
	Detail  json.RawMessage   `json:"detail,omitempty"`
}

// Entry is a machine's part in a group.
type Entry struct {
	Group   string `json:"group"`
	Applied bool   `json:"applied"`
	Removed bool   `json:"removed,omitempty"`
	Bad     string `json:"bad,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// Explanation is why a machine is where it is.
type Explanation struct {
	Machine   string                    `json:"machine"`
	Now       string                    `json:"now"` // one sentence
	Placement []orchestrator.Considered `json:"placement,omitempty"`
	Found     []string                  `json:"found"` // what an observation of the world says, a line each
	Exits     []string                  `json:"exits,omitempty"`
	Hint      string                    `json:"hint,omitempty"`
}

// Act asks for a verb. Without Yes nothing is done and the plan is told.
type Act struct {
	Reason string `json:"reason"`
	Yes    bool   `json:"yes"`
	Step   string `json:"step,omitempty"` // rewind: back to this one
}

// Acted answers an Act.
type Acted struct {
	Found []string `json:"found,omitempty"` // what was observed first
	Plan  []string `json:"plan"`            // what the verb does, a line each
	Done  bool     `json:"done"`
	Run   *Run     `json:"run,omitempty"`
}

// AskPassword asks for a machine's first administrator's password.
type AskPassword struct {
	Reason string `json:"reason"`
}

// Password answers it: the one answer that carries a secret in the clear. Who asked, for which machine and why, is recorded before.
type Password struct {
	Machine  string `json:"machine"`
	Tenant   string `json:"tenant"`
	Name     string `json:"name"`
	Account  string `json:"account"`
	Password string `json:"password"`
	Set      bool   `json:"set"` // false: the post-install has not given it to the guest yet
}

// Replay is a run's journal, read again from the start of its table.
type Replay struct {
	Machine string `json:"machine"`
	Run     string `json:"run"`
	Process string `json:"process"`
	Moves   []Move `json:"moves"`
	Ends    string `json:"ends"`   // the state that the journal leads to
	Stands  string `json:"stands"` // the state of the run; another one is a fault of ours
	Status  string `json:"status"`
}

// Move is one line of the journal and what it did to the state.
type Move struct {
	Attempt
	Before  string `json:"before"`
	After   string `json:"after"`
	Problem string `json:"problem,omitempty"` // why the table does not allow it
}

// Pool is a pool and its room.
type Pool struct {
	ID          string   `json:"id"`
	Strategy    string   `json:"strategy"`
	Images      []string `json:"images"`
	Machines    int      `json:"machines"`
	Hosts       []Host   `json:"hosts"`
	SRs         []SR     `json:"srs"`
	PrivateFree int      `json:"private_free"`
	PublicFree  int      `json:"public_free"`
	Problem     string   `json:"problem,omitempty"`
	Maintenance string   `json:"maintenance,omitempty"`
}

// Host is a host's memory.
type Host struct {
	UUID        string `json:"uuid"`
	Name        string `json:"name"`
	Enabled     bool   `json:"enabled"`
	MemoryMiB   int64  `json:"memory_mib"`
	ReservedMiB int64  `json:"reserved_mib"`
}

// SR is a storage's room.
type SR struct {
	UUID          string `json:"uuid"`
	Name          string `json:"name"`
	Bytes         int64  `json:"bytes"`
	ReservedBytes int64  `json:"reserved_bytes"`
}

// Group is an appliance group.
type Group struct {
	ID          string   `json:"id"`
	Unit        string   `json:"unit"`
	Generation  int64    `json:"generation"`
	Applied     int64    `json:"applied"`
	Entries     int      `json:"entries"`
	Members     []Member `json:"members"`
	Maintenance string   `json:"maintenance,omitempty"`
}

// Member is one appliance.
type Member struct {
	Name        string    `json:"name"`
	Applied     int64     `json:"applied"`
	Dirty       bool      `json:"dirty,omitempty"`
	Halted      string    `json:"halted,omitempty"`
	Problem     string    `json:"problem,omitempty"`
	Seen        time.Time `json:"seen,omitzero"`
	Maintenance string    `json:"maintenance,omitempty"`
}

// Address is an address that is not free.
type Address struct {
	Pool    string     `json:"pool"`
	Address netip.Addr `json:"address"`
	Role    string     `json:"role"`
	Owner   string     `json:"owner"`
	Machine string     `json:"machine,omitempty"`
	State   string     `json:"state"`
	Until   time.Time  `json:"until,omitzero"`
	Note    string     `json:"note,omitempty"`
}

// Mark asks to mark an address as somebody else's.
type Mark struct {
	Pool    string     `json:"pool"`
	Address netip.Addr `json:"address"`
	Role    string     `json:"role,omitempty"` // "private" or "public"; by the pool's prefixes when left out
	Note    string     `json:"note"`
	Reason  string     `json:"reason"`
	DryRun  bool       `json:"dry_run,omitempty"` // refuse what would be refused, and do nothing
}

// DeadLetter is an order that was refused.
type DeadLetter struct {
	ID     string    `json:"id"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at,omitzero"`
	Body   string    `json:"body,omitempty"`
}

// Accepted answers an order.
type Accepted struct {
	Machine  string   `json:"machine"`
	Run      string   `json:"run"`
	Repeated bool     `json:"repeated,omitempty"`
	Differs  []string `json:"differs,omitempty"`
}
