package orchestrator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// OrderImport takes a foreign VM into management. It is an operator's: panels cannot ask for it.
const OrderImport OrderType = "slipway.order.import"

// Import is what a machine was before: a VM that somebody else made, and what it has. It is set when the import is asked for and stays.
type Import struct {
	VM      string     `json:"vm"` // XenAPI uuid
	MAC     string     `json:"mac"`
	Private netip.Addr `json:"private"`
	Public  netip.Addr `json:"public,omitzero"` // its partner behind 1:1 NAT; zero in a routed pool
}

// IsZero reports that the machine was ordered, not imported.
func (i Import) IsZero() bool { return i == Import{} }

// Importer is what the import asks of a hypervisor beside Hypervisor.
type Importer interface {
	// FindStranger looks at one VM of a pool, whosever it is. ErrNotFound (wrapped) when there is none.
	FindStranger(ctx context.Context, pool, vm string) (Stranger, error)
	// ClaimMachine puts the machine's tag on the VM of ref and on its disks, and changes nothing else of it. A VM that carries another
	// machine's tag is kind Permanent; one that is gone is ErrNotFound. May be called again at any point.
	ClaimMachine(ctx context.Context, ref MachineRef, run string, attempt int) (VM, error)
	// ReleaseMachine takes the machine's tag off the VM of ref and off its disks, and leaves it as it runs. What does not carry the tag, or
	// is gone, is left alone.
	ReleaseMachine(ctx context.Context, ref MachineRef) error
}

// Fits reports why a VM cannot be imported as asked, each thing with its field; nil when it can. machine is the one that it is to become: a
// VM that carries its tag already is not somebody else's. The pool is the one of the estate.
func (i Import) Fits(pool Pool, vm Stranger, machine string) error {
	var c fieldCheck
	i.fitsVM(&c, vm, machine)
	i.fitsInterface(&c, pool, vm)
	i.fitsAddresses(&c, pool)
	if len(c.errs) == 0 {
		return nil
	}
	return c.errs
}

func (i Import) fitsVM(c *fieldCheck, vm Stranger, machine string) {
	switch {
	case vm.Control:
		c.add("vm", "is a control domain", "name a VM of a customer")
	case vm.Snapshot:
		c.add("vm", "is a snapshot", "name the VM that it was taken of")
	case vm.Template:
		c.add("vm", "is a template", "name a VM")
	case vm.Tag != "" && vm.Tag != machine:
		c.add("vm", "carries the tag of machine "+clip(vm.Tag), "look at that machine first: slipway show "+clip(vm.Tag))
	case vm.Busy != "":
		c.add("vm", "is busy with "+clip(vm.Busy), "wait until that has ended")
	case vm.Power != "running":
		c.add("vm", "is "+clip(vm.Power), "start it: its network cannot be looked at otherwise")
	}
	if len(vm.Disks) == 0 {
		c.add("vm.disks", "has none", "import a VM with a disk of its own")
	}
	for _, d := range vm.Disks {
		if d.SR != vm.Disks[0].SR {
			c.add("vm.disks", "lie on several storages", "move them to one")
			break
		}
	}
	if vm.MemoryMiB < MinMemoryMiB || vm.MemoryMiB > MaxMemoryMiB {
		c.add("vm.memory", fmt.Sprintf("is %d MiB", vm.MemoryMiB), fmt.Sprintf("give it %d to %d MiB", MinMemoryMiB, MaxMemoryMiB))
	}
	if vm.VCPUs < 1 || vm.VCPUs > MaxVCPUs {
		c.add("vm.vcpus", fmt.Sprintf("are %d", vm.VCPUs), fmt.Sprintf("give it 1 to %d", MaxVCPUs))
	}
}

func (i Import) fitsInterface(c *fieldCheck, pool Pool, vm Stranger) {
	if len(vm.VIFs) != 1 {
		c.add("vm.interfaces", fmt.Sprintf("are %d", len(vm.VIFs)), "leave it one, on the pool's network: a machine has one address pair")
		return
	}
	vif := vm.VIFs[0]
	if vif.Network != pool.Network {
		c.add("vm.interfaces", "is on network "+clip(vif.Network), "move it to the pool's network "+pool.Network)
	}
	if i.MAC != "" && vif.MAC != i.MAC {
		c.add("vm.interfaces", "has MAC "+clip(vif.MAC)+" and had "+i.MAC+" when the import was asked for", "cancel it and ask anew")
	}
	known := vm.Addresses(vif)
	if i.Private.IsValid() && len(known) > 0 && !slices.Contains(known, i.Private) {
		c.add("address", fmt.Sprintf("%s is none of those that the VM is known to have: %v", i.Private, known), "name one of them, or leave it out")
	}
}

