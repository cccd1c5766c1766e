package orchestrator

import (
	"context"
	"errors"
	"net/netip"
)

// The ports are what the steps ask of the world. Each verb says what it guarantees: Ensure… makes it so and may be called again,
// Remove… succeeds when it is gone already, Observe… changes nothing. Every call ends with its context. Errors carry a Kind.

// Hypervisor is a XenServer or XCP-ng estate. Pools are named by their id. The backend reaches a pool's master by itself.
type Hypervisor interface {
	// Inventory lists what the pool has to give: hosts, storage, templates, and every MAC in any of its VIFs.
	Inventory(ctx context.Context, pool string) (Inventory, error)

	// FindMachine looks for what earlier attempts made for this machine: by VM uuid if known, else by our tag, else by the name that
	// attempts give to their clone. ErrNotFound (wrapped) when there is nothing. Of several, the tagged and oldest is kept, and the
	// others are removed when they carry our marker and are halted.
	FindMachine(ctx context.Context, ref MachineRef) (VM, error)
	// StartClone begins the clone of the image's template under a name made of run and attempt, and returns the task to wait for.
	// Clones of one template go one at a time per pool: kind Exhausted while another is in flight.
	StartClone(ctx context.Context, spec MachineSpec) (task string, err error)
	// PendingClones lists the tasks that copy a template of the pool at this moment, whoever began them. A clone shows as a VM only when its
	// task ends: until then one whose answer was lost is known by nothing else.
	PendingClones(ctx context.Context, pool string) (tasks []string, err error)
	// ShapeMachine makes the clone the machine of the spec: tag, provision, memory, vCPUs, disk size, our VIF with our MAC instead of
	// the template's, VIF locking where licensed; and reads it all back. May be called again at any point. A half-provisioned clone
	// is removed and gives kind Conflict: clone anew.
	ShapeMachine(ctx context.Context, spec MachineSpec, vm string) (VM, error)
	// StartMachine begins the start on a host; task is "" when it runs already. A host without room is kind Exhausted.
	StartMachine(ctx context.Context, ref MachineRef, host string) (task string, err error)
	// StopMachine shuts down cleanly, or at once when hard; task is "" when it is halted or gone already.
	StopMachine(ctx context.Context, ref MachineRef, hard bool) (task string, err error)
	// DestroyMachine removes the halted VM, then the given disks unless another VM uses them. Nothing is found by name, and a disk that is attached
	// to the VM and not given stays.
	DestroyMachine(ctx context.Context, ref MachineRef, disks []string) error
	// NameMachine gives the VM the customer's name: the last touch of an install.
	NameMachine(ctx context.Context, ref MachineRef, name string) error
	// RemoveStrays removes the VMs that attempts made and nobody needs: an effect that came too late. settled are the machines that no run is
	// at work on, with the uuid of their VM, "" for one that is absent. VMs of other machines are left, and so are those that are not halted
	// and idle, and those of a machine whose own VM is not there: they may have taken its place. It returns how many it removed, also beside an error.
	RemoveStrays(ctx context.Context, pool string, settled map[string]string) (int, error)
	// ObserveTask tells how a task stands. TaskGone means that the outcome is unknown: look at the object.
	ObserveTask(ctx context.Context, pool, task string) (Task, error)
	// ForgetTask destroys a finished task; best effort, errors only matter for the log.
	ForgetTask(ctx context.Context, pool, task string) error
}

// MachineRef says which VM is meant.
type MachineRef struct {
	Pool    string
	Machine string // our id, in the VM's tag
	VM      string // XenAPI uuid, "" before it is known
	// LookOnly makes FindMachine remove nothing: an operator's look changes nothing.
	LookOnly bool
}

// MachineSpec is what create_machine wants.
type MachineSpec struct {
	MachineRef
	Run      string
	Attempt  int
	Image    string
	Plan     Plan
	SR       string
	Host     string
	Network  string
	MAC      string
	Address  netip.Addr // for VIF locking
	Hostname string
	Card     string // kept with the tag; "" keeps none
}

// VM is what was observed.
type VM struct {
	UUID      string
	Name      string
	Run       string // from the tag, "" when it has none yet
	Attempt   int
	Machine   string
	Power     string // "halted", "running", "paused", "suspended"
	PowerTask string // the task that is changing Power at this moment, whoever began it; "" when none is
	Template  bool   // a clone before its provision
	Host      string // uuid, while running
	MemoryMiB int64
	VCPUs     int
	Disks     []Disk
	VIFs      []VIF
	Console   string // URL while running
	GuestLive bool   // the guest agent of this boot reports
}

// Disk is a VDI that is attached to a VM (CDs are left out).
type Disk struct {
	UUID    string
	Bytes   int64
	SR      string
	Machine string // whose tag it carries itself; "" is none
}

