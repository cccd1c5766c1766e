package orchestrator

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Card is what a VM carries of its machine beside the tag, without any secret: enough for a database that has forgotten the machine to take it
// up again as it was when it was made. Whoever may write to the pool may have changed it.
type Card struct {
	Machine   string         `json:"machine"`
	Order     OrderKey       `json:"order"`
	Tenant    string         `json:"tenant"`
	Name      string         `json:"name"`
	Hostname  string         `json:"hostname"`
	Image     string         `json:"image"`
	Plan      Plan           `json:"plan"`
	Firewall  []FirewallRule `json:"firewall"`
	SSHKeys   []string       `json:"ssh_keys"`
	Pool      string         `json:"wanted,omitempty"` // that the order named
	Placement Placement      `json:"placement"`
	HostKey   string         `json:"host_key,omitempty"`
}

// Card is the machine's.
func (m Machine) Card(order OrderKey) Card {
	return Card{Machine: m.ID, Order: order, Tenant: m.Tenant, Name: m.Name, Hostname: m.Hostname, Image: m.Image, Plan: m.Plan, Firewall: m.Firewall,
		SSHKeys: m.SSHKeys, Pool: m.PoolWanted, Placement: m.Placement, HostKey: m.HostKey}
}

func (c Card) String() string {
	text, err := json.Marshal(c)
	if err != nil {
		return ""
	}
	return string(text)
}

// maxCard bounds a card, in bytes.
const maxCard = 256 << 10

// ParseCard reads a card that a VM carries. An error says why it is of no use.
func ParseCard(text string) (Card, error) {
	var c Card
	switch {
	case text == "":
		return c, errors.New("the VM carries no card: it was made by an earlier version")
	case len(text) > maxCard:
		return c, fmt.Errorf("its card has %d bytes", len(text))
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	if err := decoder.Decode(&c); err != nil {
		return c, fmt.Errorf("its card cannot be read: %w", err)
	}
	return c, nil
}

// Fits says what of a card is no machine of this pool's whose VM is the one that carries it; nil when all is.
func (c Card) Fits(pool Pool, machine string, vm Stranger) error {
	var check fieldCheck
	p := c.Placement
	switch {
	case c.Machine != machine || vm.Tag != machine:
		check.add("card", "is of machine "+clip(c.Machine), "look at the VM's other_config")
	case vm.Template || vm.Snapshot || vm.Control || vm.Name != c.Name:
		check.add("vm", fmt.Sprintf("is called %q and no finished machine: its install was under way", clip(vm.Name)), "take it away: xe vm-uninstall uuid="+vm.UUID)
	case vm.Busy != "":
		check.add("vm", "is busy with "+clip(vm.Busy), "wait until that has ended")
	case len(vm.VIFs) != 1 || vm.VIFs[0].MAC != p.MAC:
		check.add("vm.interfaces", fmt.Sprintf("are %d, and should be one with %s", len(vm.VIFs), clip(p.MAC)), "put them right, or import the VM without its tag")
	case len(c.own(vm)) == 0:
		check.add("vm.disks", "has none that carries the machine's tag", "give it back its disk, or import the VM without its tag")
	case p.Pool != pool.ID:
		check.add("card", "places it in pool "+clip(p.Pool), "look at the VM's other_config")
	case !pool.Private.Prefix.Contains(p.Private):
		check.add("card", fmt.Sprintf("has address %s, which is not in the pool's private network", p.Private), "look at the VM's other_config")
	case p.Private == pool.Private.Gateway || p.Public.IsValid() && p.Public == pool.Public.Gateway:
		check.add("card", "has the address of a gateway", "look at the VM's other_config")
	case p.ConsolePort < pool.ConsolePorts.First || p.ConsolePort > pool.ConsolePorts.Last:
		check.add("card", fmt.Sprintf("has console port %d, which is none of the pool's", p.ConsolePort), "look at the VM's other_config; if console_ports was narrowed since, widen it")
	case (pool.Strategy == NAT) != p.Public.IsValid() || p.Public.IsValid() && !pool.Public.Prefix.Contains(p.Public):
		check.add("card", fmt.Sprintf("has public address %s, which the pool does not have", p.Public), "look at the VM's other_config")
	}
	for unit, groups := range map[string][2][]string{"dhcp": {pool.DHCP, {p.DHCP}}, "firewall": {pool.Firewall, {p.Firewall}}, "console": {pool.Console, {p.Console}}} {
		if id := groups[1][0]; id != "" && !slices.Contains(groups[0], id) || id == "" && unit != "dhcp" {
			check.add("card", fmt.Sprintf("names the %s group %q, which the pool does not have", unit, clip(id)), "look at the VM's other_config")
		}
	}
	if len(check.errs) > 0 {
		return check.errs
	}
	return c.order().Validate()
}

// order is the one that the machine came from.
func (c Card) order() Order {
	return Order{Source: c.Order.Source, ID: c.Order.ID, Type: OrderInstall, Tenant: c.Tenant, Name: c.Name, Hostname: c.Hostname, Image: c.Image, Plan: c.Plan,
		Pool: c.Pool, Firewall: c.Firewall, SSHKeys: c.SSHKeys}
}

// Adoption is a machine that the store has forgotten and takes up again: what it has becomes its own, all in one transaction or nothing.
type Adoption struct {
	Machine Machine // present and finished, with its placement
	Order   Order   // that it came from: it is answered as a repetition when it comes again
	Run     string  // a new id, which stands for the run that was forgotten
	Entries []PutEntry
	Actor   string
	Reason  string
}

// own are the VM's disks that carry the machine's tag; another was attached by somebody and stays his.
func (c Card) own(vm Stranger) (own []Disk) {
	for _, d := range vm.Disks {
		if d.Machine == c.Machine {
			own = append(own, d)
		}
	}
	return own
}

// Adopt makes the adoption of a card that fits.
func (c Card) Adopt(vm Stranger, run string) Adoption {
	o := c.order()
	m := Machine{ID: c.Machine, Tenant: c.Tenant, Name: c.Name, Hostname: c.Hostname, Image: c.Image, Plan: c.Plan, Firewall: c.Firewall, SSHKeys: c.SSHKeys,
		PoolWanted: c.Pool, Placement: c.Placement, HostKey: c.HostKey, VM: vm.UUID, Address: c.Placement.Private, Presence: Present, State: "production_ready"}
	if vm.Host != "" {
		m.Placement.Host = vm.Host
	}
	own := c.own(vm)
	m.Placement.SR = own[0].SR
	for _, d := range own {
		m.Disks = append(m.Disks, d.UUID)
	}
	return Adoption{Machine: m, Order: o, Run: run}
}
