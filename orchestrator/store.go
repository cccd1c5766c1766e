package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"time"
)

// Errors of a store that callers tell apart with errors.Is. Everything else a store returns is an Error with a kind; a database that
// cannot be reached is Transient and wraps ErrStoreAway.
var (
	ErrNotFound  = errors.New("not found")
	ErrFenced    = errors.New("the lease was lost to another worker")
	ErrStoreAway = errors.New("the database cannot be reached")
	// ErrStoreFull is an ErrStoreAway: the database answers, and has no room for what is written.
	ErrStoreFull error = storeFull{}
)

type storeFull struct{}

func (storeFull) Error() string        { return "the database takes no writes: its disk is full" }
func (storeFull) Is(target error) bool { return target == ErrStoreAway }

// Store keeps everything that must survive. Implementations are safe for concurrent use; each method is one transaction; leases are
// measured by the database's clock. Run, Machine and the rest are values: nothing returned is shared.
type Store interface {
	Intake
	Journal
	Claims
	Appliances
	Outbox
	Operators
	Trail
	Secrets
	History
	Strangers
	ConsolePasses
	Backlog
	Holds
	Guards
	Workers
	ConsoleBackends
	Close() error
}

// Intake takes orders in.
type Intake interface {
	// Accept commits an order, its machine and its run, and the accepted event. It is idempotent by (Source, ID):
	// the same order again re-sends the first's accepted event (same seq and id, so a panel sees a repetition), Repeated is true;
	// another order under the same id changes nothing and commits EventConflict, Differs names the fields.
	//
	// An install needs a.Machine and a.Run. A name that an existing machine of the tenant has is FieldErrors.
	// An uninstall finds its machine by id or name (FieldErrors when there is none or it is removed); when the machine has an active run,
	// that run is asked to cancel in favour of this one (Run.Cancel, Run.Successor, Run.SuccessorID), and a.Run is inserted when it ends.
	// An order that alters a finished machine finds it likewise, and is FieldErrors when the machine is not finished, has an active run, or,
	// for a reconfiguration, is suspended or another of the tenant's has the hostname.
	// A console order finds it likewise, and is FieldErrors when the machine's console is closed or the token was issued before; it commits the
	// token and EventConsole, with an accepted event's standing.
	Accept(ctx context.Context, a Acceptance) (Accepted, error)
	// Refuse commits EventRefused for an order that is malformed, so that its panel hears of it. Repeating it is harmless.
	Refuse(ctx context.Context, key OrderKey, event Event) error
}

// Acceptance is what intake makes of an order.
type Acceptance struct {
	Order   Order
	Machine Machine // install only
	Run     Run     // id, process, state, step, row hash set; for all but an install Machine is filled in by the store
	// Alter makes the run's Alteration of the machine that the order is about, as it is in the same transaction, and may be called again.
	// Only for orders that alter one; an error refuses the order and is returned as it is.
	Alter func(Machine) (Alteration, error) `json:"-"`
	// Page is the page of the machine's console, and PassLife how long a token waits for its viewer. Console only, which begins no run.
	Page     func(Machine) string `json:"-"`
	PassLife time.Duration
	Actor    string
	Now      time.Time
}

// Accepted is the answer.
type Accepted struct {
	Run      string
	Machine  string
	Repeated bool
	Differs  []string
}

// Journal is what the engine writes.
type Journal interface {
	// Commit makes each result durable or says why not, result by result and in order. All that fit share one transaction; when one
	// breaks a constraint the others are still committed. Errors: ErrFenced (wrapped, kind Conflict); a broken constraint or a ledger
	// that changed is kind Conflict; a Decide error is returned as it is; ErrStoreAway means that nobody knows: the run's lease
	// decides who goes on.
	Commit(ctx context.Context, commits []Commit) []CommitResult
}

