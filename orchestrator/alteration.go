package orchestrator

import (
	"bytes"
	"cmp"
	"slices"
)

// States of a finished machine. Only one that stands in either, and has no active run, can be reconfigured, suspended or unsuspended.
const (
	StateReady     = "production_ready"
	StateSuspended = "suspended"
)

// Settings are what an order may change of a finished machine.
type Settings struct {
	Firewall        []FirewallRule `json:"firewall"`
	SSHKeys         []string       `json:"ssh_keys"`
	Hostname        string         `json:"hostname"`
	ConsolePassword Sealed         `json:"console_password"`
	ConsoleAge      string         `json:"console_age,omitempty"` // Machine.ConsoleAge
}

// Settings are the machine's, as they are now.
func (m Machine) Settings() Settings {
	return Settings{Firewall: m.Firewall, SSHKeys: m.SSHKeys, Hostname: m.Hostname, ConsolePassword: m.ConsolePassword, ConsoleAge: m.ConsoleAge}
}

// Alteration is what a run does to a finished machine. What the order does not name is the same in Wanted as in Former, so that a step needs
// no list of what was asked for: it compares.
type Alteration struct {
	State  string      `json:"state"` // the machine's when the order was accepted: a run that is taken back leads there again
	Former Settings    `json:"former,omitzero"`
	Wanted Settings    `json:"wanted,omitzero"`
	Power  PowerPolicy `json:"power,omitempty"` // suspend only
	// Suspension is the machine's when the order was accepted.
	Suspension Suspension `json:"suspension,omitzero"`
}

// ChangesRules, ChangesKeys, ChangesHostname and ChangesConsole tell what is to become different.
func (a Alteration) ChangesRules() bool {
	return !slices.EqualFunc(a.Former.Firewall, a.Wanted.Firewall, sameRule)
}
func (a Alteration) ChangesKeys() bool     { return !slices.Equal(a.Former.SSHKeys, a.Wanted.SSHKeys) }
func (a Alteration) ChangesHostname() bool { return a.Former.Hostname != a.Wanted.Hostname }
func (a Alteration) ChangesConsole() bool {
	return !bytes.Equal(a.Former.ConsolePassword, a.Wanted.ConsolePassword)
}

// PowerPolicy says what becomes of a suspended machine's VM.
type PowerPolicy string

const (
	// PowerStop shuts it down, cleanly if the guest can: it uses nothing and can do nothing. What hosting panels mean by a suspension.
	PowerStop PowerPolicy = "stop"
	// PowerKeep leaves it as it is, cut off: what it computes goes on.
	PowerKeep PowerPolicy = "keep"
)

// Suspension is what a suspended machine was before, beside what its row says of rules, port and password.
type Suspension struct {
	Power    PowerPolicy `json:"power"` // PowerStop or PowerKeep; "" is a machine that is not suspended
	Running  bool        `json:"running"`
	Answered bool        `json:"answered"` // the port that verify looks at answered, so it must again
	// Monitored is true when monitoring knew the machine and was told to forget it.
	Monitored bool `json:"monitored,omitempty"`
}

// validateAlteration checks the orders that change a finished machine.
func (o Order) validateAlteration(c *fieldCheck) {
	o.validateMachine(c)
	switch o.Type {
	case OrderSuspend:
		if p := cmp.Or(o.Power, PowerStop); p != PowerStop && p != PowerKeep {
			c.add("power", "is none of those that are possible", "use stop or keep")
		}
	case OrderReconfigure:
		if o.Firewall == nil && o.SSHKeys == nil && o.Hostname == "" && !o.NewConsolePassword {
			c.add("data", "names nothing to change", "give firewall, ssh_keys, hostname or new_console_password")
		}
		if o.SSHKeys != nil && len(o.SSHKeys) == 0 {
			c.add("ssh_keys", "is empty, and nobody could log in", "give one public key, or leave the field out to keep the keys")
		}
		if o.Hostname != "" {
			c.hostname("hostname", o.Hostname)
		}
		o.validateAccess(c)
	}
}

// Alteration is what the order makes of a machine. password seals a new one for its console, and is called when the order wants that.
func (o Order) Alteration(m Machine, password func(Machine) (Sealed, error)) (Alteration, error) {
	a := Alteration{State: m.State, Suspension: m.Suspension}
	switch o.Type {
	case OrderSuspend:
		a.Power = cmp.Or(o.Power, PowerStop)
	case OrderReconfigure:
		a.Former = m.Settings()
		a.Wanted = a.Former
		if o.Firewall != nil {
			a.Wanted.Firewall = o.Firewall
		}
		if o.SSHKeys != nil {
			a.Wanted.SSHKeys = o.SSHKeys
		}
		a.Wanted.Hostname = cmp.Or(o.Hostname, m.Hostname)
		if o.NewConsolePassword {
			var err error
			if a.Wanted.ConsolePassword, err = password(m); err != nil {
				return Alteration{}, err
			}
		}
	}
	return a, nil
}