// VIF is a network interface of a VM.
type VIF struct {
	Device    string
	MAC       string // lower case
	Network   string
	Addresses []netip.Addr // from the guest agent
}

// TaskState is how a hypervisor's task stands.
type TaskState string

const (
	TaskPending   TaskState = "pending"
	TaskSucceeded TaskState = "success"
	TaskFailed    TaskState = "failure" // a canceled task too: look at Err
	TaskGone      TaskState = "gone"    // nobody knows: the toolstack restarted, or it was collected
)

// Task is a hypervisor's task. WakeTask(pool, ref) is the key under which a backend that follows events wakes those who wait.
type Task struct {
	State    TaskState
	Progress float64 // 0..1
	Err      error   // with its kind, for TaskFailed
}

// WakeTask is the wake key of a task.
func WakeTask(pool, task string) string { return "task:" + pool + ":" + task }

// WakeGroup is the wake key of an appliance group.
func WakeGroup(group string) string { return "group:" + group }

// WakeCapacity is the wake key of those who wait for room.
const WakeCapacity = "capacity"

// Inventory is what a pool has.
type Inventory struct {
	Pool      string
	Hosts     []HostInventory
	SRs       []SRInventory
	Templates map[string]string // image → template uuid
	MACs      []string          // of VIFs that are not ours, lower case
	Tagged    []string          // machines whose tag, or clone's name, some VM carries
	Networks  []string          // uuids
	// Residents are the VMs of ours that run, by the uuid of their host: somebody may have migrated one.
	Residents map[string][]string
}

// HostInventory is one host. MemoryMiB is what slipway's machines may use in all: the total less its overhead and what others' VMs hold.
type HostInventory struct {
	UUID, Name string
	MemoryMiB  int64
	CPUs       int
	Enabled    bool
}

// SRInventory is one storage. Bytes is what slipway's disks may use in all: the size less what others' disks hold.
type SRInventory struct {
	UUID, Name string
	Bytes      int64
	Shared     bool
	Hosts      []string // that have it plugged
}

// Installer carries out the post-install inside a guest (SSH, WinRM).
type Installer interface {
	// Ports are what the image's installer needs to reach, its login port first. An unknown image is kind Permanent.
	Ports(image string) ([]uint16, error)
	// Serves are the TCP ports on which every finished guest of the image answers whoever its firewall lets through.
	Serves(image string) ([]uint16, error)
	// Probe looks whether the guest answers and is the one expected: TCP, banner, host key. Kind Transient while it is not up yet, and it wraps
	// syscall.ECONNREFUSED when its login port refuses; Permanent when something else answers there.
	Probe(ctx context.Context, g Guest) (evidence string, err error)
	// EnsureJob starts the catalogue entry's job in the guest, once by its id, whoever asks and however often.
	EnsureJob(ctx context.Context, g Guest, job Job) error
	// ObserveJob reads on from offset. A job whose process is gone without an exit code is JobLost: it may be started again under
	// another id.
	ObserveJob(ctx context.Context, g Guest, job string, offset int64) (JobStatus, error)
	// Inspect runs the entry's checks in the finished guest and reads its identity.
	Inspect(ctx context.Context, g Guest) (Inspection, error)
	// Leave takes the installer's own way in out of the finished guest; afterwards only the customer can log in. It succeeds when that
	// has happened already: the guest shows its own host key and does not let the installer in.
	Leave(ctx context.Context, g Guest) error
}

// Guest is a machine as the installer reaches it.
type Guest struct {
	Machine string
	Pool    string // its image's template carries the first host key
	Image   string
	Address netip.AddrPort
	// HostKey is the machine's own public key, installed by the job: the only one accepted once it has been seen.
	HostKey string
	// Own is true once the machine's own key has been seen: the template's is not accepted any more.
	Own bool
}

// Job is one post-install.
type Job struct {
	ID            string // from run and attempt; the guest's lock
	Hostname      string
	SSHKeys       []string
	HostKeySecret Secret // OpenSSH PEM
	// AdministratorPassword is what the customer logs in with on a Windows image; other images do not use it.
	AdministratorPassword Secret
}

// JobState is how a job stands.
type JobState string

const (
	JobRunning JobState = "running"
	JobExited  JobState = "exited"
	JobLost    JobState = "lost"    // started, its process is gone, and it left no exit code
	JobUnknown JobState = "unknown" // never started there
)

// JobStatus is what ObserveJob saw.
type JobStatus struct {
	State  JobState
	Exit   int
	Stage  string // the script it is at, or what it waits for
	Log    []byte // from the offset on, bounded
	Offset int64  // where to read on
}