// Commit is one step's result: everything in it becomes durable together.
type Commit struct {
	Run     Run      // new values; ID, Fence and Holder say on whose behalf
	Machine *Machine // nil when unchanged
	// Attempts are inserted (ID 0) or ended (ID set). For ID 0 the new id is in CommitResult.
	Ended   *Attempt
	Opened  *Attempt
	Changes []Change
	Events  []Event
	// Decide, when set, runs inside the transaction, alone on the ledger, and returns what place promises: the store writes the
	// reservations, then sets Machine.Placement. An error refuses this commit only.
	Decide func(*Ledger) (Placement, json.RawMessage, error)
	// Release gives the lease back; otherwise it is extended by the lease's length.
	Release bool
	// Next is inserted in the same transaction: the successor of a run that ends in favour of an uninstall.
	Next *Run
}

// CommitResult answers one Commit.
type CommitResult struct {
	Err         error
	Opened      int64  // id of the attempt that was opened
	Cancel      string // Run.Cancel as it is now: somebody may have asked meanwhile
	Successor   string
	SuccessorID string
	Placement   Placement // what Decide promised
}

// Change is one thing that a commit does beside the run itself. The set is closed: PutEntry, DropEntry, BindAddresses,
// ReleasePlacement, ClaimForeign.
type Change interface{ change() }

// PutEntry sets the machine's entry in a group; the group's generation rises, unless the same body is there already and is not marked
// bad: a retry after a culprit was put right outside brings the same body in again.
type PutEntry struct {
	Group string
	Unit  Unit
	Body  json.RawMessage
}

// DropEntry marks the machine's entry in a group as removed; the group's generation rises, unless there is none.
type DropEntry struct{ Group string }

// BindAddresses turns the promised pair into the machine's own.
type BindAddresses struct{}

// ReleasePlacement gives everything back that place promised: host memory and storage at once, addresses, MAC and console port into
// quarantine until Until (zero Until: at once; only for a machine of which nothing was ever made). The machine must be Absent in the
// same commit or before: a constraint of the store refuses it otherwise.
//
// With Foreign the VM stays and was somebody else's before: the pair and the MAC become foreign instead of resting, and the room that it has
// is no longer ours to give. The console port rests.
type ReleasePlacement struct {
	Quarantine time.Duration
	Foreign    bool
}

// ClaimForeign, with a Decide that promises what a foreign VM has, takes the foreign reservations of that pair and MAC away, and counts the
// room that the VM has on its host and storage as ours: the promise asks for none that is free.
type ClaimForeign struct{}

func (PutEntry) change()         {}
func (DropEntry) change()        {}
func (BindAddresses) change()    {}
func (ReleasePlacement) change() {}
func (ClaimForeign) change()     {}

// Claims hand runs to workers.
type Claims interface {
	// Claim takes up to ask.Limit runs that nobody holds and that are ready, or waiting or canceling and due (WakeAt; zero is due), and
	// those whose holder's lease ran out: the tenants with the fewest runs in workers' hands first, of one tenant the oldest wake first. Each
	// gets a new fence, and the database's time as Run.UpdatedAt. What a worker does not know is left to those who may. A run comes with its machine and its open attempt, if any.
	Claim(ctx context.Context, ask Ask) ([]Claim, error)
	// ClaimRun takes one named run if it can be taken now; ErrNotFound when not.
	ClaimRun(ctx context.Context, run, holder string, lease time.Duration) (Claim, error)
	// Renew extends the leases that are still the holder's and returns the run ids that are not.
	Renew(ctx context.Context, holder string, runs map[string]int64, lease time.Duration) (lost []string, err error)
	// ReleaseRuns gives leases back without changing anything else: an orderly shutdown.
	ReleaseRuns(ctx context.Context, holder string, runs map[string]int64) error
	// HandOver gives leases back between two steps: nothing that was begun is under way, and whoever takes the run goes on with its attempt.
	HandOver(ctx context.Context, holder string, runs map[string]int64) error
	// Wake makes the runs that wait for one of these keys due now and returns how many.
	Wake(ctx context.Context, keys ...string) (int, error)
	// AcquireLease takes or renews a named lease ("outbox", "group:dhcp-a"); ok is false while another holds it. Fence rises with every
	// change of holder.
	AcquireLease(ctx context.Context, name, holder string, length time.Duration) (lease Lease, ok bool, err error)
	// ReleaseLease gives it back.
	ReleaseLease(ctx context.Context, name, holder string) error
}

