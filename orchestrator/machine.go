package orchestrator

import (
	"net/netip"
	"time"
)

// Presence says whether a machine exists in the world, as far as it has been observed and recorded.
type Presence string

const (
	// Planned: nothing of it was made yet, or nobody has looked since.
	Planned Presence = "planned"
	// Present: a VM was seen.
	Present Presence = "present"
	// Absent: its VM, disks, host block, rules and console were looked for and are gone. Only then may its addresses go.
	Absent Presence = "absent"
)

// Sealed is a secret as the store keeps it: encrypted, opened by the Vault port.
type Sealed []byte

// Machine is one virtual machine, from the order on and for ever: its row outlives the VM.
type Machine struct {
	ID       string // uuid; names the host block, the chain and the tag
	Tenant   string
	Name     string
	Hostname string
	Image    string
	Plan     Plan
	Firewall []FirewallRule
	SSHKeys  []string

	Presence Presence
	// State is the last process state that was reached: "production_ready", "removed", or where an active run stands.
	State string

	Import     Import // of a machine that was not made by us
	PoolWanted string // from the order; "" lets the placement choose
	Placement  Placement
	// DNS is what was registered of it, or was about to be: recorded before anything is sent, and cleared when all of it is gone.
	DNS NameRecord

	VM    string   // XenAPI uuid
	Disks []string // VDI uuids, recorded before the VM is destroyed
	// Address is where the guest was last reached from our side.
	Address netip.Addr

	HostKey         string // the guest's own public host key, one authorized_keys style line
	HostKeySecret   Sealed // its private half, OpenSSH PEM
	ConsolePassword Sealed
	// ConsoleAge is the same for the customer: an armored age file, encrypted to the SSH keys; "" where none of them can be encrypted to.
	ConsoleAge string
	// AdministratorPassword is what the customer of a Windows image logs in with first; nil for other images. AdministratorAge is the same
	// for the customer alone: an armored age file, encrypted to the order's SSH keys; "" when none of them can be encrypted to.
	AdministratorPassword Sealed
	AdministratorAge      string
	Identity              string // the guest's machine-id or SID after its reset, unique among the machines that are not absent

	// Suspension is how the machine was suspended; the zero value says that it is not.
	Suspension Suspension

	CreatedAt, UpdatedAt time.Time
}

// Placement is everything a machine has been promised, all in one transaction.
type Placement struct {
	Pool        string
	Host        string // XenAPI uuid; a later start may choose another
	SR          string // XenAPI uuid
	Private     netip.Addr
	Public      netip.Addr // zero under Routed
	MAC         string
	ConsolePort uint16
	DHCP        string // group id; "" when the pool's network is served by others
	Firewall    string
	Console     string
}

// Reached is the address at which customers reach the machine.
func (p Placement) Reached() netip.Addr {
	if p.Public.IsValid() {
		return p.Public
	}
	return p.Private
}

// IsZero reports whether nothing is promised.
func (p Placement) IsZero() bool { return p.Pool == "" }