func (i Import) fitsAddresses(c *fieldCheck, pool Pool) {
	switch {
	case !i.Private.IsValid():
		c.add("address", "is not known: the VM's guest tools do not report just one", "name it with --address")
	case !pool.Private.Gives(i.Private):
		c.add("address", fmt.Sprintf("%s is in none of pool %s's private ranges", i.Private, pool.ID), "widen pools."+pool.ID+".private.ranges, or give the VM another address first")
	}
	switch {
	case pool.Strategy == Routed && i.Public.IsValid():
		c.add("public", "has no meaning in a routed pool", "leave it out")
	case pool.Strategy != Routed && !i.Public.IsValid():
		c.add("public", "is not known: no scan has met one rule that translates it", "name it with --public")
	case pool.Strategy != Routed && !pool.Public.Gives(i.Public):
		c.add("public", fmt.Sprintf("%s is in none of pool %s's public ranges", i.Public, pool.ID), "widen pools."+pool.ID+".public.ranges, or name another")
	}
}

// validateImport checks an OrderImport by itself; Fits does the rest, with the VM at hand.
func (o Order) validateImport(c *fieldCheck) {
	c.label("name", o.Name)
	if o.Hostname != "" {
		c.hostname("hostname", o.Hostname)
	}
	c.label("pool", o.Pool)
	if !isUUID(o.Import.VM) {
		c.add("vm", fmt.Sprintf("%q is no VM uuid", clip(o.Import.VM)), "see xe vm-list, or slipway pool scan "+clip(o.Pool))
	}
	if len(o.Firewall) > maxRules {
		c.add("firewall", fmt.Sprintf("has %d rules", len(o.Firewall)), fmt.Sprintf("use at most %d", maxRules))
	}
	for i, rule := range o.Firewall {
		rule.validate(c, fmt.Sprintf("firewall[%d]", i))
	}
}

// Claim promises a machine what its VM has: its addresses and MAC, which must be free or foreign, the host where it runs, the storage where
// its disks are, and beside that a console port and groups, which are chosen as Place does. The promise does not ask for room on host and
// storage: the VM has it already. An error is Permanent for what is a machine's, and Exhausted for what is lacking.
func (l *Ledger) Claim(pool Pool, i Import, host, sr string) (Placement, error) {
	const op = "claim"
	known := l.Pools[pool.ID]
	switch {
	case known != nil && (known.Unread || known.Strange > 0):
		return Placement{}, Errorf(op, Exhausted, "pool %s has not been read yet, or has machines that the database does not know: slipway audit", pool.ID)
	case known == nil:
		return Placement{}, Errorf(op, Exhausted, "pool %s has not been read yet", pool.ID)
	case !slices.ContainsFunc(known.Hosts, func(h HostLedger) bool { return h.UUID == host }):
		return Placement{}, Errorf(op, Exhausted, "host %q of the VM is not in pool %s's inventory", host, pool.ID)
	case !slices.ContainsFunc(known.SRs, func(s SRLedger) bool { return s.UUID == sr }):
		return Placement{}, Errorf(op, Permanent, "storage %q of the VM is none that slipway uses in pool %s", sr, pool.ID)
	}
	for _, a := range []netip.Addr{i.Private, i.Public} {
		if a.IsValid() && l.Addresses[a] && !l.ForeignAddresses[a] {
			return Placement{}, Errorf(op, Permanent, "address %s is a machine's of ours, or rests after one: slipway ip", a)
		}
	}
	if l.MACs[i.MAC] && !l.ForeignMACs[i.MAC] {
		return Placement{}, Errorf(op, Permanent, "MAC %s is a machine's of ours, or rests after one", i.MAC)
	}
	for what, none := range map[string]bool{
		"every DHCP group is full":     len(pool.DHCP) > 0 && l.lightest(pool.DHCP, nil) == "",
		"every firewall group is full": l.lightest(pool.Firewall, nil) == "",
		"no console port is free":      l.lightest(pool.Console, l.hasPort(pool)) == "",
	} {
		if none {
			return Placement{}, Errorf(op, Exhausted, "no room: %s: %s", pool.ID, what)
		}
	}
	p := Placement{Pool: pool.ID, Host: host, SR: sr, Private: i.Private, Public: i.Public, MAC: i.MAC}
	for _, a := range []netip.Addr{i.Private, i.Public} {
		l.Addresses[a] = a.IsValid()
		delete(l.ForeignAddresses, a)
	}
	l.MACs[i.MAC] = true
	delete(l.ForeignMACs, i.MAC)
	l.takeGroups(pool, &p)
	known.Machines++
	return p, nil
}