// Ask says which runs a worker takes.
type Ask struct {
	Holder string
	Limit  int
	Lease  time.Duration
	// Room is how many runs of a pool it takes at most, by the pool's id; "" are runs that have no place yet. A pool that is not named is
	// bounded by Limit alone.
	Room map[string]int
	// Knows are the places (Place) at which it can take a run up; nil is all. A run that stands elsewhere is left to a worker of another version.
	Knows []string
	// Strangers lets it take, to park them, also runs that stand elsewhere, once they are overdue by StrangerAfter and no worker that was
	// seen within that time knows the place.
	Strangers bool
}

// StrangerAfter is how long a run waits for a worker that knows where it stands: long enough for one that is being replaced to come back.
const StrangerAfter = 10 * time.Minute

// Claim is a run in a worker's hands.
type Claim struct {
	Run     Run
	Machine Machine
	Open    *Attempt // the attempt that was open when it was claimed
}

// Lease is a named lease.
type Lease struct {
	Name, Holder string
	Fence        int64
	Until        time.Time
}

// Appliances is the desired state of the groups.
type Appliances interface {
	// SyncGroups makes the groups and members of the configuration known; a group that has entries is never removed.
	SyncGroups(ctx context.Context, groups []Group, members []Member) error
	Groups(ctx context.Context) ([]Group, error)
	Members(ctx context.Context, group string) ([]Member, error)
	// Entries returns a group and all its entries in one snapshot.
	Entries(ctx context.Context, group string) (Group, []Entry, error)
	EntryState(ctx context.Context, group, machine string) (EntryState, error)
	// Ask records a state (the SHA-256 of its files) that a member of the group is about to be asked for, and Asked tells whether it ever was.
	// What an appliance carries and the store never asked for is from a life of the database that was not restored.
	Ask(ctx context.Context, group, sha256 string) error
	Asked(ctx context.Context, group, sha256 string) (bool, error)
	// Departed lists the machines whose entry a run dropped and that have none now, the latest first, while a member may still carry them;
	// ten thousand at most.
	Departed(ctx context.Context, group string) ([]Departure, error)
	// PutMember records what a member answered.
	PutMember(ctx context.Context, m Member) error
	// Confirm records that enough members carry a generation: Group.Applied rises, entries up to it become Live, removed ones go,
	// bad ones (machine → the tool's line) are marked, and the runs that wait for the group are due. fence is the group lease's.
	Confirm(ctx context.Context, group string, fence, generation int64, bad map[string]string) error
	// MarkBad marks entries without a generation being applied.
	MarkBad(ctx context.Context, group string, fence int64, bad map[string]string) error
	// ApproveShrink lets one generation of a group through the shrink guard, and Resume clears a member's halt, whose state counts as asked for
	// from then on; both for operators.
	ApproveShrink(ctx context.Context, group string, generation int64, actor, reason string) error
	ShrinkApproved(ctx context.Context, group string) (generation int64, err error)
	Resume(ctx context.Context, group, member, actor, reason string) error
}

// Departure is a machine that left a group because a run said so.
type Departure struct {
	Machine string
	Body    json.RawMessage // of the entry that it had
}

// Outbox hands committed events to the publisher. The publisher holds the lease "outbox".
type Outbox interface {
	// Unpublished returns the oldest events, in an order that keeps each machine's Seq.
	Unpublished(ctx context.Context, limit int) ([]Event, error)
	MarkPublished(ctx context.Context, ids []int64) error
}