// Hopeless says of an exited job that no repetition changes how it failed: exit codes 80 to 89 are kept for that (a missing license, a
// disk that is not understood). It parks the run at once.
func (s JobStatus) Hopeless() bool { return s.State == JobExited && s.Exit >= 80 && s.Exit <= 89 }

// Inspection is what verify saw inside.
type Inspection struct {
	Identity string            // machine-id, or a Windows machine's SID
	Checks   map[string]string // name → "ok" or what is wrong
}

// Maintainer changes what is ours to change in a finished guest, by the one way in that Leave has left: it takes data, and runs nothing else.
type Maintainer interface {
	// Maintainable says why a guest of this image cannot be changed, as words for the customer; "" when it can.
	Maintainable(image string) (why string)
	// ChangeGuest makes the guest as wanted, and reads it back; it may be called again. Kind Transient while the guest does not answer or
	// the customer's rules keep us out; Permanent when the customer has taken the way in away, or something else answers.
	ChangeGuest(ctx context.Context, g Guest, c GuestChange) error
}

// GuestChange is what ChangeGuest brings about. Keys that are in neither list are the customer's own and stay.
type GuestChange struct {
	Hostname string   // "" leaves it
	Drop     []string // authorized_keys lines that go, found by their key
	Keys     []string // authorized_keys lines that are there afterwards
}

// Prober looks from the pool's probe point, as a customer would.
type Prober interface {
	// TryPort asks for a TCP connection and tells what it met; the error is for a probe that could not be made.
	TryPort(ctx context.Context, pool string, target netip.AddrPort) (PortAnswer, error)
	// Console shakes hands with the machine's console (RFB, the given password).
	Console(ctx context.Context, m Machine) error
	// NoConsole is nil when nothing answers at the machine's console port, or nobody can look; kind Transient while something does.
	NoConsole(ctx context.Context, m Machine) error
}

// PortAnswer is what a TCP connection met.
type PortAnswer string

const (
	PortOpen PortAnswer = "open"
	// PortRefused is a reset: the packet came as far as a machine that does not listen there.
	PortRefused PortAnswer = "refused"
	// PortSilent is no answer in time, or a router's word that nobody is there: what a packet meets that a firewall drops.
	PortSilent PortAnswer = "silent"
)

// ErrNameTaken says that a name in the DNS is somebody else's.
var ErrNameTaken = errors.New("the name is somebody else's")

// Names publishes machines in the DNS. What it makes it marks with the machine's id, and it takes nothing for the machine's without that
// mark: a name that somebody else has, or that has lost its mark, is never changed or removed. A server that refuses for good (no such zone,
// a key that is not allowed) is kind Permanent, one that is away or busy Transient, a lost answer Unknown.
type Names interface {
	// EnsureName makes the records of the machine, forward first. A name that is somebody else's is kind Permanent, ErrNameTaken (wrapped), and
	// left as it is.
	EnsureName(ctx context.Context, machine string, r NameRecord) error
	// RemoveName removes the records that are the machine's, the pointer first. What is not the machine's stays, without an error.
	RemoveName(ctx context.Context, machine string, r NameRecord) error
	// ObserveName asks the server that answers for the zones what it shows.
	ObserveName(ctx context.Context, machine string, r NameRecord) (NameState, error)
}

// NameState is how a machine's records stand at the server.
type NameState struct {
	Whole bool // every record is there, marked as the machine's
	Left  bool // some record that is marked as the machine's is there
}

// Monitoring tells the site's monitoring which machines there are. Hosts are known by the machine's id, so that they are nobody else's. Errors
// are of the kinds of Names.
type Monitoring interface {
	// EnsureHost registers the host, or brings what is registered under its id to these values.
	EnsureHost(ctx context.Context, h MonitoredHost) error
	// RemoveHost removes it.
	RemoveHost(ctx context.Context, machine string) error
	// ObserveHost reads it; ErrNotFound (wrapped) when there is none.
	ObserveHost(ctx context.Context, machine string) (MonitoredHost, error)
}

// MonitoredHost is what monitoring is told of a machine; all of it may be compared.
type MonitoredHost struct {
	Machine  string
	Tenant   string
	Name     string
	Hostname string // what the guest calls itself, or its name in the DNS
	Pool     string
	Image    string
	Address  netip.Addr // where the world reaches it
}

// Vault makes and opens what must not be read in the store.
type Vault interface {
	Seal(machine, name string, s Secret) (Sealed, error)
	Open(machine, name string, s Sealed) (Secret, error)
}

// Names of sealed values.
const (
	SealedHostKey = "host_key"
	SealedConsole = "console_password"
	SealedAdmin   = "administrator_password"
)

// Desired is what steps ask about appliances; every Store is one.
type Desired interface {
	EntryState(ctx context.Context, group, machine string) (EntryState, error)
}