// Operators is what the command line reads and does.
type Operators interface {
	Run(ctx context.Context, id string) (Run, error)
	Runs(ctx context.Context, f RunFilter) ([]RunView, error)
	Machine(ctx context.Context, id string) (Machine, error)
	// FindMachine takes an id, a unique prefix of one (8 characters at least), a run's id, a name or tenant/name. Several hits are
	// FieldErrors that list them.
	FindMachine(ctx context.Context, what string) (Machine, error)
	Machines(ctx context.Context) ([]Machine, error)
	Attempts(ctx context.Context, machine string) ([]Attempt, error)
	// Intervene applies an operator's change to a run that no worker holds, or asks a held one to cancel. It is journalled.
	// retry: a parked or waiting run becomes ready (canceling when it was Undoing), due now, with Failures, Conflicts and StepSince reset.
	// cancel: Run.Cancel is set, and a run that nobody holds becomes canceling and due now.
	// skip, force, rewind, adopt: Run.Request is set and the rest is as for retry. The run must be put down and on its way forward; for
	// skip and force it must stand at i.Step. Whether the table allows it is the engine's to say. A rewind or an adoption also sets
	// Run.Rewound. A retry takes a request back that has not turned the run yet.
	Intervene(ctx context.Context, i Intervention) (Run, error)

	// BeginReading makes every pool count as unread until SyncPool: a worker that starts knows nothing, and the database may be an older copy.
	BeginReading(ctx context.Context) error
	// SyncPool records what a pool has; hosts and storage that are no longer there take nothing new.
	SyncPool(ctx context.Context, inv Inventory) error
	Ledger(ctx context.Context) (*Ledger, error)
	// Books reads all that an audit holds against the world, in one transaction.
	Books(ctx context.Context) (Books, error)
	// PutAddress marks an address as foreign; DropAddress takes that mark away. Neither touches an address of ours.
	PutAddress(ctx context.Context, a AddressRecord, actor, reason string) error
	DropAddress(ctx context.Context, pool string, a netip.Addr, actor, reason string) error
	Addresses(ctx context.Context) ([]AddressRecord, error)
	// Adopt takes up a machine that the store has forgotten: its row, its addresses, MAC, port and room, and its entries in the groups, which are
	// applied as any change. What is another machine's by now is kind Conflict and changes nothing; so is a machine or an order that is known.
	Adopt(ctx context.Context, a Adoption) error
	// EndQuarantine frees what has rested long enough by the database's clock and returns how many.
	EndQuarantine(ctx context.Context) (int, error)
	// Prune removes events that were published a week ago by the same clock, the oldest first and some thousands at most, and
	// returns how many. An accepted event stays, because its order may come again.
	Prune(ctx context.Context) (int, error)

	// Ping is for /readyz; Stats for /metrics. Ping reads, and once a call found the database away, it also writes as TryWrite does, until
	// that succeeds.
	Ping(ctx context.Context) error
	// TryWrite commits something and takes it away again.
	TryWrite(ctx context.Context) error
	Stats(ctx context.Context) (Stats, error)
}

// RunFilter selects runs; zero values select all.
type RunFilter struct {
	Status  []Status
	Process string
	Pool    string
	Tenant  string
	Machine string
	Limit   int // 0 is 1000
}

// RunView is a run with the machine's own words, for a list.
type RunView struct {
	Run
	Tenant, Name, Pool string
	Private, Public    netip.Addr
}

// Verbs of an Intervention.
const (
	VerbRetry  = "retry"
	VerbCancel = "cancel"
	VerbSkip   = "skip"
	VerbForce  = "force"
	VerbRewind = "rewind"
	VerbAdopt  = "adopt"
)

// Intervention is an operator's act on a run.
type Intervention struct {
	Run    string
	Verb   string
	Step   string // skip, force: the one where the run stands; rewind, adopt: the one that it goes back to
	Actor  string // "uid:name"
	Reason string
	Now    time.Time
}

// Address states.
const (
	AddressReserved   = "reserved"   // promised by place
	AddressBound      = "bound"      // the machine's own
	AddressQuarantine = "quarantine" // resting
	AddressForeign    = "foreign"    // somebody else's
)

// AddressRecord is an address that is not free.
type AddressRecord struct {
	Pool    string
	Address netip.Addr
	Role    string // "private" or "public"
	Owner   string
	Machine string
	State   string
	Until   time.Time // end of the quarantine
	Note    string
}

// Stats counts what /metrics shows.
type Stats struct {
	Runs        map[string]map[Status]int // process → status → runs
	Unpublished int
	Addresses   map[string]map[string]int // pool → state → addresses
}
